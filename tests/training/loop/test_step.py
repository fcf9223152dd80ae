"""One training step: every row in which the originals differ, against formulas written out again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from effdet_model import InputError
from effdet_model.efficientdet import EfficientDet
from tests.training.loop.cases import batch, tiny_model
from training.losses import detection_loss
from training.recipes import Recipe, recipe
from training.step import MicroBatch, NotFinite, TrainingStep

RATES = (0.02, 0.01, 0.03)


def google_steps(model: EfficientDet, settings: Recipe, work: MicroBatch, rates: tuple[float, ...]) -> dict[str, dict]:
    """What google/automl's trainers do (det_model_fn.py, tf2/train_lib.py), parameter by parameter."""
    named = dict(model.named_parameters())
    momenta = {name: torch.zeros_like(value) for name, value in named.items()}
    averages = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for count, rate in enumerate(rates):
        loss = detection_loss(model.config, *model(work.images), work.targets)["loss"]
        kernels = [value for value in named.values() if value.ndim >= 2]
        loss = loss + 4e-5 * sum(0.5 * kernel.square().sum() for kernel in kernels)
        grads = dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))
        grads = {name: grad for name, grad in grads.items() if grad is not None}
        clipped = {
            name: grad.clamp(-10, 10) if name.endswith("edge_weights")  # each a variable of its own, a scalar
            else grad * 10.0 / max(float(grad.norm()), 10.0)
            for name, grad in grads.items()
        }  # fmt: skip
        together = float(torch.stack([grad.norm() for grad in clipped.values()]).norm())
        clipped = {name: grad * 10.0 * min(1 / together, 1 / 10.0) for name, grad in clipped.items()}
        with torch.no_grad():
            for name, grad in clipped.items():
                if settings.generation == "tf1":
                    momenta[name] = 0.9 * momenta[name] + grad
                    named[name] -= rate * momenta[name]
                else:
                    momenta[name] = 0.9 * momenta[name] - rate * grad
                    named[name] += momenta[name]
            updates = count + (1 if settings.generation == "tf1" else 0)
            decay = min(np.float32(0.9998), (np.float32(1) + np.float32(updates)) / (np.float32(10) + updates))
            for name, value in model.state_dict().items():
                statistics = name.endswith(("running_mean", "running_var"))
                if name in named or (statistics and settings.generation == "tf1"):
                    averages[name] -= float(np.float32(1) - np.float32(decay)) * (averages[name] - value)
                else:
                    averages[name] = value.clone()
    return {"model": model.state_dict(), "ema": averages}


@pytest.mark.parametrize("generation", ["tf1", "tf2"])
def test_google_steps_are_those_of_its_formulas(generation: str) -> None:
    settings = recipe("google", generation=generation, drop_path=0.0)
    model = tiny_model()
    work = batch(model, settings)
    step = TrainingStep(model, settings)
    plain = copy.deepcopy(model)
    with torch.no_grad():  # gradients long enough to be clipped
        for one in (model, plain):
            one.box_net.predict.conv_pw.weight.mul_(200)
    expected = google_steps(plain, settings, work, RATES)
    step.ema = type(step.ema)(model, settings)
    norms = [step([work], rate).gradient_norm for rate in RATES]
    assert max(map(float, norms)) > 10
    for kind, found in (("model", model.state_dict()), ("ema", step.ema.values)):
        for name, value in expected[kind].items():
            torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")


def test_effdet_step_is_torch_sgd_with_timm_clipping_and_averages() -> None:
    settings = recipe("effdet", drop_path=0.0)
    model = tiny_model()
    work = batch(model, settings)
    plain = copy.deepcopy(model).train()
    step = TrainingStep(model, settings)
    decayed = [value for value in plain.parameters() if value.ndim >= 2]
    rest = [value for value in plain.parameters() if value.ndim < 2]
    optimizer = torch.optim.SGD([{"params": rest}, {"params": decayed, "weight_decay": 4e-5}], lr=1, momentum=0.9)
    averages = {name: value.clone() for name, value in plain.state_dict().items()}
    for module in plain.modules():
        module.momentum = getattr(module, "momentum", None)
    for rate in RATES:
        step([work], rate)
        optimizer.zero_grad()
        detection_loss(plain.config, *plain(work.images), work.targets)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 10.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for name, value in plain.state_dict().items():
            averages[name] = averages[name] * 0.9998 + value * 0.0002 if value.is_floating_point() else value.clone()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(step.ema.values[name], averages[name], rtol=1e-6, atol=1e-9)


