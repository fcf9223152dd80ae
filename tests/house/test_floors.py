"""The house: a room imports only from the floors below it, and nothing goes in a circle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.house.imports import Graph, circles, import_graph, project_graph, python_files

FLOORS = (
    {"cli", "benchmarks"},
    {"command_line"},
    {"hubconf", "release"},
    {"detect", "training", "export", "demo"},
    {"verify"},
    {"porting"},
    {"mappings"},
    {"effdet_model"},
)
"""Rooms from the top floor down; rooms of one floor do not know each other."""

INNER_FLOORS = {
    "porting": (
        {"show"},
        {"inspect", "reverse"},
        {"convert"},
        {"identity"},
        {"official"},
        {"weights"},
        {"accounting", "recognise"},
        {"checkpoint"},
        {"crc32c", "files", "progress", "version"},
    ),
    "verify": (
        {"report"},
        {"diff", "parity"},
        {"evaluation"},
        {"evidence", "reference"},
        {"environment", "report.drawing"},
    ),
}
"""The same inside the large rooms; a file with a floor of its own is named by its whole path in the room."""

MOST_FILES, MOST_LINES = 16, 400


@pytest.fixture(scope="module")
def graph(repository: Path) -> Graph:
    return project_graph(repository)


def upward(graph: Graph, floors: tuple[set[str], ...], depth: int, within: str = "") -> list[str]:
    """Imports that do not go down, e.g. "a.b -> c.d"; floors hold the name part at `depth`, or a file's whole name."""
    level = {room: number for number, floor in enumerate(floors) for room in floor}

    def room(name: str) -> str:
        parts = name.split(".")[depth:]
        return whole if (whole := ".".join(parts)) in level else parts[0]

    inside = [name for name in graph if name.startswith(within) and name.count(".") >= depth]
    unknown = {room(name) for name in inside} - set(level)
    assert not unknown, f"{sorted(unknown)}: give these rooms a floor"
    return sorted(
        f"{name} -> {other}"
        for name in inside
        for other in graph[name]
        if other in inside and room(other) != room(name) and level[room(other)] <= level[room(name)]
    )


def test_imports_go_down(graph: Graph) -> None:
    assert upward(graph, FLOORS, 0) == []


@pytest.mark.parametrize("room", INNER_FLOORS)
def test_imports_go_down_inside_a_room(graph: Graph, room: str) -> None:
    assert upward(graph, INNER_FLOORS[room], 1, f"{room}.") == []


def test_nothing_goes_in_a_circle(graph: Graph) -> None:
    assert circles(graph) == []


def test_tensorflow_is_imported_where_it_runs_and_nowhere_else(repository: Path) -> None:
    for path in python_files(repository):
        place = path.relative_to(repository)
        if place.parts[0] in ("tests", "benchmarks"):
            continue
        text = path.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.split()[1:2] == ["tensorflow"]]
        if lines:
            assert place.parts[:2] == ("verify", "reference"), place
            assert all(line.startswith(" ") for line in lines), f"{place}: TensorFlow belongs inside functions"


def test_files_and_folders_stay_small(repository: Path) -> None:
    folders: Counter[Path] = Counter()
    for path in python_files(repository):
        place = path.relative_to(repository)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MOST_LINES, f"{place} has {lines} lines"
        assert path.name != "utils.py"
        folders[place.parent] += 1
    large = {str(folder): count for folder, count in folders.items() if count > MOST_FILES}
    assert set(large) <= {"effdet_model", "tests/effdet_model"}, large


def test_an_upward_a_sideways_and_a_circular_arrow_are_seen() -> None:
    house = {"low.a": "", "left.b": "import low.a", "right.c": "from low import a\n", "top.d": "from left.b import x"}
    floors = ({"top"}, {"left", "right"}, {"low"})
    assert upward(import_graph(house), floors, 0) == [] and circles(import_graph(house)) == []
    bent = import_graph({**house, "low.a": "def f():\n    from left.b import x"})
    assert upward(bent, floors, 0) == ["low.a -> left.b"] and circles(bent) == [["left.b", "low.a"]]
    sideways = import_graph({**house, "left.b": "import low.a\nif TYPE_CHECKING:\n    import right.c"})
    assert upward(sideways, floors, 0) == ["left.b -> right.c"]
