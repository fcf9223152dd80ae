"""google/automl's `--hparams`: a YAML file or `key=value,key.sub=value`, turned into config fields.

Values are read as `hparams_config.py` (6a54c87) reads them: `true` and `false`, Python literals, else text;
`*` separates the items of a list (aspect_ratios=1.0*2.0*0.5); image sizes as text are WIDTHxHEIGHT.
A `config.yaml` that its trainer wrote is such a file too.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.config_fields import parse_image_size, read_field
from effdet_model.errors import InputError, shown, unknown_name
from effdet_model.field_types import number
from effdet_model.labels import read_label_file
from effdet_model.plain_data import read_yaml

AUTO = "auto"
"""In place of a file: the config.yaml in the checkpoint's folder."""
MAX_TEXT = 1 << 16

MODEL_HPARAMS = (
    "act_type",
    "anchor_scale",
    "apply_bn_for_resampling",
    "aspect_ratios",
    "backbone_name",
    "box_class_repeats",
    "conv_after_downsample",
    "conv_bn_act_pattern",
    "fpn_cell_repeats",
    "fpn_config",
    "fpn_name",
    "fpn_num_filters",
    "fpn_weight_method",
    "image_size",
    "label_map",
    "max_level",
    "mean_rgb",
    "min_level",
    "nms_configs",
    "num_classes",
    "num_scales",
    "scale_range",
    "separable_conv",
    "stddev_rgb",
    "survival_prob",
)
"""Keys that this project's config has."""

TRAINING_HPARAMS = (
    "alpha",
    "augmix_params",
    "autoaugment_policy",
    "ckpt_var_scope",
    "clip_gradients_norm",
    "data_format",
    "dataset_type",
    "debug",
    "delta",
    "device",
    "drop_remainder",
    "enable_ema",
    "first_lr_drop_epoch",
    "gamma",
    "grad_checkpoint",
    "gradient_checkpointing",
    "gradient_checkpointing_list",
    "grid_mask",
    "img_summary_steps",
    "input_rand_hflip",
    "iou_loss_type",
    "iou_loss_weight",
    "is_training_bn",
    "jitter_max",
    "jitter_min",
    "label_smoothing",
    "learning_rate",
    "loss_scale",
    "lr_decay_method",
    "lr_warmup_epoch",
    "lr_warmup_init",
    "map_freq",
    "max_instances_per_image",
    "mixed_precision",
    "model_optimizations",
    "momentum",
    "moving_average_decay",
    "name",
    "num_epochs",
    "nvgpu_logging",
    "optimizer",
    "poly_lr_power",
    "positives_momentum",
    "precision",
    "regenerate_source_id",
    "resnet_depth",
    "sample_image",
    "save_freq",
    "second_lr_drop_epoch",
    "seg_num_classes",
    "skip_crowd_during_training",
    "skip_mismatch",
    "strategy",
    "target_size",
    "tf_random_seed",
    "tflite_max_detections",
    "train_scale_max",
    "train_scale_min",
    "use_augmix",
    "use_bfloat16",
    "use_horovod",
    "use_keras_model",
    "use_native_resize_op",
    "use_tpu",
    "var_exclude_expr",
    "var_freeze_expr",
    "verbose",
    "weight_decay",
    "box_loss_weight",
    "backbone_ckpt",
    "batch_size",
    "ckpt",
    "eval_samples",
    "iterations_per_loop",
    "mode",
    "model_dir",
    "model_name",
    "num_examples_per_epoch",
    "num_shards",
    "profile",
    "steps_per_epoch",
    "steps_per_execution",
    "testdev_dir",
    "val_json_file",
)
"""Keys that do not change what the network computes in inference (some are added by the official trainers, some
are of older versions of the official code)."""

RENAMED_HPARAMS = {"conv_bn_relu_pattern": "conv_bn_act_pattern", "label_id_mapping": "label_map"}
"""Names of older versions of the official code, and today's."""

_UNSUPPORTED_UNLESS: Mapping[str, tuple[Any, ...]] = {
    "backbone_config": (None, {}),
    "heads": (["object_detection"], ["object_detection", "segmentation"], "object_detection"),
    "pooling_type": (None, "max"),
}