def test_batch_norms_and_drop_path_are_the_recipe_s() -> None:
    google = TrainingStep(tiny_model(torch.float32), recipe("google")).model
    effdet = TrainingStep(tiny_model(torch.float32), recipe("effdet")).model
    assert {m.momentum for m in google.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.01}
    assert effdet.backbone.bn1.momentum == 0.1 and effdet.class_net.bn_rep[0][0].bn.momentum == 0.01

    def rates(model: EfficientDet) -> list[float]:
        blocks = [m for m in model.backbone.modules() if hasattr(m, "drop_path")]
        return [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]

    b0 = tiny_model(torch.float32, backbone_name="efficientnet-b0")
    b1 = tiny_model(torch.float32, backbone_name="efficientnet-b1")
    assert set(rates(TrainingStep(b0, recipe("google")).model)) == {0.0}
    found = rates(TrainingStep(b1, recipe("google")).model)
    assert found == pytest.approx([0.2 * place / len(found) for place in range(len(found))])


def test_head_repeats_are_dropped_in_training_alone() -> None:
    model = tiny_model(torch.float32, survival_prob=0.5, box_class_repeats=3)
    images = torch.randn(8, 3, 128, 128)
    assert torch.equal(model(images)[0][0], model(images)[0][0])
    model.train()
    torch.manual_seed(1)
    first = model(images)[0][0]
    assert not torch.equal(first, model(images)[0][0])
    model.class_net.drop_connect.survival_prob = model.box_net.drop_connect.survival_prob = 1.0
    assert torch.equal(model(images)[0][0], model(images)[0][0])


def test_accumulated_batches_are_one_batch() -> None:
    settings = recipe("google", drop_path=0.0)
    whole, parts = tiny_model(), tiny_model()
    together, apart = TrainingStep(whole, settings), TrainingStep(parts, settings)
    for step in (together, apart):
        for module in step.model.modules():  # each micro-batch has its own statistics; of these nothing is asked here
            module.statistics_frozen = True
    work = batch(whole, settings)
    halves = [MicroBatch(work.images[part], work.targets[part]) for part in (slice(0, 2), slice(2, 4))]
    first, second = together([work], 0.01), apart(halves, 0.01)
    torch.testing.assert_close(first.losses, second.losses, rtol=1e-10, atol=1e-12)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_frozen_parameters_stay_and_their_statistics_move_unless_told() -> None:
    for frozen_statistics in (False, True):
        settings = recipe("google", freeze="backbone|fpn", freeze_statistics=frozen_statistics)
        model = tiny_model()
        before = copy.deepcopy(model.state_dict())
        TrainingStep(model, settings)([batch(model, settings)], 0.1)
        for name, value in model.state_dict().items():
            frozen = name.startswith(("backbone", "fpn"))
            counted = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
            if frozen and (not counted or frozen_statistics):
                assert torch.equal(value, before[name]), name
        moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert any(name.startswith("class_net") for name in moved)
        assert any(name.startswith("backbone") for name in moved) != frozen_statistics


def test_freezing_nothing_or_everything_is_refused() -> None:
    with pytest.raises(InputError, match="matches none; names begin with backbone, box_net, class_net, fpn"):
        TrainingStep(tiny_model(), recipe("google", freeze="backbonne"))
    with pytest.raises(InputError, match="freezes every parameter"):
        TrainingStep(tiny_model(), recipe("google", freeze=".*"))


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb"])
def test_other_optimisers_learn(name: str) -> None:
    settings = recipe("google", optimizer=name)
    model = tiny_model(torch.float32)
    step = TrainingStep(model, settings)
    work = batch(model, settings)
    losses = [float(step([work], 0.002).losses["detection_loss"]) for _ in range(6)]
    assert losses[-1] < losses[0]


