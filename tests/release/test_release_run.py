"""From a mirror in the official layout to a release folder; an interrupted run continues."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo.synthetic import write_synthetic_checkpoint
from effdet_model import InputError
from effdet_model.errors import CheckFailedError
from effdet_model.variants import OFFICIAL_VARIANTS
from porting.official.catalog import find
from porting.official.obtain import Obtained
from release.build import check_release
from release.run import ReleaseOptions, Report, released_variants, run_release
from tests.misbehaving_server import serving

VARIANTS = ("d0", "lite0")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """d0 and lite0 with seeded weights, where the official ones would lie."""
    folder = tmp_path_factory.mktemp("mirror")
    for variant in VARIANTS:
        prefix = write_synthetic_checkpoint(variant, folder / f"efficientdet-{variant}", momentum=False)
        archive = folder / "mirror" / find(variant).path
        archive.parent.mkdir(parents=True)
        with tarfile.open(archive, "w:gz", compresslevel=1) as file:
            file.add(prefix.parent, arcname=prefix.parent.name)
    return folder / "mirror"


@pytest.fixture
def options(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleaseOptions:
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path / "cache"))
    return ReleaseOptions(mirror=str(mirror), image_size=(64, 64))


class Step:
    """A verification that passes, or fails for the variants in `failing`; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: set[str] = set()

    def __call__(self, found: Obtained, weights: Path, options: ReleaseOptions) -> Report:
        self.calls.append(found.variant)
        metadata = json.loads(weights.with_suffix(".json").read_text())
        return Result(
            passed=found.variant not in self.failing, verdict=f"call {len(self.calls)}", variant=found.variant,
            weights_sha256=metadata["weights_sha256"], checkpoint_sha256=metadata["source"]["sha256"],
        )  # fmt: skip


class Result:
    """A report of given content."""

    def __init__(self, **data: Any) -> None:
        self.data, self.passed, self.verdict = data, data["passed"], data["verdict"]

    def write_json(self, path: Path) -> None:
        path.write_text(json.dumps(self.data))


def test_which_variants(options: ReleaseOptions) -> None:
    assert released_variants([], True, options) == list(VARIANTS), "those that the mirror has"
    assert released_variants([], True, ReleaseOptions()) == list(OFFICIAL_VARIANTS)
    assert released_variants(["efficientdet-d0", "d0", "lite0"], False, options) == ["d0", "lite0"]
    for names, every in (([], False), (["d0"], True)):
        with pytest.raises(InputError, match="expected --variant NAME .* or --all, found neither or both"):
            released_variants(names, every, options)
    with pytest.raises(InputError, match="expected one variant with --checkpoint, found 2"):
        released_variants(["d0", "d1"], False, ReleaseOptions(checkpoint="x"))
    (Path(str(options.mirror)) / "empty").mkdir()
    with pytest.raises(InputError, match="expected checkpoints in the mirror"):
        released_variants([], True, replace(options, mirror=str(options.mirror) + "/empty"))


def test_which_variants_a_server_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(files={f"/{find(variant).path}": b"" for variant in ("d0", "d7x", "d1_ap")}) as server:
        options = ReleaseOptions(mirror=server.url)
        assert released_variants([], True, options) == ["d0", "d7x", "d1_ap"]
        server.statuses = [500]
        with pytest.raises(InputError, match="expected yes or no, found HTTP status 500"):
            released_variants([], True, options)
        with pytest.raises(InputError, match="expected checkpoints in the mirror"):
            released_variants([], True, replace(options, offline=True))
    with pytest.raises(InputError, match="expected an answer, found none"):
        released_variants([], True, options)


def test_from_checkpoints_to_a_release_and_on_after_an_interruption(options: ReleaseOptions, tmp_path: Path) -> None:
    diff, parity = Step(), Step()
    parity.failing = {"lite0"}
    said: list[str] = []

    def run() -> Path:
        return run_release(
            VARIANTS, tmp_path / "out", tmp_path / "work", options, diff=diff, parity=parity, say=said.append
        ).folder

    with pytest.raises(CheckFailedError, match="lite0: parity failed, so nothing is released: call 2"):
        run()
    assert not (tmp_path / "out").exists(), "nothing is released where one model failed"
    parity.failing = set()
    folder = run()
    assert (diff.calls, parity.calls) == (["d0", "lite0"], ["d0", "lite0", "lite0"])
    assert "d0: diff done before" in said and "lite0: parity: call 3" in said
    check_release(folder)
    index = json.loads((folder / "index.json").read_text())
    assert [model["variant"] for model in index["models"]] == list(VARIANTS)
    assert index["models"][0]["source"]["url"] == find("d0").url
    config = json.loads((folder / "tf_efficientdet_d0.config.json").read_text())
    assert config["aspect_ratios"] == [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]], "coco2 has the anchors of its day"
    run_release(VARIANTS, tmp_path / "out", tmp_path / "work", replace(options, image_size=(64, 96)), diff=diff,
                parity=parity)  # fmt: skip
    assert len(diff.calls) == 4, "other options, other reports"


@pytest.mark.slow
def test_proved_by_both_frameworks_twice_the_same_bytes(options: ReleaseOptions, tmp_path: Path) -> None:
    """Nothing is stubbed: TensorFlow runs the diff in double precision, and the detections of drawn images."""
    assert importlib.util.find_spec("tensorflow"), "the verify extra is part of the development environment"
    options = replace(options, drawn_images=2)
    folders = [
        run_release(["lite0"], tmp_path / f"out{number}", tmp_path / f"work{number}", options).folder
        for number in (1, 2)
    ]
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == second
    (model,) = json.loads(first["index.json"])["models"]
    assert model["diff"]["passed"] and model["diff"]["max_rel"] <= 1e-9 and model["diff"]["dtype"] == "float64"
    assert model["parity"]["passed"] and model["parity"]["agreement_AP"] >= 0.999
    card = first["tf_efficientdet_lite0.md"].decode()
    assert "Same function: 86 of 86 layers" in card and "| network | relative" in card
