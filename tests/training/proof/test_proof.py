"""Steps of this project against TensorFlow's: other settings than the recipe's, float32, and the command's function."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet_model import InputError
from tests.training.proof.cases import SIZE, TINY, batches, judged, model, port, reference
from training.gradients import clip_gradients
from training.proof.command import ProveOptions, run_proof
from training.proof.comparison import compare_steps
from training.proof.run import ProofOptions, drawn_batches, prove
from training.proof.show import proof_report, write_proof
from training.proof.tensorflow_side import declared_settings, reader_of
from training.proof.trace import StepTrace
from training.recipes import recipe
from training.running.options import TrainOptions
from verify.report.markdown import render_markdown

OTHERS = {
    "generation": "tf2", "clip_norm": 0.05, "iou_loss_type": "ciou", "label_smoothing": 0.01, "gamma": 2.0,
    "ema_decay": 0.15, "positives_momentum": 0.6, "momentum": 0.8,
}  # fmt: skip


def hparams() -> dict[str, object]:
    return {**TINY, "image_size": SIZE}


@pytest.mark.slow
def test_five_steps_of_lite0_are_tensorflows() -> None:
    """d0's are in test_planted_faults.py."""
    found = judged(reference("lite0", 5), port(recipe("google"), "lite0", 5))
    assert found.passed, found.verdict
    after = [row for row in found.rows if row.step == 5 and row.kind in ("parameter", "statistic", "average")]
    assert len(after) > 700 and max(row.difference.max_rel for row in after) < 1e-9


@pytest.mark.slow
def test_other_settings_are_tensorflows() -> None:
    """TensorFlow 2's momentum and averages, every gradient clipped, all loss terms."""
    others = recipe("google", **OTHERS)
    own, _ = model()
    found = prove(own, others, batches(), ProofOptions(hparams=hparams(), threads=1))
    assert found.passed, found.verdict
    assert {row.name for row in found.rows if row.kind == "loss"} >= {"box_iou_loss", "reg_l2_loss", "class_loss"}
    assert found.clipped == len(batches())


@pytest.mark.slow
def test_frozen_parameters_and_float32(tmp_path: Path) -> None:
    own, _ = model()
    chosen = recipe("google", freeze="backbone|fpn.resample")
    found = prove(own, chosen, batches()[:1], ProofOptions("float32", hparams(), threads=1))
    assert found.passed, found.verdict
    names = {row.name for row in found.rows if row.kind == "gradient"}
    assert names and not any(name.startswith(("backbone", "fpn.resample")) for name in names)
    assert all(row.difference.own_max_rel is not None for row in found.rows if row.kind == "gradient")
    written = write_proof(found, tmp_path)
    assert [path.name for path in written] == ["proof.json", "proof.md", "proof.html"]
    plain = json.loads(written[0].read_text())
    assert plain["passed"] and plain["cause"] == "" and len(plain["rows"]) == len(found.rows)
    assert "moving averages" in render_markdown(proof_report(found))


def test_float32_is_judged_by_tensorflows_own_rounding() -> None:
    exact = reference()
    noisy = [_rounded(step) for step in exact]
    assert all(row.ok for row in compare_steps(exact, noisy, noisy, 10.0))
    wrong = copy.deepcopy(noisy)
    name = "fpn.cell.0.fnode.0.after_combine.conv.conv_pw.weight"
    values = wrong[0].parameters[name]
    values[np.unravel_index(abs(values).argmax(), values.shape)] *= 1.0001
    failed = [row for row in compare_steps(exact, wrong, noisy, 10.0) if not row.ok]
    assert [(row.kind, row.step, row.name) for row in failed] == [("parameter", 1, name)]


def _rounded(step: StepTrace) -> StepTrace:
    kinds = ("gradients", "parameters", "statistics", "averages")
    return dataclasses.replace(
        step, **{kind: {key: np.float32(value) for key, value in getattr(step, kind).items()} for kind in kinds}
    )


