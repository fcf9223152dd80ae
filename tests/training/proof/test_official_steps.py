"""The reference trains as google/automl's own trainer does (data/official_steps.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.official_step_cases import IMAGE_SIZE, STEPS, VARIANTS, batches, sampled, small
from tests.verify.diff_cases import make_source, small_config
from verify.reference.configuration.official import reference_config
from verify.reference.process import ReferenceProcess

TERMS = {"cls_loss": "loss/class_loss", "box_loss": "loss/box_loss", "det_loss": "loss/detection_loss",
         "reg_l2_loss": "loss/reg_l2_loss", "loss": "loss/loss", "lrn_rate": "rate"}  # fmt: skip


STEPS_RUN = {"d0": 3, "lite0": 1}
"""The third step's loss depends on the momentum. lite0 multiplies what the official float32 rounds."""
TOLERANCE = {"d0": 1e-5, "lite0": 1e-4}
"""Of loss terms. In float32 on the machine that made the file they are equal to 2e-7."""


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_are_google_automls(variant: str) -> None:
    """In float64, so that what is left is the official float32's rounding."""
    with np.load(Path(__file__).parents[1] / "data" / "official_steps.npz") as file:
        stored = {name.removeprefix(f"{variant}|"): file[name] for name in file.files if name.startswith(variant)}
    config = small_config(variant, image_size=IMAGE_SIZE)
    source = make_source(config)
    official = reference_config(variant, hparams={**small(), "image_size": IMAGE_SIZE})
    found = []
    with ReferenceProcess("training", threads=1) as process:
        process.open(official, lambda name: source.read(name, "ema"), "float64", training={})
        for images, boxes, classes in batches(config.num_classes)[: STEPS_RUN[variant]]:
            give = ["variables", "averages"] if not found else []
            found.append(process.train(images.astype(np.float64), boxes, classes, give))
    terms = dict(zip(stored["term_names"].item().split("\n"), stored["terms"].T, strict=True))
    for official_name, name in TERMS.items():
        assert len(terms[official_name]) == STEPS
        own = [float(step[name]) for step in found]
        np.testing.assert_allclose(own, terms[official_name][: len(own)], rtol=TOLERANCE[variant], err_msg=name)
    compared = 0
    for name, wanted in zip(stored["names"].item().split("\n"), stored["0"], strict=True):
        base, _, slot = name.rpartition("/")
        if slot == "Momentum":
            continue
        averaged = slot == "ExponentialMovingAverage"
        variable = base if averaged else name
        own_value = sampled(found[0][f"{'average' if averaged else 'variable'}/{variable}"])
        moved = np.abs(wanted - sampled(source.read(variable, "ema"))).max()
        allowed = TOLERANCE[variant] * (0.2 * np.abs(wanted).max() + 100 * moved)
        assert np.abs(own_value - wanted).max() <= allowed, (name, own_value, wanted)
        compared += 1
    assert compared == 2 * sum(name.startswith("variable/") for name in found[0])
