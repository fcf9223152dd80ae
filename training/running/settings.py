"""Settings as they are typed: NAME=VALUE."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from effdet_model.errors import InputError, shown

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE, several of them also parted by commas as in google/automl's --hparams; lists as 0.4*0.9.

    Raises:
        InputError: a pair has no "=", or a name comes twice.
    """
    settings: dict[str, Any] = {}
    for pair in (part for text in pairs for part in text.split(",")):
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise InputError(f"--set: expected NAME=VALUE, found {shown(pair)}; correct it.")
        if name in settings:
            raise InputError(f"--set: expected each setting once, found {name} twice; leave one out.")
        items = [_value(item.strip()) for item in text.split("*")]
        settings[name] = items[0] if len(items) == 1 else tuple(items)
    return settings


def parse_batch_size(text: str | None) -> int | str | None:
    """A number, or "auto".

    Raises:
        InputError: neither.
    """
    if text is None or text == "auto":
        return text
    try:
        size = int(text)
    except ValueError:
        size = 0
    if not 1 <= size <= 1_000_000:
        raise InputError(f"--batch-size: expected auto or a number from 1 to 1000000, found {shown(text)}; correct it.")
    return size


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, (int, float, str)) else text
