"""What the values of annotation files mean: numbers written as text, flags, sizes; nothing is guessed."""

from __future__ import annotations

import math
import re
from typing import Any

LARGEST_ID = 2**53 - 1
"""Beyond it JSON readers, numpy and other evaluators no longer hold every whole number."""
LARGEST_SIDE = 100_000.0
"""Pixels. pycocotools leaves out boxes whose area is beyond its square."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,24}(\.0{1,24})?")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,24}(\.[0-9]{0,24})?|\.[0-9]{1,24})([eE][+-]?[0-9]{1,3})?")
_FLAGS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
_SHOWN = 60


def whole_number(value: Any) -> int | None:
    """The whole number that a value can only mean: 5, 5.0 and "5" mean 5; None where it means none."""
    if isinstance(value, str):
        text = value.strip()
        value = int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if abs(value) <= LARGEST_ID else None


def finite_number(value: Any, largest: float) -> float | int | None:
    """A number of at most `largest` (in size), as it stands or written as text; None where it is none."""
    if isinstance(value, str):
        text = value.strip()
        value = float(text) if _DECIMAL.fullmatch(text) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if abs(value) <= largest else None


def flag(value: Any) -> int | None:
    """0 or 1 for 0, 1, true, false and these as text; None for anything else."""
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return int(value)
    return None


def shown(value: Any) -> str:
    """A value of a file as a message quotes it, on one line and short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that cannot be written"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def clean_text(value: Any) -> str:
    """Text that any file can hold: lone surrogates, which UTF-8 has no bytes for, become question marks."""
    return str(value).encode("utf-8", "replace").decode("utf-8")
