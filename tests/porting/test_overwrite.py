"""Outputs: their default names, and what is written over only when told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from demo.synthetic import write_synthetic_checkpoint
from effdet_model import InputError, get_config
from effdet_model.weights import read_metadata
from porting import reverse
from porting.convert import convert
from porting.identity import default_name
from porting.reverse import to_tensorflow


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_checkpoint("lite0", tmp_path_factory.mktemp("one"), ema=False, momentum=False)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint of the same variant."""
    return write_synthetic_checkpoint("lite0", tmp_path_factory.mktemp("two"), seed=1, ema=False, momentum=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("variant", "family", "name"),
    [
        ("d0", "coco2", "tf_efficientdet_d0.pth"), ("d0", "coco", "tf_efficientdet_d0_coco.pth"),
        ("d0", None, "tf_efficientdet_d0.pth"), ("d0_ap", "advprop", "tf_efficientdet_d0_ap.pth"),
        ("d7x", "coco", "tf_efficientdet_d7x_coco.pth"), ("lite0", "lite", "tf_efficientdet_lite0.pth"),
        ("d2_640", "coco640", "tf_efficientdet_d2_640.pth"), ("efficientdet_d0", None, "efficientdet_d0.pth"),
    ],
)  # fmt: skip
def test_default_names_tell_families_apart(variant: str, family: str | None, name: str) -> None:
    assert default_name(variant, family) == name


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_only_the_same_is_written_over(prefix: Path, other: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"x{suffix}"
    convert(prefix, output, "lite0")
    before = contents(tmp_path)
    convert(prefix, output, "lite0")
    assert contents(tmp_path) == before
    with pytest.raises(InputError, match="found lite0 converted from another checkpoint, model; name another --output"):
        convert(other, output, "lite0")
    with pytest.raises(InputError, match="found lite0 of no official family .these are of the family lite.; .*--overw"):
        convert(prefix, output, "lite0", origin={"url": "u", "family": "lite"})
    assert contents(tmp_path) == before
    convert(other, output, "lite0", overwrite=True)
    assert contents(tmp_path) != before
    assert (read_metadata(output) or {})["source"]["sha256"] == convert(
        other, tmp_path / "again.pth", "lite0"
    ).conversion.metadata["source"]["sha256"]


def test_another_variant_and_files_of_others(prefix: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    lite1 = write_synthetic_checkpoint("lite1", tmp_path / "lite1", ema=False, momentum=False)
    convert(lite1, output)
    with pytest.raises(InputError, match=r"found weights of lite1 \(these are lite0\)"):
        convert(prefix, output)
    output.write_bytes(b"mine")
    with pytest.raises(InputError, match="found a file that is not a conversion of this project"):
        convert(prefix, output)
    assert output.read_bytes() == b"mine"


def test_a_file_that_was_replaced_is_not_ours_any_more(prefix: Path, tmp_path: Path) -> None:
    convert(prefix, tmp_path / "x.pth", "lite0")
    torch.save({"mine": torch.ones(1)}, tmp_path / "x.pth")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="found a file that its metadata do not belong to"):
        convert(prefix, tmp_path / "x.pth", "lite0")
    assert contents(tmp_path) == before


def test_two_files_do_not_share_their_metadata(prefix: Path, tmp_path: Path) -> None:
    convert(prefix, tmp_path / "x.pth", "lite0")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="its metadata would go to x.json, which belongs to x.pth"):
            convert(prefix, tmp_path / "x.pt", "lite0", overwrite=overwrite)
    convert(prefix, tmp_path / "x.safetensors", "lite0")
    assert sorted(contents(tmp_path)) == ["x.json", "x.pth", "x.safetensors"]


@pytest.mark.parametrize("name", ["out", "out.h5"])
def test_a_checkpoint_that_is_not_ours_is_not_written_over(
    prefix: Path, other: Path, tmp_path: Path, name: str
) -> None:
    """Neither a user's own, which has the names that ours have, nor one of other weights."""
    weights = convert(prefix, tmp_path / "w.safetensors", "lite0").path
    output = tmp_path / name
    if name == "out":
        write_synthetic_checkpoint("lite0", output)
    else:
        output.write_bytes(b"mine")
    before = contents(output if output.is_dir() else tmp_path)
    how = "[^ ]+ differs" if name == "out" else "one of another model, or a damaged one"
    with pytest.MonkeyPatch.context() as nothing_is_written:
        for function in ("write_checkpoint", "write_h5"):
            nothing_is_written.delattr(reverse, function)
        with pytest.raises(InputError, match=rf"found another checkpoint \({how}\); name another --output, or"):
            to_tensorflow(weights, output)
    assert contents(output if output.is_dir() else tmp_path) == before
    written = to_tensorflow(weights, output, overwrite=True)
    assert to_tensorflow(weights, output).files == written.files
    second = convert(other, tmp_path / "w2.safetensors", "lite0").path
    with pytest.MonkeyPatch.context() as nothing_is_written:
        for function in ("write_checkpoint", "write_h5"):
            nothing_is_written.delattr(reverse, function)
        with pytest.raises(InputError, match="from the same weights before, found another checkpoint .* differs"):
            to_tensorflow(second, output)
    assert to_tensorflow(weights, output).files == written.files


def test_metadata_of_another_file_is_not_written_back(prefix: Path, other: Path, tmp_path: Path) -> None:
    convert(prefix, tmp_path / "x.pth", "lite0")
    replacing = convert(other, tmp_path / "y.pth", "lite0").path
    replacing.replace(tmp_path / "x.pth")
    with pytest.raises(InputError, match="expected the file that x.json beside it was written for"):
        to_tensorflow(tmp_path / "x.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_has_overwrite(prefix: Path, other: Path, repository: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(repository / "cli.py"), "convert", "--variant", "lite0", "--json", *words],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(repository)},
        )  # fmt: skip

    done = run("--checkpoint", str(prefix))
    assert json.loads(done.stdout)["output"] == "tf_efficientdet_lite0.pth", done.stderr
    done = run("--checkpoint", str(other))
    assert done.returncode == 2 and "use --overwrite" in json.loads(done.stdout)["error"]
    assert run("--checkpoint", str(other), "--overwrite").returncode == 0
    assert (read_metadata(tmp_path / "tf_efficientdet_lite0.pth") or {})["config"]["name"] == get_config("lite0").name
