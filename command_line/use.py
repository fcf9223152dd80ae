"""The commands that use ported weights: detect, export."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from command_line import EXIT_CHECK_FAILED, PATH, engine_options, json_option, model_options, print_json


@click.command()
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
@engine_options
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

    model = model_options(weights, variant, hparams)
    with progress("detecting", "images") as report:
        found = run(DetectOptions(source, weights, **model, **how), report)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(found.summary())


@click.command()
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
    model = model_options(weights, variant, hparams)
    with status("exporting") as advance:
        made = run(dataclasses.replace(options, **model), advance)
    if as_json:
        print_json(made.to_json())
    else:
        click.echo(export_summary(made))
    sys.exit(0 if made.passed else EXIT_CHECK_FAILED)
