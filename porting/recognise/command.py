"""Commands to type, as texts that a shell takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def command(*words: str) -> str:
    """`python cli.py` with these words, quoted where a shell needs it."""
    return shlex.join(["python", "cli.py", *words])


def convert_command(checkpoint: str | Path, variant: str, hparams: Mapping[str, Any], *more: str) -> str:
    """The conversion of a checkpoint as a variant with these config fields."""
    return command("convert", "--variant", variant, "--checkpoint", str(checkpoint), *hparams_words(hparams), *more)


def hparams_words(fields: Mapping[str, Any]) -> list[str]:
    """--hparams as google/automl takes them: key=value, list items joined by *."""
    if not fields:
        return []
    return ["--hparams", ",".join(f"{key}={_hparam(value)}" for key, value in fields.items())]


def _hparam(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "*".join(map(str, value)) if len(value) > 1 else str(list(value))
    return str(value)
