"""An export in words."""

from __future__ import annotations

from export.run import Exported


def export_summary(made: Exported) -> str:
    """Lines for a terminal."""
    lines = [f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.text}" for check in made.checks]
    lines += [made.record["verdict"], *(str(path) for path in made.files), str(made.proof)]
    return "\n".join(lines)
