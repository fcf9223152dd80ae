"""The plain model inside PyTorch's own tools: copies, traces, scripts, exported programs, compiled graphs, ONNX."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effdet_model import create_model
from effdet_model.same_padding import SameConv2d, same_padding

SAME = "d0"
SYMMETRIC = "efficientdet_d0"
Outputs = tuple[list[Tensor], list[Tensor]]


@pytest.fixture(autouse=True)
def no_warnings_of_ours() -> Iterator[None]:
    """PyTorch calls some of its tools deprecated; any other warning, a trace's above all, is the model's fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(.|\n)*(deprecated|legacy TorchScript|feature will be removed)")
        warnings.filterwarnings("ignore", "Constant folding")
        warnings.filterwarnings("ignore", module=r"(torch\._inductor|torch\.utils|numpy|sympy)")
        yield


def small(variant: str = SAME, **overrides: Any) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(variant, image_size=128, num_classes=2, **overrides)
    return model.requires_grad_(False)


def picture(height: int, width: int, number: int = 2) -> Tensor:
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def assert_equal(found: Outputs, expected: Outputs) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for level, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda text, at=level: f"level {at}: {text}")


@pytest.mark.parametrize("variant", [SAME, SYMMETRIC])
def test_a_deep_copy_is_the_same_model_apart(variant: str) -> None:
    model = small(variant)
    images = picture(128, 128)
    twin = copy.deepcopy(model)
    assert_equal(twin(images), model(images))
    for parameter in twin.parameters():
        parameter.zero_()
    assert any(parameter.any() for parameter in model.parameters())


@pytest.mark.parametrize("variant", [SAME, SYMMETRIC])
def test_a_trace_gives_the_same_and_is_never_wrong_at_another_size(variant: str) -> None:
    model = small(variant)
    with torch.jit.optimized_execution(False):
        traced = torch.jit.trace(model, picture(128, 192))
        other = picture(128, 192, number=3)
        assert_equal(traced(other), model(other))
        with pytest.raises(RuntimeError):
            traced(picture(256, 192))
        near = picture(127, 191)  # as many rows and columns on every level, but other SAME padding
        if variant == SAME:
            with pytest.raises(RuntimeError):
                traced(near)
        else:
            assert_equal(traced(near), model(near))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "overrides"),
    [
        (SAME, {}), (SYMMETRIC, {}), (SYMMETRIC, {"head_bn_level_first": True}), ("lite0", {}),
        (SAME, {"fpn_weight_method": "channel_fastattn", "survival_prob": 0.8, "downsample_type": "avg"}),
        (SAME, {"separable_conv": False, "conv_bn_act_pattern": True, "fpn_name": "qufpn_attn"}),
        (SAME, {"backbone_name": "resnet18", "backbone_args": {}}),
    ],
)  # fmt: skip
def test_a_script_gives_the_same_at_any_size(variant: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    model = small(variant, **overrides)
    scripted = torch.jit.script(model)
    assert list(scripted.state_dict()) == list(model.state_dict())
    torch.jit.save(scripted, tmp_path / "model.pt")
    loaded = torch.jit.load(tmp_path / "model.pt")
    with torch.jit.optimized_execution(False):
        for size in ((128, 128), (192, 130)):
            assert_equal(scripted(picture(*size)), model(picture(*size)))
        assert_equal(loaded(picture(*size)), model(picture(*size)))


def test_an_exported_program_takes_any_batch() -> None:
    model = small()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(model, (picture(128, 128),), dynamic_shapes={"images": {0: batch}})
    other = picture(128, 128, number=5)
    assert_equal(program.module()(other), model(other))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [SAME, SYMMETRIC])
def test_compiles_as_one_graph_at_several_sizes(variant: str) -> None:
    torch._dynamo.reset()
    model = small(variant, fpn_cell_repeats=1, box_class_repeats=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for size in ((128, 128), (192, 256)):
        assert_equal(compiled(picture(*size)), model(picture(*size)))


def test_same_padding_leaves_a_compiler_little_to_prove() -> None:
    """A second size is compiled without a division of floating-point numbers, of which proofs take minutes."""
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    layers = nn.Sequential(*(layer for layer in small().backbone.modules() if isinstance(layer, SameConv2d)))
    assert len(layers) == 5
    strided = nn.Sequential(*(SameConv2d(1, 1, layer.kernel_size, layer.stride) for layer in layers)).eval()
    compiled = torch.compile(strided, fullgraph=True, backend=keep)
    for side in (128, 192, 256):
        x = torch.zeros(1, 1, side, side)
        assert compiled(x).shape[-1] == side // 32
    assert len(graphs) == 2, "the first size, and one graph for all others that halve as often"
    symbols = [str(node.meta.get("example_value")) for node in graphs[1].graph.nodes]
    assert any("s" in text for text in symbols)
    assert not [node for graph in graphs for node in graph.graph.nodes if "truediv" in str(node.target)]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_same_padding_gives_what_timm_gives(kernel: int, stride: int) -> None:
    from timm.layers.padding import get_same_padding

    for size in range(1, 20):
        for dilation in (1, 2):
            total = get_same_padding(size, kernel, stride, dilation)
            assert same_padding(size, kernel, stride, dilation) == (total // 2, total - total // 2)


def test_every_same_padded_layer_of_timm_is_ours() -> None:
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame

    timms = (Conv2dSame, MaxPool2dSame, AvgPool2dSame)
    for overrides in ({}, {"backbone_name": "tf_mixnet_s", "backbone_args": {}}):
        found = [module for module in small(**overrides).modules() if isinstance(module, timms)]
        assert found and not [module for module in found if type(module) in timms]


@pytest.mark.slow
@pytest.mark.parametrize("variant", [SAME, SYMMETRIC])
def test_onnx_by_the_legacy_exporter(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = small(variant)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (picture(128, 128),), path, dynamo=False, input_names=["images"], dynamic_axes={"images": {0: "n"}}
    )
    assert path.stat().st_size > 1_000_000
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        other = picture(128, 128, number=3)
        found = onnxruntime.InferenceSession(path).run(None, {"images": other.numpy()})
        classes, boxes = model(other)
        for a, b in zip(found, [*classes, *boxes], strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-4)
