"""The diff passes sound ports of every architecture and finds planted faults, by layer and by cause."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from effdet_model import EfficientDet, InputError, create_model
from tests.verify.diff_cases import hparams_of, make_source, ported, small_config, sound_d0
from verify.diff.result import DiffResult
from verify.diff.run import DiffOptions, diff_model
from verify.reference.process import ReferenceProcess

PROOF = DiffOptions(dtype="float64")
ISOLATED = DiffOptions(dtype="float64", isolate=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Maps of a few pixels are not worth two threads that wait for one another."""
    known = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(known)


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceProcess]:
    with ReferenceProcess() as process:
        yield process


def diff_with(
    reference: ReferenceProcess, fault: Callable[[EfficientDet], None] | None = None,
    options: DiffOptions = PROOF, kind: str = "ema", **overrides: Any,
) -> DiffResult:
    if kind == "ema" and not overrides:
        model, source = sound_d0()
        model = copy.deepcopy(model)
    else:
        config = small_config(**overrides)
        source = make_source(config)
        model = ported(config, source, kind)
    if fault:
        fault(model)
    return diff_model(model, source, reference, declaring(options, **overrides))  # type: ignore[arg-type]


def declaring(options: DiffOptions, **overrides: Any) -> DiffOptions:
    return dataclasses.replace(options, hparams=hparams_of(**overrides))


OWN_NODES = {
    "nodes": [
        {"feat_level": 4, "inputs_offsets": [1, 2]},
        {"feat_level": 3, "inputs_offsets": [0, 1, 3]},
        {"feat_level": 5, "inputs_offsets": [2, 4]},
        {"feat_level": 4, "inputs_offsets": [3, 1]},
    ],
    "weight_method": "attn",
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "d0": {},
    "lite0, not a multiple of 128": {"variant": "lite0", "image_size": (160, 96)},
    "odd sizes": {"image_size": (65, 127)},
    "qufpn": {"fpn_name": "qufpn", "image_size": (80, 96)},
    "qufpn, channel attention": {"fpn_name": "qufpn", "fpn_weight_method": "channel_attn"},
    "qufpn_sum": {"fpn_name": "qufpn_sum"},
    "attn": {"fpn_weight_method": "attn", "act_type": "mish"},
    "sum": {"fpn_weight_method": "sum", "act_type": "relu"},
    "channel_attn": {"fpn_weight_method": "channel_attn", "act_type": "hswish"},
    "channel_fastattn": {"fpn_weight_method": "channel_fastattn", "act_type": "swish_native"},
    "conv_bn_act": {"conv_bn_act_pattern": True},
    "plain convolutions": {"separable_conv": False, "survival_prob": 0.8},
    "plain conv_bn_act": {"separable_conv": False, "conv_bn_act_pattern": True},
    "no batch norm for resampling": {"apply_bn_for_resampling": False},
    "convolution after downsampling": {"conv_after_downsample": True, "image_size": (128, 192)},
    "levels 2 to 6": {"min_level": 2, "max_level": 6},
    "levels 3 to 4": {"max_level": 4},
    "levels 1 to 8": {"min_level": 1, "max_level": 8},
    "own nodes": {"max_level": 5, "fpn_config": OWN_NODES},
    "classes and anchors": {"num_classes": 7, "num_scales": 2, "aspect_ratios": (1.0, 2.0)},
}


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def test_sound_ports_are_the_same_function(reference: ReferenceProcess, overrides: dict[str, Any]) -> None:
    result = diff_with(reference, **overrides)
    assert result.passed, result.verdict
    assert result.max_rel < 1e-12
    assert result.cause is None
    assert result.config_differences == ()
    assert result.tensors is not None and result.tensors.ok


def test_models_without_a_reference_are_refused(reference: ReferenceProcess) -> None:
    model = create_model("efficientdet_d0", image_size=64)
    with pytest.raises(InputError, match="no reference"):
        diff_model(model, sound_d0()[1], reference, PROOF)  # type: ignore[arg-type]


def test_float32_stays_within_its_tolerances(reference: ReferenceProcess) -> None:
    assert diff_with(reference, options=DiffOptions(isolate=True)).max_rel < 2e-6
    assert diff_with(reference, options=DiffOptions()).max_rel < 1e-5


# Planted faults: what is broken, the first layer that must be named, the cause that must be recognised.


def tensor(model: EfficientDet, key: str) -> torch.Tensor:
    return model.state_dict()[key]


def transposed_depthwise(model: EfficientDet) -> None:
    weight = tensor(model, "backbone.blocks.2.1.conv_dw.weight")
    weight.copy_(weight.transpose(2, 3).clone())


def swapped_edge_weights(model: EfficientDet) -> None:
    weight = tensor(model, "fpn.cell.1.fnode.5.combine.edge_weights")
    weight.copy_(weight[[1, 0, 2]].clone())


def swapped_level_batch_norms(model: EfficientDet) -> None:
    norms = model.class_net.bn_rep[1]
    one, other = norms[1].state_dict(), norms[3].state_dict()
    one = {key: value.clone() for key, value in one.items()}
    norms[1].load_state_dict(other)
    norms[3].load_state_dict(one)


def small_epsilon(model: EfficientDet) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5


def small_epsilon_in_one_block(model: EfficientDet) -> None:
    model.backbone.blocks[3][0].bn2.eps = 1e-5


def symmetric_conv_padding(model: EfficientDet) -> None:
    class Symmetric(nn.Module):
        def __init__(self, conv: nn.Conv2d) -> None:
            super().__init__()
            self.weight, self.stride, self.groups = conv.weight, conv.stride, conv.groups

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            side = self.weight.shape[-1] // 2
            return F.conv2d(x, self.weight, None, self.stride, side, 1, self.groups)

    model.backbone.blocks[1][0].conv_dw = Symmetric(model.backbone.blocks[1][0].conv_dw)


def swapped_block_convolutions(model: EfficientDet) -> None:
    one, other = (tensor(model, f"backbone.blocks.4.{i}.conv_pwl.weight") for i in (1, 2))
    held = one.clone()
    one.copy_(other)
    other.copy_(held)


def transposed_pointwise(model: EfficientDet) -> None:
    weight = tensor(model, "box_net.conv_rep.1.conv_pw.weight")
    weight.copy_(weight.transpose(0, 1).clone())


def flipped_stem(model: EfficientDet) -> None:
    weight = tensor(model, "backbone.conv_stem.weight")
    weight.copy_(weight.flip(2, 3).clone())


def half_precision(model: EfficientDet) -> None:
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half().float())


def never_loaded(model: EfficientDet) -> None:
    model.fpn.cell[0].fnode[3].after_combine.conv.bn.reset_parameters()


def lost_bias(model: EfficientDet) -> None:
    tensor(model, "class_net.predict.conv_pw.bias").zero_()


def other_activation(model: EfficientDet) -> None:
    model.box_net.act = nn.ReLU()


PLANTED: dict[str, tuple[Callable[[EfficientDet], None], str, str]] = {
    "transposed depthwise kernel": (transposed_depthwise, "backbone.blocks.2.1", "kernel_transposed"),
    "flipped stem kernel": (flipped_stem, "backbone.stem", "kernel_transposed"),
    "transposed pointwise kernel": (
        transposed_pointwise, "box_net.conv_rep.1.level.3", "kernel_transposed"
    ),
    "two edge weights swapped": (swapped_edge_weights, "fpn.cell.1.fnode.5", "edge_weights_swapped"),
    "batch norms of two levels swapped": (
        swapped_level_batch_norms, "class_net.conv_rep.1.level.4", "batch_norm_swapped"
    ),
    "convolutions of two blocks swapped": (
        swapped_block_convolutions, "backbone.blocks.4.1", "conv_swapped"
    ),
    "epsilon 1e-5 everywhere": (small_epsilon, "backbone.stem", "batch_norm_epsilon_1e-05"),
    "epsilon 1e-5 in one place": (small_epsilon_in_one_block, "backbone.blocks.3.0", "batch_norm_epsilon_1e-05"),
    "symmetric padding": (symmetric_conv_padding, "backbone.blocks.1.0", "symmetric_padding"),
    "float16 on the way": (half_precision, "backbone.stem", "precision_lost"),
    "batch norm never loaded": (never_loaded, "fpn.cell.0.fnode.3", "not_loaded"),
    "bias lost": (lost_bias, "class_net.predict.level.3", "not_loaded"),
    "another activation": (other_activation, "box_net.conv_rep.0.level.3", "activation_relu"),
}


@pytest.mark.parametrize(("fault", "layer", "cause"), PLANTED.values(), ids=list(PLANTED))
def test_planted_faults_are_found(
    reference: ReferenceProcess, fault: Callable[[EfficientDet], None], layer: str, cause: str
) -> None:
    result = diff_with(reference, fault)
    assert not result.passed
    assert result.first_divergent_layer == layer
    assert result.cause is not None and result.cause.kind == cause, result.cause


def test_isolation_shows_a_wrong_layer_alone(reference: ReferenceProcess) -> None:
    result = diff_with(reference, transposed_depthwise, ISOLATED)
    assert [layer.name for layer in result.layers if not layer.ok] == ["backbone.blocks.2.1"]
    coloured = diff_with(reference, transposed_depthwise)
    assert sum(not layer.ok for layer in coloured.layers) > 20


