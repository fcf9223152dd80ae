"""The prover is tested: faults planted into every stage are found, and too little to judge is not called the same."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planted_parity_faults import FAULTS, Fault, found, planted
from demo.drawn_images import draw_dataset
from demo.synthetic import write_synthetic_checkpoint
from effdet_model.variants import get_config
from porting.convert import convert
from verify.parity.run import ParityOptions, parity

OVERRIDES = {"image_size": (96, 128), "num_classes": 3}
QUICK = ("class biases off by 0.01", "20 invented strong boxes per image")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> ParityOptions:
    place = tmp_path_factory.mktemp("faults")
    write_synthetic_checkpoint(get_config("d0", **OVERRIDES), place / "checkpoint", seed=4, momentum=False)
    convert(place / "checkpoint" / "model", place / "d0.pth", "d0", overrides=OVERRIDES)
    draw_dataset(place, 3, suffixes=(".png",))
    return ParityOptions(
        place / "checkpoint" / "model", place / "d0.pth", images=place / "images", pictures=0,
    )  # fmt: skip


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.words in QUICK], ids=lambda fault: fault.words)
def test_faults_are_found_where_they_are(fault: Fault, options: ParityOptions) -> None:
    result = planted(fault, options)
    assert found(fault, result), (result.verdict, result.born_in)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.words not in QUICK], ids=lambda fault: fault.words
)
def test_every_fault_is_found_where_it_is(fault: Fault, options: ParityOptions) -> None:
    result = planted(fault, options)
    assert found(fault, result), (result.verdict, result.born_in)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["128", "256x192", "256", "512"])
@pytest.mark.parametrize("profile", ["numpy_gaussian", "graph_hard"])
def test_a_trained_port_passes_far_from_its_size_and_its_faults_do_not(
    size: str, profile: str, shared: Path, tmp_path: Path
) -> None:
    shapes = shared / "shapes"
    convert(shapes / "checkpoint" / "model", tmp_path / "d0.pth", "d0", overrides={"image_size": 128})
    here = ParityOptions(
        shapes / "checkpoint" / "model", tmp_path / "d0.pth", images=shapes / "images", image_size=size, nms=profile,
        limit=4, pictures=0,
    )  # fmt: skip
    right = parity(here)
    assert right.passed, right.failures
    assert right.agreement.ap >= 0.999 and right.unmatched == 0 and right.rounding.ratio < 4
    for fault in (fault for fault in FAULTS if fault.words in QUICK):
        assert found(fault, planted(fault, here)), fault.words


@pytest.mark.slow
def test_too_little_to_judge_is_inconclusive(options: ParityOptions, tmp_path: Path) -> None:
    one = parity(dataclasses.replace(options, limit=1))
    assert one.outcome == "inconclusive" and not one.passed and one.verdict.startswith("Inconclusive: nothing differs")
    assert "at least 2 are needed; name a folder with more" in one.verdict
    write_synthetic_checkpoint(get_config("d0", **OVERRIDES), tmp_path / "checkpoint", seed=4, momentum=False)
    silent = tmp_path / "silent"
    _silence(tmp_path / "checkpoint" / "model", silent)
    convert(silent / "model", tmp_path / "silent.pth", "d0", overrides=OVERRIDES)
    result = parity(dataclasses.replace(options, checkpoint=silent / "model", weights=tmp_path / "silent.pth"))
    assert result.outcome == "inconclusive", result.verdict
    assert "0 detections with a score of at least 0.05 and 0 of at least 0.001" in result.verdict


def _silence(checkpoint: Path, output: Path) -> None:
    """The same checkpoint with class biases so low that nothing is found."""
    from porting.checkpoint.sources import open_source
    from porting.checkpoint.write_tensorbundle import write_checkpoint

    with open_source(checkpoint) as source:
        arrays = {}
        for name, variable in source.variables.items():
            for kind, present in (("raw", variable.has_raw), ("ema", variable.has_ema)):
                if present:
                    array = np.array(source.read(name, kind))  # type: ignore[arg-type]
                    if name == "class_net/class-predict/bias":
                        array[:] = -40.0
                    arrays[name if kind == "raw" else f"{name}/ExponentialMovingAverage"] = array
    output.mkdir()
    write_checkpoint(output / "model", sorted(arrays.items()))


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_refuses_other_contents(options: ParityOptions, tmp_path: Path) -> None:
    from effdet_model.errors import InputError

    images = tmp_path / "images"
    shutil.copytree(str(options.images), images)
    names = sorted(path.name for path in images.iterdir())
    whole = parity(dataclasses.replace(options, images=images))
    (images / names[2]).rename(tmp_path / "aside.png")
    (images / names[2]).write_bytes(b"\x89PNG\r\n\x1a\n")
    here = dataclasses.replace(options, images=images, work=tmp_path / "report")
    with pytest.raises(InputError, match="--skip-bad-images"):
        parity(here)
    work = tmp_path / "report" / "parity.work.jsonl"
    assert work.read_text().count('"sha256"') == 2, "what was done before is kept"
    (tmp_path / "aside.png").rename(images / names[2])
    with pytest.raises(InputError, match="expected the settings that .* was begun with, found others: suppression"):
        parity(dataclasses.replace(here, resume=True, nms="numpy_hard"))
    first = (images / names[0]).read_bytes()
    (images / names[0]).write_bytes((images / names[1]).read_bytes())
    with pytest.raises(InputError, match="found other contents; put the file back"):
        parity(dataclasses.replace(here, resume=True))
    (images / names[0]).write_bytes(first)
    resumed = parity(dataclasses.replace(here, resume=True))
    assert not work.exists() and resumed.passed
    assert resumed.images == whole.images and resumed.stages == whole.stages
    with pytest.raises(InputError, match="--resume: expected --report DIR"):
        parity(dataclasses.replace(options, resume=True))
