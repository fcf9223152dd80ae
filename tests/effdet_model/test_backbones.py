"""Any backbone of timm: it works and survives being saved, or one message says what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from effdet_model import InputError, create_model, get_config
from effdet_model.preprocessing import preprocess

ONE_OF_EACH_FAMILY = (
    "beit_base_patch16_224", "halonet_h1", "test_byobnet", "cait_xxs24_224", "coat_tiny", "convit_tiny",
    "convmixer_768_32", "test_convnext", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s",
    "cspnext_tiny", "davit_tiny", "deepseek_vit_412m", "deit_tiny_patch16_224", "densenet121", "dla46x_c",
    "dpn48b", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "test_efficientnet",
    "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050", "hardcorenas_b",
    "hgnetv2_b0", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "iformer_t", "inception_next_atto",
    "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2_small", "levit_128s", "lowformer_b0",
    "test_mambaout", "test_coatnet", "poolformerv2_s12", "gmlp_ti16_224", "mobilenetv3_small_050",
    "mobilenetv5_base", "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_parfac_gap", "nasnetalarge",
    "nest_tiny", "nextvit_small", "test_nfnet", "pit_ti_224", "pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m",
    "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m1", "res2next50", "resnest14d", "test_resnet",
    "resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18", "sequencer2d_s", "shvit_s1", "skresnet18",
    "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11",
    "visformer_tiny", "test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos", "samvit_base_patch16_224",
    "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p",
    "xcit_nano_12_p8_224",
)
"""The smallest model of each of timm's modules that gives features."""

REFUSED_FOR_STRIDES = ("levit_128s", "nest_tiny", "test_vit", "crossvit_tiny_240")


def outputs(model: torch.nn.Module, side: int, channels: int = 3) -> list[Tensor]:
    images = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        class_outputs, box_outputs = model(images)
    return [*class_outputs, *box_outputs]


def save_and_compare(name: str, folder: Path, **settings: Any) -> None:
    """The model made anew from its saved tensors computes the same bits."""
    settings = {"backbone_name": name, "image_size": 256, "num_classes": 2, **settings}
    model = create_model("efficientdet_d0", **settings)
    torch.save(model.state_dict(), folder / "saved.pth")
    expected = outputs(model, 256)
    again = outputs(create_model("efficientdet_d0", weights=folder / "saved.pth", **settings), 256)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert [out.shape[-1] for out in expected[:5]] == [32, 16, 8, 4, 2] or "inception" in name
    assert all(torch.isfinite(out).all() for out in expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_one_model_of_each_family(name: str, tmp_path: Path) -> None:
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    try:
        save_and_compare(name, tmp_path)
    except InputError as error:
        message = str(error)
        assert message.startswith(f"backbone {name}: expected ") and "choose" in message and len(message) < 600


@pytest.mark.parametrize(
    "name",
    ["resnetblur50", "swin_tiny_patch4_window7_224", "tiny_vit_5m_224", "test_coatnet", "dla34", "test_mambaout"],
)
def test_what_no_file_holds_is_made_all_the_same(name: str, tmp_path: Path) -> None:
    """Blur kernels, position indices, attention masks; features [N, h, w, C]; a default that leaves a stride out."""
    save_and_compare(name, tmp_path)


@pytest.mark.parametrize("name", REFUSED_FOR_STRIDES)
def test_other_strides_are_named(name: str) -> None:
    with pytest.raises(InputError, match=rf"backbone {name}: expected features at strides \[8, 16, 32\], found \["):
        create_model("efficientdet_d0", backbone_name=name, image_size=256)


def test_a_size_that_a_backbone_does_not_take_is_named() -> None:
    with pytest.raises(InputError, match="efficientformer_l1: expected one that takes images of 256x256"):
        create_model("efficientdet_d0", backbone_name="efficientformer_l1", image_size=256)


def test_arguments_of_a_backbone_belong_to_it() -> None:
    """A variant's drop path does not go to another backbone, and stays where one gives an argument of one's own."""
    assert get_config("d0").backbone_args == {"drop_path_rate": 0.2}
    assert get_config("d0", backbone_name="densenet121").backbone_args == {}
    assert get_config("d0", backbone_name="resnet50", backbone_args={"drop_path_rate": 0.1}).backbone_args == {
        "drop_path_rate": 0.1
    }
    assert get_config("d0", backbone_args={"in_chans": 4}).backbone_args == {"drop_path_rate": 0.2, "in_chans": 4}


def test_four_channels() -> None:
    mean, deviation = (1.0, 2.0, 3.0, 4.0), (2.0, 2.0, 2.0, 5.0)
    model = create_model(
        "d0", backbone_args={"in_chans": 4}, mean_rgb=mean, stddev_rgb=deviation, image_size=128, num_classes=2
    )
    assert outputs(model, 128, channels=4)[0].shape == (1, 18, 16, 16)
    image = np.full((128, 128, 4), 9, np.uint8)
    prepared, _ = preprocess(image, model.config)
    assert prepared[:, 0, 0].tolist() == [4.0, 3.5, 3.0, 1.0]
    with pytest.raises(InputError, match=r"expected uint8 \[height, width, 4\]"):
        preprocess(image[..., :3], model.config)
