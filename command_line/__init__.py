"""What every command of the command line shares: exit codes, options, printing, and how errors end."""

from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

PATH = click.Path(path_type=Path)
Command = Callable[..., Any]


def console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=not sys.stdout.isatty(), highlight=False)


def command_text() -> str:
    """What was typed, as a shell reads it."""
    return shlex.join(["python", "cli.py", *sys.argv[1:]])


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def source_options(command: Command) -> Command:
    """--checkpoint, --family, --hparams, --mirror, --offline: which checkpoint is meant."""
    options = (
        click.option("--checkpoint", metavar="PATH|URL", help="Your own checkpoint: a folder, prefix, .index, "
                     ".tar.gz, .h5 or URL. Without it the official one is downloaded."),
        click.option("--family", help="Official family: coco2 (default), coco, coco640, advprop, lite."),
        click.option("--hparams", metavar="YAML|k=v,...|auto",
                     help="What google/automl's --hparams takes; auto: the config.yaml beside the checkpoint."),
        click.option("--mirror", metavar="URL", help="Take official files from here instead."),
        click.option("--offline", is_flag=True, help="Use no network."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def engine_options(command: Command) -> Command:
    """--engine and --exact: what runs the network; the command is given `engine`."""

    @click.option("--engine", metavar="ENGINE", help="What runs the network: torch (the default: batch norms folded), "
                  "exact, compile, onnxruntime or openvino.")
    @click.option("--exact", is_flag=True, help="The same as --engine exact: the model as it is.")
    @functools.wraps(command)
    def run(*arguments: Any, engine: str | None, exact: bool, **options: Any) -> Any:
        if exact and engine not in (None, "exact"):
            raise click.UsageError(f"--exact is --engine exact, found --engine {engine}; leave one of them out.")
        return command(*arguments, engine="exact" if exact else engine, **options)

    return run


def model_options(weights: Path, variant: str | None, hparams: str | None) -> dict[str, Any]:
    """Variant and config fields of a weight file, as its metadata or the recogniser say."""
    from effdet_model.hparams import parse_hparams
    from porting.recognise.files import weight_settings

    found = weight_settings(weights, variant, parse_hparams(hparams).fields)
    print_notes(found.notes)
    return {"variant": found.variant, "overrides": found.overrides}


def _note_or_warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    """What was repaired in a file, as a note; other warnings as Python shows them."""
    from effdet_model.errors import InputWarning

    if issubclass(category, InputWarning):
        print_notes([str(message)])
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *where[:2]))


def run_command_line(group: click.Group) -> None:
    """Run a command line; every known problem ends in one message and its exit code."""
    from effdet_model.errors import CheckFailedError, InputError

    def terminate(number: int, frame: object) -> None:
        raise SystemExit(EXIT_TERMINATED)

    def fail(message: str, code: int = EXIT_BAD_INPUT) -> NoReturn:
        if "--json" in sys.argv[1:]:
            print_json({"error": message})
        else:
            click.echo(f"error: {message}", err=True)
        sys.exit(code)

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve a busy machine
    signal.signal(signal.SIGTERM, terminate)
    warnings.showwarning = _note_or_warning
    try:
        group.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if "--json" in sys.argv[1:]:
            fail(error.format_message())
        error.show()
        sys.exit(EXIT_BAD_INPUT)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; nothing half-written was kept", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_CHECK_FAILED)
    except InputError as error:
        fail(str(error), EXIT_CHECK_FAILED if isinstance(error, CheckFailedError) else EXIT_BAD_INPUT)
    except OSError as error:
        fail(f"{error.filename or 'file'}: {error.strerror or error}; check path and rights.")
