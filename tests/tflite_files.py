"""TFLite files of made-up weights, as TensorFlow's own converter makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from demo.synthetic import write_synthetic_checkpoint
from effdet_model.variants import get_config

SIZE = (128, 192)


def make_files(folder: Path, variant: str, *kinds: str) -> Path:
    """checkpoint/, KIND.tflite and outputs.npz (see `tests.make_tflite`) in a folder whose names say no variant."""
    prefix = write_synthetic_checkpoint(variant, folder / "checkpoint", ema=False, momentum=False)
    (folder / "config.json").write_text(json.dumps(get_config(variant, image_size=SIZE).to_dict()))
    words = [str(prefix), str(folder / "config.json"), str(folder), *kinds]
    done = subprocess.run([sys.executable, "-m", "tests.make_tflite", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder
