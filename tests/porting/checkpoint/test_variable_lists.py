"""Our reader beside TensorFlow's on the variable list of every official architecture, as a training run saves it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from demo.synthetic import SLOT, synthetic_value
from mappings.committed import TABLES, read_committed_table
from porting.checkpoint.dialects import EMA_SUFFIX
from porting.checkpoint.tensorbundle import TensorBundle

ARCHITECTURES = sorted(path.stem for path in TABLES.glob("*.tsv"))

# Saves what arrays.npz holds by the operation that tf.train.Saver runs, and what tf.train.load_checkpoint then reads.
SAVE_AND_READ = """
import os, sys
import numpy as np
import tensorflow as tf
for folder in sys.argv[1:]:
    arrays = dict(np.load(os.path.join(folder, "arrays.npz")))
    prefix = os.path.join(folder, "model")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=list(arrays), shape_and_slices=[""] * len(arrays),
                      tensors=list(arrays.values()))
    reader = tf.train.load_checkpoint(prefix)
    names = reader.get_variable_to_shape_map()
    np.savez(os.path.join(folder, "read.npz"), **{name: reader.get_tensor(name) for name in names})
"""


def small_arrays(architecture: str) -> dict[str, np.ndarray]:
    """Every name of the list with its moving average and slot, each side of a shape cut to at most 2."""
    arrays: dict[str, np.ndarray] = {"global_step": np.asarray(7, np.int64)}
    for name, shape in read_committed_table(architecture).tensorflow_shapes.items():
        small = tuple(min(side, 2) for side in shape)
        for suffix in ("", EMA_SUFFIX, SLOT):
            arrays[name + suffix] = synthetic_value(name + suffix, small)
    return arrays


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for architecture in ARCHITECTURES:
        folders[architecture] = tmp_path_factory.mktemp(architecture)
        np.savez(folders[architecture] / "arrays.npz", **small_arrays(architecture))
    subprocess.run(
        [sys.executable, "-c", SAVE_AND_READ, *map(str, folders.values())],
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_is_what_tensorflow_reads(architecture: str, saved: dict[str, Path]) -> None:
    expected = dict(np.load(saved[architecture] / "read.npz"))
    with TensorBundle(saved[architecture] / "model") as bundle:
        assert set(bundle.entries) == set(expected)
        for name, value in expected.items():
            mine = bundle.read(name)
            assert (mine.dtype, mine.shape, mine.tobytes()) == (value.dtype, value.shape, value.tobytes()), name
