"""Makes .tflite files of a checkpoint with TensorFlow's converter, from the reference's network; a process of its own.

    python -m tests.make_tflite CHECKPOINT CONFIG.json FOLDER KIND ...

Writes FOLDER/KIND.tflite (float32, float16, int8, dynamic) and FOLDER/outputs.npz: "images" of noise, float32
[1, H, W, 3], and what the network gives for them under the names of the signature (output_0 .. classes from the finest
level on, then boxes).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from porting.checkpoint.sources import open_source  # noqa: E402
from verify.reference.network import Reference  # noqa: E402


class Network(Reference):
    """The reference without its way out to numpy."""

    def _layer(self, name: str, compute: Any) -> Any:
        self.ops.forget_uses()
        out = compute()
        yield name, out
        return out


def main(checkpoint: str, config_file: str, folder: str, *kinds: str) -> None:
    config = json.loads(Path(config_file).read_text())
    height, width = config["image_size"]
    with open_source(checkpoint) as source:
        kept = {name: source.read(name, "raw") for name in source.variables}
        scope = source.backbone_scope

    @tf.function(input_signature=[tf.TensorSpec([1, height, width, 3], tf.float32, name="images")])
    def predict(images: Any) -> dict[str, Any]:
        network = Network(config, kept.__getitem__, "float32", scope)
        outputs = [out for name, out in network._layers_of(images) if ".predict." in name]
        return {f"output_{place}": out for place, out in enumerate(outputs)}

    module = tf.Module()
    module.predict = predict
    concrete = predict.get_concrete_function()
    random = np.random.RandomState(0)
    images = random.standard_normal([1, height, width, 3]).astype(np.float32)
    np.savez(Path(folder) / "outputs.npz", images=images, **{key: out.numpy() for key, out in predict(images).items()})
    exported = Path(folder) / "saved_model"
    tf.saved_model.save(module, str(exported), {"predict": concrete})
    for kind in kinds:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(exported), ["predict"])
        if kind != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind == "int8":
            converter.representative_dataset = lambda: ([random.standard_normal(images.shape).astype(np.float32)]
                                                        for _ in range(2))  # fmt: skip
            converter.inference_input_type = tf.uint8
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        (Path(folder) / f"{kind}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main(*sys.argv[1:])
