"""This tool's name and version, as written into every file it makes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

TOOL = "effdet-port"


def tool_version() -> str:
    """The installed version; "unknown" when run from a checkout that is not installed."""
    try:
        return version(TOOL)
    except PackageNotFoundError:
        return "unknown"
