"""The command line: parses, calls one function per command, prints."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

import command_line
from command_line import EXIT_CHECK_FAILED, PATH, console, json_option, print_json, print_notes, source_options


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="effdet-port", prog_name="effdet-port")
def cli() -> None:
    """Move TensorFlow EfficientDet checkpoints into PyTorch and prove that nothing was lost.

    Exit codes: 0 done and within tolerance; 1 a check failed; 2 wrong use or bad input.
    """


def _model_options(weights: Path, variant: str | None, hparams: str | None) -> dict[str, Any]:
    """Variant and config fields of a weight file, as its metadata or the recogniser say."""
    from effdet_model.hparams import parse_hparams
    from porting.recognise.files import weight_settings

    found = weight_settings(weights, variant, parse_hparams(hparams).fields)
    print_notes(found.notes)
    return {"variant": found.variant, "overrides": found.overrides}


@cli.command()
@click.option("--variant", default="auto", show_default=True, help="d0 ... d7x, lite0 ..., or auto.")
@source_options
@click.option("--output", type=PATH, metavar="FILE.pth|.safetensors",
              help="Default: tf_efficientdet_VARIANT.pth here. With --to tf: a folder, or FILE.h5.")
@click.option("--to", "target", type=click.Choice(["pytorch", "tf"]), default="pytorch", show_default=True,
              help="tf: the other way, --weights into a TensorFlow checkpoint.")
@click.option("--weights", type=PATH, help="With --to tf: .pth or .safetensors.")
@click.option("--variables", type=click.Choice(["auto", "ema", "raw"]), default="auto", show_default=True,
              help="Moving averages or raw values.")
@click.option("--allow-nonfinite", is_flag=True, help="Accept NaN, Inf and negative variances.")
@click.option("--overwrite", is_flag=True, help="Replace an output that was made from something else.")
@json_option
def convert(
    variant: str, checkpoint: str | None, family: str | None, hparams: str | None, mirror: str | None,
    offline: bool, output: Path | None, target: str, weights: Path | None, variables: Any, as_json: bool, **how: bool,
) -> None:
    """Convert a TensorFlow checkpoint into a PyTorch weight file, or back with --to tf."""
    if target == "tf":
        _to_tensorflow(variant, weights, output, hparams, as_json, how)
        return
    if weights is not None:
        raise click.UsageError("--weights goes with --to tf; name the TensorFlow checkpoint with --checkpoint.")
    from porting.convert import convert as run
    from porting.official.show import obtain
    from porting.progress import progress
    from porting.show import conversion_json, conversion_summary

    found = obtain(variant, checkpoint, family=family, hparams=hparams, mirror=mirror, offline=offline)
    with progress("converting") as report:
        written = run(
            found.path, output, found.variant, variables=variables, overrides=found.overrides, origin=found.origin,
            moving_average_decay=found.moving_average_decay, named=found.named, progress=report, **how,
        )
    if as_json:
        print_json(conversion_json(written, found.notes))
    else:
        console().print(conversion_summary(written, found.notes))


def _to_tensorflow(
    variant: str, weights: Path | None, output: Path | None, hparams: str | None, as_json: bool, how: dict[str, bool]
) -> None:
    from effdet_model.hparams import parse_hparams
    from porting.progress import progress
    from porting.reverse import to_tensorflow
    from porting.show import reverse_summary

    if weights is None or output is None:
        raise click.UsageError("--to tf needs --weights FILE and --output DIR or FILE.h5.")
    with progress("converting") as report:
        written = to_tensorflow(
            weights, output, variant, parse_hparams(hparams).fields, progress=report, **how,
        )
    if as_json:
        print_json(written.to_json())
    else:
        console().print(reverse_summary(written))


@cli.command()
@click.argument("path", metavar="CHECKPOINT|WEIGHTS|URL")
@click.option("--offline", is_flag=True, help="Use no network.")
@json_option
def inspect(path: str, offline: bool, as_json: bool) -> None:
    """Say what a checkpoint, weight file or archive is, and what to type next."""
    from porting.inspect.run import inspect_file
    from porting.inspect.show import inspection_summary
    from porting.official.show import obtain_url
    from porting.progress import progress

    file, named = obtain_url(path, offline=offline)
    with progress("inspecting") as report:
        found = inspect_file(file, report, named)
    if as_json:
        print_json(found.to_json())
    else:
        console().print(inspection_summary(found))
    sys.exit(0 if found.usable else EXIT_CHECK_FAILED)


@cli.command()
@click.option("--variant", required=True)
@click.option("--hparams", metavar="YAML|k=v,...", help="What google/automl's --hparams takes.")
@json_option
def mapping(variant: str, hparams: str | None, as_json: bool) -> None:
    """Print which TensorFlow variable fills which PyTorch tensor."""
    from effdet_model.hparams import parse_hparams
    from effdet_model.variants import get_config
    from mappings.committed import table_json, table_text
    from mappings.table import build_table
    from porting.show import mapping_rich_table

    table = build_table(get_config(variant, **parse_hparams(hparams).fields))
    if as_json:
        print_json(table_json(table))
    elif sys.stdout.isatty():
        console().print(mapping_rich_table(table))
    else:
        click.echo(table_text(table), nl=False)


@cli.command()
@json_option
def variants(as_json: bool) -> None:
    """List the released checkpoints, their published AP, and which are in the cache."""
    from porting.official.catalog_table import variant_rows
    from porting.official.show import variant_table
    from porting.show import rows_json

    rows = variant_rows()
    if as_json:
        print_json(rows_json(rows))
    else:
        console().print(variant_table(rows))


@cli.command()
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
              help="tensorflow, automl:DIR (your clone) or savedmodel:DIR (a program: executed!).")
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


@cli.command()
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
@click.option("--compile", is_flag=True, help="torch.compile the model.")
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

    model = _model_options(weights, variant, hparams)
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


@cli.command()
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
                command=command_line.command_text(), progress=shown, **how,
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


@cli.command()
@click.argument("source", type=PATH, metavar="IMAGE|FOLDER|VIDEO")
@click.option("--weights", required=True, type=PATH, help=".pth or .safetensors.")
@click.option("--output", required=True, type=PATH, metavar="DIR")
@click.option("--variant", help="Where the weights have no metadata.")
@click.option("--nms", metavar="PROFILE", help="Suppression profile; default: numpy_gaussian, as the weights set it.")
@click.option("--image-size", metavar="HxW", help="Default: the weights' own.")
@click.option("--score-threshold", type=float, default=0.3, show_default=True, help="Of what is drawn.")
@click.option("--min-score", type=float, default=0.05, show_default=True, help="Of what detections.json lists.")
@click.option("--max-detections", type=click.IntRange(1), help="Per image.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")
@click.option("--label-map", help="coco, voc, waymo, or a YAML file of id: name.")
@click.option("--skip-bad-images", is_flag=True, help="Leave out and list what cannot be read.")
@click.option("--hparams", metavar="YAML|k=v,...", help="What google/automl's --hparams takes.")
@json_option
def detect(
    source: Path, weights: Path, variant: str | None, hparams: str | None, as_json: bool, **how: Any
) -> None:
    """Find objects in images or a video: pictures with boxes, and detections.json."""
    from detect.run import DetectOptions
    from detect.run import detect as run
    from porting.progress import progress

    model = _model_options(weights, variant, hparams)
    with progress("detecting", "images") as report:
        found = run(DetectOptions(source, weights, **model, **how), report)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(found.summary())


@cli.command()
@click.option("--weights", required=True, type=PATH, help=".pth or .safetensors.")
@click.option("--format", "format_", type=click.Choice(["onnx", "openvino", "torch", "torchscript"]), required=True)
@click.option("--output", required=True, type=PATH, metavar="FILE", help=".onnx, .xml, .pt2 or .pt.")
@click.option("--nms", default="none", show_default=True, metavar="PROFILE|none|tensorrt",
              help="Detections inside the file (ONNX, OpenVINO), the levels alone, or NVIDIA's node (not run here).")
@click.option("--batch", default="1", show_default=True, metavar="N|dynamic", help="Images at once.")
@click.option("--image-size", metavar="HxW", help="Default: the weights' own.")
@click.option("--input", "kind", type=click.Choice(["float", "uint8"]), default="float", show_default=True,
              help="float: NCHW, normalised; uint8: NHWC pixels of the model's size, normalised inside.")
@click.option("--half", is_flag=True, help="Compute in float16.")
@click.option("--checkpoint", type=PATH, help="What the weights came from: prove against TensorFlow.")
@click.option("--family", help="Official family of --checkpoint.")
@click.option("--variant", help="Where the weights have no metadata.")
@click.option("--hparams", metavar="YAML|k=v,...", help="What google/automl's --hparams takes.")
@json_option
def export(
    weights: Path, format_: str, batch: str, image_size: str | None, variant: str | None, hparams: str | None,
    as_json: bool, **how: Any,
) -> None:
    """Write a file for another runtime, run it there, and prove what it gives."""
    from effdet_model.config import parse_image_size
    from export.options import ExportOptions, check_options, parse_batch
    from export.run import export as run
    from export.show import export_summary
    from porting.progress import status

    size = parse_image_size(image_size) if image_size else None
    options = ExportOptions(
        weights, format=format_, batch=parse_batch(batch), image_size=size, hparams=hparams, **how
    )
    check_options(options)
    model = _model_options(weights, variant, hparams)
    with status("exporting") as advance:
        made = run(dataclasses.replace(options, **model), advance)
    if as_json:
        print_json(made.to_json())
    else:
        click.echo(export_summary(made))
    sys.exit(0 if made.passed else EXIT_CHECK_FAILED)


@cli.command()
@click.option("--variant", "names", multiple=True, help="Once or more.")
@click.option("--all", "every", is_flag=True, help="All variants; with --mirror, those that it has.")
@click.option("--output", required=True, type=PATH, metavar="DIR", help="The release; must not exist or be empty.")
@click.option("--work", type=PATH, metavar="DIR", help="Weights and reports on the way; default: OUTPUT-work.")
@source_options
@click.option("--image-size", metavar="HxW", help="Of diff and parity; default: the weights' own.")
@click.option("--coco", type=PATH, metavar="DIR", help="Pictures for diff and parity: a folder in COCO's layout.")
@click.option("--images", type=PATH, metavar="DIR", help="Pictures for both; default: drawn for this.")
@click.option("--annotations", type=PATH, metavar="FILE", help="COCO annotations of --images.")
@click.option("--license", "license_name", default="apache-2.0", show_default=True, help="For the model cards.")
@click.option("--push-to-hub", metavar="REPO", help="Upload to the Hugging Face Hub.")
@click.option("--private", is_flag=True, help="Of --push-to-hub.")
def release(
    names: tuple[str, ...], every: bool, output: Path, work: Path | None, image_size: str | None,
    push_to_hub: str | None, private: bool, **how: Any,
) -> None:
    """Convert, verify, and make what one uploads: hashed names, checksums, model cards."""
    from effdet_model.config import parse_image_size
    from porting.progress import progress
    from release.publish import push_to_hub as push
    from release.run import ReleaseOptions, released_variants, run_release

    options = ReleaseOptions(image_size=parse_image_size(image_size) if image_size else None, **how)
    chosen = released_variants(names, every, options)
    click.echo(f"releasing {', '.join(chosen)}")
    place = work or output.with_name(f"{output.name}-work")
    made = run_release(chosen, output, place, options, say=click.echo, watch=progress)
    click.echo(f"{made.folder}: {len(made.files)} files and SHA256SUMS")
    if push_to_hub:
        click.echo(push(made.folder, push_to_hub, private=private))


@cli.command()
@click.option("--output", type=PATH, default="demo-output", show_default=True)
def demo(output: Path) -> None:
    """The whole way with a small trained checkpoint and its pictures, which come with this package."""
    from demo.run import run_demo

    sys.exit(0 if run_demo(output, console()) else EXIT_CHECK_FAILED)


def main() -> None:
    """Run the command line."""
    command_line.run_command_line(cli)


if __name__ == "__main__":
    main()
