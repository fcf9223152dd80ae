"""The operations of the TensorFlow reference: plain TensorFlow ops on NHWC tensors, padded by TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Tensor = Any
Reader = Callable[[str], np.ndarray]
BatchNormWatcher = Callable[[str, Tensor], None]

CONVOLUTION, DEPTHWISE, BATCH_NORM, FUSION = "convolution", "depthwise convolution", "batch norm", "fusion"
"""The operations that use variables. Roles: weight, bias; weight, bias, mean, variance; of a fusion "edge weight"."""


class Ops:
    """TensorFlow ops in one precision, fed with variables by their TensorFlow names.

    Args:
        read: gives a variable's array; each is read once and kept.
        dtype: "float32" or "float64".
        activation: google/automl's `act_type`.
        on_batch_norm: is shown the scope and output of every batch norm.

    Attributes:
        used: names of variables, in the order of use, since it was last cleared.
        roles: for each of them the operation that it went into and its role there (`CONVOLUTION`, "weight", ...).
    """

    epsilon = 1e-3
    """google/automl utils.py `batch_norm_act`, efficientnet_builder.py `batch_norm_epsilon` (6a54c87)."""

    def __init__(
        self, read: Reader, dtype: str, activation: str, on_batch_norm: BatchNormWatcher | None = None
    ) -> None:
        import tensorflow as tf

        self.tf = tf
        self.dtype = tf.as_dtype(dtype)
        self.activation = activation
        self.used: list[str] = []
        self.roles: list[tuple[str, str]] = []
        self._read = read
        self._on_batch_norm = on_batch_norm
        self._variables: dict[str, Tensor] = {}

    def forget_uses(self) -> None:
        """Begin a new layer's list of variables."""
        self.used.clear()
        self.roles.clear()

    def variable(self, name: str, operation: str, role: str) -> Tensor:
        """The variable as a tensor of this precision, and a note of what it is used for."""
        self.used.append(name)
        self.roles.append((operation, role))
        if name not in self._variables:
            self._variables[name] = self.tf.constant(np.asarray(self._read(name)), self.dtype)
        return self._variables[name]

    def activate(self, x: Tensor) -> Tensor:
        """google/automl utils.py `activation_fn`."""
        nn = self.tf.nn
        kind = self.activation
        if kind in ("silu", "swish"):
            return nn.silu(x)
        if kind == "swish_native":
            return x * nn.sigmoid(x)
        if kind == "hswish":
            return x * nn.relu6(x + 3) / 6
        if kind == "relu":
            return nn.relu(x)
        if kind == "relu6":
            return nn.relu6(x)
        if kind == "mish":
            return x * self.tf.math.tanh(self.tf.math.softplus(x))
        raise ValueError(f"google/automl has no activation {kind!r}")

    def add(self, x: Tensor, before: Tensor) -> Tensor:
        """A skip connection."""
        return x + before

    def batch_norm(self, x: Tensor, scope: str) -> Tensor:
        """Inference-mode batch normalisation; float32 by the op that the official model runs."""
        gamma, beta, mean, variance = (
            self.variable(f"{scope}/{name}", BATCH_NORM, role)
            for name, role in (
                ("gamma", "weight"), ("beta", "bias"), ("moving_mean", "mean"), ("moving_variance", "variance")
            )
        )
        if self.dtype == self.tf.float32:
            out = self.tf.compat.v1.nn.fused_batch_norm(
                x, gamma, beta, mean, variance, epsilon=self.epsilon, is_training=False
            )[0]
        else:
            out = (x - mean) / self.tf.sqrt(variance + self.epsilon) * gamma + beta
        if self._on_batch_norm is not None:
            self._on_batch_norm(scope, out)
        return out

    def conv2d(self, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
        """[h, w, in, out] kernel, padded as TensorFlow pads."""
        return self.tf.nn.conv2d(x, kernel, stride, "SAME")

    def depthwise_conv2d(self, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
        """[h, w, channels, 1] kernel, padded as TensorFlow pads."""
        return self.tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")

    def max_pool(self, x: Tensor, window: list[int], strides: list[int]) -> Tensor:
        """Padded as TensorFlow pads."""
        return self.tf.nn.max_pool2d(x, window, strides, "SAME")

    def enlarge(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Nearest neighbour to (height, width)."""
        return self.tf.compat.v1.image.resize_nearest_neighbor(x, list(size))

    def bias_add(self, x: Tensor, scope: str) -> Tensor:
        """Add `scope`/bias to every channel: the end of a convolution."""
        return self.tf.nn.bias_add(x, self.variable(f"{scope}/bias", CONVOLUTION, "bias"))

    def conv(self, x: Tensor, scope: str, stride: int = 1, bias: bool = False) -> Tensor:
        """Convolution with `scope`/kernel."""
        x = self.conv2d(x, self.variable(f"{scope}/kernel", CONVOLUTION, "weight"), stride)
        return self.bias_add(x, scope) if bias else x

    def depthwise(self, x: Tensor, scope: str, stride: int = 1) -> Tensor:
        """Depthwise convolution with `scope`/depthwise_kernel."""
        kernel = self.variable(f"{scope}/depthwise_kernel", DEPTHWISE, "weight")
        return self.depthwise_conv2d(x, kernel, stride)

    def separable_conv(self, x: Tensor, scope: str, bias: bool) -> Tensor:
        """Depthwise then pointwise convolution."""
        x = self.depthwise(x, scope)
        x = self.conv2d(x, self.variable(f"{scope}/pointwise_kernel", CONVOLUTION, "weight"), 1)
        return self.bias_add(x, scope) if bias else x

    def squeeze_excite(self, x: Tensor, scope: str) -> Tensor:
        """Scale channels by a gate made of their means."""
        gate = self.tf.reduce_mean(x, [1, 2], keepdims=True)
        gate = self.activate(self.conv(gate, f"{scope}/conv2d", bias=True))
        return self.tf.sigmoid(self.conv(gate, f"{scope}/conv2d_1", bias=True)) * x

    def resize(
        self, x: Tensor, size: tuple[int, int], before: Callable[[Tensor], Tensor],
        after_shrinking: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Max-pool or enlarge to (height, width); a convolution may come before or, when shrinking, after.

        Raises:
            ValueError: one side would shrink and the other not.
        """
        height, width = int(x.shape[1]), int(x.shape[2])
        if height > size[0] and width > size[1]:
            strides = [(height - 1) // size[0] + 1, (width - 1) // size[1] + 1]
            return after_shrinking(self.max_pool(before(x), [stride + 1 for stride in strides], strides))
        if height > size[0] or width > size[1]:
            raise ValueError(f"features of {height} x {width} cannot become {size[0]} x {size[1]}")
        x = before(x)
        return x if (height, width) == size else self.enlarge(x, size)

    def edge_weights(self, scope: str, count: int) -> list[Tensor]:
        """Variables `scope`/WSM, WSM_1, ...; each a scalar or one value per channel."""
        names = (f"{scope}/WSM" + (f"_{i}" if i else "") for i in range(count))
        return [self.variable(name, FUSION, "edge weight") for name in names]

    def fuse(self, inputs: list[Tensor], scope: str, method: str) -> Tensor:
        """Weighted sum of tensors of one shape."""
        tf = self.tf
        if method == "sum":
            return tf.add_n(inputs)
        raw = self.edge_weights(scope, len(inputs))
        if method in ("attn", "channel_attn"):
            weights = tf.unstack(tf.nn.softmax(tf.stack(raw), axis=0))
            return tf.add_n([x * weight for x, weight in zip(inputs, weights, strict=True)])
        if method in ("fastattn", "channel_fastattn"):
            positive = [tf.nn.relu(weight) for weight in raw]
            total = tf.add_n(positive) + 0.0001
            return tf.add_n([x * weight / total for x, weight in zip(inputs, positive, strict=True)])
        raise ValueError(f"google/automl has no weight method {method!r}")
