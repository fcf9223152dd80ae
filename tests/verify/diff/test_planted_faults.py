"""The default diff finds and names what is planted at random; `benchmarks/planted_faults.py` plants more of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planted_faults import FALSIFIED, PLANTS, configuration_faults, tensor_faults
from demo.synthetic import write_synthetic_checkpoint
from porting.convert import convert
from tests.verify.diff_cases import sound_d0
from verify.diff.options import DiffOptions

SMALL_IMAGE = DiffOptions(image_size=(64, 64), noise_seeds=(0,))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A d0's checkpoint and its port."""
    folder = tmp_path_factory.mktemp("planted")
    checkpoint = write_synthetic_checkpoint("d0", folder / "checkpoint", momentum=False).parent
    return checkpoint, convert(checkpoint, folder / "d0.pth", "d0").path


@pytest.mark.slow
def test_faults_in_tensors_are_found_and_named(files: tuple[Path, Path]) -> None:
    hidden = 0
    for planted, result, found in tensor_faults(*files, "d0", 3, SMALL_IMAGE, seed=5):
        assert found, f"{planted.what}: {result.verdict}"
        assert result.tensors is not None and result.tensors.compared - result.tensors.equal > 0
        assert result.cause is not None
        hidden += result.same_layers
    assert hidden, "no fault that only the tensors show: the test would not know whether they are compared"


@pytest.mark.slow
def test_falsified_configurations_are_found_and_named(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field that no layer shows, one that layers show, one that makes another model; the benchmark has them all."""
    some = {field: FALSIFIED[field] for field in ("mean_rgb", "survival_prob", "fpn_cell_repeats")}
    monkeypatch.setattr("benchmarks.planted_faults.FALSIFIED", some)
    for planted, result, found in configuration_faults(*files, "d0", SMALL_IMAGE):
        assert found, f"{planted.what}: {result.verdict}"
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert not written["passed"] and planted.names[0] in written["verdict"]
        assert {"field", "reference", "port"} <= set(written["config_differences"][0])


@pytest.mark.parametrize("plant", PLANTS)
def test_every_plant_changes_the_weights(plant: object) -> None:
    state = {key: value.clone() for key, value in sound_d0()[0].state_dict().items()}
    before = {key: value.clone() for key, value in state.items()}
    planted = plant(state, np.random.RandomState(0))  # type: ignore[operator]
    assert {key for key in state if not (state[key] == before[key]).all()} == set(planted.names)
