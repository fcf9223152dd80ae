"""The one error that a user of this project is meant to see."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Wrong use or bad input: the message says what was expected, what was found and what to do.

    The command line prints the message alone and exits with code 2.
    """


class CheckFailedError(InputError):
    """A check ran and failed where its success was needed to go on; the command line exits with code 1."""


class InputWarning(UserWarning):
    """Input that was repaired or assumed something about, where that is certain: the message says what was done.

    The command line prints it as a note.
    """


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 40
_LISTED_CHARACTERS = 300


def shown(value: Any) -> str:
    """A value for a message: its repr, cut short, however long or deep the value is."""
    try:
        text = _SHORT.repr(value)
    except (ValueError, RecursionError):  # an int of more digits than Python turns into text
        return f"{'an' if isinstance(value, int) else 'a'} {type(value).__name__} of great length"
    text = text.encode("ascii", "backslashreplace").decode() if not text.isprintable() else text
    return text if len(text) <= 120 else f"{text[:117]}..."


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The `count` candidates that look most like `name`, best first; empty when none comes close."""
    return difflib.get_close_matches(name[:200], list(candidates), n=count, cutoff=0.5)


def unknown_name(what: str, name: Any, candidates: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not in a closed set, with the nearest names and the set, or its beginning."""
    known = sorted(candidates)
    close = nearest(name, known) if isinstance(name, str) else []
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    kept = known
    while len(", ".join(kept)) > _LISTED_CHARACTERS:
        kept = kept[:-1]
    more = f" and {len(known) - len(kept)} more" if len(kept) < len(known) else ""
    return InputError(f"unknown {what}: {shown(name)}. {hint}Expected one of: {', '.join(kept)}{more}.")
