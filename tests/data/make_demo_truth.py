"""Make demo/data/official: what google/automl's own code makes of the demo's checkpoint and pictures.

    TF_USE_LEGACY_KERAS=1 EFFDET_PORT_AUTOML=CLONE python -m tests.data.make_demo_truth

Needs `pip install tf-keras`; written with TensorFlow 2.21 and google/automl 6a54c87. Everything between the files and
the metrics is called in the clone, as its tf2/eval.py calls it: reading TFRecords (decoding, normalisation, resize,
padding), network, checkpoint, moving averages, suppression, pycocotools.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from demo.resources import ANNOTATIONS, ARCHIVE, ASPECT_RATIOS, IMAGE_SIZE, IMAGES, OFFICIAL, VARIANT
from verify.reference.automl import efficientdet_folder

MODES: dict[str, dict[str, Any]] = {
    "numpy.gaussian": {"method": "gaussian", "pyfunc": True},
    "per_class.gaussian": {"method": "gaussian", "pyfunc": False},
    "per_class.hard": {"method": "hard", "pyfunc": False},
}
"""Name of the results -> what differs in the official `nms_configs`."""


def official_config(suppression: Mapping[str, Any]) -> Any:
    """The clone's own configuration with the demo's sizes; 5000 candidates, as its eval.py sets them."""
    import hparams_config
    from tf2 import anchors

    config = hparams_config.get_efficientdet_config(f"efficientdet-{VARIANT}")
    config.override({"image_size": IMAGE_SIZE, "aspect_ratios": list(ASPECT_RATIOS), "drop_remainder": False})
    config.nms_configs.max_nms_inputs = anchors.MAX_DETECTION_POINTS
    config.nms_configs.override(dict(suppression))
    return config


def write_records(folder: Path) -> Path:
    """The demo's pictures, byte for byte, and their boxes as the TFRecord that the official reader takes."""
    import tensorflow as tf

    def feature(kind: str, values: list[Any]) -> Any:
        lists = {"bytes": tf.train.BytesList, "int64": tf.train.Int64List, "float": tf.train.FloatList}
        return tf.train.Feature(**{f"{kind}_list": lists[kind](value=values)})

    content = json.loads(ANNOTATIONS.read_text(encoding="utf-8"))
    target = folder / "demo.tfrecord"
    with tf.io.TFRecordWriter(str(target)) as writer:
        for image in content["images"]:
            found = [one for one in content["annotations"] if one["image_id"] == image["id"]]
            boxes = np.array([one["bbox"] for one in found], np.float64).reshape(-1, 4)
            corners = np.column_stack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))
            corners /= [image["width"], image["height"]] * 2
            features = {
                "image/encoded": feature("bytes", [(IMAGES / image["file_name"]).read_bytes()]),
                "image/source_id": feature("bytes", [str(image["id"]).encode()]),
                "image/height": feature("int64", [image["height"]]),
                "image/width": feature("int64", [image["width"]]),
                "image/object/class/label": feature("int64", [one["category_id"] for one in found]),
                "image/object/area": feature("float", [one["area"] for one in found]),
                "image/object/is_crowd": feature("int64", [one["iscrowd"] for one in found]),
            }
            for place, name in enumerate(("xmin", "ymin", "xmax", "ymax")):
                features[f"image/object/bbox/{name}"] = feature("float", corners[:, place].tolist())
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return target


def official_network(config: Any, folder: Path) -> Any:
    """The clone's network with the moving averages of the demo's checkpoint, every variable checked."""
    import tensorflow as tf
    from tf2 import efficientdet_keras, util_keras

    with tarfile.open(ARCHIVE) as archive:
        for entry in archive.getmembers():
            content = archive.extractfile(entry)
            assert content is not None
            (folder / Path(entry.name).name).write_bytes(content.read())
    prefix = tf.train.latest_checkpoint(str(folder))
    model = efficientdet_keras.EfficientDetNet(config=config)
    model.build((None, *IMAGE_SIZE, 3))
    util_keras.restore_ckpt(model, prefix, config.moving_average_decay)
    reader = tf.train.load_checkpoint(prefix)
    stored = {name for name in reader.get_variable_to_shape_map() if name != "global_step"}
    names = {f"{variable.name.removesuffix(':0')}/ExponentialMovingAverage": variable for variable in model.weights}
    assert set(names) == stored, sorted(set(names) ^ stored)
    for name, variable in names.items():
        np.testing.assert_array_equal(variable.numpy(), reader.get_tensor(name), err_msg=name)
    return model


def evaluate(config: Any, model: Any, records: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(COCO results of every detection with a score above 0, the 12 metrics)."""
    import coco_metric
    import dataloader
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    from tf2 import postprocess

    evaluator = coco_metric.EvaluationMetric(filename=str(ANNOTATIONS))
    reader = dataloader.InputReader(
        str(records), is_training=False, max_instances_per_image=config.max_instances_per_image
    )
    for images, labels in reader(config, batch_size=1):
        class_outputs, box_outputs = model(images, training=False)
        found = postprocess.generate_detections(
            config, class_outputs, box_outputs, labels["image_scales"], labels["source_ids"]
        )
        evaluator.update_state(labels["groundtruth_data"].numpy(), postprocess.transform_detections(found).numpy())
    official = evaluator.result()
    rows = np.array(evaluator.detections, np.float32)
    results = [
        {
            "image_id": int(row[0]),
            "category_id": int(row[6]),
            "bbox": [_short(value) for value in row[1:5]],
            "score": _short(row[5]),
        }
        for row in rows[rows[:, 5] > 0]
    ]
    truth = COCO(str(ANNOTATIONS))
    judge = COCOeval(truth, truth.loadRes([dict(result) for result in results]), iouType="bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    np.testing.assert_allclose(judge.stats, official[:12], atol=1e-6)
    return results, dict(zip(evaluator.metric_names, judge.stats.tolist(), strict=True))


def _short(value: Any) -> float:
    """The shortest number that is the same float32."""
    return float(str(np.float32(value)))


def main() -> None:
    """Write the detections of every mode, one a line, and metrics.json."""
    sys.path.insert(0, str(efficientdet_folder(Path(os.environ["EFFDET_PORT_AUTOML"]))))
    target = OFFICIAL
    target.mkdir(exist_ok=True)
    metrics = {}
    with tempfile.TemporaryDirectory() as folder:
        records = write_records(Path(folder))
        model = official_network(official_config({}), Path(folder))
        for mode, suppression in MODES.items():
            results, metrics[mode] = evaluate(official_config(suppression), model, records)
            lines = ",\n".join(json.dumps(result) for result in results)
            (target / f"{mode}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            print(f"{mode}: {len(results)} detections, AP {metrics[mode]['AP']:.4f}", flush=True)
    (target / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
