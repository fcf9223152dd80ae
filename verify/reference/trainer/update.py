"""What follows the gradients: clipping, the optimiser, the moving averages; by TensorFlow's own kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verify.reference.trainer.facts import ADAM_EPSILON

Tensor = Any


def clipped(tf: Any, gradients: Mapping[str, Tensor], limit: float | None) -> dict[str, Tensor]:
    """Each gradient to a norm of `limit`, then all of them together."""
    if not limit:
        return dict(gradients)
    each = [tf.clip_by_norm(gradient, abs(limit)) for gradient in gradients.values()]
    together, _ = tf.clip_by_global_norm(each, abs(limit))
    return dict(zip(gradients, together, strict=True))


class Optimiser:
    """`tf.train.MomentumOptimizer`, Keras's SGD, or Adam of either; `tf1` and `tf2` differ in both."""

    def __init__(self, tf: Any, settings: Mapping[str, Any]) -> None:
        self.tf, self.settings = tf, settings
        self.slots: dict[str, list[Tensor]] = {}
        self.steps = 0

    def apply(self, variables: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """One update.

        Raises:
            ValueError: google/automl has no such optimiser.
        """
        kind = self.settings["optimizer"]
        if kind not in ("sgd", "adam"):
            raise ValueError(f"google/automl has no optimizer {kind!r}")
        self.steps += 1
        for name, gradient in gradients.items():
            variable = variables[name]
            if name not in self.slots:
                zeros = self.tf.zeros_like(variable)
                self.slots[name] = [self.tf.Variable(zeros) for _ in range(1 if kind == "sgd" else 2)]
            self._apply(kind, variable, self.slots[name], gradient, rate)

    def _apply(self, kind: str, variable: Tensor, slots: list[Tensor], gradient: Tensor, rate: float) -> None:
        tf, second = self.tf, self.settings["generation"] == "tf2"

        def number(value: float) -> Tensor:
            return tf.constant(value, variable.dtype)

        if kind == "sgd":
            apply = tf.raw_ops.ResourceApplyKerasMomentum if second else tf.raw_ops.ResourceApplyMomentum
            apply(
                var=variable.handle, accum=slots[0].handle, lr=number(rate), grad=gradient,
                momentum=number(self.settings["momentum"]), use_nesterov=False,
            )
            return
        first, square = (self.settings["momentum"] if second else 0.9), 0.999
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=slots[0].handle, v=slots[1].handle, beta1_power=number(first**self.steps),
            beta2_power=number(square**self.steps), lr=number(rate), beta1=number(first), beta2=number(square),
            epsilon=number(ADAM_EPSILON[self.settings["generation"]]), grad=gradient, use_nesterov=False,
        )


class Averages:
    """Moving averages; they begin at the variables' values.

    TensorFlow 1's trainer averages what is trained and the batch norms' statistics, with the number of steps done;
    TensorFlow 2's what is trained alone, with the number before the step.
    """

    def __init__(self, tf: Any, settings: Mapping[str, Any], variables: Mapping[str, Tensor]) -> None:
        self.tf, self.settings = tf, settings
        first = settings["generation"] == "tf1"
        frozen = set(settings["frozen"]) if not first else ()
        self.values = {
            name: tf.Variable(variable) for name, variable in variables.items()
            if (first or variable.trainable) and name not in frozen
        }

    def update(self, variables: Mapping[str, Tensor], steps_done: int) -> None:
        """After a step, the `steps_done`-th."""
        tf = self.tf
        count = tf.cast(steps_done if self.settings["generation"] == "tf1" else steps_done - 1, tf.float32)
        decay = tf.minimum(tf.constant(self.settings["moving_average_decay"]), (1.0 + count) / (10.0 + count))
        for name, average in self.values.items():
            average.assign_sub((average - variables[name]) * tf.cast(1.0 - decay, average.dtype))
