"""The commands that end in something to show: release, demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from command_line import EXIT_CHECK_FAILED, PATH, console, source_options


@click.command()
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
@click.option("--export", "exports", metavar="FORMAT,...", help="Add onnx, openvino, torch, torchscript, each proved.")
@click.option("--export-nms", default="none", show_default=True, metavar="PROFILE|none",
              help="Detections inside the exported files (ONNX, OpenVINO), or the levels alone.")
@click.option("--push-to-hub", metavar="REPO", help="Upload to the Hugging Face Hub.")
@click.option("--private", is_flag=True, help="Of --push-to-hub.")
def release(
    names: tuple[str, ...], every: bool, output: Path, work: Path | None, image_size: str | None,
    exports: str | None, push_to_hub: str | None, private: bool, **how: Any,
) -> None:
    """Convert, verify, and make what one uploads: hashed names, checksums, model cards."""
    from effdet_model.config import parse_image_size
    from porting.progress import progress
    from release.publish import push_to_hub as push
    from release.run import ReleaseOptions, released_variants, run_release

    formats = tuple(dict.fromkeys(name.strip() for name in exports.split(","))) if exports else ()
    size = parse_image_size(image_size) if image_size else None
    options = ReleaseOptions(image_size=size, exports=formats, **how)
    chosen = released_variants(names, every, options)
    click.echo(f"releasing {', '.join(chosen)}")
    place = work or output.with_name(f"{output.name}-work")
    made = run_release(chosen, output, place, options, say=click.echo, watch=progress)
    click.echo(f"{made.folder}: {len(made.files)} files and SHA256SUMS")
    if push_to_hub:
        click.echo(push(made.folder, push_to_hub, private=private))


@click.command()
@click.option("--output", type=PATH, default="demo-output", show_default=True)
def demo(output: Path) -> None:
    """The whole way with a small trained checkpoint and its pictures, which come with this package."""
    from demo.run import run_demo

    sys.exit(0 if run_demo(output, console()) else EXIT_CHECK_FAILED)
