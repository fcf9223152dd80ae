"""An exported SavedModel as the reference: its head outputs only. It is a program; it runs on request alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class SavedModelReference:
    """The signature of a SavedModel that takes normalised float images and gives the heads' raw outputs.

    google/automl's TF2 exporter names it "predict" (tf2/infer_lib.py, 6a54c87). Outputs are told apart by shape.

    Args:
        folder: the SavedModel.
        config: plain values (`EfficientDetConfig.to_dict()`).
    """

    used: list[str] = []

    def __init__(self, folder: str, config: Mapping[str, Any]) -> None:
        import tensorflow as tf

        self.tf = tf
        self.model = tf.saved_model.load(folder)
        self.levels = list(range(config["min_level"], config["max_level"] + 1))
        anchors = config["num_scales"] * len(config["aspect_ratios"])
        self.channels = {"class_net": anchors * config["num_classes"], "box_net": anchors * 4}

    def layers(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Predictions of every level by stable name.

        Raises:
            ValueError: no signature gives them; the message lists what there is.
        """
        seen = []
        for name, signature in self.model.signatures.items():
            inputs = list(signature.structured_input_signature[1].items())
            if len(inputs) != 1 or not inputs[0][1].dtype.is_floating:
                seen.append(f"{name} takes {', '.join(f'{key} {spec.dtype.name}' for key, spec in inputs)}")
                continue
            key, spec = inputs[0]
            outputs = signature(**{key: self.tf.constant(images, spec.dtype)})
            found = self._predictions({name: out.numpy() for name, out in outputs.items()})
            if found is not None:
                yield from found.items()
                return
            seen.append(f"{name} gives {', '.join(f'{n} {list(out.shape)}' for n, out in outputs.items())}")
        raise ValueError(
            "expected a signature from one normalised float image batch to the raw class and box outputs of "
            f"levels {self.levels[0]} to {self.levels[-1]} (export with only_network), found: {'; '.join(seen)}"
        )

    def probe(self, images: np.ndarray, layer: str, faults: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """A foreign program has no faults to try."""
        return iter(())

    def _predictions(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        maps = [outputs[name] for name in sorted(outputs, key=_natural) if outputs[name].ndim == 4]
        count = len(self.levels)
        if len(maps) != 2 * count:
            return None
        if self.channels["class_net"] == self.channels["box_net"]:
            groups = {"class_net": maps[:count], "box_net": maps[count:]}
        else:
            groups = {net: [m for m in maps if m.shape[3] == width] for net, width in self.channels.items()}
        if any(len(group) != count for group in groups.values()):
            return None
        return {
            f"{net}.predict.level.{level}": output
            for net, group in groups.items()
            for level, output in zip(self.levels, sorted(group, key=lambda m: -m[0].size), strict=True)
        }


def _natural(name: str) -> list[Any]:
    """Sort key: output_2 before output_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
