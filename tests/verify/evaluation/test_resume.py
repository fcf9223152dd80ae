"""An evaluation goes on only where nothing changed: images, weights, settings, machine, tool."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.drawn_images import draw_dataset
from effdet_model import create_model
from effdet_model.errors import InputError
from porting.weights.files import write_weights
from tests.verify.evaluation.cases import copied_dataset, run, tiny_weights
from verify.evaluation.job import prepare
from verify.evaluation.ranks import Ranks
from verify.evaluation.run import EvaluateOptions, detect_all
from verify.evaluation.store import DetectionsStore


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), 5).parent


@pytest.fixture
def options(weights: Path, drawn: Path, tmp_path: Path) -> EvaluateOptions:
    copied_dataset(drawn, tmp_path)
    return EvaluateOptions(
        weights=weights, images=tmp_path / "images", annotations=tmp_path / "instances.json", batch_size=2
    )


@pytest.fixture
def begun(options: EvaluateOptions, tmp_path: Path) -> EvaluateOptions:
    """An evaluation whose work file has the first batch of two images."""
    folder = tmp_path / "begun"
    folder.mkdir()
    mine = dataclasses.replace(options, detections=folder / "d.json", resume=True)
    job = prepare(mine, Ranks())
    with DetectionsStore(job.work_path(0), job.settings) as store, torch.inference_mode():
        store.append(next(detect_all(job, Ranks(), set())))
    return mine


def test_resume_goes_on_where_nothing_changed(begun: EvaluateOptions) -> None:
    assert run(begun, workers=1, batch_size=3).resumed == 2


def test_resume_refuses_a_folder_of_the_same_names(begun: EvaluateOptions, tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"resume: expected the settings .* folder was .*images.*, now .*moved"):
        run(begun, images=tmp_path / "moved")


def test_resume_refuses_images_with_other_contents(begun: EvaluateOptions, tmp_path: Path) -> None:
    one, other = (tmp_path / "images" / f"00000000000{number}" for number in ("1.jpg", "3.jpg"))
    one.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"found 1 of 2 with other contents \(the first: id 1, .*1\.jpg\)"):
        run(begun)
    assert run(begun, resume=False).resumed == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amp": True}, "amp was false, now true"),
        ({"channels_last": False}, "channels_last was true, now false"),
        ({"nms": "numpy_hard"}, 'nms.name was "numpy_gaussian", now "numpy_hard"'),
        ({"image_size": 128}, r"config.image_size was \[64, 64\], now \[128, 128\]"),
        ({"overrides": {"anchor_scale": 3.0}}, "config.anchor_scale was 4.0, now 3.0"),
        ({"limit": 4}, "images was "),
    ],
)
def test_resume_refuses_another_run(changes: dict[str, Any], message: str, begun: EvaluateOptions) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run(begun, **changes)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("setting", "value"), [("device", "cuda"), ("tool", "0.0.1"), ("engine", "onnx"), ("compile", True)]
)
def test_resume_refuses_what_another_machine_or_tool_began(
    setting: str, value: Any, begun: EvaluateOptions
) -> None:
    work = Path(f"{begun.detections}.work.jsonl")
    header, *batches = work.read_text(encoding="utf-8").splitlines(keepends=True)
    content = json.loads(header)
    assert content["settings"][setting] != value
    content["settings"][setting] = value
    work.write_text(json.dumps(content) + "\n" + "".join(batches), encoding="utf-8")
    with pytest.raises(InputError, match=f"{setting} was {json.dumps(value)}, now "):
        run(begun)


def test_weights_replaced_beside_their_metadata_are_refused(
    options: EvaluateOptions, weights: Path, tmp_path: Path
) -> None:
    replaced = tmp_path / "d0.pth"
    replaced.write_bytes(weights.read_bytes())
    replaced.with_suffix(".json").write_bytes(weights.with_suffix(".json").read_bytes())
    assert run(options, weights=replaced, limit=1).images == 1
    state = torch.load(replaced, weights_only=True)
    torch.save(state, twin := tmp_path / "d0.pt")
    state["class_net.predict.conv_pw.bias"] += 1
    torch.save(state, replaced)
    for path in (replaced, twin):
        with pytest.raises(InputError, match=r"expected the file that d0\.json beside it was written for") as caught:
            run(options, weights=path)
        assert "name the variant" in str(caught.value) and len(str(caught.value)) < 600
        with pytest.raises(InputError, match=r"d0\.json beside it"):
            create_model(weights=path)


def test_writing_d0_pt_does_not_take_the_metadata_of_d0_pth(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    metadata = json.loads(weights.with_suffix(".json").read_text())
    del metadata["weights_sha256"]
    write_weights(tmp_path / "d0.pth", state, metadata)
    with pytest.raises(InputError, match=r"d0\.json, which belongs to d0\.pth; name another output"):
        write_weights(tmp_path / "d0.pt", state, metadata)
    write_weights(tmp_path / "d0.pth", state, metadata)
    write_weights(tmp_path / "d0.safetensors", state, metadata)
