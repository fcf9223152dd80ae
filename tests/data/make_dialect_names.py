"""Make dialect_names.json.gz: the variable names of unusual configurations in the three dialects.

    TF_USE_LEGACY_KERAS=1 python tests/data/make_dialect_names.py PATH/TO/automl/efficientdet

Needs TensorFlow and a checkout of google/automl (made with 6a54c87 and TensorFlow 2.21). Each case has `tf1`
(name -> shape), `h5` and `object` (raw names) and `graph` (the object graph, base64).
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qufpn": ("efficientdet-d0", {"fpn_name": "qufpn"}),
    "plain convolutions": ("efficientdet-d0", {"separable_conv": False, "num_classes": 3}),
    "attn, levels 4 to 7": ("efficientdet-d1", {"fpn_weight_method": "attn", "min_level": 4}),
    "lite, levels 3 to 8": ("efficientdet-lite1", {"max_level": 8}),
    "levels 2 to 6": ("efficientdet-d0", {"min_level": 2, "max_level": 6}),
    "channel_attn, conv_bn_act": (
        "efficientdet-d0",
        {"conv_bn_act_pattern": True, "fpn_weight_method": "channel_attn"},
    ),
    "levels 3 to 5, no batch norm at resampling": (
        "efficientdet-d0",
        {"max_level": 5, "apply_bn_for_resampling": False},
    ),
}


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    import efficientdet_arch
    import h5py
    import hparams_config
    import tensorflow as tf
    from tf2 import efficientdet_keras

    result = {}
    for title, (model, changes) in CASES.items():
        config = hparams_config.get_efficientdet_config(model)
        config.override({**changes, "image_size": 256})
        with tf.Graph().as_default():
            images = tf.compat.v1.placeholder(tf.float32, [1, 256, 256, 3])
            efficientdet_arch.efficientdet(images, config=config)
            names = {v.op.name: v.shape.as_list() for v in tf.compat.v1.global_variables()}
        net = efficientdet_keras.EfficientDetNet(config=config)
        net.build((1, 256, 256, 3))
        with tempfile.TemporaryDirectory() as folder:
            net.save_weights(f"{folder}/net.h5")
            net.save_weights(f"{folder}/net")
            with h5py.File(f"{folder}/net.h5") as file:
                h5 = [
                    f"{layer}/{weight}"
                    for layer in file.attrs["layer_names"]
                    for weight in file[layer].attrs["weight_names"]
                ]
            reader = tf.train.load_checkpoint(f"{folder}/net")
            graph = base64.b64encode(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")).decode()
            objects = sorted(reader.get_variable_to_shape_map())
        result[title] = {"tf1": names, "h5": h5, "object": objects, "graph": graph}
    content = json.dumps(result, separators=(",", ":")).encode()
    Path(__file__).with_name("dialect_names.json.gz").write_bytes(gzip.compress(content, 9, mtime=0))


if __name__ == "__main__":
    main()
