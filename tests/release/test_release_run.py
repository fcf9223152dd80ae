"""From a mirror in the official layout to a release folder; an interrupted run continues."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo.resources import ANNOTATIONS, ARCHIVE, IMAGE_SIZE, IMAGES, official_metrics
from demo.synthetic import write_synthetic_checkpoint
from effdet_model import InputError
from effdet_model.errors import CheckFailedError
from effdet_model.selection import Candidates
from effdet_model.variants import OFFICIAL_VARIANTS
from porting.files import file_sha256
from porting.official.catalog import find
from release.build import check_release
from release.evidence import Expected
from release.run import ReleaseOptions, released_variants, run_release
from release.verification import Outcome, Subject
from tests.misbehaving_server import serving
from tests.release.cases import record_of, report_of, write_report

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
    """A verification that passes, or ends otherwise for the variants in `ends`; counts its runs."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.calls: list[str] = []
        self.ends: dict[str, str] = {}
        self.hparams: dict[str, Any] = {}

    def expected(self, subject: Subject, inputs: int) -> Expected:
        return {"hparams": self.hparams}

    def run(self, subject: Subject, report: Callable[[int, int | None], None]) -> Outcome:
        variant = subject.weights.config.name
        self.calls.append(variant)
        report(len(self.calls), None)
        record = dataclasses.replace(
            record_of(self.kind, subject.weights.path), hparams=self.hparams,
            image_size=subject.options.image_size or subject.weights.config.image_size,
            verdict=self.ends.get(variant, "passed"),
        )  # fmt: skip
        write_report(subject.folder, report_of(record))
        return Outcome(record.verdict, f"call {len(self.calls)}.")


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
    diff, parity = Step("diff"), Step("parity")
    parity.ends = {"lite0": "failed"}
    said: list[str] = []

    def run() -> Path:
        return run_release(
            VARIANTS, tmp_path / "out", tmp_path / "work", options, verifications=(diff, parity), say=said.append
        ).folder

    with pytest.raises(CheckFailedError, match="lite0: parity failed, so nothing is .*: call 2. Its page") as told:
        run()
    assert not (tmp_path / "out").exists(), "nothing is released where one model failed"
    kept = tmp_path / "work" / "lite0" / "parity.html"
    assert str(kept) in str(told.value) and kept.is_file() and kept.with_suffix(".json").is_file()
    parity.ends = {"lite0": "inconclusive"}
    with pytest.raises(CheckFailedError, match="lite0: parity could not tell, so nothing is .*: call 3. Its page"):
        run()
    parity.ends = {}
    folder = run()
    assert (diff.calls, parity.calls) == (["d0", "lite0"], ["d0", "lite0", "lite0", "lite0"])
    assert "d0: diff done before" in said and "lite0: parity: call 4." in said
    check_release(folder)
    index = json.loads((folder / "index.json").read_text())
    assert [model["variant"] for model in index["models"]] == list(VARIANTS)
    assert index["models"][0]["source"]["url"] == find("d0").url
    assert index["models"][0]["evidence"]["diff"]["kind"] == "diff"
    config = json.loads((folder / "tf_efficientdet_d0.config.json").read_text())
    assert config["aspect_ratios"] == [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]], "coco2 has the anchors of its day"


