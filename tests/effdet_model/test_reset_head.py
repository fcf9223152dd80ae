"""Weights for other classes, and what is said where the arguments do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effdet_model import InputError, create_model
from porting.weights.files import write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lite0 with three named classes."""
    torch.manual_seed(1)
    model = create_model("lite0", num_classes=3, label_map={1: "a", 2: "b", 3: "c"})
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    write_weights(path, dict(model.state_dict()), {"format_version": 1, "config": model.config.to_dict()})
    return path


@pytest.mark.parametrize("settings", [{}, {"separable_conv": False}])
def test_other_classes_begin_anew_and_all_else_is_kept(tmp_path: Path, settings: dict[str, bool]) -> None:
    before = create_model("lite0", num_classes=3, **settings)
    path = tmp_path / "a.safetensors"
    write_weights(path, dict(before.state_dict()), {"format_version": 1, "config": before.config.to_dict()})
    model = create_model(weights=path, num_classes=20, reset_head=True)
    old, new = before.state_dict(), model.state_dict()
    predict = {name for name in new if name.startswith("class_net.predict.")}
    assert predict and all(torch.equal(new[name], old[name]) for name in new.keys() - predict)
    (bias,) = (new[name] for name in predict if name.endswith(".bias"))
    assert bias.shape == (180,) and torch.allclose(bias, torch.tensor(-4.59511985))  # -log((1 - 0.01) / 0.01)
    for name in predict:
        if name.endswith("weight"):
            fan_in = new[name].numel() if "conv_dw" in name else new[name].shape[1]  # google/automl: 9 C, C; or 0.01
            expected = 0.01 if settings else fan_in**-0.5
            assert abs(new[name].std().item() / expected - 1) < 0.1 and torch.isfinite(new[name]).all()
    assert not model.training and model.config.num_classes == 20


def test_names_of_the_old_classes_go_with_them(weights: Path) -> None:
    assert create_model(weights=weights).config.label_map is not None
    assert create_model(weights=weights, num_classes=20, reset_head=True).config.label_map is None
    assert create_model(weights=weights, num_classes=2, reset_head=True).config.label_map is None
    named = create_model(weights=weights, num_classes=2, reset_head=True, label_map={1: "x", 2: "y"})
    assert named.config.label_map == {1: "x", 2: "y"}
    same = create_model(weights=weights, reset_head=True)
    assert same.config.label_map is not None and same.config.num_classes == 3
    old = torch.load(weights, weights_only=True)["class_net.predict.conv_pw.weight"]
    assert not torch.equal(same.state_dict()["class_net.predict.conv_pw.weight"], old)


def test_without_it_the_message_names_it(weights: Path) -> None:
    with pytest.raises(InputError, match="expected 20 classes, found 3; leave num_classes out, .*reset_head=True."):
        create_model(weights=weights, num_classes=20)


def test_what_else_differs_is_still_refused(weights: Path) -> None:
    with pytest.raises(InputError, match="do not fit this model.*box_net.predict"):
        create_model(weights=weights, num_classes=20, num_scales=2, reset_head=True)


def test_pretrained_names_the_way() -> None:
    with pytest.raises(InputError) as told:
        create_model("efficientdet-d0", pretrained=True)
    for way in ("weights=FILE", "cli.py convert --variant d0`", '"tf_efficientdet_d0", source="local", pretrained='):
        assert way in str(told.value)
    assert create_model("lite0", pretrained=False).config.name == "lite0"


def test_nothing_named() -> None:
    with pytest.raises(InputError, match="expected the name of a variant, or weights whose metadata names it") as told:
        create_model()
    assert "None" not in str(told.value)
