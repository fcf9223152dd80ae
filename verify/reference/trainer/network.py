"""The reference network in training: its variables are trained, batch norms use the batch's own statistics."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np

from verify.reference.network import Layer, Reference
from verify.reference.ops import BATCH_NORM, Ops, Reader, Tensor
from verify.reference.trainer.facts import BATCH_NORM_MOMENTUM

_NOTHING = np.empty(0)


class TrainedOps(Ops):
    """Ops on TensorFlow variables.

    Attributes:
        variables: by canonical name; what is trained has `trainable`.
        statistics: after a forward pass: (moving variable, the batch's value) of every batch norm.
    """

    def __init__(self, read: Reader, dtype: str, activation: str) -> None:
        super().__init__(read, dtype, activation)
        self.variables: dict[str, Tensor] = {}
        self.statistics: list[tuple[Tensor, Tensor]] = []

    def variable(self, name: str, operation: str, role: str) -> Tensor:
        """The variable itself."""
        if name not in self.variables:
            moving = operation == BATCH_NORM and role in ("mean", "variance")
            value = np.asarray(self._read(name), self.dtype.as_numpy_dtype)
            self.variables[name] = self.tf.Variable(value, trainable=not moving)
        return self.variables[name]

    def batch_norm(self, x: Tensor, scope: str) -> Tensor:
        """Normalised by the batch; in float32 by the op of the official trainer.

        That op gives the variance of N - 1 values for the moving average, and normalises with that of N. (On TPUs and
        with several GPUs the official trainer takes another, whose moving variance is of N values.)
        """
        tf = self.tf
        gamma, beta, mean, variance = (
            self.variable(f"{scope}/{name}", BATCH_NORM, role)
            for name, role in (
                ("gamma", "weight"), ("beta", "bias"), ("moving_mean", "mean"), ("moving_variance", "variance")
            )
        )
        if self.dtype == tf.float32:
            out, of_mean, of_variance = tf.compat.v1.nn.fused_batch_norm(
                x, gamma, beta, epsilon=self.epsilon, is_training=True
            )
        else:
            of_mean, spread = tf.nn.moments(x, [0, 1, 2])
            out = (x - of_mean) / tf.sqrt(spread + self.epsilon) * gamma + beta
            count = int(np.prod(x.shape[:3]))
            of_variance = spread * (count / max(count - 1, 1))
        self.statistics += [(mean, of_mean), (variance, of_variance)]
        return out

    def move_statistics(self) -> None:
        """Take the batch's statistics into the moving ones."""
        for moving, value in self.statistics:
            share = self.tf.constant(1.0 - BATCH_NORM_MOMENTUM, moving.dtype)
            moving.assign_sub((moving - value) * share)
        self.statistics.clear()


class TrainedNetwork(Reference):
    """The network of `Reference`, to be differentiated."""

    def __init__(
        self, config: Mapping[str, Any], read: Reader, dtype: str, backbone_scope: str | None = None
    ) -> None:
        super().__init__(config, read, dtype, backbone_scope)
        self.ops: TrainedOps = TrainedOps(read, dtype, config["act_type"])
        self._predictions: dict[str, Tensor] = {}

    def predict(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """[N, H, W, 3] -> class and box outputs of every level, NHWC."""
        self._predictions.clear()
        self.ops.statistics.clear()
        for _ in self._layers_of(images):
            pass
        classes, boxes = (
            [self._predictions[f"{net}.predict.level.{level}"] for level in self.levels]
            for net in ("class_net", "box_net")
        )
        return classes, boxes

    def _layer(
        self, name: str, compute: Callable[[], Tensor]
    ) -> Generator[Layer, np.ndarray | None, Tensor]:
        out = compute()
        if ".predict." in name:
            self._predictions[name] = out
        yield name, _NOTHING
        return out