def test_what_changes_what_is_proved_is_proved_again(
    options: ReleaseOptions, mirror: Path, tmp_path: Path
) -> None:
    steps = Step("diff"), Step("parity")
    archive = mirror / find("lite0").path
    own = ReleaseOptions(checkpoint=str(archive), image_size=(64, 64))

    def again(options: ReleaseOptions, variant: str = "lite0") -> tuple[int, str]:
        """How often something was run, and what was said of earlier runs."""
        said: list[str] = []
        before = sum(len(step.calls) for step in steps)
        run_release(
            [variant], tmp_path / "out", tmp_path / "work", options, verifications=steps, say=said.append
        )
        return sum(len(step.calls) for step in steps) - before, " ".join(said)

    assert again(own)[0] == 2
    assert again(own)[0] == 0, "the same again"
    runs, said = again(replace(own, image_size=(64, 96)))
    assert runs == 2 and "evidence.image_size: expected [64, 96], found [64, 64]" in said
    runs, said = again(replace(own, image_size=(64, 96), hparams="act_type=swish"))
    assert runs == 2 and "evidence.configuration_sha256" in said
    steps[0].hparams = {"act_type": "swish"}
    runs, said = again(replace(own, image_size=(64, 96), hparams="act_type=swish"))
    assert runs == 1 and "diff of an earlier run is not of this one (evidence.hparams" in said
    (tmp_path / "work" / "lite0" / "parity.html").unlink()
    runs, said = again(replace(own, image_size=(64, 96), hparams="act_type=swish"))
    assert runs == 1 and "page: expected parity.html beside the report" in said


def test_another_family_is_proved_again_though_the_weights_are_the_same(
    mirror: Path, tmp_path: Path, options: ReleaseOptions
) -> None:
    steps = Step("diff"), Step("parity")
    own = ReleaseOptions(checkpoint=str(mirror / find("d0").path), image_size=(64, 64), family="coco2")
    said: list[str] = []
    hashes = []
    for chosen in (own, replace(own, family=None)):
        folder = run_release(
            ["d0"], tmp_path / "out", tmp_path / "work", chosen, verifications=steps, say=said.append
        ).folder
        hashes.append(next(folder.glob("*.pth")).name.rpartition("-")[2])
    assert hashes[0] == hashes[1], "the same weights"
    assert [step.calls for step in steps] == [["d0", "d0"]] * 2
    assert "diff of an earlier run is not of this one (evidence.family: expected none, found 'coco2')" in " ".join(said)


def test_refused_before_any_work(options: ReleaseOptions, tmp_path: Path) -> None:
    steps = Step("diff"), Step("parity")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for wrong, message in (
        (options, "expected a new or empty folder, or an earlier release, found other files"),
        (replace(options, images=tmp_path / "none"), "none"),
        (replace(options, annotations=tmp_path / "a.json"), "expected either --coco or --images"),
    ):
        with pytest.raises(InputError, match=message):
            run_release(["lite0"], tmp_path / "out", tmp_path / "work", wrong, verifications=steps)
        (tmp_path / "out" / "mine.txt").unlink(missing_ok=True)
    assert not list(tmp_path.glob("work/*")) and steps[0].calls == []


def test_progress_of_every_step_is_shown(options: ReleaseOptions, tmp_path: Path) -> None:
    shown: list[tuple[str, str, int]] = []

    @contextlib.contextmanager
    def watch(label: str, unit: str = "") -> Iterator[Callable[[int, int | None], None]]:
        shown.append((label, unit, 0))
        yield lambda done, total: shown.append((label, unit, done))

    steps = Step("diff"), Step("parity")
    run_release(["lite0"], tmp_path / "out", tmp_path / "work", options, verifications=steps, watch=watch)
    labels = list(dict.fromkeys(label for label, _, _ in shown))
    assert labels == ["lite0: downloading", "lite0: converting", "lite0: diff", "lite0: parity"]
    assert {label for label, _, done in shown if done} == set(labels[1:]), "a mirror's file is at hand"


