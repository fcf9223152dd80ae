"""What google/automl says of every EfficientDet, as plain data under its names: the reference's own configuration.

Source: `hparams_config.py`, `Det-AdvProp.md` and `utils.py` (6a54c87) and the history of both, read for this; a test
compares the tables with a clone. Nothing here comes from the PyTorch side, and nothing of it is used there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "act_type": "swish",
    "image_size": 640,
    "num_classes": 90,
    "label_map": None,
    "min_level": 3,
    "max_level": 7,
    "num_scales": 3,
    "aspect_ratios": [1.0, 2.0, 0.5],
    "anchor_scale": 4.0,
    "mean_rgb": [0.485 * 255, 0.456 * 255, 0.406 * 255],
    "stddev_rgb": [0.229 * 255, 0.224 * 255, 0.225 * 255],
    "scale_range": False,
    "box_class_repeats": 3,
    "fpn_cell_repeats": 3,
    "fpn_num_filters": 88,
    "separable_conv": True,
    "apply_bn_for_resampling": True,
    "conv_after_downsample": False,
    "conv_bn_act_pattern": False,
    "nms_configs": {
        "method": "gaussian",
        "iou_thresh": None,
        "score_thresh": 0.0,
        "sigma": None,
        "pyfunc": False,
        "max_nms_inputs": 0,
        "max_output_size": 100,
    },
    "fpn_name": None,
    "fpn_weight_method": None,
    "fpn_config": None,
    "survival_prob": None,
    "backbone_name": "efficientnet-b1",
}
"""Every hyperparameter that changes what is computed in inference, as it is where nothing else is said."""

_ROW = ("backbone_name", "image_size", "fpn_num_filters", "fpn_cell_repeats", "box_class_repeats")
_SUM = {"fpn_weight_method": "sum"}
_LITE = {"mean_rgb": 127.0, "stddev_rgb": 128.0, "act_type": "relu6", **_SUM}


def _variant(*row: Any, **more: Any) -> dict[str, Any]:
    return {**dict(zip(_ROW, row, strict=True)), **more}


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "efficientdet-d0": _variant("efficientnet-b0", 512, 64, 3, 3),
    "efficientdet-d1": _variant("efficientnet-b1", 640, 88, 4, 3),
    "efficientdet-d2": _variant("efficientnet-b2", 768, 112, 5, 3),
    "efficientdet-d3": _variant("efficientnet-b3", 896, 160, 6, 4),
    "efficientdet-d4": _variant("efficientnet-b4", 1024, 224, 7, 4),
    "efficientdet-d5": _variant("efficientnet-b5", 1280, 288, 7, 4),
    "efficientdet-d6": _variant("efficientnet-b6", 1280, 384, 8, 5, **_SUM),
    "efficientdet-d7": _variant("efficientnet-b6", 1536, 384, 8, 5, anchor_scale=5.0, **_SUM),
    "efficientdet-d7x": _variant("efficientnet-b7", 1536, 384, 8, 5, anchor_scale=4.0, max_level=8, **_SUM),
    "efficientdet-lite0": _variant("efficientnet-lite0", 320, 64, 3, 3, anchor_scale=3.0, **_LITE),
    "efficientdet-lite1": _variant("efficientnet-lite1", 384, 88, 4, 3, anchor_scale=3.0, **_LITE),
    "efficientdet-lite2": _variant("efficientnet-lite2", 448, 112, 5, 3, anchor_scale=3.0, **_LITE),
    "efficientdet-lite3": _variant("efficientnet-lite3", 512, 160, 6, 4, **_LITE),
    "efficientdet-lite3x": _variant("efficientnet-lite3", 640, 200, 6, 4, anchor_scale=3.0, **_LITE),
    "efficientdet-lite4": _variant("efficientnet-lite4", 640, 224, 7, 4, **_LITE),
}
"""What each model changes of the defaults (`efficientdet_model_param_dict`, `efficientdet_lite_param_dict`)."""

_PAIRS = {"aspect_ratios": [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]]}
_D = tuple(f"efficientdet-d{size}" for size in ("0", "1", "2", "3", "4", "5", "6", "7", "7x"))

FAMILIES: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "coco": (_D, _PAIRS),
    "coco2": (_D, _PAIRS),
    "coco640": (_D[2:7], {**_PAIRS, "image_size": 640}),
    "advprop": (_D[:6], {"mean_rgb": 0.0, "stddev_rgb": 1.0, "scale_range": True}),
    "lite": (tuple(name for name in VARIANTS if "lite" in name), {}),
}
"""Family -> its models, and what the code of its day had otherwise.

Until 7c9d26d (2020-09-10) anchors were (width, height) factors; coco, coco2 and coco640 were trained before, advprop
(d8f4c24, which scales pixels to [-1, 1]) and lite (8ca79e3) after.
"""

SUFFIXES: Mapping[str, str] = {"_ap": "advprop", "_640": "coco640"}
"""How this project's users name the models of a family that has its own preprocessing or size."""

FIXED: Mapping[str, Any] = {
    "pad_type": "same",
    "redundant_bias": True,
    "norm_layer": "batchnorm2d",
    "norm_kwargs": {"eps": 1e-3, "momentum": 0.01},
    "head_act_type": None,
    "head_bn_level_first": False,
    "downsample_type": "max",
    "upsample_type": "nearest",
    "backbone_args": {},
    "backbone_indices": None,
}
"""What the official code has no choice of, in the words of PyTorch: SAME padding, biases before batch norms (of
epsilon 1e-3 and momentum 0.99, which PyTorch counts as 0.01), max pooling, nearest neighbours."""

TRAINING = frozenset(
    """alpha autoaugment_policy backbone_config box_loss_weight ckpt_var_scope clip_gradients_norm data_format
    dataset_type delta drop_remainder first_lr_drop_epoch gamma grad_checkpoint grid_mask heads img_summary_steps
    input_rand_hflip iou_loss_type iou_loss_weight is_training_bn jitter_max jitter_min label_smoothing learning_rate
    loss_scale lr_decay_method lr_warmup_epoch lr_warmup_init map_freq max_instances_per_image mixed_precision momentum
    moving_average_decay name num_epochs optimizer poly_lr_power positives_momentum regenerate_source_id sample_image
    save_freq second_lr_drop_epoch seg_num_classes skip_crowd_during_training skip_mismatch strategy target_size
    tflite_max_detections use_keras_model var_freeze_expr verbose weight_decay""".split()
)
"""Hyperparameters that change nothing of what is computed here in inference."""

TRAINER = frozenset(
    """backbone_ckpt batch_size ckpt eval_samples iterations_per_loop mode model_dir model_name model_optimizations
    num_examples_per_epoch num_shards profile steps_per_epoch testdev_dir val_json_file""".split()
)
"""What the official trainers add to the configurations they write."""
