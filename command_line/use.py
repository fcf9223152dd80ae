"""The commands that use ported weights: detect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from command_line import PATH, json_option, model_options, print_json


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