def test_tensorflow_adam_adds_epsilon_before_the_bias_is_taken_out() -> None:
    settings = recipe("google", optimizer="adam", weight_decay=0, clip_mode="none")
    model = tiny_model()
    step, work = TrainingStep(model, settings), batch(model, settings)
    losses = step.backward([work])
    name, weight = "class_net.predict.conv_pw.bias", model.class_net.predict.conv_pw.bias
    grad, before = weight.grad.clone(), weight.detach().clone()
    step.update(losses, 0.1)
    rate = 0.1 * (1 - 0.999) ** 0.5 / (1 - 0.9)
    expected = before - rate * 0.1 * grad / ((0.001 * grad.square()).sqrt() + 1e-8)
    torch.testing.assert_close(model.state_dict()[name], expected, rtol=1e-9, atol=1e-12)


def test_unknown_optimiser() -> None:
    with pytest.raises(InputError, match="optimizer: expected sgd, adam or a name of timm's"):
        TrainingStep(tiny_model(), recipe("google", optimizer="sgdd"))


def test_what_is_not_finite_moves_nothing() -> None:
    settings = recipe("google")
    model = tiny_model()
    step, work = TrainingStep(model, settings), batch(model, settings)
    step([work], 0.01)
    weights = {name: value.clone() for name, value in model.named_parameters()}
    averages = copy.deepcopy(step.ema.values)
    work.images[0, 0, 0, 0] = float("nan")
    with pytest.raises(NotFinite) as told:
        step([work], 0.01)
    assert np.isnan(told.value.losses["loss"])
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    assert all(torch.equal(value, averages[name]) for name, value in step.ema.values.items())


def test_state_goes_on_to_the_same_bits() -> None:
    settings = recipe("google", generation="tf2", positives_momentum=0.9, drop_path=0.0)
    first = TrainingStep(tiny_model(torch.float32), settings)
    works = [batch(first.model, settings, seed=seed) for seed in range(4)]
    for work in works[:2]:
        first([work], 0.02)
    saved = copy.deepcopy(first.state_dict())
    second = TrainingStep(tiny_model(torch.float32, seed=5), settings)
    second.load_state_dict(saved)
    for step in (first, second):
        for work in works[2:]:
            step([work], 0.02)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert all(torch.equal(value, second.ema.values[name]) for name, value in first.ema.values.items())
    assert first.normalizer.value == second.normalizer.value


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_learns_and_fp16_leaves_out_what_overflows(amp: str) -> None:
    settings = recipe("google", drop_path=0.0)
    model = tiny_model(torch.float32)
    step, work = TrainingStep(model, settings, amp=amp), batch(model, settings)
    step.scaler._init_scale = 2.0**15
    results = [step([work], 0.01) for _ in range(5)]
    assert results[-1].updated and float(results[-1].losses["detection_loss"]) < float(
        results[0].losses["detection_loss"]
    )
    if amp == "fp16":
        step.scaler.update(float(2**80))
        before = copy.deepcopy(model.state_dict()["class_net.predict.conv_pw.bias"])
        assert not step([work], 0.01).updated
        assert torch.equal(before, model.state_dict()["class_net.predict.conv_pw.bias"])


def test_one_image_whose_last_level_is_one_pixel() -> None:
    """Batch norms of a single value per channel: TensorFlow has them, torch alone refuses."""
    settings = recipe("google")
    model = tiny_model()
    step = TrainingStep(model, settings)
    work = batch(model, settings, count=1)
    assert model.config.feature_sizes()[-1] == (1, 1)
    assert torch.isfinite(step([work], 0.01).losses["loss"])
    variance = model.class_net.bn_rep[0][-1].bn.running_var
    torch.testing.assert_close(variance, torch.full_like(variance, 0.99))


def test_saved_activations_change_nothing() -> None:
    from training.running.memory import save_activations

    settings = recipe("google", drop_path=0.0)
    plain, saving = tiny_model(), tiny_model()
    save_activations(saving)
    first, second = TrainingStep(plain, settings), TrainingStep(saving, settings)
    work = batch(plain, settings)
    for _ in range(2):
        first([work], 0.01)
        second([work], 0.01)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(saving.state_dict()[name], value, rtol=1e-10, atol=1e-12)
