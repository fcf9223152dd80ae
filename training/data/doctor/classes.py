"""What is wrong with classes: ids, balance, names, and whether the model has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from effdet_model.config import EfficientDetConfig
from training.data.dataset import DetectionDataset
from training.data.doctor.boxes import Table
from training.data.doctor.report import Finding

_RARE, _UNEVEN = 10, 100
"""A class with fewer boxes is named; so is data whose most frequent class has so many times the boxes of the rarest."""


def class_counts(dataset: DetectionDataset, table: Table) -> dict[str, int]:
    """Boxes without crowds by class name; names that two classes have are numbered."""
    counts = np.bincount(table.classes[~table.crowd], minlength=dataset.num_classes + 1)
    twice = {name for name, count in Counter(dataset.label_map.values()).items() if count > 1}
    return {
        f"{name} ({class_id})" if name in twice else name: int(counts[class_id])
        for class_id, name in sorted(dataset.label_map.items())
    }


def class_findings(
    dataset: DetectionDataset, counts: dict[str, int], config: EfficientDetConfig
) -> Iterator[Finding]:
    """All of this file."""
    largest = dataset.num_classes
    if largest > config.num_classes:
        yield Finding(
            "error", "too_many_classes",
            f"The data has class ids up to {largest}, the model {config.num_classes} classes; make the model with "
            f"num_classes {largest}.", largest, config.num_classes,
        )  # fmt: skip
    yield from _id_findings(dataset)
    without = [name for name, count in counts.items() if not count]
    if without and len(without) < len(counts):
        yield Finding(
            "warning", "classes_without_boxes",
            f"{len(without)} of {len(counts)} classes have no box: {_listed(without)}.", len(without), len(counts),
        )  # fmt: skip
    rare = [f"{name} {count}" for count, name in sorted((c, n) for n, c in counts.items()) if 0 < count < _RARE]
    if rare:
        yield Finding(
            "warning", "rare_classes", f"{len(rare)} classes have fewer than {_RARE} boxes: {_listed(rare)}.",
            len(rare), len(counts),
        )  # fmt: skip
    present = {name: count for name, count in counts.items() if count}
    if present and max(present.values()) > _UNEVEN * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        yield Finding(
            "warning", "class_balance",
            f"Classes are uneven: {present[most]} boxes of {most[:40]}, {present[least]} of {least[:40]}.",
        )  # fmt: skip
    names = Counter(name.strip().lower() for name in dataset.label_map.values())
    same = [name for name, count in names.items() if count > 1]
    if same:
        yield Finding(
            "warning", "equal_names",
            f"{len(same)} names stand for several classes: {_listed(same)}; join these classes.",
            len(same), len(counts),
        )  # fmt: skip


def _id_findings(dataset: DetectionDataset) -> Iterator[Finding]:
    ids, classes = sorted(dataset.numbers.classes), dataset.label_map
    if ids and ids[0] < 1:
        first = dataset.numbers.classes[ids[0]]
        yield Finding(
            "warning", "ids_from_zero",
            f"Category ids begin at {ids[0]}, and classes at 1 (0 is the background): {ids[0]} ({classes[first][:40]}) "
            f"is class {first} here, and so on.",
            len(ids), len(ids),
        )  # fmt: skip
    gaps = max(classes, default=0) - len(classes)
    if gaps:
        yield Finding(
            "note", "id_gaps",
            f"Class ids go up to {max(classes)} for {len(classes)} classes: {gaps} outputs are never trained.",
            gaps, max(classes),
        )  # fmt: skip


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:40] for name in names[:most]) + more