@dataclass(frozen=True)
class Hparams:
    """Parsed hyperparameters.

    Attributes:
        fields: for `EfficientDetConfig.replace`; each of the right type and in range, a label map's file read.
        ignored: keys that only training reads.
        moving_average_decay: of the training; 0.0 where it kept no averages, None where nothing was said.
        name: the official model's name that a file gives, e.g. "efficientdet-d0".
        source: the YAML file they were read from.
    """

    fields: Mapping[str, Any]
    ignored: tuple[str, ...] = ()
    moving_average_decay: float | None = None
    name: str | None = None
    source: Path | None = None


def parse_hparams(text: str | None) -> Hparams:
    """Config fields from what google/automl's `--hparams` takes.

    Args:
        text: the path of a .yaml or .yml file, or `key=value,...`; empty or None: nothing.

    Raises:
        InputError: unreadable, an unknown key (nearest names are given), a value of a wrong type or out of range, or a
            key that has no counterpart here.
    """
    if not text:
        return Hparams({})
    if text == AUTO:
        raise InputError(
            "--hparams auto: expected --checkpoint with the folder or prefix of a local checkpoint, in whose folder "
            "the config.yaml of its training lies; name the YAML file instead."
        )
    if text.endswith((".yaml", ".yml")) and "=" not in text:
        return _to_fields(_from_yaml(Path(text)), Path(text))
    if "=" not in text or len(text) > MAX_TEXT:
        raise InputError(
            f"--hparams: expected a .yaml file or key=value,key.sub=value, found {shown(text)}; e.g. num_classes=20."
        )
    return _to_fields(_from_pairs(text))


def _to_fields(values: Mapping[str, Any], source: Path | None = None) -> Hparams:
    fields: dict[str, Any] = {}
    ignored = []
    for given, value in values.items():
        key = RENAMED_HPARAMS.get(given, given)
        if key in _UNSUPPORTED_UNLESS:
            if (list(value) if isinstance(value, tuple) else value) not in _UNSUPPORTED_UNLESS[key]:
                raise InputError(
                    f"--hparams {key}: expected {_UNSUPPORTED_UNLESS[key][0]!r}, found {shown(value)}; models with "
                    f"another value of {key} cannot be ported."
                )
        elif key in MODEL_HPARAMS:
            fields[key] = _checked(key, value, source)
        elif key in TRAINING_HPARAMS:
            ignored.append(key)
        else:
            raise unknown_name("hparams key", key, (*MODEL_HPARAMS, *TRAINING_HPARAMS, *_UNSUPPORTED_UNLESS))
    name = values.get("name")
    return Hparams(fields, tuple(ignored), _decay(values), name if isinstance(name, str) else None, source)


def _checked(key: str, value: Any, source: Path | None) -> Any:
    if key == "image_size":
        return parse_image_size(value, order="wh", where="--hparams image_size")
    if key == "act_type" and value == "srelu":
        raise InputError(
            "--hparams act_type: expected an activation without variables of its own, found 'srelu'; such "
            "models cannot be ported."
        )
    if key == "label_map":
        return read_field(key, read_label_file(value, source.parent if source else None), "--hparams ")
    read_field(key, value, "--hparams ")
    return value


def _decay(values: Mapping[str, Any]) -> float | None:
    if "moving_average_decay" not in values:
        return None
    value = values["moving_average_decay"]
    return float(number(0, 1).read(0.0 if value is None else value, "--hparams moving_average_decay"))


def _from_yaml(path: Path) -> dict[str, Any]:
    loaded = read_yaml(path, "--hparams", text_of="label_map")
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise InputError(
            f"--hparams {path}: expected a mapping of names to values, found {shown(loaded)}; write one `key: value` a "
            "line."
        )
    return loaded


def _from_pairs(text: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, separator, value = pair.partition("=")
        if not separator or "=" in value or not key.strip():
            raise InputError(
                f"--hparams: expected key=value, found {shown(pair)} in {shown(text)}; separate list items by *, "
                "not by comma."
            )
        *parents, leaf = key.strip().split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(
                    f"--hparams {key.strip():.100}: expected {parent:.100} to hold keys, found a value as well."
                )
        place[leaf] = value if parents == ["label_map"] else _list_or_value(value)
    return result


def _list_or_value(text: str) -> Any:
    return [_value(item) for item in text.split("*")] if "*" in text else _value(text)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
