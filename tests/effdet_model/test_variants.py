"""Every model is the one of effdet 0.4.1: keys, shapes, dtypes, order; official parameter counts."""

from __future__ import annotations

import pytest
import torch
from effdet import EfficientDet as EffdetModel
from effdet.config import get_efficientdet_config
from effdet.config.model_config import efficientdet_model_param_dict

from effdet_model import EfficientDet, InputError, create_model, get_config, list_variants
from effdet_model.variants import OFFICIAL_VARIANTS, PYTORCH_MODELS, canonical_variant

PARAMETERS = {
    "d0": 3_880_067, "d1": 6_625_898, "d2": 8_097_039, "d3": 12_032_296, "d4": 20_723_675, "d5": 33_653_315,
    "d6": 51_871_782, "d7": 51_871_782, "lite0": 3_243_470, "lite1": 4_248_318, "lite2": 5_252_334,
    "lite3": 8_350_862, "lite3x": 9_280_862, "lite4": 15_130_894, "efficientdet_d0": 3_877_763,
}  # fmt: skip


def effdet_name(variant: str) -> str:
    return variant if variant in PYTORCH_MODELS else f"tf_efficientdet_{variant.removesuffix('_640')}"


def layout(module: torch.nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    return [(key, tuple(tensor.shape), tensor.dtype) for key, tensor in module.state_dict().items()]


@pytest.mark.parametrize("variant", list_variants())
def test_state_dict_is_that_of_effdet(variant: str) -> None:
    with torch.device("meta"):
        ours = EfficientDet(get_config(variant))
        theirs = EffdetModel(get_efficientdet_config(effdet_name(variant)), pretrained_backbone=False)
    assert layout(ours) == layout(theirs)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameter_counts(variant: str) -> None:
    with torch.device("meta"):
        model = EfficientDet(get_config(variant))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


def test_every_model_of_effdet_is_there() -> None:
    assert {effdet_name(v) for v in list_variants()} == set(efficientdet_model_param_dict)


@pytest.mark.parametrize("variant", ["efficientdet_d0", "efficientdet_q1", "mobiledetv3_large", "cspdarkdet53m", "d0"])
def test_outputs_are_those_of_effdet(variant: str) -> None:
    """Same weights, same function, also where size or convolutions are another than usual."""
    size = (128, 256)
    ours = create_model(variant, image_size=size, num_classes=5)
    config = get_efficientdet_config(effdet_name(variant))
    config.image_size, config.num_classes = size, 5
    theirs = EffdetModel(config, pretrained_backbone=False).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for mine, other in zip(ours(images), theirs(images), strict=True):
            for a, b in zip(mine, other, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max()))


def test_official_anchors_and_preprocessing() -> None:
    assert get_config("d7").anchor_scale == 5.0
    assert (get_config("d7x").max_level, get_config("d7x").anchor_scale) == (8, 4.0)
    assert get_config("lite2").mean_rgb == 127.0 and get_config("lite2").stddev_rgb == 128.0
    assert get_config("d3_ap").scale_range and get_config("d3_ap").mean_rgb == 0.0
    assert get_config("d3").aspect_ratios == (1.0, 2.0, 0.5)
    assert get_config("d3_640").aspect_ratios == ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    assert get_config("d3_640").image_size == (640, 640)
    assert len(OFFICIAL_VARIANTS) == 26


@pytest.mark.parametrize(
    ("written", "meant"),
    [("tf_efficientdet_d0", "d0"), ("efficientdet-d7x", "d7x"), ("D3", "d3"), ("efficientdet-lite3x", "lite3x"),
     ("tf_efficientdet_d0_ap", "d0_ap"), ("efficientdet-d2-640", "d2_640"), ("efficientdet_d0", "efficientdet_d0")],
)  # fmt: skip
def test_other_spellings(written: str, meant: str) -> None:
    assert canonical_variant(written) == meant


def test_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown variant: 'd7xx'. Did you mean d7x"):
        get_config("d7xx")
