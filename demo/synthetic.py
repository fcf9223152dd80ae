"""Official-layout checkpoints with seeded weights, for the demo, tests and benchmarks: no download needed.

Without calibration the values depend on names and shapes alone, which is quick and enough to test where each goes;
but what such a deep network computes hardly depends on its input. `calibrated_statistics` sets the batch norms'
statistics from images, as training would, so that outputs do.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.variants import get_config
from mappings.committed import table_for
from mappings.layouts import LAYOUTS
from porting.checkpoint.dialects import EMA_SUFFIX
from porting.checkpoint.write_tensorbundle import write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

SLOT = "/Momentum"


def synthetic_value(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A plausible float32 value of a canonical variable name; depends on name, shape and seed alone.

    Kernels keep the variance of what passes through, batch norms are near identity, class scores are low and boxes
    near their anchors.
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
        gain = 0.1 if "box-predict" in name else 0.5 if "class-predict" in name else 1.0
        value = random.normal(0.0, gain * float(inputs) ** -0.5, shape)
    return np.asarray(value, np.float32)


def calibrated_statistics(config: EfficientDetConfig, images: Tensor, seed: int = 0) -> dict[str, np.ndarray]:
    """Moving means and variances that make every batch norm of the synthetic weights normalise `images`.

    Args:
        images: float [N, 3, H, W], normalised.

    Returns:
        Canonical name -> float32 [channels].
    """
    import torch

    from effdet_model.efficientdet import EfficientDet

    model = EfficientDet(config).eval()
    rows = table_for(config).rows
    state = {}
    for row in rows:
        values = [synthetic_value(name, row.tensorflow_shape, seed) for name in row.tensorflow_names]
        state[row.pytorch_key] = torch.from_numpy(np.array(LAYOUTS[row.kind].to_pytorch(values)))
    model.load_state_dict(state)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        model(images)
    calibrated = model.state_dict()
    return {
        row.tensorflow_names[0]: calibrated[row.pytorch_key].numpy()
        for row in rows
        if row.pytorch_key.endswith((".running_mean", ".running_var"))
    }


def synthetic_tensors(
    config: EfficientDetConfig,
    seed: int = 0,
    ema: bool = True,
    momentum: bool = True,
    statistics: Mapping[str, np.ndarray] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """What a training run leaves: raw values, moving averages, optimizer slots and the step counter.

    The moving average of X is `statistics[X]`, else `synthetic_value(X)`; its raw value (where there is a moving
    average) is another.
    """
    known = statistics or {}
    yield "global_step", np.asarray(300, np.int64)
    for name, shape in table_for(config).tensorflow_shapes.items():
        value = known[name] if name in known else synthetic_value(name, shape, seed)
        if ema:
            yield name + EMA_SUFFIX, value
            value = value + np.float32(0.01) * synthetic_value(f"{name}#", shape, seed)
            if name.endswith("moving_variance"):
                value = np.abs(value)
        yield name, value
        if momentum and "moving_" not in name:
            yield name + SLOT, np.zeros(shape, np.float32)


def write_synthetic_checkpoint(
    variant: str | EfficientDetConfig,
    folder: Path,
    seed: int = 0,
    ema: bool = True,
    momentum: bool = True,
    images: Tensor | None = None,
) -> Path:
    """Write such a checkpoint into `folder` (made where missing) and return its prefix, FOLDER/model.

    Args:
        images: float [N, 3, H, W], normalised, on which the batch norms are calibrated; None: they are not.

    Raises:
        InputError: the folder cannot be made or written to, or the config has no TensorFlow counterpart.
    """
    config = get_config(variant) if isinstance(variant, str) else variant
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror}; name another.") from error
    statistics = None if images is None else calibrated_statistics(config, images, seed)
    write_checkpoint(folder / "model", synthetic_tensors(config, seed, ema, momentum, statistics))
    return folder / "model"
