"""The command line: parses, calls one function per command, prints."""

from __future__ import annotations

import click

import command_line
from command_line import porting, proofs, publish, training, use

COMMANDS = (
    porting.convert, porting.inspect, porting.mapping, porting.variants, proofs.diff, proofs.evaluate, proofs.parity,
    use.detect, use.export, training.train, training.clean, publish.release, publish.demo,
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="effdet-port", prog_name="effdet-port")
def cli() -> None:
    """Move TensorFlow EfficientDet checkpoints into PyTorch and prove that nothing was lost.

    Exit codes: 0 done and within tolerance; 1 a check failed; 2 wrong use or bad input.
    """


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    command_line.run_command_line(cli)


if __name__ == "__main__":
    main()
