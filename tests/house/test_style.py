"""The code itself: lint, types, rooms, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = {
    "effdet_model": set(),
    "mappings": {"effdet_model"},
    "porting": {"effdet_model", "mappings"},
    "verify": {"effdet_model", "mappings", "porting"},
    "detect": {"effdet_model", "mappings", "porting", "verify"},
    "demo": {"effdet_model", "mappings", "porting", "verify"},
    "release": {"effdet_model", "mappings", "porting", "verify", "detect", "demo"},
}


def python_files(repository: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=repository, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return [repository / name for name in listed if (repository / name).exists()]


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Top-level packages that a file imports; `if TYPE_CHECKING` blocks count as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.slow
def test_ruff(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_types(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str, repository: Path) -> None:
    for path in sorted((repository / room).rglob("*.py")):
        others = imported(path) & (set(ROOMS) | {"cli"}) - {room}
        assert others <= ROOMS[room], f"{path.relative_to(repository)} imports {sorted(others - ROOMS[room])}"
        if room == "effdet_model":
            assert "tensorflow" not in imported(path), path
        assert "tensorflow" not in imported(path, top_level_only=True), f"{path}: TensorFlow belongs inside functions"


def test_files_are_short_and_named_for_what_they_hold(repository: Path) -> None:
    for path in python_files(repository):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 450, f"{path.relative_to(repository)} has {lines} lines"
        assert path.name != "utils.py"
