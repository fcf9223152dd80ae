"""A release: named by hash, complete, provable, reproducible; and refused where the proof is not of this file."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from effdet_model import InputError, create_model
from effdet_model.fit import same_bits
from effdet_model.weights import metadata_path, read_metadata, read_state_dict
from porting.official.catalog import find
from porting.weights.files import file_sha256
from release.build import check_release, make_release
from release.publish import push_to_hub
from tests.misbehaving_server import serving
from tests.release.cases import CHECKPOINT_SHA256, items_in, make_item
from tests.release.fake_hub import hub
from verify.evidence.digest import publishable


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with d0 (.pth) and lite0 (.safetensors)."""
    folder = tmp_path_factory.mktemp("work")
    make_item(folder / "d0", "d0")
    make_item(folder / "lite0", "lite0", ".safetensors", official=False)
    return folder


@pytest.fixture(scope="module")
def release(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of both."""
    return make_release(items_in(work), tmp_path_factory.mktemp("out") / "release").folder


def only(folder: Path, pattern: str) -> Path:
    """The one file of this name."""
    (path,) = folder.glob(pattern)
    return path


def test_release_has_what_one_uploads(release: Path, work: Path) -> None:
    names = {re.sub(r"-[0-9a-f]{8}\.", "-HASH.", path.name) for path in release.iterdir()}
    each = {"-HASH.pth", "-HASH.json", "-HASH.safetensors", ".config.json", ".preprocessing.json", ".diff.json"}
    each |= {".parity.json", ".diff.html", ".parity.html", ".md"}
    models = {f"tf_efficientdet_{variant}{end}" for variant in ("d0", "lite0") for end in each}
    assert names == models | {"README.md", "index.json", "LICENSE", "SHA256SUMS"}
    for path in release.glob("*-????????.[ps]*"):
        assert file_sha256(path)[:8] == path.stem[-8:]
    for pattern, verified in (("*d0-*.pth", "d0/d0.pth"), ("*lite0-*.safetensors", "lite0/lite0.safetensors")):
        assert file_sha256(only(release, pattern)) == file_sha256(work / verified), "the verified file itself"


def test_sums_are_those_of_sha256sum(release: Path) -> None:
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=release, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": OK") == len(list(release.iterdir())) - 1


def test_torch_hub_takes_the_name(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name = only(release, "tf_efficientdet_d0-*.pth").name
    with serving(files={f"/{name}": (release / name).read_bytes()}) as server:
        state_dict = torch.hub.load_state_dict_from_url(
            f"{server.url}/{name}", model_dir=str(tmp_path), check_hash=True, progress=False
        )
    create_model("d0").load_state_dict(state_dict, strict=True)
    wrong = name.replace(name[-12:-4], "00000000")
    with serving(files={f"/{wrong}": (release / name).read_bytes()}) as server, pytest.raises(RuntimeError):
        torch.hub.load_state_dict_from_url(
            f"{server.url}/{wrong}", model_dir=str(tmp_path), check_hash=True, progress=False
        )


def test_the_lines_of_the_card_load_through_torch_hub(
    release: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("EFFDET_PORT_HTTP_LOCALHOST", "1")
    lines = re.findall(r"torch\.hub\.load\(.*?\)$", (release / "tf_efficientdet_d0.md").read_text(), re.M | re.S)
    assert len(lines) == 2
    with serving(files={f"/{path.name}": path.read_bytes() for path in release.glob("*d0-*")}) as server:
        for line in lines:
            model = eval(line.replace("URL", server.url), {"torch": torch, "CLONE": str(repository)})
            expected = read_state_dict(only(release, "*d0-*.pth"))
            assert all(same_bits(expected[key], tensor) for key, tensor in model.state_dict().items())
        assert len(server.requests) == 3


@pytest.mark.parametrize("variant", ["d0", "lite0"])
def test_both_formats_are_the_same_model(release: Path, work: Path, variant: str) -> None:
    pth, tensors = (only(release, f"tf_efficientdet_{variant}-*{end}") for end in (".pth", ".safetensors"))
    original = read_state_dict(next((work / variant).glob(f"{variant}.[ps]*")))
    for path in (pth, tensors):
        again = read_state_dict(path)
        assert set(again) == set(original)
        assert all(same_bits(again[key], original[key]) for key in original)
        assert create_model(weights=path).config.name == variant
    metadata = json.loads(metadata_path(pth).read_text())
    assert metadata.pop("weights_sha256") == file_sha256(pth)
    assert metadata == read_metadata(tensors)


def test_card_is_valid_and_says_what_it_must(release: Path) -> None:
    card = ModelCard.load(release / "tf_efficientdet_d0.md")
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "object-detection"
    data = card.data.to_dict()
    assert data["source_url"] == find("d0").url and data["source_sha256"] == CHECKPOINT_SHA256
    assert data["weights_sha256"] == file_sha256(only(release, "tf_efficientdet_d0-*.pth"))
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 34.56
    for text in (
        find("d0").url, CHECKPOINT_SHA256, "Same function: 2 of 2 layers", "3.25e-13", "Same detections on 4 of 4",
        "the truth) | 99.96 %", "| AP | 34.56 | 34.56 |", "| AP small | 34.56 | nothing to measure |",
        "| decoding | of 255 | 0 | 1 of 255 | 0.125 |", "| Images | 4 (shapes) |", "`graph_hard`", "google/automl",
        "(tf_efficientdet_d0.diff.html)", "(tf_efficientdet_d0.parity.html)",
        "| Image size (height x width) | 512 x 512 |",
        "| Inputs | 1 x drawn picture, 1 x seeded noise |", "| Inputs | 4 x picture file |", "tensorflow 2.21.0",
        "| Values equal to the bit | 3,880,067 of 3,880,067 |", "every layer within 1e-09 relative",
        "Apache License 2.0", "Mingxing Tan", "34.3",
        "numpy_gaussian", "moving averages (EMA)", "3,880,067",
    ):  # fmt: skip
        assert text in card.text, text
    own = ModelCard.load(release / "tf_efficientdet_lite0.md")
    assert "`my.tar.gz`" in own.text and "none of the released ones" in own.text
    assert "Published numbers" not in own.text


def test_index_has_links_hashes_and_numbers(release: Path) -> None:
    index = json.loads((release / "index.json").read_text())
    assert [model["name"] for model in index["models"]] == ["tf_efficientdet_d0", "tf_efficientdet_lite0"]
    for model in index["models"]:
        for file in model["files"].values():
            assert file_sha256(release / file["name"]) == file["sha256"]
            assert (release / file["name"]).stat().st_size == file["size"]
    first = index["models"][0]
    assert first["published"] == {"ap_val": 34.3, "ap_testdev": 34.6}
    assert first["diff"]["max_rel"] == 3.25e-13 and first["parity"] == {
        "passed": True, "AP": 0.3456, "agreement_AP": 0.9996,
    }  # fmt: skip
    text = (release / "README.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| [d0](tf_efficientdet_d0.md) | coco2")]
    pth = only(release, "tf_efficientdet_d0-*.pth").name
    for value in (pth, "34.6", "99.96", "34.3", "3.25e-13", find("d0").url):
        assert value in row
    assert ModelCard(text).data.to_dict()["license"] == "apache-2.0"
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) > 15 and all(link.startswith("https://") or (release / link).is_file() for link in links)


def test_same_input_same_bytes(release: Path, work: Path, tmp_path: Path) -> None:
    again = make_release(items_in(work), tmp_path / "other name").folder
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in release.iterdir()
    }


def test_same_tensors_same_files_from_either_format(tmp_path: Path) -> None:
    first = make_release([make_item(tmp_path / "a", "lite0")], tmp_path / "1").folder
    second = make_release([make_item(tmp_path / "b", "lite0", ".safetensors")], tmp_path / "2").folder
    for end in ("pth", "safetensors"):
        assert only(first, f"*-????????.{end}").name == only(second, f"*-????????.{end}").name


def test_another_license(work: Path, tmp_path: Path) -> None:
    folder = make_release(items_in(work / "lite0"), tmp_path / "out", license_name="mit").folder
    assert not (folder / "LICENSE").exists()
    for name in ("README.md", "tf_efficientdet_lite0.md"):
        card = ModelCard.load(folder / name)
        assert card.data.to_dict()["license"] == "mit" and "License: mit." in card.text


def test_times_and_machine_stay_out(release: Path) -> None:
    text = "".join(path.read_text() for path in release.glob("*.json")) + (release / "README.md").read_text()
    for private in ("seconds", "hostname", "/home/me", "per_second"):
        assert private not in text
    assert publishable({"a": [{"time": 1, "b": "/x/y.pth"}], "c": "C:\\x\\y"}) == {"a": [{"b": "y.pth"}], "c": "y"}


def test_one_of_each_variant(work: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected each variant once, found tf_efficientdet_lite0 several times"):
        make_release(items_in(work / "lite0") * 2, tmp_path / "out")
    with pytest.raises(InputError, match="expected at least one model"):
        make_release([], tmp_path / "out")


def test_output_in_use_is_left_alone(work: Path, release: Path, tmp_path: Path) -> None:
    items = items_in(work / "lite0")
    output = tmp_path / "out"
    make_release(items, output)
    make_release(items, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "no folder left over"
    (output / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder, or an earlier release, found mine.txt"):
        make_release(items, output)
    assert (output / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match="expected its parent folder to exist"):
        make_release(items, tmp_path / "a" / "b")


def test_check_finds_every_change(work: Path, tmp_path: Path) -> None:
    folder = make_release(items_in(work / "lite0"), tmp_path / "out").folder
    card = folder / "tf_efficientdet_lite0.md"
    text = card.read_text()
    card.write_text(text + "x")
    with pytest.raises(InputError, match="tf_efficientdet_lite0.md: expected SHA-256"):
        check_release(folder)
    card.write_text(text)
    (folder / "extra").write_text("")
    with pytest.raises(InputError, match=r"missing: \[\], surplus: \['extra'\]"):
        check_release(folder)
    (folder / "extra").unlink()
    card.rename(folder / "renamed.md")
    with pytest.raises(InputError, match=r"missing: \['tf_efficientdet_lite0.md'\]"):
        check_release(folder)


def test_push_sends_exactly_the_release(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = make_release(items_in(work / "lite0"), tmp_path / "out").folder
    with hub() as server:
        url = push_to_hub(folder, "me/effdet", private=True, endpoint=server.url, token="right")
        assert url == f"{server.url}/me/effdet/commit/abc"
        assert server.files == {path.name: path.read_bytes() for path in folder.iterdir()}
        assert server.message == f"Release {only(folder, '*.pth').name}"
        (created,) = server.repositories
        assert created["name"] == "effdet" and created["organization"] == "me"
        assert created.get("private") is True or created.get("visibility") == "private"


def test_push_tells_why_it_was_refused(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub() as server:
        with pytest.raises(InputError, match="push to me/effdet: expected the Hub to accept .*401"):
            push_to_hub(release, "me/effdet", endpoint=server.url, token="wrong")
        with pytest.raises(InputError, match="expected USER/NAME of a repository"):
            push_to_hub(release, "not a name/x/y", endpoint=server.url, token="right")
        (tmp_path / "SHA256SUMS").write_text("")
        (tmp_path / "x").write_text("")
        with pytest.raises(InputError, match="surplus"):
            push_to_hub(tmp_path, "me/effdet", endpoint=server.url, token="right")
        assert server.repositories == []
    with pytest.raises(InputError, match="push to me/effdet: expected the Hub to accept"):
        push_to_hub(release, "me/effdet", endpoint=server.url, token="right")
