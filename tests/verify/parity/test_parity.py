"""Parity end to end, TensorFlow in a process of its own, on images that the tests draw."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo.drawn_images import draw_dataset
from demo.resources import ANNOTATIONS, ARCHIVE, IMAGE_SIZE
from demo.resources import IMAGES as IMAGES_OF_DEMO
from demo.synthetic import write_synthetic_checkpoint
from effdet_model.errors import InputError
from effdet_model.variants import get_config
from porting.convert import convert
from verify.parity.result import ParityResult
from verify.parity.run import ParityOptions, parity
from verify.report.parity import parity_report, write_parity_report

IMAGES = 4
OVERRIDES = {"image_size": (96, 128), "num_classes": 3}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint/, d0.pth, images/ and instances.json."""
    place = tmp_path_factory.mktemp("parity")
    write_synthetic_checkpoint(get_config("d0", **OVERRIDES), place / "checkpoint", seed=3, momentum=False)
    convert(place / "checkpoint" / "model", place / "d0.pth", "d0", overrides=OVERRIDES)
    draw_dataset(place, IMAGES)
    return place


@pytest.fixture(scope="module")
def options(folder: Path) -> ParityOptions:
    return ParityOptions(
        checkpoint=folder / "checkpoint" / "model", weights=folder / "d0.pth", images=folder / "images",
        annotations=folder / "instances.json",
    )  # fmt: skip


@pytest.fixture(scope="module")
def perfect(options: ParityOptions) -> ParityResult:
    return parity(options)


def test_a_perfect_port_agrees_in_every_stage_and_box(perfect: ParityResult) -> None:
    assert perfect.passed, perfect.failures
    assert perfect.agreement.ap == pytest.approx(1.0) and perfect.agreement.truths > 20
    assert perfect.matched_share > 0.99 and perfect.strong_share == 1.0 and perfect.born_in is None
    assert [stage.name for stage in perfect.stages] == [
        "decoding", "resize and padding", "network", "box decoding and selection", "suppression",
    ]  # fmt: skip
    assert perfect.stages[0].alone.largest == 0 and perfect.stages[0].alone.items == IMAGES
    assert perfect.stages[1].alone.largest <= 1e-4 and 0 < perfect.stages[2].alone.largest < 1e-4
    assert perfect.ap_difference is not None and abs(perfect.ap_difference) < 0.01


def test_json_names_the_files_and_gives_every_number(perfect: ParityResult, folder: Path, tmp_path: Path) -> None:
    from porting.weights.files import file_sha256

    paths = write_parity_report(perfect, tmp_path)
    assert [path.name for path in paths] == ["parity.json", "parity.md", "parity.html"]
    data = json.loads(paths[0].read_text())
    assert data["passed"] is True and data["agreement_ap"] == perfect.agreement.ap
    assert data["weights_sha256"] == file_sha256(folder / "d0.pth")
    assert data["checkpoint_sha256"] == json.loads((folder / "d0.json").read_text())["source"]["sha256"]
    assert len(data["stages"]) == 5 and len(data["images"]) == IMAGES
    assert data["tensorflow"]["AP"] == pytest.approx(data["pytorch"]["AP"], abs=1e-4)
    assert data["nms"]["name"] == "numpy_gaussian" and data["config"]["aspect_ratios"] == [1.0, 2.0, 0.5]
    for path in paths[1:]:
        text = path.read_text()
        assert perfect.verdict.split(";")[0] in text and "box decoding and selection" in text
    assert "data:image/png;base64" in paths[2].read_text()


@pytest.mark.slow
def test_another_engine_agrees_and_is_no_evidence_of_the_weights(options: ParityOptions, perfect: ParityResult) -> None:
    found = parity(dataclasses.replace(options, engine="torch", limit=2))
    assert found.passed, found.failures
    assert found.evidence is None and perfect.evidence is not None
    assert any("engine torch; for a release" in note for note in found.notes)


@pytest.mark.parametrize("profile", ["numpy_hard", "graph_gaussian", "global_hard", "combined"])
def test_every_kind_of_suppression_agrees(profile: str, options: ParityOptions) -> None:
    seen: list[tuple[int, int]] = []
    result = parity(
        dataclasses.replace(options, nms=profile, limit=2, annotations=None, progress=lambda *now: seen.append(now))
    )
    assert seen[-1] == (2, 2) and seen == sorted(seen)
    assert result.passed, result.failures
    assert result.agreement.ap == pytest.approx(1.0) and result.pytorch_metrics is None


@pytest.mark.slow
def test_the_configs_method_counts_on_both_sides(options: ParityOptions) -> None:
    overrides = {"nms_configs": {"method": "diou", "max_output_size": 70}}
    result = parity(dataclasses.replace(options, overrides=overrides, limit=2, annotations=None))
    assert result.passed and (result.nms["name"], result.nms["max_output_size"]) == ("numpy_diou", 70)


