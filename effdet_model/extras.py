"""Packages that only some commands need: one message, with the line that installs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from effdet_model.errors import InputError

DISTRIBUTION = "effdet-port"
EXTRAS = ("eval", "export", "fast", "release", "report", "tflite", "verify", "video")
"""Names of pyproject.toml's optional dependencies, those for development aside."""


def install_line(extra: str) -> str:
    """What to type to install an extra, with the package installed or from a clone."""
    return f'pip install "{DISTRIBUTION}[{extra}]" (in a clone: pip install ".[{extra}]")'


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around the import of an extra's package: `with needs("video", "videos"): import av`.

    Args:
        extra: its name in pyproject.toml. what: what the package is wanted for, as the message begins.

    Raises:
        InputError: the package is not installed, or cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        found = f"its packages, found: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            found = f"the package {error.name.partition('.')[0]!r}, found none"
        raise InputError(f"{what}: expected {found}; install the extra {extra!r}: {install_line(extra)}.") from error
