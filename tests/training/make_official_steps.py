"""Make data/official_steps.npz: five training steps of google/automl's own trainer for TensorFlow 1.

    TF_USE_LEGACY_KERAS=1 python -m tests.training.make_official_steps CLONE/efficientdet

Written with TensorFlow 2.21, tf-keras 2.21 and google/automl 6a54c87: its `_model_fn` as its Estimator runs it, on one
device, in float32; drop path (which all backbones but b0 have, lite0 too) is left out, being random. The Estimator
itself is not in this TensorFlow, so empty stand-ins take what is given to it.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from tests.training.official_step_cases import IMAGE_SIZE, STEPS, VARIANTS, batches, sampled, small, weights

TARGET = Path(__file__).parent / "data" / "official_steps.npz"
NOT_NEEDED = ("inference", "coco_metric", "neural_structured_learning", "tensorflow_hub", "tensorflow_addons")


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    for name in NOT_NEEDED:
        sys.modules[name] = types.ModuleType(name)
    import tensorflow.compat.v1 as tf
    import utils

    tf.disable_eager_execution()
    utils.drop_connect = lambda inputs, is_training, survival_prob: inputs
    _stand_in_for_the_estimator(tf)
    stored: dict[str, np.ndarray] = {}
    for variant in VARIANTS:
        stored.update({f"{variant}|{name}": value for name, value in _as_tables(_train(tf, variant)).items()})
    np.savez_compressed(TARGET, **stored)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


def _stand_in_for_the_estimator(tf: Any) -> None:
    import det_model_fn

    estimator = types.SimpleNamespace(
        ModeKeys=types.SimpleNamespace(TRAIN="train", EVAL="eval", PREDICT="infer"),
        EstimatorSpec=lambda **given: types.SimpleNamespace(**given),
        SessionRunHook=object, SessionRunArgs=None, LoggingTensorHook=lambda *given, **named: None,
    )

    class WithEstimator(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return estimator if name == "estimator" else getattr(tf, name)

    det_model_fn.tf = WithEstimator("tf")


def _params(variant: str) -> dict[str, Any]:
    import hparams_config

    config = hparams_config.get_efficientdet_config(f"efficientdet-{variant}")
    config.override({**small(), "image_size": IMAGE_SIZE})
    return {
        **config.as_dict(), "batch_size": 64, "num_shards": 1, "num_examples_per_epoch": 120000, "model_dir": "",
        "iterations_per_loop": 100, "img_summary_steps": None, "strategy": None, "profile": False, "ckpt": None,
        "backbone_ckpt": None,
    }


def _labels(tf: Any, config: dict[str, Any], boxes: list[np.ndarray], classes: list[np.ndarray]) -> dict[str, Any]:
    """As `dataloader.py` makes them for one batch."""
    from tf2 import anchors

    own = anchors.Anchors(
        config["min_level"], config["max_level"], config["num_scales"], config["aspect_ratios"],
        config["anchor_scale"], IMAGE_SIZE,
    )
    labeler = anchors.AnchorLabeler(own, config["num_classes"])
    found = [
        labeler.label_anchors(tf.constant(one), tf.constant(kinds.reshape(-1, 1), tf.float32))
        for one, kinds in zip(boxes, classes, strict=True)
    ]
    positives = tf.stack([one[2] for one in found])
    labels = {"mean_num_positives": tf.fill([len(found), 1], tf.reduce_mean(positives))}
    for level in range(config["min_level"], config["max_level"] + 1):
        labels[f"cls_targets_{level}"] = tf.stack([one[0][level] for one in found])
        labels[f"box_targets_{level}"] = tf.stack([one[1][level] for one in found])
    return labels


def _train(tf: Any, variant: str) -> dict[str, np.ndarray]:
    import det_model_fn

    params = _params(variant)
    given = batches(params["num_classes"])
    with tf.Graph().as_default(), tf.Session() as label_session:
        labelled = [label_session.run(_labels(tf, params, boxes, classes)) for _, boxes, classes in given]
    stored: dict[str, np.ndarray] = {}
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.float32, given[0][0].shape)
        labels = {name: tf.placeholder(value.dtype, value.shape) for name, value in labelled[0].items()}
        spec = det_model_fn.efficientdet_model_fn(images, labels, "train", params)
        summaries = tf.summary.merge_all()
        session.run(tf.global_variables_initializer())
        variables = {variable.op.name: variable for variable in tf.global_variables()}
        own = weights({name: tuple(variable.shape) for name, variable in variables.items() if _is_model(name)})
        averages = {f"{name}/ExponentialMovingAverage": value for name, value in own.items()}
        given_values = {variables[name].initializer: value for name, value in {**own, **averages}.items()}
        session.run(list(given_values), {first.inputs[1]: value for first, value in given_values.items()})
        print(f"{variant}: built", flush=True)
        for place, ((pixels, _, _), targets) in enumerate(zip(given, labelled, strict=True)):
            feed = {images: pixels, **{labels[name]: value for name, value in targets.items()}}
            told, _ = session.run([summaries, spec.train_op], feed)
            summary = tf.Summary.FromString(told)
            for value in summary.value:
                stored[f"{place}|{value.tag.rsplit('/', 1)[-1]}"] = np.float32(value.simple_value)
            if place in (0, STEPS - 1):
                found = session.run({name: variable for name, variable in variables.items() if "global" not in name})
                stored.update({f"{place}|{name}": sampled(value) for name, value in found.items()})
    return stored


def _as_tables(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One table [names, samples + 1] of each step; names as one text. Terms: [steps, names]."""
    tables: dict[str, np.ndarray] = {}
    names = sorted({name.split("|", 1)[1] for name, value in found.items() if value.ndim})
    tables["names"] = np.array("\n".join(names))
    for place in (0, STEPS - 1):
        tables[f"{place}"] = np.stack([found[f"{place}|{name}"] for name in names])
    terms = sorted({name.split("|", 1)[1] for name, value in found.items() if not value.ndim})
    tables["term_names"] = np.array("\n".join(terms))
    tables["terms"] = np.array([[found[f"{place}|{term}"] for term in terms] for place in range(STEPS)], np.float32)
    return tables


def _is_model(name: str) -> bool:
    return not name.endswith(("/Momentum", "/ExponentialMovingAverage")) and "global_step" not in name


if __name__ == "__main__":
    main()
