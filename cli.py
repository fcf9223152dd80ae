"""The command line: parses, calls one function per command, prints."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

Command = Callable[..., Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="effdet-port", prog_name="effdet-port")
def cli() -> None:
    """Move TensorFlow EfficientDet checkpoints into PyTorch and prove that nothing was lost.

    Exit codes: 0 done and within tolerance; 1 a check failed; 2 wrong use or bad input.
    """


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=not sys.stdout.isatty(), highlight=False)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def source_options(command: Command) -> Command:
    """--checkpoint, --family, --hparams, --mirror, --offline: which checkpoint is meant."""
    options = (
        click.option("--checkpoint", metavar="PATH|URL", help="Your own checkpoint: a folder, prefix, .index, "
                     ".tar.gz, .h5 or URL. Without it the official one is downloaded."),
        click.option("--family", help="Official family: coco2 (default), coco, coco640, advprop, lite."),
        click.option("--hparams", metavar="YAML|k=v,...", help="What google/automl's --hparams takes."),
        click.option("--mirror", metavar="URL", help="Take official files from here instead."),
        click.option("--offline", is_flag=True, help="Use no network."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.option("--variant", default="auto", show_default=True, help="d0 ... d7x, lite0 ..., or auto.")
@source_options
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE.pth|.safetensors",
              help="Default: tf_efficientdet_VARIANT.pth here.")
@click.option("--variables", type=click.Choice(["auto", "ema", "raw"]), default="auto", show_default=True,
              help="Moving averages or raw values.")
@click.option("--allow-nonfinite", is_flag=True, help="Accept NaN, Inf and negative variances.")
@json_option
def convert(
    variant: str, checkpoint: str | None, family: str | None, hparams: str | None, mirror: str | None,
    offline: bool, output: Path | None, variables: Any, allow_nonfinite: bool, as_json: bool,
) -> None:
    """Convert a TensorFlow checkpoint into a PyTorch weight file."""
    from porting.convert import convert as run
    from porting.obtain import obtain
    from porting.show import conversion_json, conversion_summary, progress

    found = obtain(variant, checkpoint, family=family, hparams=hparams, mirror=mirror, offline=offline)
    with progress("converting") as report:
        written = run(
            found.path, output, found.variant, variables=variables, overrides=found.overrides,
            allow_nonfinite=allow_nonfinite, origin=found.origin, progress=report,
        )
    if as_json:
        _print_json(conversion_json(written, found.notes))
    else:
        _console().print(conversion_summary(written, found.notes))


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
        _print_json(table_json(table))
    elif sys.stdout.isatty():
        _console().print(mapping_rich_table(table))
    else:
        click.echo(table_text(table), nl=False)


@cli.command()
@json_option
def variants(as_json: bool) -> None:
    """List the released checkpoints, their published AP, and which are in the cache."""
    from porting.catalog_table import variant_rows, variant_table
    from porting.show import rows_json

    rows = variant_rows()
    if as_json:
        _print_json(rows_json(rows))
    else:
        _console().print(variant_table(rows))


@cli.command()
@click.option("--variant", help="Where the weights have no metadata.")
@source_options
@click.option("--weights", required=True, type=click.Path(path_type=Path), help=".pth or .safetensors.")
@click.option("--image-size", metavar="HxW", help="Default: the weights' own.")
@click.option("--image", "images", multiple=True, type=click.Path(path_type=Path), help="Compare on this image.")
@click.option("--noise", "noise_seeds", multiple=True, type=int, metavar="SEED", help="Compare on seeded noise.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True,
              help="float64 is the proof: what is left then is not rounding.")
@click.option("--isolate", is_flag=True, help="Feed every layer with TensorFlow's own input of that layer.")
@click.option("--tolerance", type=float, help="Largest relative difference of a layer.")
@click.option("--variables", type=click.Choice(["auto", "ema", "raw"]), default="auto", show_default=True)
@click.option("--reference", default="tensorflow", show_default=True,
              help="tensorflow, automl:DIR (your clone) or savedmodel:DIR (a program: executed!).")
@click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help="diff.json, diff.md, diff.html.")
@json_option
def diff(
    variant: str | None, checkpoint: str | None, family: str | None, hparams: str | None, mirror: str | None,
    offline: bool, weights: Path, image_size: str | None, images: tuple[Path, ...], noise_seeds: tuple[int, ...],
    report: Path | None, as_json: bool, **how: Any,
) -> None:
    """Compare TensorFlow and PyTorch layer by layer on the same inputs."""
    from effdet_model.config import parse_image_size
    from porting.obtain import obtain
    from porting.show import status
    from verify.diff import DiffOptions, run_diff
    from verify.report import print_diff, write_diff_report

    found = obtain(variant or "auto", checkpoint, family=family, hparams=hparams, mirror=mirror, offline=offline)
    size = parse_image_size(image_size) if image_size else None
    options = DiffOptions(size, images, noise_seeds, overrides=found.overrides, **how)
    with status("comparing") as advance:
        result = run_diff(found.path, weights, variant, options, advance)
    pages = write_diff_report(result, report) if report else []
    if as_json:
        _print_json(result.to_json())
    else:
        print_diff(result, _console())
        for page in pages:
            click.echo(page)
    sys.exit(0 if result.passed else EXIT_CHECK_FAILED)


@cli.command()
@click.option("--variant", help="Where the weights have no metadata.")
@click.option("--weights", required=True, type=click.Path(path_type=Path), help=".pth or .safetensors.")
@click.option("--coco", type=click.Path(path_type=Path), metavar="DIR", help="A folder in COCO's layout.")
@click.option("--split", default="val2017", show_default=True, help="Of --coco: val2017, test-dev2017, ...")
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="Images, with --annotations.")
@click.option("--annotations", type=click.Path(path_type=Path), metavar="FILE", help="COCO annotations of --images.")
@click.option("--nms", metavar="PROFILE", help="Suppression profile; default numpy_gaussian.")
@click.option("--image-size", metavar="HxW", help="Default: the weights' own.")
@click.option("--as-published", is_flag=True, help="Anchors and suppression of the day the family was published.")
@click.option("--family", help="Official family, for --as-published, where the weights do not say it.")
@click.option("--hparams", metavar="YAML|k=v,...", help="What google/automl's --hparams takes.")
@click.option("--detections", type=click.Path(path_type=Path), metavar="OUT.json|.zip", help="COCO results.")
@click.option("--metrics", type=click.Path(path_type=Path), metavar="OUT.json", help="The 12 metrics and more.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Image readers.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")
@click.option("--amp", is_flag=True, help="Mixed precision.")
@click.option("--channels-last", is_flag=True, help="NHWC memory format.")
@click.option("--compile", is_flag=True, help="torch.compile the model.")
@click.option("--resume", is_flag=True, help="Continue an earlier run with the same settings.")
@click.option("--skip-bad-images", is_flag=True, help="Leave out and count what cannot be used.")
@click.option("--evaluator", default="pycocotools", show_default=True, help="Or faster_coco_eval, checked equal.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@json_option
def evaluate(hparams: str | None, as_json: bool, **how: Any) -> None:
    """COCO evaluation of ported weights; also under torchrun, which splits the images."""
    from effdet_model.hparams import parse_hparams
    from verify.evaluate import EvaluateOptions
    from verify.evaluate import evaluate as run
    from verify.show import print_evaluation

    result = run(EvaluateOptions(**how, overrides=parse_hparams(hparams).fields))
    if result is None:
        return
    if as_json:
        _print_json(result.to_json())
    else:
        print_evaluation(result, _console())
    sys.exit(0 if result.passed else EXIT_CHECK_FAILED)


@cli.command()
@click.option("--output", type=click.Path(path_type=Path), default="demo-output", show_default=True)
def demo(output: Path) -> None:
    """The whole way on an embedded checkpoint with seeded weights."""
    from verify.demo import run_demo

    sys.exit(0 if run_demo(output, _console()) else EXIT_CHECK_FAILED)


def main() -> None:
    """Run the command line; every known problem ends in one message and its exit code."""
    from effdet_model.errors import InputError

    def terminate(number: int, frame: object) -> None:
        raise SystemExit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, terminate)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_BAD_INPUT)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; nothing half-written was kept", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_CHECK_FAILED)
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        click.echo(f"error: {error.filename or 'file'}: {error.strerror or error}; check path and rights.", err=True)
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
