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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "/nowhere", "--json"], "/nowhere: expected a checkpoint"),
        (["mapping", "--variant", "d9", "--json"], "unknown variant: 'd9'"),
        (["convert", "--json", "--nonsense"], "No such option"),
        (["convert", "--json", "--to", "tf"], "--to tf needs --weights FILE"),
    ],
)
def test_errors_of_machines_are_json(repository: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(repository, *arguments, cwd=tmp_path)
    error = json.loads(done.stdout)
    assert (done.returncode, done.stderr, list(error)) == (2, "", ["error"])
    assert message in error["error"] and "\x1b" not in error["error"]


def test_repairs_are_notes_and_never_in_the_json(repository: Path, tmp_path: Path) -> None:
    import torch

    from effdet_model import create_model

    state = create_model("lite0").state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "x.pth")
    (tmp_path / "images").mkdir()
    done = run(repository, "detect", "images", "--weights", "x.pth", "--output", "out", "--json", cwd=tmp_path)
    assert done.returncode == 2 and "expected images" in json.loads(done.stdout)["error"]
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "a.png")
    done = run(
        repository, "detect", "images", "--weights", "x.pth", "--output", "out", "--json", "--image-size", "128",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and json.loads(done.stdout)["images"] == 1
    prefix, anchors = done.stderr.splitlines()
    assert prefix == "note: weights x.pth: took the prefix 'module.' off all names, which a wrapper had added"
    assert anchors.startswith("note: weights x.pth say nothing of their anchors: assumed num_scales 3")


def test_inspect_takes_a_url(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from demo.synthetic import write_synthetic_checkpoint
    from porting.convert import convert

    prefix = write_synthetic_checkpoint("lite0", tmp_path / "tf", ema=False, momentum=False)
    weights = convert(prefix, tmp_path / "x.safetensors", "lite0").path
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path / "cache"))
    for file, command in ((prefix.with_name("model.index"), "convert"), (weights, "evaluate")):
        found = json.loads(run(repository, "inspect", file.as_uri(), "--json").stdout)
        assert (found["variant"], found["next_command"].split()[2]) == ("lite0", command)
    done = run(repository, "inspect", "https://127.0.0.1:9/efficientdet-d0.tar.gz", "--offline")
    assert done.returncode == 2 and "--offline, found nothing" in done.stderr
