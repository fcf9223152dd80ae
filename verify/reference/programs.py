"""Exported models as the reference: their head outputs only. They are programs; they run on request alone."""

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
        self.heads = _Heads(config)

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
            found = self.heads.predictions({name: out.numpy() for name, out in outputs.items()})
            if found is not None:
                yield from found.items()
                return
            seen.append(f"{name} gives {', '.join(f'{n} {list(out.shape)}' for n, out in outputs.items())}")
        raise ValueError(
            "expected a signature from one normalised float image batch to the raw class and box outputs of "
            f"levels {self.heads.levels[0]} to {self.heads.levels[-1]} (export with only_network), found: "
            f"{'; '.join(seen)}"
        )

    def probe(self, images: np.ndarray, layer: str, faults: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """A foreign program has no faults to try."""
        return iter(())


class TfliteReference:
    """A .tflite file, run by TensorFlow's interpreter with its plain kernels.

    An input of whole numbers gets the images rounded to its steps; outputs of whole numbers are multiplied out. Where
    the file goes on from the heads to detections, the heads' outputs are read inside of it.

    Args:
        path: the file.
        config: plain values (`EfficientDetConfig.to_dict()`).
    """

    used: list[str] = []

    def __init__(self, path: str, config: Mapping[str, Any]) -> None:
        import tensorflow as tf

        self.interpreter = tf.lite.Interpreter(
            model_path=path, experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )  # fmt: skip
        self.interpreter.allocate_tensors()
        self.heads = _Heads(config)

    def layers(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Predictions of every level by stable name.

        Raises:
            ValueError: other inputs, or no outputs that are the heads'.
        """
        taken = self.interpreter.get_input_details()
        shapes = [list(map(int, one["shape"])) for one in taken]
        if shapes != [list(images.shape)]:
            raise ValueError(f"expected a file that takes images {list(images.shape)}, found {shapes}")
        self.interpreter.set_tensor(taken[0]["index"], _stored(images, taken[0]))
        self.interpreter.invoke()
        found = self.heads.predictions(self._outputs()) or self.heads.predictions(self._inside())
        if found is None:
            shown = "; ".join(f"{one['name']} {list(one['shape'])}" for one in self.interpreter.get_output_details())
            raise ValueError(
                f"expected the raw class and box outputs of levels {self.heads.levels[0]} to "
                f"{self.heads.levels[-1]}, found: {shown}"
            )
        yield from found.items()

    def probe(self, images: np.ndarray, layer: str, faults: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """A foreign program has no faults to try."""
        return iter(())

    def _outputs(self) -> dict[str, np.ndarray]:
        """By their names in the signature where there is one."""
        signatures = list(self.interpreter.get_signature_list())
        names: dict[int, str] = {}
        if len(signatures) == 1:
            told = self.interpreter.get_signature_runner(signatures[0]).get_output_details()
            names = {int(one["index"]): name for name, one in told.items()}
        outputs = self.interpreter.get_output_details()
        return {names.get(int(one["index"]), one["name"]): self._value(one) for one in outputs}

    def _inside(self) -> dict[str, np.ndarray]:
        """What goes into the operators that put all levels into one table, in the order of the work."""
        tensors = {int(one["index"]): one for one in self.interpreter.get_tensor_details()}
        taken = [
            int(operator["inputs"][0])
            for operator in self.interpreter._get_ops_details()
            if operator["op_name"] == "RESHAPE"
        ]
        return {str(place): self._value(tensors[index]) for place, index in enumerate(taken) if index in tensors}

    def _value(self, details: Mapping[str, Any]) -> np.ndarray:
        array = self.interpreter.get_tensor(int(details["index"]))
        scale, zero = details["quantization"]
        if array.dtype.kind == "f" or not scale:
            return array
        return ((array.astype(np.float64) - zero) * scale).astype(np.float32)


def _stored(images: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Images in the numbers of a tensor."""
    dtype, (scale, zero) = np.dtype(details["dtype"]), details["quantization"]
    if dtype.kind == "f" or not scale:
        return images.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(images / scale + zero), limits.min, limits.max).astype(dtype)


class _Heads:
    """Which of a program's outputs is which prediction, told by shape.

    Args:
        config: plain values (`EfficientDetConfig.to_dict()`).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.levels = list(range(config["min_level"], config["max_level"] + 1))
        anchors = config["num_scales"] * len(config["aspect_ratios"])
        self.channels = {"class_net": anchors * config["num_classes"], "box_net": anchors * 4}

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """Stable name -> output, of names in natural order; None where these are not the heads' outputs."""
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
