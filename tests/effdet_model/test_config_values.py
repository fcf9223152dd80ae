"""Every field of a config has a type and a range: for keyword arguments, metadata and --hparams alike."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from effdet_model import EfficientDetConfig, InputError, create_model, get_config, list_variants
from effdet_model.config_fields import FIELDS, parse_image_size
from effdet_model.hparams import MODEL_HPARAMS, parse_hparams
from effdet_model.weights import METADATA_KEY, read_metadata
from porting.weights.reader import WeightFile

MANY_DIGITS = 10**5000
DEEP: dict[str, Any] = {}
for _ in range(50):
    DEEP = {"a": DEEP}
WRONG: list[tuple[str, Any, str]] = [
    ("name", "../d0", "name: expected a name of letters, digits, '_', '-' and '.', found '../d0'"),
    ("backbone_name", 3, "backbone_name: expected the name of a model of timm or google/automl .*found 3;"),
    ("backbone_name", "hf-hub:someone/resnet50", "backbone_name: expected the name of a model .*'hf-hub:someone/resne"),
    ("backbone_name", "hf_hub:someone/resnet50", "backbone_name: expected the name of a model .*'hf_hub:someone/resne"),
    ("backbone_name", "local-dir:/tmp/resnet50", "backbone_name: expected the name of a model .*'local-dir:/tmp"),
    ("backbone_name", "efficientnet-b9", "backbone_name: expected a model of timm .* such as efficientnet-b8"),
    ("image_size", float("inf"), r"image_size: expected HEIGHTxWIDTH or one number, found inf; write e.g. 512"),
    ("image_size", 512.9, r"image_size: expected HEIGHTxWIDTH or one number, found 512.9; write"),
    ("image_size", True, r"image_size: expected HEIGHTxWIDTH or one number, found True; write"),
    ("image_size", [512, 512, 3], r"image_size: expected HEIGHTxWIDTH or one number, found \[512, 512, 3\]; write"),
    ("image_size", MANY_DIGITS, "image_size: expected HEIGHTxWIDTH or one number, found an int of great length; write"),
    ("image_size", 8193, "image_size: expected .*, found 8193; .*whole numbers from 1 to 8192"),
    ("image_size", None, "image_size: expected .*, found None; write"),
    ("num_classes", "a", "num_classes: expected a whole number from 1 to 10000, found 'a'; correct it"),
    ("num_classes", 0, "num_classes: expected a whole number from 1 to 10000, found 0"),
    ("num_classes", 90.0, "num_classes: expected a whole number from 1 to 10000, found 90.0"),
    ("num_classes", MANY_DIGITS, "num_classes: expected a whole number from 1 to 10000, found an int of great length"),
    ("act_type", "identity", "act_type: expected one of silu, swish, .*, or an activation of timm, found 'identity'"),
    ("act_type", ["swish"], r"act_type: expected one of silu, .*, found \['swish'\]"),
    ("head_act_type", "", "head_act_type: expected one of silu, swish, .*, or null, found ''"),
    ("min_level", 0, "min_level: expected a whole number from 1 to 12, found 0"),
    ("max_level", 10**9, "max_level: expected a whole number from 1 to 12, found 1000000000"),
    ("num_scales", 17, "num_scales: expected a whole number from 1 to 16, found 17"),
    ("aspect_ratios", [], r"aspect_ratios: expected positive numbers .* or pairs .*, found \[\]"),
    ("aspect_ratios", 2.0, "aspect_ratios: expected positive numbers .* or pairs .*, found 2.0"),
    ("aspect_ratios", [[1.0, 2.0, 3.0]], "aspect_ratios: expected positive numbers .* or pairs"),
    ("aspect_ratios", [1.0] * 33, "aspect_ratios: expected positive numbers .* 1 to 32, found"),
    ("anchor_scale", float("nan"), "anchor_scale: expected one positive number, or one per level, found nan"),
    ("anchor_scale", [4.0, "x"], "anchor_scale: expected one positive number, or one per level, found"),
    ("mean_rgb", "imagenet", "mean_rgb: expected one number, or one per channel .*, found 'imagenet'"),
    ("mean_rgb", [1.0, 2.0], r"mean_rgb: expected one number, or one for each of 3 channels, found \(1.0, 2.0\)"),
    ("stddev_rgb", 0, r"stddev_rgb: expected one number, or one per channel \(three for RGB\), above 0, found 0"),
    ("stddev_rgb", [1.0, 0.0, 1.0], r"stddev_rgb: expected .*, above 0, found \[1.0, 0.0, 1.0\]"),
    ("scale_range", "no", "scale_range: expected true or false, found 'no'"),
    ("scale_range", 1, "scale_range: expected true or false, found 1"),
    ("box_class_repeats", 33, "box_class_repeats: expected a whole number from 1 to 32, found 33"),
    ("fpn_cell_repeats", 10**9, "fpn_cell_repeats: expected a whole number from 1 to 32, found 1000000000"),
    ("fpn_num_filters", 10**9, "fpn_num_filters: expected a whole number from 1 to 4096, found 1000000000"),
    ("separable_conv", None, "separable_conv: expected true or false, found None"),
    ("apply_bn_for_resampling", "true", "apply_bn_for_resampling: expected true or false, found 'true'"),
    ("conv_after_downsample", 0, "conv_after_downsample: expected true or false, found 0"),
    ("conv_bn_act_pattern", 2, "conv_bn_act_pattern: expected true or false, found 2"),
    ("fpn_name", 3, "fpn_name: expected a name such as bifpn, qufpn, pan, found 3"),
    ("fpn_name", "bifpm", "unknown fpn_name: 'bifpm'. Did you mean bifpn"),
    ("fpn_weight_method", "max", "fpn_weight_method: expected one of fastattn, .*, or null, found 'max'"),
    ("fpn_config", 3, "fpn_config: expected a mapping with keys such as nodes, weight_method, .*found 3"),
    ("fpn_config", "foo", "fpn_config: expected a mapping with keys such as nodes, .*found 'foo'"),
    ("fpn_config", {"node": []}, "unknown key of fpn_config: 'node'. Did you mean nodes"),
    ("fpn_config", {"nodes": 3}, "fpn_config.nodes: expected a list of 1 to 200 entries, .*found 3"),
    ("fpn_config", {"nodes": [{"feat_level": "a"}]}, r"fpn_config.nodes\[0\].feat_level: expected a whole number"),
    ("fpn_config", {"nodes": [{"offsets": [0]}]}, r"unknown key of fpn_config.nodes\[0\]: 'offsets'. Did you mean inp"),
    ("survival_prob", "a", "survival_prob: expected a number from 0 to 1, or null, found 'a'"),
    ("survival_prob", 1.5, "survival_prob: expected a number from 0 to 1, or null, found 1.5"),
    ("label_map", [1, 2], r"label_map: expected category ids with their names, found \[1, 2\]"),
    ("label_map", "cocoo", "unknown label_map: 'cocoo'. Did you mean coco"),
    ("label_map", {1: datetime.date(2020, 1, 1)}, r"label_map\[1\]: expected a name as text .*found datetime.date"),
    ("label_map", {1: False}, r"label_map\[1\]: expected a name as text of 1 to 200 characters, found False; write"),
    ("label_map", {1: "x" * 201}, r"label_map\[1\]: expected a name as text of 1 to 200 characters, found 'xxx"),
    ("label_map", {1: "\x1b[31m"}, r"label_map\[1\]: expected a name as text .*found '\\x1b\[31m'"),
    ("label_map", {-1: "cup"}, "label_map: expected category ids with their names, found -1 as an id"),
    ("label_map", {"cup": 1}, "label_map: expected category ids with their names, found 'cup' as an id"),
    ("nms_configs", "hard", "nms_configs: expected a mapping with keys such as method, .*found 'hard'"),
    ("nms_configs", None, "nms_configs: expected a mapping with keys such as method, .*found None; correct it"),
    ("nms_configs", {"iou_threshold": 0.5}, "unknown key of nms_configs: 'iou_threshold'. Did you mean iou_thresh"),
    ("nms_configs", {3: 0.5}, "unknown key of nms_configs: 3. Expected one of: iou_thresh"),
    ("nms_configs", {"method": "foo"}, "nms_configs.method: expected one of hard, gaussian, linear, diou, or null"),
    ("nms_configs", {"max_output_size": 2.5}, "nms_configs.max_output_size: expected a whole number .*found 2.5"),
    ("nms_configs", {"iou_thresh": "0.5"}, "nms_configs.iou_thresh: expected a number from 0 to 1, or null, found"),
    ("nms_configs", {"pyfunc": "yes"}, "nms_configs.pyfunc: expected true or false, or null, found 'yes'"),
    ("pad_type", "valid", "pad_type: expected one of same, '', found 'valid'"),
    ("redundant_bias", "a", "redundant_bias: expected true or false, found 'a'"),
    ("norm_layer", "../x", "norm_layer: expected the name of a normalisation layer of timm, found '../x'"),
    ("norm_kwargs", {"eps": 0}, "norm_kwargs.eps: expected a number above 0, at most 1, found 0"),
    ("norm_kwargs", {"epsilon": 1}, "unknown key of norm_kwargs: 'epsilon'. Did you mean eps"),
    ("head_bn_level_first", [], r"head_bn_level_first: expected true or false, found \[\]"),
    ("downsample_type", "area", "downsample_type: expected one of max, avg, bilinear, bicubic, nearest, found 'area'"),
    ("upsample_type", 2, "upsample_type: expected one of nearest, bilinear, bicubic, found 2"),
    ("backbone_args", {"checkpoint_path": "/x"}, "unknown key of backbone_args: 'checkpoint_path'. "),
    ("backbone_args", {"pretrained_cfg": {"file": "/x"}}, "unknown key of backbone_args: 'pretrained_cfg'"),
    ("backbone_args", {"pretrained": True}, "unknown key of backbone_args: 'pretrained'"),
    ("backbone_args", {"cache_dir": "/x"}, "unknown key of backbone_args: 'cache_dir'"),
    ("backbone_args", {"drop_path_rate": "0.2"}, "backbone_args.drop_path_rate: expected a number from 0 to 1, found"),
    ("backbone_args", {"act_layer": "os.system"}, "backbone_args.act_layer: expected the name of a layer of timm, or"),
    ("backbone_args", DEEP, "unknown key of backbone_args: 'a'"),
    ("backbone_indices", [-1], r"backbone_indices\[0\]: expected a whole number from 0 to 64, found -1"),
]


@pytest.mark.parametrize(
    ("field", "value", "message"), WRONG, ids=[f"{place}-{field}" for place, (field, _, _) in enumerate(WRONG)]
)
def test_a_wrong_value_is_one_message_wherever_it_comes_from(field: str, value: Any, message: str) -> None:
    base = get_config("d0").to_dict()
    with pytest.raises(InputError, match=f"^{message}") as from_keyword:
        get_config("d0").replace(**{field: value})
    with pytest.raises(InputError) as from_metadata:
        EfficientDetConfig.from_dict({**base, field: value}, "weights d0.pth: config ")
    for error in (from_keyword, from_metadata):
        assert len(str(error.value)) < 600
    assert "weights d0.pth: config " in str(from_metadata.value) and field in str(from_metadata.value)


def test_every_field_has_a_type_and_a_wrong_value_above() -> None:
    names = {field.name for field in dataclasses.fields(EfficientDetConfig)}
    assert set(FIELDS) == names and {field for field, _, _ in WRONG} == names
    assert set(MODEL_HPARAMS) <= names


@pytest.mark.parametrize("variant", list_variants())
def test_every_variant_survives_json(variant: str) -> None:
    config = get_config(variant, label_map={1: "cup", 3: "cat"})
    assert EfficientDetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_level": 2}, r"max_level: expected a whole number from min_level \(3\) to 12, found 2"),
        ({"num_classes": 10_000, "num_scales": 16}, "num_classes: expected at most 20833 with 48 anchors per location"),
        ({"image_size": 8192, "min_level": 1, "num_scales": 8}, "image_size: expected a size with at most 50000000"),
        ({"fpn_num_filters": 4096, "fpn_cell_repeats": 32}, "fpn_num_filters: expected a number that gives BiFPN and"),
        ({"anchor_scale": [1.0, 2.0]}, r"anchor_scale: expected one positive number, or one per level \(5\)"),
    ],
)
def test_sound_fields_that_are_too_much_together(fields: dict[str, Any], message: str) -> None:
    if "num_classes" in fields:
        fields = {**fields, "aspect_ratios": [1.0, 2.0, 0.5] * 3}
        message = "num_classes: expected at most 6944 with 144 anchors per location, found 10000"
    with pytest.raises(InputError, match=message):
        get_config("d0", **fields)


def test_numbers_of_numpy_are_numbers() -> None:
    config = get_config("d0", num_classes=np.int64(7), anchor_scale=np.float32(3.0), image_size=(np.int32(64), 128))
    assert config.num_classes == 7 and config.anchor_scale == 3.0 and config.image_size == (64, 128)
    assert json.loads(json.dumps(config.to_dict()))["num_classes"] == 7


def test_four_channels_have_four_means() -> None:
    config = get_config("d0", backbone_args={"in_chans": 4}, mean_rgb=[1.0, 2.0, 3.0, 4.0], stddev_rgb=2.0)
    assert config.mean_rgb == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(("value", "order", "size"), [
    ("640x384", "hw", (640, 384)), ("640x384", "wh", (384, 640)), (" 512 ", "hw", (512, 512)),
    ((64, 128), "wh", (64, 128)), (256, "wh", (256, 256)),
])  # fmt: skip
def test_image_sizes(value: Any, order: str, size: tuple[int, int]) -> None:
    assert parse_image_size(value, order) == size


# What a weight file says of itself


def _with_metadata(path: Path, text: str) -> Path:
    save_file({"x": torch.zeros(1)}, path, metadata={METADATA_KEY: text})
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 1, "config": null}', "expected metadata with config fields with their values under 'conf"),
        ('{"format_version": 1, "config": [1]}', r"expected metadata with config fields .*found \[1\]"),
        ('{"format_version": 1, "variant": 3}', "expected metadata with a name under 'variant', found 3"),
        ("[1]", "expected metadata as a JSON object, found a list"),
        ("{", "expected metadata in JSON, found: Expecting property name"),
        ("[" * 100_000, "expected metadata in JSON, found: data nested too deep"),
        ('{"a": ' * 40 + "1" + "}" * 40, "expected metadata in JSON, found: data nested more than 32 deep"),
        ('{"format_version": %s}' % ("9" * 5000), "expected metadata in JSON, found: a whole number of 5000 digits"),
        ('{"a": "%s"}' % ("x" * (33 << 20)), "expected at most 34 MB of text, found 35 MB"),
    ],
    ids=["null", "list", "variant", "no object", "no JSON", "deep", "deeper than 32", "digits", "long"],
)
def test_metadata_is_bounded(tmp_path: Path, text: str, message: str) -> None:
    path = _with_metadata(tmp_path / "d0.safetensors", text)
    for read in (read_metadata, WeightFile):
        with pytest.raises(InputError, match=message) as found:
            read(path)
        assert len(str(found.value)) < 600
    torch.save({"x": torch.zeros(1)}, tmp_path / "d0.pth")
    beside = tmp_path / "d0.json"
    beside.write_text(text)
    with pytest.raises(InputError, match=message):
        read_metadata(tmp_path / "d0.pth")


HOSTILE: list[dict[str, Any]] = [
    {"backbone_args": {"checkpoint_path": "EVIL"}},
    {"backbone_args": {"pretrained": True, "pretrained_cfg": {"file": "EVIL"}}},
    {"backbone_args": {"pretrained_cfg_overlay": {"url": "EVIL"}}},
    {"backbone_args": {"cache_dir": "EVIL"}},
    {"backbone_name": "local-dir:EVIL"},
    {"backbone_name": "hf-hub:EVIL"},
    {"label_map": "EVIL.yaml"},
    {"fpn_cell_repeats": 10**9},
    {"fpn_num_filters": 4096, "fpn_cell_repeats": 32, "separable_conv": False},
    {"label_map": {str(number): "x" for number in range(100_001)}},
]


@pytest.mark.parametrize("fields", HOSTILE, ids=lambda fields: "-".join(map(str, fields))[:40])
def test_a_header_names_nothing_that_is_loaded(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before timm is asked for anything, and before anything of that size is made."""
    evil = tmp_path / "evil.pth"
    evil.write_bytes(b"cos\nabort\n(tR.")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("a header reached timm"))
    text = json.dumps({**get_config("d0").to_dict(), **fields}).replace("EVIL", str(evil))
    path = _with_metadata(tmp_path / "x.safetensors", json.dumps({"format_version": 1, "config": json.loads(text)}))
    with pytest.raises(InputError, match=rf"weights {path}: (unknown key of |config )|of weights {path}: config"):
        create_model(weights=path)


def test_a_label_file_is_read_when_it_is_named_not_later(tmp_path: Path) -> None:
    names = tmp_path / "names.yaml"
    names.write_text("1: cup\n2: off\n3: 2020-01-01\n4: 1.50\n5: null\n")
    expected = {1: "cup", 2: "off", 3: "2020-01-01", 4: "1.50"}
    by_hparams = parse_hparams(f"label_map={names}").fields["label_map"]
    config = get_config("d0", label_map=str(names))
    names.unlink()
    assert by_hparams == config.label_map == expected
    assert EfficientDetConfig.from_dict(json.loads(json.dumps(config.to_dict()))).label_map == expected
    with pytest.raises(InputError, match=r"config label_map: expected coco, voc, waymo, .*found the path '/x.yaml'"):
        EfficientDetConfig.from_dict({**config.to_dict(), "label_map": "/x.yaml"})
