"""A user's own clone of google/automl as the reference: its TensorFlow 1 graph, with the checkpoint's variables."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verify.reference.backbone import blocks
from verify.reference.fpn import nodes

CONFIG_FIELDS = (
    "act_type", "anchor_scale", "apply_bn_for_resampling", "aspect_ratios", "backbone_name", "box_class_repeats",
    "conv_after_downsample", "conv_bn_act_pattern", "fpn_cell_repeats", "fpn_config", "fpn_name",
    "fpn_num_filters", "fpn_weight_method", "max_level", "min_level", "num_classes", "num_scales",
    "separable_conv", "survival_prob",
)
"""Fields of the config that change what the official network computes."""


class AutomlReference:
    """google/automl's `efficientdet_arch.efficientdet` in inference mode, float32.

    Layers come all at once, after the whole network has run.

    Args:
        folder: the clone, or the folder `efficientdet` in it.
        config: plain values (`EfficientDetConfig.to_dict()`).
        read: gives the array of a variable by its canonical TensorFlow name.
        scope: first part of the backbone's variable names in the checkpoint.

    Raises:
        FileNotFoundError: the folder has no efficientdet_arch.py.
    """

    used: list[str] = []

    def __init__(
        self, folder: str, config: Mapping[str, Any], read: Callable[[str], np.ndarray], scope: str | None
    ) -> None:
        self.folder = efficientdet_folder(Path(folder))
        self.config = config
        self.read = read
        self.scope = scope or config["backbone_name"]

    def layers(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Stable names and NHWC arrays of what can be found in the graph by name; predictions always."""
        import tensorflow.compat.v1 as tf

        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        with tf.Graph().as_default(), tf.Session() as session:
            holder = tf.placeholder(tf.float32, images.shape)
            seen: dict[str, Any] = {}
            class_outputs, box_outputs = _build(holder, self.config, images.shape[1:3], seen)
            variables = tf.global_variables()
            values = {v.initializer.inputs[1]: self._value(v.op.name) for v in variables}
            session.run([v.initializer for v in variables], values)
            wanted = {**dict(self._tensors(tf.get_default_graph(), class_outputs, box_outputs)), **seen}
            found = session.run(wanted, {holder: images.astype(np.float32)})
        yield from found.items()

    def _value(self, name: str) -> np.ndarray:
        own = self.config["backbone_name"]
        if name.startswith(f"{own}/"):
            name = self.scope + name.removeprefix(own)
        return np.asarray(self.read(name), np.float32)

    def probe(self, images: np.ndarray, layer: str, faults: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """A foreign program has no faults to try."""
        return iter(())

    def _tensors(self, graph: Any, class_outputs: Any, box_outputs: Any) -> Iterator[tuple[str, Any]]:
        config = self.config
        scope = config["backbone_name"]
        last = _last_outputs(graph)
        yield "backbone.stem", last(f"{scope}/stem/")
        for block in blocks(config["backbone_name"]):
            yield f"backbone.blocks.{block.stage}.{block.index}", last(f"{scope}/blocks_{block.number}/")
        for cell in range(config["fpn_cell_repeats"]):
            for node in nodes(config):
                yield f"fpn.cell.{cell}.fnode.{node.stable}", last(f"fpn_cells/cell_{cell}/fnode{node.number}/")
        for level, outputs in class_outputs.items():
            yield f"class_net.predict.level.{level}", outputs
        for level, outputs in box_outputs.items():
            yield f"box_net.predict.level.{level}", outputs


def efficientdet_folder(folder: Path) -> Path:
    """The folder with efficientdet_arch.py: `folder` itself or `efficientdet` in it.

    Raises:
        FileNotFoundError: neither has it.
    """
    for candidate in (folder, folder / "efficientdet"):
        if (candidate / "efficientdet_arch.py").is_file():
            return candidate
    raise FileNotFoundError(f"no efficientdet_arch.py in {folder} or {folder / 'efficientdet'}")


def official_config(config: Mapping[str, Any], image_size: Sequence[int]) -> Any:
    """google/automl's own config object for plain values; its modules must be importable."""
    import hparams_config

    official = hparams_config.default_detection_configs()
    values = {key: config[key] for key in CONFIG_FIELDS if key in config}
    official.override({**values, "image_size": tuple(image_size), "is_training_bn": False})
    return official


def _build(images: Any, config: Mapping[str, Any], image_size: Sequence[int], seen: dict[str, Any]) -> Any:
    """(class outputs, box outputs) by level; `seen` gets pyramid inputs and head repeats by stable name."""
    import efficientdet_arch
    import utils

    def head_repeat(name: str) -> str | None:
        return _head_repeat(name, bool(config["survival_prob"]))

    with (
        _watched(efficientdet_arch, "resample_feature_map", _pyramid_input, seen),
        _watched(utils, "batch_norm_act", head_repeat, seen),
    ):
        return efficientdet_arch.efficientdet(images, config=official_config(config, image_size))


@contextlib.contextmanager
def _watched(
    module: Any, function: str, stable_name: Callable[[str], str | None], seen: dict[str, Any]
) -> Iterator[None]:
    """Keep what a function of the clone returns, under the stable name made of its `name` argument."""
    official = getattr(module, function)

    def watched(*args: Any, **kwargs: Any) -> Any:
        out = official(*args, **kwargs)
        name = stable_name(str(kwargs.get("name")))
        if name is not None:
            seen[name] = out
        return out

    setattr(module, function, watched)
    try:
        yield
    finally:
        setattr(module, function, official)


def _pyramid_input(name: str) -> str | None:
    found = re.fullmatch(r"p(\d+)", name)
    return f"fpn.input.level.{found[1]}" if found else None


def _head_repeat(name: str, residual: bool) -> str | None:
    """Later repeats of a residual head go on after the batch norm; they are not to be had by this name."""
    found = re.fullmatch(r"(class|box)-(\d+)-bn-(\d+)", name)
    if not found or (residual and found[2] != "0"):
        return None
    return f"{found[1]}_net.conv_rep.{found[2]}.level.{found[3]}"


def _last_outputs(graph: Any) -> Callable[[str], Any]:
    """For a name scope, the output of its last operation that gives a feature map."""
    operations = [
        op for op in graph.get_operations()
        if op.outputs and op.outputs[0].dtype.is_floating and op.outputs[0].shape.rank == 4
    ]

    def last(scope: str) -> Any:
        return [op for op in operations if op.name.startswith(scope)][-1].outputs[0]

    return last
