"""Official-layout checkpoints with seeded weights, for the demo, tests and benchmarks: no download needed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.variants import get_config
from mappings.committed import table_for
from porting.tensorbundle_writer import write_checkpoint

EMA = "/ExponentialMovingAverage"
SLOT = "/Momentum"


def synthetic_value(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A plausible float32 value of a canonical variable name; depends on name, shape and seed alone.

    Kernels keep the variance of what passes through, batch norms are near identity, and class scores start low,
    so that activations stay of order one through the deepest variant.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    leaf = name.rsplit("/", 1)[-1]
    if leaf.startswith("WSM"):
        value = random.uniform(0.2, 1.5, shape)
    elif leaf in ("gamma", "moving_variance"):
        value = random.uniform(0.7, 1.3, shape)
    elif leaf in ("beta", "moving_mean", "bias"):
        value = random.normal(0.0, 0.1, shape) - (4.0 if "class-predict" in name else 0.0)
    else:
        inputs = np.prod(shape[:2] if leaf == "depthwise_kernel" else shape[:-1])
        value = random.normal(0.0, float(inputs) ** -0.5, shape)
    return np.asarray(value, np.float32)


def synthetic_tensors(
    config: EfficientDetConfig, seed: int = 0, ema: bool = True, momentum: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    """What a training run leaves: raw values, moving averages, optimizer slots and the step counter.

    The moving average of X is `synthetic_value(X)`, its raw value (where there is a moving average) another.
    """
    yield "global_step", np.asarray(300, np.int64)
    for name, shape in table_for(config).tensorflow_shapes.items():
        value = synthetic_value(name, shape, seed)
        if ema:
            yield name + EMA, value
            value = value + np.float32(0.01) * synthetic_value(f"{name}#", shape, seed)
            if name.endswith("moving_variance"):
                value = np.abs(value)
        yield name, value
        if momentum and "moving_" not in name:
            yield name + SLOT, np.zeros(shape, np.float32)


def write_synthetic_checkpoint(
    variant: str | EfficientDetConfig, folder: Path, seed: int = 0, ema: bool = True, momentum: bool = True
) -> Path:
    """Write such a checkpoint into `folder` (made where missing) and return its prefix, FOLDER/model.

    Raises:
        InputError: the folder cannot be made or written to, or the config has no TensorFlow counterpart.
    """
    config = get_config(variant) if isinstance(variant, str) else variant
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror}; name another.") from error
    write_checkpoint(folder / "model", synthetic_tensors(config, seed, ema, momentum))
    return folder / "model"
