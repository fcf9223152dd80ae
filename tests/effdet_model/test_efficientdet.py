"""The model: any backbone, any size, any option; intermediates by name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from effdet_model import InputError, create_model, get_config


def run(model: torch.nn.Module, height: int, width: int) -> tuple[list[Tensor], list[Tensor]]:
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(images)


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (130, 257)])
def test_output_shapes(size: tuple[int, int]) -> None:
    model = create_model("lite0", image_size=size, num_classes=3)
    class_outputs, box_outputs = run(model, *size)
    for level, classes, boxes in zip(model.config.levels, class_outputs, box_outputs, strict=True):
        height, width = model.config.feature_sizes()[level]
        assert classes.shape == (1, 9 * 3, height, width)
        assert boxes.shape == (1, 9 * 4, height, width)


def test_one_model_takes_several_sizes() -> None:
    model = create_model("lite0", image_size=128)
    assert run(model, 192, 128)[0][0].shape[-2:] == (24, 16)
    assert run(model, 64, 64)[0][-1].shape[-2:] == (1, 1)


def test_size_that_cannot_be_resampled_is_refused() -> None:
    model = create_model("lite0", image_size=128)
    with pytest.raises(InputError, match="image size: features of 1 x 3 cannot become 1 x 2"):
        run(model, 32, 96)


@pytest.mark.parametrize(
    "overrides",
    [
        {"fpn_name": "qufpn"}, {"fpn_name": "pan"}, {"fpn_weight_method": "attn"},
        {"fpn_weight_method": "channel_attn"}, {"fpn_weight_method": "channel_fastattn"},
        {"separable_conv": False}, {"conv_bn_act_pattern": True}, {"apply_bn_for_resampling": False},
        {"conv_after_downsample": True}, {"pad_type": ""}, {"redundant_bias": False}, {"survival_prob": 0.8},
        {"min_level": 2, "max_level": 6}, {"num_scales": 2, "aspect_ratios": [1.0, [1.4, 0.7]]},
        {"anchor_scale": [1.0, 2.0, 3.0, 4.0, 5.0]}, {"downsample_type": "avg"}, {"act_type": "mish"},
        {"norm_layer": "groupnorm"}, {"norm_layer": "frozenbatchnorm2d", "norm_kwargs": {"eps": 1e-3}},
    ],
)  # fmt: skip
def test_every_option_makes_a_model(overrides: dict[str, object]) -> None:
    model = create_model("lite0", image_size=128, num_classes=2, **overrides)
    class_outputs, box_outputs = run(model, 128, 128)
    assert len(class_outputs) == len(box_outputs) == model.config.num_levels
    assert class_outputs[0].shape[1] == 2 * model.config.anchors_per_location
    assert all(torch.isfinite(out).all() for out in [*class_outputs, *box_outputs])


def test_user_given_nodes() -> None:
    nodes = [
        {"feat_level": 3, "inputs_offsets": [0, 1, 2]}, {"feat_level": 4, "inputs_offsets": [1, 3, 5, 5]},
        {"feat_level": 5, "inputs_offsets": [2, 6]}, {"feat_level": 6, "inputs_offsets": [3, 7]},
        {"feat_level": 7, "inputs_offsets": [4, 8]}, {"feat_level": 3, "inputs_offsets": [5, 9]},
    ]  # fmt: skip
    model = create_model("lite0", image_size=128, fpn_config={"nodes": nodes, "weight_method": "attn"})
    assert model.fpn.cell[0].outputs == (10, 6, 7, 8, 9)
    assert run(model, 128, 128)[0][0].shape[-2:] == (16, 16)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_100", "regnetx_002", "convnext_atto"])
def test_any_timm_backbone(backbone: str) -> None:
    low = 3 if backbone != "convnext_atto" else 2
    model = create_model(
        "efficientdet_d0", backbone_name=backbone, backbone_args={}, image_size=128, num_classes=2, min_level=low
    )
    assert run(model, 128, 128)[0][0].shape[-2:] == (128 >> low, 128 >> low)


def test_backbone_that_timm_does_not_have() -> None:
    with pytest.raises(InputError, match="backbone_name: expected a model of timm .* found 'b0'"):
        create_model("efficientdet_d0", backbone_name="b0")


def test_intermediates_have_stable_names() -> None:
    model = create_model("d0", image_size=128)
    with torch.inference_mode():
        class_outputs, _, seen = model.forward_intermediates(torch.zeros(1, 3, 128, 128))
    names = list(seen)
    assert names[:3] == ["backbone.stem", "backbone.blocks.0.0", "backbone.blocks.1.0"]
    assert {"backbone.blocks.3.1", "fpn.input.level.6", "fpn.cell.0.fnode.2", "class_net.conv_rep.1.level.4",
            "box_net.predict.level.3"} <= set(names)  # fmt: skip
    assert len(names) == 1 + 16 + 5 + 3 * 8 + 2 * 5 * 4
    assert seen["class_net.predict.level.3"] is class_outputs[0]


def test_an_observer_can_replace_an_output() -> None:
    """What the observer returns is what the next layers get: in the backbone, the pyramid and the heads."""
    model = create_model("d0", image_size=128)
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    for name in ("backbone.blocks.0.0", "fpn.input.level.7", "fpn.cell.1.fnode.3", "class_net.conv_rep.0.level.5"):
        with torch.inference_mode():
            plain = model(images)[0][2]
            changed = model(images, observe=lambda n, x, name=name: x * 2 if n == name else None)[0][2]
        assert not torch.equal(plain, changed), name


@pytest.mark.parametrize("backbone", ["efficientnet-b0", "mobilenetv3_small_100"])
def test_intermediates_of_several_threads_do_not_mix(backbone: str) -> None:
    model = create_model("d0", image_size=64, backbone_name=backbone, backbone_args={}, num_classes=2)
    pictures = [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]

    def look(picture: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return model.forward_intermediates(picture)[2]

    alone = [look(picture) for picture in pictures]
    assert "backbone.stem" in alone[0]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(look, pictures * 4))
    for index, seen in enumerate(together):
        expected = alone[index % 4]
        assert list(seen) == list(expected)
        wrong = [name for name in seen if not torch.allclose(seen[name], expected[name], atol=1e-4)]
        assert not wrong, f"{len(wrong)} tensors of another picture: {wrong[:3]}"
    assert not any(module._forward_hooks for module in model.modules())


def test_an_observed_call_leaves_the_model_as_it_was() -> None:
    model = create_model("d0", image_size=64)
    before = {name: id(module) for name, module in model.named_modules()}
    model.forward_intermediates(torch.zeros(1, 3, 64, 64))
    assert {name: id(module) for name, module in model.named_modules()} == before


def test_norm_layer_that_timm_does_not_have() -> None:
    for name in ("batch", "_"):  # timm takes underscores for nothing
        with pytest.raises(InputError, match=f"norm_layer: expected a normalisation layer of timm .* found '{name}'"):
            create_model("d0", norm_layer=name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"fpn_num_filters": 88, "norm_layer": "groupnorm"},
            r"a num_groups that divides the 88 channels of fpn_num_filters, found 32 \(the default\); set "
            r"norm_kwargs=\{'num_groups': 22\}",
        ),
        ({"norm_layer": "groupnorm", "norm_kwargs": {"num_groups": 7}}, r"found 7; set norm_kwargs=.*: 8\}"),
        ({"norm_layer": "layernorm"}, r"takes norm_kwargs \{\} and features \[N, 64, h, w\], found 'layernorm'"),
        ({"norm_layer": "batchnorm1d"}, "found 'batchnorm1d': expected 2D or 3D input"),
        ({"norm_layer": "rmsnorm2d", "norm_kwargs": {"num_groups": 4}}, "found 'rmsnorm2d': .*num_groups"),
    ],
)
def test_norm_layers_that_do_not_take_the_features(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_model("d0", image_size=64, **overrides)
    assert len(str(caught.value)) < 600


def test_misspelt_backbones_are_told_before_a_model_is_made() -> None:
    for name, close in (
        ("resnet5O", "resnet50"), ("efficientnet-b9", "efficientnet-b8"), ("EfficientNet-B0", "efficientnet-b0"),
        ("resnet50.a1_in1", "resnet50.a1_in1k"), ("nothing_like_it_at_all", "efficientnet-b0, resnet50"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"^backbone_name: expected a model of timm .*{close}.*found '{name}'"):
            get_config("d0", backbone_name=name)
    assert get_config("d0", backbone_name="resnet50.a1_in1k").backbone_name == "resnet50.a1_in1k"


def test_arguments_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="unknown variant: 5. Expected one of"):
        create_model(5)  # type: ignore[arg-type]
    for weights, kind in (({"a": torch.ones(1)}, "dict"), (True, "bool"), (b"d0.pth", "bytes")):
        with pytest.raises(InputError, match=f"expected weights as the path of a .* file, found a {kind}; tensors go"):
            create_model("d0", weights=weights)  # type: ignore[arg-type]


def test_bad_fields_are_named() -> None:
    for overrides, message in (
        ({"num_classes": 0}, "num_classes: expected a whole number from 1 to 10000, found 0"),
        ({"aspect_ratios": [1.0, -2.0]}, "aspect_ratios: expected positive numbers"),
        ({"anchor_scale": [1.0, 2.0]}, r"anchor_scale: expected one positive number, or one per level \(5\)"),
        ({"fpn_weight_method": "max"}, "fpn_weight_method: expected one of fastattn"),
        ({"act_type": "srelu"}, "act_type: expected one of silu"),
        ({"max_level": 2}, r"max_level: expected a whole number from min_level \(3\)"),
        ({"fpn_name": "bifpm"}, "unknown fpn_name: 'bifpm'. Did you mean bifpn"),
        ({"num_clases": 3}, "unknown config field: 'num_clases'. Did you mean num_classes"),
    ):
        with pytest.raises(InputError, match=message):
            get_config("d0", **overrides)
