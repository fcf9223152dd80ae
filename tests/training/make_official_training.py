"""Make data/official_training.npz: targets, losses, gradients and schedules of google/automl's own training code.

    TF_USE_LEGACY_KERAS=1 python -m tests.training.make_official_training CLONE/efficientdet

Written with TensorFlow 2.21, tf-keras 2.21 and google/automl 6a54c87; losses and gradients as its Keras trainer runs
them, in a graph. What the trainer imports beside that is not needed, so empty modules stand in for it.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from tests.training.official_cases import (
    GRADIENT_STEP,
    LOSSES,
    MODELS,
    MOMENTUM,
    POSITIVES,
    SCHEDULES,
    Truth,
    head_outputs,
    loss_truths,
    schedule_steps,
    truths,
)

TARGET = Path(__file__).parent / "data" / "official_training.npz"
NOT_NEEDED = ("inference", "coco_metric", "neural_structured_learning", "tensorflow_hub", "tensorflow_addons")


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    for name in NOT_NEEDED:
        sys.modules[name] = types.ModuleType(name)
    stored: dict[str, np.ndarray] = {}
    for name, (model, truth) in truths().items():
        class_targets, box_targets, positives = _label(model, truth)
        classes = np.concatenate([level.reshape(-1) for level in class_targets])
        stored[f"targets|{name}|class"] = classes.astype(np.int16)
        boxes = np.concatenate([level.reshape(-1, 4) for level in box_targets])
        places = np.flatnonzero(boxes.any(axis=1)).astype(np.int32)
        stored[f"targets|{name}|places"], stored[f"targets|{name}|box"] = places, boxes[places]
        stored[f"targets|{name}|positives"] = np.float32(positives)
    for name, settings in LOSSES.items():
        stored.update({f"loss|{name}|{key}": value for key, value in _losses(settings).items()})
    stored["normalizers"] = _moving_normalizers()
    for name, settings in SCHEDULES.items():
        for generation in ("tf1", "tf2"):
            if generation == "tf2" and settings.get("method") == "constant":
                continue
            stored[f"schedule|{name}|{generation}"] = _schedule(generation, **settings)
    np.savez_compressed(TARGET, **stored)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


def _config(model: str) -> Any:
    import hparams_config

    config = hparams_config.default_detection_configs()
    values = dict(hparams_config.efficientdet_model_param_dict["efficientdet-d0"])
    for key, value in MODELS[model].items():
        if key == "aspect_ratios":
            value = [list(pair) for pair in value]
        values[key] = list(value) if key == "anchor_scale" and isinstance(value, tuple) else value
    config.override(values)
    return config


def _label(model: str, truth: Truth) -> Any:
    """Lists over levels of class targets and box targets, and the number of positives."""
    import tensorflow as tf
    from tf2 import anchors

    config = _config(model)
    boxes = anchors.Anchors(
        config.min_level, config.max_level, config.num_scales, config.aspect_ratios, config.anchor_scale,
        config.image_size,
    )
    labeler = anchors.AnchorLabeler(boxes, config.num_classes)
    classes = tf.constant(truth.classes.reshape(-1, 1), tf.float32)
    class_targets, box_targets, positives = labeler.label_anchors(tf.constant(truth.boxes), classes)
    return [v.numpy() for v in class_targets.values()], [v.numpy() for v in box_targets.values()], positives.numpy()


def _losses(settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """The loss terms of the Keras trainer, and its gradients at every GRADIENT_STEP-th value."""
    import tensorflow as tf
    from tf2 import train_lib

    config = _config("small")
    config.override(settings)
    labelled = [_label("small", truth) for truth in loss_truths()]
    labels: dict[str, Any] = {
        "mean_num_positives": tf.fill([2, 1], np.float32(np.mean([positives for _, _, positives in labelled])))
    }
    for place, level in enumerate(range(config.min_level, config.max_level + 1)):
        labels[f"cls_targets_{level}"] = tf.constant(np.stack([classes[place] for classes, _, _ in labelled]))
        labels[f"box_targets_{level}"] = tf.constant(np.stack([boxes[place] for _, boxes, _ in labelled]))
    none = tf.keras.losses.Reduction.NONE
    trainer = types.SimpleNamespace(
        config=config,
        loss={
            "FocalLoss": train_lib.FocalLoss(config.alpha, config.gamma, config.label_smoothing, reduction=none),
            "BoxLoss": train_lib.BoxLoss(config.delta, reduction=none),
        },
    )
    if config.iou_loss_type:
        trainer.loss["BoxIouLoss"] = train_lib.BoxIouLoss(
            config.iou_loss_type, config.min_level, config.max_level, config.num_scales, config.aspect_ratios,
            config.anchor_scale, config.image_size, reduction=none,
        )
    class_outputs, box_outputs = ([tf.constant(level) for level in levels] for levels in head_outputs())

    @tf.function
    def run() -> Any:
        terms: dict[str, Any] = {}
        with tf.GradientTape() as tape:
            tape.watch([class_outputs, box_outputs])
            total = train_lib.EfficientDetNetTrain._detection_loss(trainer, class_outputs, box_outputs, labels, terms)
        zero = tf.UnconnectedGradients.ZERO
        return terms, tape.gradient(total, [class_outputs, box_outputs], unconnected_gradients=zero)

    terms, gradients = run()
    found = {key: np.float32(value) for key, value in terms.items()}
    for key, levels in zip(("class", "box"), gradients, strict=True):
        flat = np.concatenate([level.numpy().reshape(-1) for level in levels])
        found[f"gradient|{key}"] = flat[::GRADIENT_STEP]
    return found


def _moving_normalizers() -> np.ndarray:
    """What the trainer for TF1 divides by, batch after batch, with `positives_momentum`."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        positives = tf.compat.v1.placeholder(tf.float32, [])
        moving = tf.compat.v1.Variable(0.0, trainable=False, use_resource=True)
        updated = tf.keras.backend.moving_average_update(moving, positives + 1.0, momentum=MOMENTUM)
        session.run(tf.compat.v1.global_variables_initializer())
        return np.array([session.run(updated, {positives: value}) for value in POSITIVES], np.float32)


def _schedule(
    generation: str, method: str = "cosine", batch_size: int = 64, epochs: int = 300, examples: int = 120000,
    **settings: Any,
) -> np.ndarray:
    import hparams_config
    import tensorflow as tf

    params = hparams_config.default_detection_configs().as_dict()
    params.update(
        settings, lr_decay_method=method, batch_size=batch_size, num_epochs=epochs, num_examples_per_epoch=examples,
        strategy=None, steps_per_epoch=examples // batch_size,
    )
    steps = schedule_steps(batch_size, epochs, examples)
    if generation == "tf2":
        from tf2 import train_lib

        schedule = train_lib.learning_rate_schedule(params)
        return np.array([float(schedule(tf.constant(step))) for step in steps], np.float32)
    import det_model_fn

    det_model_fn.update_learning_rate_schedule_parameters(params)
    return np.array(
        [float(det_model_fn.learning_rate_schedule(params, tf.constant(step))) for step in steps], np.float32
    )


if __name__ == "__main__":
    main()
