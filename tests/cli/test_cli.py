"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(repository: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "cli.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=cwd)


def test_help_needs_nothing_heavy(repository: Path) -> None:
    code = (
        "import sys, cli\nfrom click.testing import CliRunner\n"
        "out = CliRunner().invoke(cli.cli, ['--help'])\nassert out.exit_code == 0, out.output\n"
        "assert not {'torch', 'timm', 'tensorflow'} & set(sys.modules)\nprint(out.output)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in (
        "convert", "diff", "evaluate", "parity", "detect", "inspect", "mapping", "variants", "release", "demo",
    ):  # fmt: skip
        assert f"\n  {command}" in done.stdout


def test_mapping(repository: Path) -> None:
    done = run(repository, "mapping", "--variant", "d0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (repository / "mappings" / "tables" / "d0.tsv").read_text()
    table = json.loads(run(repository, "mapping", "--variant", "tf_efficientdet_d0", "--json").stdout)
    assert len(table["rows"]) == 784 and table["counts"]["edge_weight"] == 24
    custom = run(repository, "mapping", "--variant", "d0", "--hparams", "num_classes=20").stdout
    assert "180x64x1x1\t1x1x64x180\tclass_net/class-predict/pointwise_kernel" in custom


def test_variants(repository: Path) -> None:
    rows = json.loads(run(repository, "variants", "--json").stdout)
    assert len(rows) == 35
    assert {row["family"] for row in rows} == {"coco", "coco2", "coco640", "advprop", "lite"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "--checkpoint", "/nowhere"], "/nowhere"),
        (["convert"], "expected --variant NAME"),
        (["mapping", "--variant", "d9"], "unknown variant: 'd9'"),
        (["mapping", "--variant", "efficientdet_d0"], "nothing to convert"),
        (["convert", "--variant", "d0", "--hparams", "x"], "--hparams: expected a .yaml file or key=value"),
        (["convert", "--variant", "d0", "--offline"], "--offline"),
    ],
)
def test_bad_use_ends_in_one_message(repository: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(repository, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and "Traceback" not in done.stderr and done.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
