"""What imports what, read from the source: every import counts, also inside functions and `if TYPE_CHECKING`."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, frozenset[str]]
"""Module name -> names of this project's modules that it imports."""


def python_files(repository: Path) -> list[Path]:
    """Every Python file that git tracks, or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=repository, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return [repository / name for name in listed if (repository / name).exists()]


def module_name(path: Path, repository: Path) -> str:
    """porting.convert of porting/convert.py; porting of porting/__init__.py."""
    parts = path.relative_to(repository).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: Mapping[str, str]) -> Graph:
    """The graph of modules given as name -> source text."""
    return {name: frozenset(_imported(text, sources) - {name}) for name, text in sources.items()}


def project_graph(repository: Path) -> Graph:
    """The graph of everything but the tests."""
    files = {module_name(path, repository): path for path in python_files(repository)}
    return import_graph(
        {name: path.read_text(encoding="utf-8") for name, path in files.items() if name.split(".")[0] != "tests"}
    )


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other in a loop; each sorted."""
    reach = {name: _reachable(graph, name) for name in graph}
    groups = {
        frozenset({name, *(other for other in reach[name] if name in reach[other])})
        for name in graph
        if name in reach[name]
    }
    return sorted(sorted(group) for group in groups)


def _imported(text: str, known: Mapping[str, str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        for name in _names(node):
            while name and name not in known:  # `from a.b import thing` names a.b
                name = name.rpartition(".")[0]
            if name:
                found.add(name)
    return found


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        assert not node.level, "imports are absolute here"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
        if node.args and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen
