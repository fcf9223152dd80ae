"""The inference form: the plain model's outputs up to rounding, whatever the model; and PyTorch's tools take it."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdet_model import InputError, create_model, inference_form
from effdet_model.folding import FusedConv2d, affine
from effdet_model.inference import InferenceForm

Outputs = tuple[list[Tensor], list[Tensor]]
ONE_OF_EACH = (
    "d7x", "lite3", "efficientdet_d1", "efficientdet_q0", "efficientdet_w0", "efficientdet_es",
    "efficientdet_lite0", "efficientdetv2_dt", "cspresdet50", "cspresdext50pan", "cspdarkdet53", "mixdet_m",
    "mobiledetv2_110d", "mobiledetv3_large",
)  # fmt: skip
"""Variants beside the fast tests' that are built in another way; the rest of them are only larger."""
SMALL = (66, 97)


def model_of(variant: str, size: tuple[int, int] = (130, 192), **overrides: Any) -> nn.Module:
    """A model of random weights whose batch norms have seen noise, so that every layer counts for the outputs."""
    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = create_model(variant, image_size=size, num_classes=3, **overrides).requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith(".bias"):
            value.normal_(std=0.1)
        elif name.endswith("edge_weights"):
            value.uniform_(0.2, 1.0)
        elif value.dim() == 1:
            value.uniform_(0.7, 1.3)
    norms: list[Any] = [part for part in model.modules() if affine(part) is not None]
    for norm in norms:
        norm.training, norm.momentum = True, 1.0
    model(picture(model, 2))
    for norm in norms:
        norm.training = False
    return model


def picture(model: Any, number: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(number, 3, *model.config.image_size, generator=generator)


def distance(found: Outputs, expected: Outputs) -> float:
    """Largest difference of any level over that level's largest value."""
    pairs = zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True)
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in pairs)


def assert_same_function(model: nn.Module, **options: Any) -> None:
    """In float64 equal but for the last bits, in float32 as near to float64 as the plain model is.

    The last bits count for as much as a change of the image's last bit does: deep networks of random weights amplify.
    """
    images = picture(model)
    plain, form = model(images), inference_form(model, **options)(images)
    exact = copy.deepcopy(model).double()
    expected = exact(images.double())
    swing = distance(exact(images.double() * (1 + 2**-52)), expected)
    assert distance(inference_form(exact, **options)(images.double()), expected) <= 1e-12 + 1000 * swing
    assert distance(form, expected) <= 4 * distance(plain, expected)


@pytest.mark.parametrize("variant", ["d0", "efficientdet_d0", "lite0", "resdet50"])
def test_gives_what_the_plain_model_gives(variant: str) -> None:
    assert_same_function(model_of(variant))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ONE_OF_EACH)
def test_gives_what_the_plain_model_gives_for_every_kind_of_variant(variant: str) -> None:
    assert_same_function(model_of(variant, SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(128, 128), (97, 161), (161, 194), (256, 67)])
@pytest.mark.parametrize("variant", ["d0", "efficientdet_d0"])
def test_every_size_settles_its_own_padding(variant: str, size: tuple[int, int]) -> None:
    assert_same_function(model_of(variant, size))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"fpn_weight_method": "attn"}, {"fpn_weight_method": "sum"}, {"fpn_weight_method": "channel_attn"},
        {"fpn_weight_method": "channel_fastattn", "survival_prob": 0.8, "downsample_type": "avg"},
        {"downsample_type": "avg", "pad_type": ""}, {"downsample_type": "bilinear", "upsample_type": "bicubic"},
        {"separable_conv": False, "conv_bn_act_pattern": True, "fpn_name": "qufpn_attn"},
        {"conv_after_downsample": True}, {"apply_bn_for_resampling": False}, {"redundant_bias": False},
        {"head_bn_level_first": True, "head_act_type": "mish"}, {"min_level": 2, "max_level": 6},
        {"min_level": 4, "max_level": 6}, {"norm_layer": "groupnorm", "norm_kwargs": {"num_groups": 8}},
        {"norm_layer": "frozenbatchnorm2d"},
        {"fpn_config": {"nodes": [{"feat_level": level, "inputs_offsets": [level - 3]} for level in range(3, 8)],
                        "weight_method": "sum"}},
        *({"act_type": act} for act in ("hswish", "relu6", "leaky_relu", "prelu")),
    ],
    ids=str,
)  # fmt: skip
def test_every_option_of_a_config(overrides: dict[str, Any]) -> None:
    assert_same_function(model_of("d0", SMALL, **overrides))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_mixnet_s", "swin_tiny_patch4_window7_224", "convnext_atto", "regnety_002",
                                  "tf_efficientnetv2_b0", "nf_regnet_b0", "mobilenetv4_conv_small"])  # fmt: skip
