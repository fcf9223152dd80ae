"""One model in training, step by step: what the reference process runs for the proof of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from verify.reference.ops import Reader, Tensor
from verify.reference.pipeline import anchor_boxes
from verify.reference.trainer.facts import settings
from verify.reference.trainer.labels import Labels, label_batch
from verify.reference.trainer.losses import has_decay, loss_terms
from verify.reference.trainer.network import TrainedNetwork
from verify.reference.trainer.schedule import learning_rate
from verify.reference.trainer.update import Averages, Optimiser, clipped

Named = tuple[str, np.ndarray]


class TrainingReference:
    """A model, its optimiser and its moving averages.

    Args:
        config: plain values with google/automl's names.
        declared: training settings that are not google/automl's defaults (`verify.reference.trainer.facts`).
        read: gives the array of a variable by its canonical TensorFlow name.
        dtype: "float32" or "float64".
        backbone_scope: first part of the backbone's variable names.

    Attributes:
        used: no variables are told of; there for the process that runs it.
    """

    used: Sequence[str] = ()

    def __init__(
        self, config: Mapping[str, Any], declared: Mapping[str, Any], read: Reader, dtype: str,
        backbone_scope: str | None = None,
    ) -> None:
        import tensorflow as tf

        self.tf = tf
        self.settings = settings(declared)
        self.num_classes = config["num_classes"]
        self.anchors = anchor_boxes(config)
        self.network = TrainedNetwork(config, read, dtype, backbone_scope)
        self.optimiser = Optimiser(tf, self.settings)
        self.averages: Averages | None = None
        self.steps = 0
        self._normalizer = 0.0

    @property
    def variables(self) -> Mapping[str, Tensor]:
        """By canonical name; all of them after the first step."""
        return self.network.ops.variables

    def answer(self, request: Mapping[str, Any], array: np.ndarray | None) -> Iterator[Named]:
        """Do one step.

        Args:
            request: "boxes", "classes": per image, as lists; "give": which of "labels", "gradients", "variables",
                "averages" are wanted.
            array: images [N, H, W, 3], normalised.

        Yields:
            "rate"; "positives" [N]; "labels/class" int32 [N, anchors] and "labels/box" [N, anchors, 4];
            "loss/TERM"; "norm": of all gradients before clipping; "gradient/NAME" of the loss, before clipping;
            "variable/NAME" and "average/NAME" after the step.
        """
        assert array is not None
        boxes = [np.asarray(one, np.float32).reshape(-1, 4) for one in request["boxes"]]
        labels = label_batch(self.anchors, boxes, [np.asarray(one, np.int32) for one in request["classes"]])
        rate = learning_rate(self.tf, self.settings, self.steps)
        terms, gradients = self.step(self.tf.constant(array, self.network.ops.dtype), labels, rate)
        yield "rate", np.asarray(rate, np.float64)
        yield "positives", labels.positives.numpy()
        if "labels" in request["give"]:
            yield "labels/class", labels.classes.numpy()
            yield "labels/box", labels.boxes.numpy()
        for term, value in terms.items():
            yield f"loss/{term}", value.numpy()
        yield "norm", self.tf.linalg.global_norm(list(gradients.values())).numpy()
        given: dict[str, Mapping[str, Tensor]] = {
            "gradients": gradients, "variables": self.variables,
            "averages": self.averages.values if self.averages else {},
        }
        for kind, tensors in given.items():
            if kind in request["give"]:
                for name, tensor in tensors.items():
                    yield f"{kind.removesuffix('s')}/{name}", tensor.numpy()

    def step(self, images: Tensor, labels: Labels, rate: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss terms and gradients (before clipping) by name, and everything moved."""
        terms, gradients = self.gradients(images, labels)
        self.network.ops.move_statistics()
        self.optimiser.apply(
            self.variables, clipped(self.tf, gradients, self.settings["clip_gradients_norm"]), rate
        )
        self.steps += 1
        if self.averages is not None:
            self.averages.update(self.variables, self.steps)
        return terms, gradients

    def gradients(self, images: Tensor, labels: Labels) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss terms, and the gradients of what is trained, by name."""
        with self.tf.GradientTape() as tape:
            class_outputs, box_outputs = self.network.predict(images)
            if self.averages is None and self.settings["moving_average_decay"]:
                with tape.stop_recording():
                    self.averages = Averages(self.tf, self.settings, self.variables)
            trained = self._trained()
            regular = self.variables if self.settings["generation"] == "tf1" else trained
            kernels = [variable for name, variable in regular.items() if has_decay(name)]
            terms = loss_terms(
                self.tf, self.settings, class_outputs, box_outputs, labels, self.anchors, self.num_classes,
                self._divisor(labels), kernels,
            )
        found = tape.gradient(terms["loss"], trained)
        return terms, {name: gradient for name, gradient in found.items() if gradient is not None}

    def _trained(self) -> dict[str, Tensor]:
        frozen = set(self.settings["frozen"])
        return {
            name: variable for name, variable in self.variables.items()
            if variable.trainable and name not in frozen
        }

    def _divisor(self, labels: Labels) -> Tensor:
        """The batch's positives + 1, or their moving average, which begins at 0."""
        found = self.tf.reduce_sum(self.tf.cast(labels.positives, self.network.ops.dtype)) + 1.0
        momentum = self.settings["positives_momentum"] or 0.0
        if momentum <= 0:
            return found
        self._normalizer -= (self._normalizer - found) * (1.0 - momentum)
        return self._normalizer
