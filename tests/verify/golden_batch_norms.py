"""Compare the reference's batch norms with golden samples: SHARED_FOLDER NAME ...; prints name, count, worst.

A process of its own, since it imports TensorFlow.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model import get_config
from tests.verify.test_reference import load_make_checkpoint
from verify.reference.network import Reference


def worst_batch_norm(shared: Path, name: str) -> tuple[int, float]:
    """(how many batch norms, largest difference of a sample relative to the layer's largest value)."""
    tool = load_make_checkpoint(shared)
    meta = json.loads((shared / "golden" / f"{name}.json").read_text())
    golden = np.load(shared / "golden" / f"{name}.npz")
    shapes = {variable: tuple(shape) for variable, shape in meta["variables"]}
    samples: dict[str, np.ndarray] = {}

    def watch(scope: str, output: Any) -> None:
        values = output.numpy()
        samples[scope] = values.reshape(-1)[tool.layer_sample_indices(scope, values.size)]

    config = get_config(meta["model"], **meta["hparams"]).to_dict()
    reference = Reference(config, lambda variable: tool.value(variable, shapes[variable]), on_batch_norm=watch)
    for _ in reference.layers(tool.golden_input(*meta["image_size"])):
        pass
    rows = zip(golden["layer_names"], golden["layer_samples"], golden["layer_stats"], strict=True)
    return len(samples), max(np.abs(samples[str(scope)] - row).max() / stats[2] for scope, row, stats in rows)


if __name__ == "__main__":
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="-1")
    for golden_name in sys.argv[2:]:
        print(golden_name, *worst_batch_norm(Path(sys.argv[1]), golden_name))
