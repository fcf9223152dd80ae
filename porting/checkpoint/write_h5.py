"""Write a .h5 weight file as `EfficientDetNet.save_weights` of google/automl leaves it, without Keras.

The counterpart of `h5.py`. Keras loads such a file by position: layers in the order of `layer_names`, the
arrays of a layer in the order of `weight_names`, first what is trained, then moving means and variances.
Facts: keras/src/legacy/saving/legacy_h5_format.py; google/automl tf2/efficientdet_keras.py (6a54c87).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.fit import listed, same_bits
from mappings.table import MappingTable
from porting.checkpoint.h5 import H5Weights
from porting.files import atomic_write

KERAS_VERSION = "2.15.0"
"""Which Keras wrote such files last as its own format; Keras reads its major number alone."""

ATTRIBUTE_LIMIT = 64512
"""Bytes of an attribute beyond which Keras splits it into NAME0, NAME1, ..."""

TOP_LEVEL = "top_level_model_weights"
_FIRST_EXTRA_LEVEL = 6  # below it, levels are the backbone's


def layer_order(config: EfficientDetConfig, table: MappingTable) -> list[tuple[str, list[str]]]:
    """Layers of the Keras model and the canonical names of their weights, both in Keras's order.

    Keras creates the backbone's blocks before its stem, and a layer's own weights before those of its children;
    otherwise the order is that of the table.
    """
    layers: dict[str, list[str]] = {config.backbone_name: []}
    layers |= {f"resample_p{level}": [] for level in range(_FIRST_EXTRA_LEVEL, config.max_level + 1)}
    layers |= {"fpn_cells": [], "class_net": [], "box_net": []}
    for name in table.tensorflow_shapes:
        layers[name.split("/", 1)[0]].append(name)
    return [(layer, sorted(names, key=_creation)) for layer, names in layers.items()]


def _creation(name: str) -> tuple[bool, bool, tuple[int, ...]]:
    """Sorts names of one layer; names with the same key keep their order."""
    unit = re.match(r"[^/]+/(?:blocks_(\d+)|cell_(\d+)/fnode(\d+))/", name)
    numbers = tuple(int(number) for number in unit.groups() if number) if unit else ()
    return "/moving_" in name, "/stem/" in name, numbers


def write_h5(
    path: Path,
    layers: Sequence[tuple[str, Sequence[str]]],
    read: Callable[[str], np.ndarray],
    before: Callable[[Path], None] | None = None,
) -> None:
    """Write `layers` (as `layer_order` gives them) to `path`, each array taken from `read` when it is written.

    Before the file gets its name it is read back and every array compared bit by bit. The same arrays give the
    same bytes.

    Args:
        before: called with the finished file before it gets its name; to refuse in time.

    Raises:
        InputError: the output cannot be written, or what was read back differs.
    """
    import h5py

    with atomic_write(path) as temporary:
        with h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
            _set_names(file, "layer_names", [layer for layer, _ in layers])
            file.attrs["backend"], file.attrs["keras_version"] = np.bytes_("tensorflow"), np.bytes_(KERAS_VERSION)
            for layer, names in sorted(layers):
                group = file.create_group(layer)
                _set_names(group, "weight_names", [f"{name}:0" for name in names])
                for name in names:
                    group.create_dataset(f"{name}:0", data=read(name), track_times=False)
            _set_names(file.create_group(TOP_LEVEL), "weight_names", [])
        _compare(temporary, path, layers, read)
        if before:
            before(temporary)


def _set_names(group: Any, attribute: str, names: Sequence[str]) -> None:
    """A list attribute of texts of fixed length, in as many parts as the limit asks for."""
    if not names:
        group.attrs[attribute] = np.zeros(0)
        return
    encoded = np.array([name.encode() for name in names])
    parts = -(-encoded.nbytes // ATTRIBUTE_LIMIT)
    while max(part.nbytes for part in np.array_split(encoded, parts)) > ATTRIBUTE_LIMIT:
        parts += 1
    if parts == 1:
        group.attrs[attribute] = encoded
        return
    for number, part in enumerate(np.array_split(encoded, parts)):
        group.attrs[f"{attribute}{number}"] = part


def _compare(
    temporary: Path, path: Path, layers: Sequence[tuple[str, Sequence[str]]], read: Callable[[str], np.ndarray]
) -> None:
    wanted = {f"{layer}/{name}:0": name for layer, names in layers for name in names}
    again = H5Weights(temporary, str(path))
    try:
        different = sorted(set(wanted) ^ set(again.entries))
        different += [
            raw_name
            for raw_name, name in wanted.items()
            if raw_name in again.entries and not same_bits(read(name), again.read(raw_name))
        ]
    finally:
        again.close()
    if different:
        raise InputError(
            f"{path}: expected what was written, read back {len(different)} different arrays "
            f"({listed(different, 5)}); the disk is failing or full, nothing was kept."
        )
