"""google/automl's `--hparams`: a YAML file or `key=value,key.sub=value`, turned into config fields.

Values are read as `hparams_config.py` (6a54c87) reads them: `true` and `false`, Python literals, else text;
`*` separates the items of a list (aspect_ratios=1.0*2.0*0.5); image sizes as text are WIDTHxHEIGHT.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.config import parse_image_size
from effdet_model.errors import InputError, unknown_name

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
    "autoaugment_policy",
    "ckpt_var_scope",
    "clip_gradients_norm",
    "data_format",
    "dataset_type",
    "delta",
    "drop_remainder",
    "first_lr_drop_epoch",
    "gamma",
    "grad_checkpoint",
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
    "optimizer",
    "poly_lr_power",
    "positives_momentum",
    "regenerate_source_id",
    "sample_image",
    "save_freq",
    "second_lr_drop_epoch",
    "seg_num_classes",
    "skip_crowd_during_training",
    "skip_mismatch",
    "strategy",
    "target_size",
    "tflite_max_detections",
    "use_keras_model",
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
    "testdev_dir",
    "val_json_file",
)
"""Keys that do not change what the network computes in inference (some are added by the official main.py)."""

_UNSUPPORTED_UNLESS = {"backbone_config": (None,), "heads": (["object_detection"], ("object_detection",))}


@dataclass(frozen=True)
class Hparams:
    """Parsed hyperparameters.

    Attributes:
        fields: for `EfficientDetConfig.replace`.
        ignored: keys that only training reads.
    """

    fields: Mapping[str, Any]
    ignored: tuple[str, ...]


def parse_hparams(text: str | None) -> Hparams:
    """Config fields from what google/automl's `--hparams` takes.

    Args:
        text: the path of a .yaml or .yml file, or `key=value,...`; empty or None: nothing.

    Raises:
        InputError: unreadable, an unknown key (nearest names are given), or one that has no counterpart here.
    """
    if not text:
        return Hparams({}, ())
    if text.endswith((".yaml", ".yml")) and "=" not in text:
        values = _from_yaml(Path(text))
    elif "=" in text:
        values = _from_pairs(text)
    else:
        raise InputError(
            f"--hparams: expected a .yaml file or key=value,key.sub=value, found {text!r}; e.g. num_classes=20."
        )
    return _to_fields(values)


def _to_fields(values: Mapping[str, Any]) -> Hparams:
    fields: dict[str, Any] = {}
    ignored = []
    for key, value in values.items():
        if key in _UNSUPPORTED_UNLESS:
            if value not in _UNSUPPORTED_UNLESS[key]:
                raise InputError(
                    f"--hparams {key}: expected {_UNSUPPORTED_UNLESS[key][0]!r}, found {value!r}; models with "
                    f"another {key} cannot be ported."
                )
        elif key in MODEL_HPARAMS:
            fields[key] = parse_image_size(value, order="wh") if key == "image_size" else value
        elif key in TRAINING_HPARAMS:
            ignored.append(key)
        else:
            raise unknown_name("hparams key", key, (*MODEL_HPARAMS, *TRAINING_HPARAMS, *_UNSUPPORTED_UNLESS))
    if fields.get("act_type") == "srelu":
        raise InputError(
            "--hparams act_type: expected an activation without variables of its own, found 'srelu'; such "
            "models cannot be ported."
        )
    return Hparams(fields, tuple(ignored))


def _from_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--hparams {path}: expected a YAML file, found: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--hparams {path}: expected YAML, found: {reason}.") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise InputError(
            f"--hparams {path}: expected a mapping of names to values, found {type(loaded).__name__}."
        )
    return loaded


def _from_pairs(text: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, separator, value = pair.partition("=")
        if not separator or "=" in value or not key.strip():
            raise InputError(
                f"--hparams: expected key=value, found {pair!r} in {text!r}; separate list items by *, not by comma."
            )
        *parents, leaf = key.strip().split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(
                    f"--hparams {key.strip()}: expected {parent} to hold keys, found a value as well."
                )
        place[leaf] = _list_or_value(value)
    return result


def _list_or_value(text: str) -> Any:
    return [_value(item) for item in text.split("*")] if "*" in text else _value(text)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