@pytest.mark.slow
def test_a_wrong_weight_is_found_in_the_network_alone(options: ParityOptions, tmp_path: Path) -> None:
    from effdet_model.weights import read_metadata, read_state_dict
    from porting.weights.files import write_weights

    state = read_state_dict(options.weights)
    name = next(key for key in state if key.startswith("box_net.predict") and key.endswith("bias"))
    state[name] = state[name] + 0.2
    write_weights(tmp_path / "bad.pth", state, read_metadata(options.weights) or {})
    result = parity(dataclasses.replace(options, weights=tmp_path / "bad.pth"))
    assert not result.passed and result.born_in == "network"
    assert [stage.alone.ok for stage in result.stages] == [True, True, False, True, True]
    assert [stage.from_file.ok for stage in result.stages] == [True, True, False, False, False]
    assert result.stages[4].from_file.differing > 0 and result.agreement.ap < 0.9 and result.unmatched > 0
    first = result.images[0]
    assert first.unmatched_tensorflow and first.disagreement > 0
    report = parity_report(result, with_figure=False)
    assert not report.verdict.ok and "born in network" in report.verdict.text


@pytest.mark.slow
def test_bad_images_and_era_true_anchors(options: ParityOptions, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = sorted(path.name for path in (folder / "images").iterdir())
    for name in names[:2]:
        (tmp_path / "images" / name).write_bytes((folder / "images" / name).read_bytes())
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    mine = dataclasses.replace(options, images=tmp_path / "images", annotations=None, as_published=True, family="coco")
    with pytest.raises(InputError, match=r"broken\.png.*--skip-bad-images"):
        parity(mine)
    result = parity(dataclasses.replace(mine, skip_bad_images=True))
    assert result.passed and len(result.images) == 2 and [image.id for image in result.skipped] == [3]
    assert result.nms["name"] == "numpy_hard" and result.config["aspect_ratios"] == [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]]
    assert "family coco as published" in result.semantics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "--coco or --images"),
        ({"nms": "torchvision"}, "PyTorch's own"),
        ({"nms": "graph_gaussian", "overrides": {"nms_configs": {"method": "hard"}}}, "nms_configs.method=hard"),
        ({"nms": "numpy_guassian"}, "numpy_gaussian"),
        ({"limit": 0}, "--limit"),
        ({"as_published": True}, "name the family"),
        ({"images": "/nowhere"}, "expected a folder"),
        ({"checkpoint": "/nowhere"}, "/nowhere"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str, options: ParityOptions) -> None:
    with pytest.raises(InputError, match=message):
        parity(dataclasses.replace(options, **changes))


@pytest.mark.slow
def test_raw_values_and_moving_averages_are_told_apart(options: ParityOptions, tmp_path: Path) -> None:
    raw = tmp_path / "raw.pth"
    convert(options.checkpoint, raw, "d0", overrides=OVERRIDES, variables="raw")
    mine = dataclasses.replace(options, weights=raw, annotations=None, limit=2)
    as_told = parity(mine)
    assert as_told.passed and as_told.variables == "raw", as_told.failures
    assert any("by itself it takes the moving averages" in note for note in as_told.notes)

    asked = parity(dataclasses.replace(mine, variables="ema"))
    assert not asked.passed and [item.field for item in asked.config_differences] == ["variables"]

    metadata = json.loads(raw.with_suffix(".json").read_text())
    metadata["source"]["variables"] = "ema"
    raw.with_suffix(".json").write_text(json.dumps(metadata))
    falsified = parity(mine)
    assert not falsified.passed and [item.field for item in falsified.config_differences] == ["variables"]
    del metadata["source"]["variables"]
    raw.with_suffix(".json").write_text(json.dumps(metadata))
    declared = parity(dataclasses.replace(mine, hparams={**OVERRIDES, "moving_average_decay": 0}))
    assert declared.passed and declared.variables == "raw" and not declared.notes


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (256, 192)])
def test_a_trained_model_agrees_at_its_own_size_and_at_another(
    size: tuple[int, int] | None, tmp_path: Path
) -> None:
    """Away from the size it was trained at, scores saturate and boxes grow beyond all bounds."""
    convert(ARCHIVE, tmp_path / "d0.pth", "d0", overrides={"image_size": IMAGE_SIZE})
    result = parity(
        ParityOptions(
            checkpoint=ARCHIVE, weights=tmp_path / "d0.pth", images=IMAGES_OF_DEMO, annotations=ANNOTATIONS,
            image_size=size, limit=6, pictures=0, overrides={"image_size": IMAGE_SIZE},
        )
    )  # fmt: skip
    assert result.passed, result.failures
    assert result.agreement.ap >= 0.999 and result.matched_share >= 0.999


@pytest.mark.slow
def test_official_detections_agree_on_a_trained_model(shared: Path, tmp_path: Path) -> None:
    shapes = shared / "shapes"
    convert(shapes / "checkpoint" / "model", tmp_path / "d0.pth", "d0", overrides={"image_size": 128})
    result = parity(
        ParityOptions(
            checkpoint=shapes / "checkpoint" / "model", weights=tmp_path / "d0.pth", images=shapes / "images",
            annotations=shapes / "instances.json", limit=20,
        )
    )  # fmt: skip
    assert result.passed, result.failures
    assert result.agreement.ap >= 0.999 and result.matched_share >= 0.999


def test_anchors_of_both_sides_are_bit_equal() -> None:
    from effdet_model.anchors import anchors_from_config
    from verify.reference.pipeline import anchor_boxes

    for variant, size in (("d0", (128, 128)), ("d7x", (192, 320)), ("lite0", (72, 100))):
        for ratios in ((1.0, 2.0, 0.5), ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))):
            config = get_config(variant, image_size=size, aspect_ratios=ratios)
            assert np.array_equal(anchors_from_config(config), anchor_boxes(config.to_dict()))