def test_foreign_backbones(name: str) -> None:
    assert_same_function(model_of("d0", (128, 192), backbone_name=name, backbone_args={}))


def test_nothing_is_left_to_fold_and_the_model_is_as_it_was() -> None:
    model = model_of("d0").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [(name, type(part), part.training) for name, part in model.named_modules()]
    form = inference_form(model)
    assert not [part for part in form.modules() if affine(part) is not None]
    convs = [part for part in form.modules() if isinstance(part, nn.Conv2d)]
    assert not convs and sum(isinstance(part, FusedConv2d) for part in form.modules()) > 150
    assert not any(part.pads for part in form.modules() if isinstance(part, FusedConv2d))
    assert kinds == [(name, type(part), part.training) for name, part in model.named_modules()]
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())
    shared = {value.data_ptr() for value in model.state_dict().values()}
    assert not [name for name, value in form.state_dict().items() if value.data_ptr() in shared]


def test_padding_before_the_convolution_gives_the_same() -> None:
    model = model_of("d0")
    form = inference_form(model, extend_kernels=False)
    assert [part.pads for part in form.modules() if isinstance(part, FusedConv2d) and part.pads]
    assert_same_function(model, extend_kernels=False)


@pytest.mark.parametrize(
    "fault",
    [
        "class_net.bn_rep.1.3.bn.weight",
        "fpn.cell.1.fnode.4.combine.edge_weights",
        "backbone.blocks.2.0.bn2.running_var",
    ],
)
def test_a_fault_of_one_folded_value_is_seen(fault: str) -> None:
    model = model_of("d0", SMALL)
    form = inference_form(model)
    expected = model(picture(model))
    model.state_dict()[fault][0] *= 1.01
    assert distance(form(picture(model)), model(picture(model))) > 20 * distance(form(picture(model)), expected)


def test_batches_and_half_precision() -> None:
    model = model_of("d0", SMALL)
    three = picture(model, 3)
    together = inference_form(model)(three)
    for index in range(3):
        alone = inference_form(model)(three[index : index + 1])
        classes, boxes = ([level[index : index + 1] for level in part] for part in together)
        assert distance(alone, (classes, boxes)) < 1e-4  # other kernels for another batch: rounding
    plain, low = model.bfloat16()(three.bfloat16()), inference_form(model)(three.bfloat16())
    assert low[0][0].dtype == torch.bfloat16 and distance(low, together) <= 4 * distance(plain, together)


def test_another_size_and_another_model_are_refused() -> None:
    form = inference_form(model_of("d0"))
    with pytest.raises(InputError, match=r"expected images of 130x192 \(height x width\), found 128x192"):
        form(torch.zeros(1, 3, 128, 192))
    with pytest.raises(InputError, match="expected a model as create_model makes it, found ReLU"):
        inference_form(nn.ReLU())
    other = inference_form(model_of("d0"), image_size=(128, 256))
    assert other.image_size == (128, 256) and other(torch.zeros(1, 3, 128, 256))[0][0].shape[-2:] == (16, 32)


@pytest.fixture(scope="module")
def form() -> InferenceForm:
    return inference_form(model_of("d0", (128, 128)))


def test_copies_and_saved_weights(form: InferenceForm) -> None:
    twin = copy.deepcopy(form)
    for value in twin.state_dict().values():
        value.zero_()
    twin.load_state_dict(form.state_dict())
    assert distance(twin(picture(form)), form(picture(form))) == 0


def test_a_trace(form: InferenceForm) -> None:
    with torch.jit.optimized_execution(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(.|\n)*(deprecated|feature will be removed)")
        traced = torch.jit.trace(form, picture(form, 2))
        assert distance(traced(picture(form, 3)), form(picture(form, 3))) < 1e-6


def test_an_exported_program_takes_any_batch(form: InferenceForm) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(form, (picture(form, 2),), dynamic_shapes={"images": {0: batch}})
    assert distance(program.module()(picture(form, 5)), form(picture(form, 5))) < 1e-6


def test_compiles_as_one_graph(form: InferenceForm) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(form, fullgraph=True, backend="eager")
    assert distance(compiled(picture(form)), form(picture(form))) < 1e-6


@pytest.mark.slow
def test_onnx(form: InferenceForm, tmp_path: Path) -> None:
    """Another runtime's own rounding is as far from float64 as PyTorch's."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path, images = tmp_path / "form.onnx", picture(form, 3)
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=8)}}
    torch.onnx.export(form, (picture(form, 2),), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(path)
    levels = [torch.from_numpy(level) for level in session.run(None, {session.get_inputs()[0].name: images.numpy()})]
    plain, exact = form(images), copy.deepcopy(form).double()(images.double())
    found = (levels[: len(plain[0])], levels[len(plain[0]) :])
    assert distance(found, exact) <= 4 * distance(plain, exact)
