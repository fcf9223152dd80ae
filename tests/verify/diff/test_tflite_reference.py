"""diff --reference tflite:FILE: the weights against the file that they were made from, run by TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from porting.convert import convert
from verify.diff.options import PRECISION_TOLERANCES, DiffOptions
from verify.diff.run import run_diff
from verify.reference.programs import _Heads

HEADS = [f"{net}.predict.level.{level}" for net in ("class_net", "box_net") for level in range(3, 8)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_weights_against_the_file_itself(lite, tmp_path, caplog, kind: str) -> None:  # type: ignore[no-untyped-def]
    file = lite / f"{kind}.tflite"
    written = convert(file, tmp_path / "a.pth")
    options = DiffOptions(noise_seeds=(0,), reference=f"tflite:{file}")
    result = run_diff(file, written.path, None, options)
    assert "is a program and will be executed" in caplog.text
    assert [layer.name for layer in result.layers] == HEADS
    assert result.passed and result.evidence is not None and result.evidence.reference == "tflite"
    assert result.evidence.reference_sha256 == result.evidence.checkpoint_sha256
    assert result.tensors is not None and result.tensors.ok
    if kind == "float32":
        assert result.verdict.startswith("Same function") and result.max_rel < 5e-6
        return
    assert result.tolerance == PRECISION_TOLERANCES["int8"] and 1e-3 < result.max_rel < 0.5
    assert result.verdict.startswith("The same tensors, approximately the same function")
    assert any("approximate the reference, a file of int8 numbers" in note for note in result.notes)


def test_outputs_are_told_apart_by_shape_or_by_order() -> None:
    sizes = (8, 4, 2, 1, 1)
    told = {f"output_{place}": np.zeros((1, size, size, 90)) for place, size in enumerate(sizes)}
    told |= {f"output_{place + 5}": np.zeros((1, size, size, 12)) for place, size in enumerate(sizes)}
    config = {"min_level": 3, "max_level": 7, "num_scales": 1, "aspect_ratios": [1, 2, 3], "num_classes": 30}
    found = _Heads(config).predictions(dict(reversed(told.items())))
    assert found is not None and list(found) == HEADS
    assert [array.shape[1] for array in found.values()] == [*sizes, *sizes]
    assert _Heads({**config, "num_classes": 31}).predictions(told) is None
    same = {name: np.full((1, sizes[place % 5], sizes[place % 5], 12), place) for place, name in enumerate(told)}
    found = _Heads({**config, "num_classes": 4}).predictions(same)
    assert found is not None and [int(array.flat[0]) for array in found.values()] == list(range(10))
