"""The commands that prove: diff, evaluate, parity."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from command_line import (
    EXIT_CHECK_FAILED,
    PATH,
    command_text,
    console,
    engine_options,
    json_option,
    model_options,
    print_json,
    print_notes,
    source_options,
)


@click.command()
@click.option("--variant", help="Where the weights have no metadata.")
@source_options
@click.option("--weights", required=True, type=PATH, help=".pth or .safetensors.")
@click.option("--image-size", metavar="HxW", help="Default: the weights' own.")
@click.option("--image", "images", multiple=True, type=PATH, help="Compare on this image; default: a drawn picture "
              "and noise.")
@click.option("--noise", "noise_seeds", multiple=True, type=int, metavar="SEED", help="Compare on seeded noise.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True,
              help="float64 is the proof: what is left then is not rounding.")
@click.option("--isolate", is_flag=True, help="Feed every layer with TensorFlow's own input of that layer.")
@click.option("--tolerance", type=float, help="Largest relative difference of a layer, against TensorFlow's run of the "
              "same precision; default in float32: a multiple of TensorFlow's own distance from its float64.")
@click.option("--variables", type=click.Choice(["auto", "ema", "raw"]), default="auto", show_default=True)
@click.option("--reference", default="tensorflow", show_default=True,
              help="tensorflow, automl:DIR (your clone), savedmodel:DIR or tflite:FILE (programs: executed!).")
@click.option("--report", type=PATH, metavar="DIR", help="diff.json, diff.md, diff.html.")
@json_option
def diff(
    variant: str | None, checkpoint: str | None, family: str | None, hparams: str | None, mirror: str | None,
    offline: bool, weights: Path, image_size: str | None, images: tuple[Path, ...], noise_seeds: tuple[int, ...],
    report: Path | None, as_json: bool, **how: Any,
) -> None:
    """Compare configuration, tensors and, layer by layer, TensorFlow with PyTorch."""
    from effdet_model.config import parse_image_size
    from porting.official.show import obtain_for_weights
    from porting.progress import status
    from verify.diff.run import DiffOptions, run_diff
    from verify.report import check_report, print_diff, write_diff_report

    if report:
        check_report(report)
    found, model = obtain_for_weights(
        weights, variant, checkpoint, family=family, hparams=hparams, mirror=mirror, offline=offline
    )
    print_notes(model.notes)
    size = parse_image_size(image_size) if image_size else None
    options = DiffOptions(
        size, images, noise_seeds, overrides={**model.overrides, **found.overrides},
        family=found.origin.get("family"), hparams=found.declared, **how,
    )  # fmt: skip
    with status("comparing") as advance:
        result = run_diff(found.path, weights, model.variant, options, advance)
    pages = write_diff_report(result, report) if report else []
    if as_json:
        print_json(result.to_json())
    else:
        print_diff(result, console())
        for page in pages:
            click.echo(page)
    sys.exit(0 if result.passed else EXIT_CHECK_FAILED)


@click.command()
@click.option("--variant", help="Where the weights have no metadata.")
@click.option("--weights", required=True, type=PATH, help=".pth or .safetensors.")
@click.option("--coco", type=PATH, metavar="DIR", help="A folder in COCO's layout.")
@click.option("--split", default="val2017", show_default=True, help="Of --coco: val2017, test-dev2017, ...")
@click.option("--images", type=PATH, metavar="DIR", help="Images, with --annotations.")
@click.option("--annotations", type=PATH, metavar="FILE", help="COCO annotations of --images.")
@click.option("--nms", metavar="PROFILE", help="Suppression profile; default: numpy_gaussian, as the weights set it.")
@click.option("--image-size", metavar="HxW", help="Default: the weights' own.")
@click.option("--as-published", is_flag=True, help="Anchors and suppression of the day the family was published.")
@click.option("--family", help="Official family, for --as-published, where the weights do not say it.")
@click.option("--hparams", metavar="YAML|k=v,...", help="What google/automl's --hparams takes.")
@click.option("--detections", type=PATH, metavar="OUT.json|.zip", help="COCO results.")
@click.option("--metrics", type=PATH, metavar="OUT.json", help="The 12 metrics and more.")
@click.option("--report", type=PATH, metavar="DIR", help="evaluate.json, evaluate.md, evaluate.html.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Image readers.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")
@click.option("--amp", is_flag=True, help="Mixed precision.")
@click.option("--channels-last/--no-channels-last", default=None, help="NHWC memory format; default: on the CPU.")
@click.option("--compile", is_flag=True, help="The same as --engine compile.")
@engine_options
@click.option("--resume", is_flag=True, help="Continue an earlier run with the same settings.")
@click.option("--skip-bad-images", is_flag=True, help="Leave out and count what cannot be used.")
@click.option("--evaluator", default="pycocotools", show_default=True, help="Or faster_coco_eval, checked equal.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@json_option
def evaluate(
    weights: Path, variant: str | None, hparams: str | None, report: Path | None, as_json: bool, **how: Any
) -> None:
    """COCO evaluation of ported weights; also under torchrun, which splits the images."""
    from porting.progress import progress
    from verify.evaluation.options import EvaluateOptions
    from verify.evaluation.run import evaluate as run
    from verify.evaluation.show import print_evaluation
    from verify.report.evaluation import write_evaluation_report

    model = model_options(weights, variant, hparams)
    with progress("evaluating", "images") as shown:
        result = run(EvaluateOptions(weights, **model, **how, report=report, hparams=hparams, progress=shown))
    if result is None:
        return
    pages = write_evaluation_report(result, report) if report else []
    if as_json:
        print_json(result.to_json())
    else:
        print_evaluation(result, console())
        for page in pages:
            click.echo(page)
    sys.exit(0 if result.passed else EXIT_CHECK_FAILED)


@click.command()
@click.option("--variant", help="Where the weights have no metadata.")
@source_options
@click.option("--weights", required=True, type=PATH, help=".pth or .safetensors.")
@click.option("--images", type=PATH, metavar="DIR", help="Images; with --annotations those that it lists.")
@click.option("--annotations", type=PATH, metavar="FILE", help="COCO annotations of --images.")
@click.option("--coco", type=PATH, metavar="DIR", help="A folder in COCO's layout instead.")
@click.option("--split", default="val2017", show_default=True, help="Of --coco.")
@click.option("--nms", metavar="PROFILE", help="Suppression profile; default: numpy_gaussian, as the weights set it.")
@click.option("--image-size", metavar="HxW", help="Default: the weights' own.")
@click.option("--as-published", is_flag=True, help="Anchors and suppression of the day the family was published.")
@click.option("--variables", type=click.Choice(["auto", "ema", "raw"]), default="auto", show_default=True)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--skip-bad-images", is_flag=True, help="Leave out and count what cannot be used.")
@click.option("--report", type=PATH, metavar="DIR", help="parity.json, parity.md, parity.html; with --resume the work.")
@click.option("--resume", is_flag=True, help="Continue an earlier run with the same settings and --report.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Of both frameworks; default: all cores to use.")
@click.option("--engine", metavar="ENGINE", help="Run PyTorch's network by torch, compile, onnxruntime or openvino; "
              "default: the model as it is, which alone is evidence for a release.")
@json_option
def parity(
    variant: str | None, checkpoint: str | None, family: str | None, hparams: str | None, mirror: str | None,
    offline: bool, weights: Path, report: Path | None, as_json: bool, **how: Any,
) -> None:
    """Hold the detections of both frameworks against each other, from files to metrics."""
    from porting.official.show import obtain_for_weights
    from porting.progress import progress
    from verify.evaluation.metrics import check_evaluator
    from verify.parity.run import ParityOptions
    from verify.parity.run import parity as run
    from verify.report import check_report
    from verify.report.parity import print_parity, write_parity_report

    check_evaluator()
    if report:
        check_report(report)
    found, model = obtain_for_weights(
        weights, variant, checkpoint, family=family, hparams=hparams, mirror=mirror, offline=offline
    )
    print_notes(model.notes)
    with progress("comparing", "images") as shown:
        result = run(
            ParityOptions(
                found.path, weights, variant=model.variant, family=family or found.origin.get("family"),
                overrides=found.hparams, hparams=found.declared, work=report,
                command=command_text(), progress=shown, **how,
            )
        )  # fmt: skip
    pages = write_parity_report(result, report) if report else []
    if as_json:
        print_json(result.to_json())
    else:
        print_parity(result, console())
        for page in pages:
            click.echo(page)
    sys.exit(0 if result.passed else EXIT_CHECK_FAILED)