def test_effdets_own_steps() -> None:
    """effdet 0.4.1's model, labeler, loss, timm's optimiser, clipping and average."""
    own, _ = model()
    found = prove(own, recipe("effdet"), batches(), ProofOptions(hparams=hparams()))
    assert found.passed, found.verdict
    assert found.against == "effdet 0.4.1" and sum(row.kind == "average" for row in found.rows) > 900
    assert any("Drop path" in note for note in found.notes)


@pytest.mark.parametrize(
    "wrong", [{"ema_decay": 0.9997, "momentum": 0.91}, {"weight_decay": 5e-5}], ids=str
)
def test_effdet_finds_a_wrong_setting(wrong: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    import training.proof.effdet_side

    monkeypatch.setattr(training.proof.effdet_side, "declared_settings", lambda chosen: {})
    found = prove(model()[0], recipe("effdet", **wrong), batches(), ProofOptions(hparams=hparams()))
    assert not found.passed
    assert found.first_failure is not None and found.first_failure.kind in ("parameter", "average")


def test_fusion_weights_are_clipped_one_by_one() -> None:
    """TensorFlow has a variable for each."""
    weights = torch.nn.Parameter(torch.zeros(3))
    other = torch.nn.Parameter(torch.zeros(2))
    weights.grad, other.grad = torch.tensor([30.0, 4.0, -0.5]), torch.tensor([0.0, 0.0])
    clip_gradients([weights, other], "variables_then_global", 10.0, [weights])
    single = torch.tensor([10.0, 4.0, -0.5])
    torch.testing.assert_close(weights.grad, single * 10 / single.norm())


def test_only_what_differs_is_told_to_tensorflow() -> None:
    told = declared_settings(recipe("google", momentum=0.8, clip_mode="none", seed=3), 10)
    assert told == {
        "generation": "tf1", "num_examples_per_epoch": 640, "batch_size": 64, "momentum": 0.8,
        "clip_gradients_norm": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"legacy_focal": True}, "legacy_focal"), ({"optimizer": "adamw"}, "optimizer"),
        ({"ema_dynamic": False}, "ema_dynamic"), ({"weight_decay_in": "optimizer"}, "weight_decay_in"),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_that_google_automl_lacks_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        prove(model()[0], recipe("google", **wrong), batches(), ProofOptions(hparams=hparams()))


def test_a_model_that_was_changed_without_a_word_is_refused() -> None:
    with pytest.raises(InputError, match="fpn_num_filters"):
        prove(model()[0], recipe("google"), batches())
    with pytest.raises(InputError, match="legacy|freeze"):
        prove(model()[0], recipe("effdet", freeze="backbone"), batches(), ProofOptions(hparams=hparams()))
    with pytest.raises(InputError, match="at least one batch"):
        prove(model()[0], recipe("google"), [])


def test_weights_are_read_as_tensorflow_has_them() -> None:
    own, source = model()
    read = reader_of(own)
    for name, info in source.variables.items():
        assert read(name).shape == tuple(info.shape), name
        assert (read(name) == source.read(name, "ema")).all()


def test_drawn_batches_are_the_same_again() -> None:
    own, _ = model()
    first, second = drawn_batches(own, 2, 3), drawn_batches(own, 2, 3)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images) and all(map(torch.equal, a.boxes, b.boxes))
    assert not torch.equal(first[0].images, first[1].images)
    assert [len(boxes) for boxes in first[0].boxes] == [3, 3, 0]


@pytest.mark.slow
def test_what_the_command_proves(tmp_path: Path) -> None:
    options = TrainOptions(
        output=tmp_path, variant="lite0", image_size=64, hparams=TINY, settings={"learning_rate": 0.04}
    )
    found = run_proof(options, ProveOptions(steps=1, threads=1))
    assert found.passed, found.verdict
    assert found.recipe["learning_rate"] == 0.04 and found.images == 2
    with pytest.raises(InputError, match="1 to 100 steps"):
        run_proof(options, ProveOptions(steps=0))
    with pytest.raises(InputError, match="neither"):
        run_proof(TrainOptions(output=tmp_path), ProveOptions())