def test_isolation_shows_both_swapped_levels(reference: ReferenceProcess) -> None:
    result = diff_with(reference, swapped_level_batch_norms, ISOLATED)
    wrong = [layer.name for layer in result.layers if not layer.ok]
    assert wrong == ["class_net.conv_rep.1.level.4", "class_net.conv_rep.1.level.6"]


def test_raw_values_instead_of_moving_averages(reference: ReferenceProcess) -> None:
    result = diff_with(reference, kind="raw")
    assert result.first_divergent_layer == "backbone.stem"
    assert result.cause is not None and result.cause.kind == "moving_averages_not_used"
    wanted = diff_with(reference, kind="raw", options=DiffOptions(dtype="float64", variables="raw"))
    assert wanted.passed


def test_symmetric_padding_of_a_whole_model(reference: ReferenceProcess) -> None:
    sound, source = sound_d0()
    config = sound.config.replace(pad_type="")
    model = EfficientDet(config).eval()
    model.load_state_dict(sound.state_dict())
    for module in model.backbone.modules():
        if isinstance(module, Conv2dSame):
            module.forward = nn.Conv2d.forward.__get__(module)
            module.padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)
    result = diff_model(model, source, reference, declaring(PROOF))  # type: ignore[arg-type]
    assert result.first_divergent_layer == "backbone.stem"
    assert result.cause is not None and result.cause.kind.startswith("symmetric_padding")
    pool = EfficientDet(config).eval()
    pool.load_state_dict(sound.state_dict())
    result = diff_model(pool, source, reference, declaring(PROOF))  # type: ignore[arg-type]
    # at 64 x 64 both paddings give the same level 6; the first pooling that differs makes level 4
    assert result.first_divergent_layer == "fpn.cell.0.fnode.4"
    assert result.cause is not None and result.cause.kind == "symmetric_pool_padding"


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (-1, -1)])
def test_pixel_shift_in_the_resize(
    reference: ReferenceProcess, monkeypatch: pytest.MonkeyPatch, shift: tuple[int, int]
) -> None:
    resize = F.interpolate

    def shifted(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return resize(x, *args, **kwargs).roll(shift, (2, 3))

    monkeypatch.setattr(F, "interpolate", shifted)
    result = diff_with(reference, image_size=(128, 128))
    # the first resize goes from 1 x 1 to the size of level 6; a uniform map cannot be shifted
    assert result.first_divergent_layer == "fpn.cell.0.fnode.1"
    assert result.cause is not None and result.cause.kind == f"resize_roll_{shift[0]}_{shift[1]}"


def test_values_that_are_not_finite_fail(reference: ReferenceProcess) -> None:
    def spoil(model: EfficientDet) -> None:
        tensor(model, "fpn.cell.0.fnode.0.after_combine.conv.conv_pw.bias")[2] = float("nan")

    result = diff_with(reference, spoil)
    assert result.first_divergent_layer == "fpn.cell.0.fnode.0"
    assert not np.isfinite(result.max_rel)
    json.dumps(result.to_json(), allow_nan=False)


def test_worst_of_several_inputs_is_kept(reference: ReferenceProcess) -> None:
    options = DiffOptions(noise_seeds=(1, 2, 3))
    result = diff_with(reference, options=options)
    assert [item.name for item in result.inputs] == ["noise-1", "noise-2", "noise-3"]
    assert result.max_rel == max(item.max_rel for item in result.inputs)
    assert {layer.input_name for layer in result.layers} <= {item.name for item in result.inputs}
    assert len({item.sha256 for item in result.inputs}) == 3


def test_contract_of_diff_json(reference: ReferenceProcess, tmp_path: Path) -> None:
    result = diff_with(reference, swapped_edge_weights)
    result.write_json(tmp_path / "diff.json")
    found = json.loads((tmp_path / "diff.json").read_text())
    assert found["first_divergent_layer"] == "fpn.cell.1.fnode.5"
    assert found["max_abs"] > 0 and found["max_rel"] > 1e-3 and not found["passed"]
    layer = next(layer for layer in found["layers"] if layer["name"] == "fpn.cell.1.fnode.5")
    assert {"shape", "max_abs", "max_rel", "mean_abs", "cosine", "worst_index", "tolerance"} <= set(layer)
    assert layer["shape"] == [1, 2, 2, 16] and len(layer["worst_index"]) == 4
    assert abs(layer["reference_value"] - layer["port_value"]) == pytest.approx(layer["max_abs"])
    assert found["cause"]["kind"] == "edge_weights_swapped"
    passed = diff_with(reference).to_json()
    assert passed["first_divergent_layer"] is None and passed["cause"] is None
