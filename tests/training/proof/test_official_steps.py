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


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_step_is_google_automls(variant: str) -> None:
    """In float64, so that what is left is the official float32's rounding."""
    with np.load(Path(__file__).parents[1] / "data" / "official_steps.npz") as file:
        stored = {name.removeprefix(f"{variant}|"): file[name] for name in file.files if name.startswith(variant)}
    config = small_config(variant, image_size=IMAGE_SIZE)
    source = make_source(config)
    official = reference_config(variant, hparams={**small(), "image_size": IMAGE_SIZE})
    with ReferenceProcess("training", threads=1) as process:
        process.open(official, lambda name: source.read(name, "ema"), "float64", training={})
        images, boxes, classes = batches(config.num_classes)[0]
        found = process.train(images.astype(np.float64), boxes, classes)
    terms = dict(zip(stored["term_names"].item().split("\n"), stored["terms"].T, strict=True))
    assert all(len(values) == STEPS for values in terms.values())
    for official_name, name in TERMS.items():
        np.testing.assert_allclose(found[name], terms[official_name][0], rtol=1e-5, err_msg=name)
    values = dict(zip(stored["names"].item().split("\n"), stored["0"], strict=True))
    compared = 0
    for name, wanted in values.items():
        model_name, _, slot = name.rpartition("/")
        if slot == "Momentum":
            continue
        own = found[f"average/{model_name}" if slot == "ExponentialMovingAverage" else f"variable/{name}"]
        start = sampled(source.read(model_name if slot == "ExponentialMovingAverage" else name, "ema"))
        moved = np.abs(wanted - start).max()
        allowed = 2e-6 * np.abs(wanted).max() + 0.02 * moved
        assert np.abs(sampled(own) - wanted).max() <= allowed, (name, sampled(own), wanted, start)
        compared += 1
    assert compared == 2 * sum(name.startswith("variable/") for name in found)
