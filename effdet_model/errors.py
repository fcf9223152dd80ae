"""The one error that a user of this project is meant to see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong use or bad input: the message says what was expected, what was found and what to do.

    The command line prints the message alone and exits with code 2.
    """


class CheckFailedError(InputError):
    """A check ran and failed where its success was needed to go on; the command line exits with code 1."""


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The `count` candidates that look most like `name`, best first; empty when none comes close."""
    return difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.5)


def unknown_name(what: str, name: str, candidates: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not in a closed set, with the nearest names and the whole set."""
    known = sorted(candidates)
    close = nearest(name, known)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return InputError(f"unknown {what}: {name!r}. {hint}Expected one of: {', '.join(known)}.")