@pytest.mark.slow
def test_the_demo_checkpoint_is_released_as_an_official_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stubbed: TensorFlow runs the diff in double precision, and the detections of the demo's pictures."""
    assert importlib.util.find_spec("tensorflow"), "the verify extra is part of the development environment"
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "mirror" / find("d0").path
    archive.parent.mkdir(parents=True)
    archive.symlink_to(ARCHIVE)
    options = ReleaseOptions(
        mirror=str(tmp_path / "mirror"), image_size=IMAGE_SIZE, images=IMAGES, annotations=ANNOTATIONS,
        hparams="aspect_ratios=1.0*2.0*0.5",
    )  # fmt: skip
    said: list[str] = []
    folder = run_release(["d0"], tmp_path / "out", tmp_path / "work", options, say=said.append).folder
    check_release(folder)
    (model,) = json.loads((folder / "index.json").read_text())["models"]
    assert model["diff"]["passed"] and model["diff"]["max_rel"] <= 1e-9 and model["diff"]["dtype"] == "float64"
    assert model["parity"]["passed"] and model["parity"]["agreement_AP"] >= 0.999
    assert abs(model["parity"]["AP"] - official_metrics("numpy_gaussian")["AP"]) < 1e-3
    diff, parity = (model["evidence"][kind] for kind in ("diff", "parity"))
    pictures = sorted(IMAGES.iterdir())
    assert [item["kind"] for item in diff["inputs"]] == ["image", "image", "noise"]
    assert [item["sha256"] for item in parity["inputs"]] == [file_sha256(path) for path in pictures]
    assert parity["annotations_sha256"] == file_sha256(ANNOTATIONS) and parity["nms"]["name"] == "numpy_gaussian"
    assert diff["hparams"] == {"aspect_ratios": [1.0, 2.0, 0.5]} and diff["family"] == "coco2"
    card = (folder / "tf_efficientdet_d0.md").read_text()
    for text in (
        "128 x 128; these weights' own is 512 x 512", "Same function: 86 of 86 layers", "| network | relative",
        "2 x picture file, 1 x seeded noise", "12 x picture file", "tf_efficientdet_d0.parity.html",
    ):  # fmt: skip
        assert text in card, text
    for kind, record in (("diff", diff), ("parity", parity)):
        page = (folder / f"tf_efficientdet_d0.{kind}.html").read_text()
        assert record["report_sha256"] in page and str(tmp_path) not in page
    run_release(["d0"], tmp_path / "again", tmp_path / "work", options, say=said.append)
    assert said[-2:] == ["d0: diff done before", "d0: parity done before"]
    assert contents(folder) == contents(tmp_path / "again")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_drawn_pictures_twice_the_same_bytes(options: ReleaseOptions, tmp_path: Path) -> None:
    folders = [
        run_release(["lite0"], tmp_path / f"out{number}", tmp_path / f"work{number}", options).folder
        for number in (1, 2)
    ]
    assert contents(folders[0]) == contents(folders[1])
    (model,) = json.loads((folders[0] / "index.json").read_text())["models"]
    diff, parity = (model["evidence"][kind]["inputs"] for kind in ("diff", "parity"))
    assert model["diff"]["passed"] and [item["kind"] for item in diff] == ["drawn", "noise"]
    assert model["parity"]["passed"] and len(parity) == 8


@pytest.mark.slow
def test_a_failed_parity_run_keeps_its_page(
    options: ReleaseOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port decodes boxes a hair's breadth beside TensorFlow's."""
    from verify.parity.port import PortSide

    right = PortSide.candidates
    monkeypatch.setattr(PortSide, "candidates", lambda self, outputs: _moved(right(self, outputs)))
    with pytest.raises(CheckFailedError, match="lite0: parity failed, so nothing is released: Not the same") as told:
        run_release(["lite0"], tmp_path / "out", tmp_path / "work", options)
    page = tmp_path / "work" / "lite0" / "parity.html"
    assert str(page) in str(told.value) and "Not the same detections" in page.read_text()
    report = json.loads(page.with_suffix(".json").read_text())
    assert report["evidence"]["verdict"] == report["outcome"] == "failed"
    assert report["evidence"]["report_sha256"] in page.read_text() and not (tmp_path / "out").exists()


def _moved(candidates: Candidates) -> Candidates:
    return dataclasses.replace(candidates, boxes_yxyx=candidates.boxes_yxyx + 0.5)
