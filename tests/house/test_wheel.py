"""The wheel, installed away from the clone: whatever the commands read travels with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MODULES = ("cli", "hubconf")
ROOMS = (
    *MODULES, "command_line", "demo", "detect", "effdet_model", "export", "mappings", "porting", "release", "training",
    "verify",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files that git knows, with what is installed; no network."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if (repository / name).is_file() and not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / name, folder / "source" / name)
    _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder), str(folder / "source"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    _pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(installed: Path, cwd: Path, *command: str) -> str:
    """Run Python with the installed wheel first on its path, away from the clone."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "EFFDET_PORT_CACHE": str(cwd / "cache")}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_clone_is_out_of_sight(installed: Path, tmp_path: Path) -> None:
    code = "import importlib, sys\nfor name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    places = run(installed, tmp_path, "-c", code, *ROOMS).split()
    assert len(places) == len(ROOMS) and all(Path(place).is_relative_to(installed) for place in places)
    assert "effdet-port, version" in run(installed, tmp_path, str(installed / "bin" / "effdet-port"), "--version")


def test_every_file_that_is_read_travels_with_it(wheel: Path, repository: Path) -> None:
    """Whatever git knows inside the rooms, Python or not."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "-z", *(f"{room}/" for room in ROOMS[len(MODULES) :])],
        cwd=repository, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    assert sorted(name for name in filter(None, listed) if name not in packed and (repository / name).exists()) == []
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in packed)


HELP = """
import cli
from click.testing import CliRunner
for name in cli.cli.commands:
    shown = CliRunner().invoke(cli.cli, [name, "--help"])
    assert shown.exit_code == 0 and "Usage:" in shown.output, (name, shown.output)
print(*cli.cli.commands)
"""


def test_commands_run_from_there(installed: Path, tmp_path: Path) -> None:
    commands = set(run(installed, tmp_path, "-c", HELP).split())
    assert {"convert", "diff", "evaluate", "parity", "detect", "inspect", "mapping", "variants", "release", "demo"} <= (
        commands
    )
    program = str(installed / "bin" / "effdet-port")
    assert run(installed, tmp_path, program, "variants").count("coco2") == 9
    table = run(installed, tmp_path, program, "mapping", "--variant", "d0")
    assert table == (installed / "mappings" / "tables" / "d0.tsv").read_text(encoding="utf-8")


def test_the_demo_runs_from_there(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    said = run(installed, tmp_path, str(installed / "bin" / "effdet-port"), "demo", "--output", str(tmp_path / "demo"))
    assert "diff.html" in said and "parity.html" in said
    page = next((tmp_path / "demo").rglob("diff.html")).read_text(encoding="utf-8")
    assert (installed / "verify" / "report" / "templates" / "report.js").read_text(encoding="utf-8")[:60] in page


def test_the_templates_of_a_release_are_there(installed: Path, tmp_path: Path) -> None:
    code = (
        "import release.model_card as card\n"
        "print(*(len(card._template(name)) for name in ('model_card.md.j2', 'release_index.md.j2')))"
    )
    assert all(int(size) > 500 for size in run(installed, tmp_path, "-c", code).split())
