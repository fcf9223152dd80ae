"""Rooms that work print nothing: they report through callbacks, and others show it."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.imports import python_files

PRESENTING = ("cli.py", "demo/run.py", "mappings/committed.py", "porting/progress.py")
"""Beside these, files called show.py and the room of reports present what the others have found."""


def presents(name: str) -> bool:
    """Whether a file is there to show something."""
    rooms = ("command_line/", "verify/report/", "tests/", "benchmarks/")
    return name in PRESENTING or name.endswith("/show.py") or name.startswith(rooms)


def talks(text: str) -> set[str]:
    """What a source text prints with."""
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return imported & {"rich", "click", "tqdm"} | called & {"print"}


def test_only_what_presents_prints(repository: Path) -> None:
    names = {str(path.relative_to(repository)): path.read_text(encoding="utf-8") for path in python_files(repository)}
    assert [name for name, text in names.items() if not presents(name) and talks(text)] == []
    bars = [name for name, text in names.items() if "rich.progress" in text and not name.startswith("tests/")]
    assert bars == ["porting/progress.py"], "one module makes bars"


def test_the_check_sees_what_it_looks_for() -> None:
    assert talks("def f():\n    from rich.progress import Progress") == {"rich"}
    assert talks("print(1)") == {"print"} and talks("import numpy\nx.print(1)") == set()
