"""The commands that move weights: convert, inspect, mapping, variants."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from command_line import EXIT_CHECK_FAILED, PATH, console, json_option, print_json, source_options


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
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
