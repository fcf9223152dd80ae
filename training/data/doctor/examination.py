"""All checks of training data, in one report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from training.data.dataset import DetectionDataset
from training.data.doctor.anchors import anchor_findings
from training.data.doctor.boxes import Table, box_findings
from training.data.doctor.classes import class_counts, class_findings
from training.data.doctor.files import File, Progress, copy_findings, file_findings, read_files
from training.data.doctor.report import LEVELS, DataReport, Finding, Place
from training.data.doctor.sheet import Tile, contact_sheet

_TILES = 16


def examine(
    dataset: DetectionDataset,
    config: EfficientDetConfig,
    *,
    validation: DetectionDataset | None = None,
    every_image: bool = False,
    picture: bool = True,
    workers: int = 2,
    progress: Progress | None = None,
) -> DataReport:
    """What is wrong with training data, or looks so.

    Args:
        config: of the model that is to be trained: classes, image size, anchors.
        validation: the validation set, to find pictures that are in both.
        every_image: decode every picture whole; else some 2000 of them, and the first bytes of all others.
        picture: draw examples of the findings, and of the boxes as they were read.
        workers: threads.
        progress: called with (pictures read, how many there are).

    Returns:
        The report; nothing is raised for what it says (`DataReport.refuse` does that).
    """
    files = read_files(dataset, every_image, workers, progress)
    others = None if validation is None else read_files(validation, False, workers, None)
    table = Table(dataset, [file.size for file in files])
    counts = class_counts(dataset, table)
    findings = [
        *file_findings(dataset, files), *copy_findings(dataset, files, others), *_picture_findings(dataset, table),
        *box_findings(table, dataset.format), *class_findings(dataset, counts, config),
        *anchor_findings(table, config), *_size_findings(config),
        *(Finding("note", "reading", note) for note in dataset.notes),
    ]  # fmt: skip
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    used = {place.index for finding in findings for place in finding.examples}
    return DataReport(
        tuple(findings), len(dataset), dataset.num_boxes, counts,
        unusable=tuple(index for index, file in enumerate(files) if file.problem is not None),
        picture=_sheet(dataset, files, findings) if picture else None,
        names={index: dataset.pictures[index].path.name for index in sorted(used | set(_bad(files)))},
    )  # fmt: skip


def _bad(files: Sequence[File]) -> list[int]:
    return [index for index, file in enumerate(files) if file.problem is not None]


def _picture_findings(dataset: DetectionDataset, table: Table) -> list[Finding]:
    if not dataset.num_boxes:
        return [Finding("error", "no_boxes", f"{dataset.source} has no boxes: there is nothing to learn.")]
    counts = np.array([len(dataset.classes_of(index)) for index in range(len(dataset))])
    without = np.nonzero(counts == 0)[0]
    findings = []
    if len(without):
        findings.append(
            Finding(
                "warning" if len(without) > len(dataset) / 2 else "note", "images_without_boxes",
                f"{len(without)} of {len(dataset)} pictures have no boxes; they are trained as background.",
                len(without), len(dataset),
            )  # fmt: skip
        )
    crowds = int(table.crowd.sum())
    if crowds:
        findings.append(
            Finding(
                "note", "crowds", f"{crowds} boxes mark crowds; left out unless the setting `crowd` says else.",
                crowds, dataset.num_boxes, table.places(table.crowd),
            )
        )  # fmt: skip
    return findings


def _size_findings(config: EfficientDetConfig) -> list[Finding]:
    step = 2**config.max_level
    if not any(side % step for side in config.image_size):
        return []
    height, width = config.image_size
    message = (
        f"An input of {height}x{width} is no multiple of {step}: strides of the coarse levels are fractions, as in "
        "google/automl; it works, though multiples are the rule."
    )
    return [Finding("note", "image_size", message)]


def _sheet(dataset: DetectionDataset, files: Sequence[File], findings: Sequence[Finding]) -> Image.Image | None:
    """Examples of all findings, in turns; then pictures from all over the data, to see whether boxes fit them."""
    shown = [finding for finding in findings if finding.examples]
    turns = [
        (finding.kind, finding.examples[turn])
        for turn in range(max((len(finding.examples) for finding in shown), default=0))
        for finding in shown
        if turn < len(finding.examples)
    ]
    spread = np.linspace(0, len(dataset) - 1, min(len(dataset), _TILES)).round().astype(int).tolist()
    turns += [("as read", Place(index)) for index in spread]
    tiles: list[Tile] = []
    for kind, place in turns:
        if files[place.index].problem is None and len(tiles) < _TILES:
            tile = _tile(dataset, kind, place)
            tiles += [tile] if tile is not None else []
    return contact_sheet(tiles) if tiles else None


def _tile(dataset: DetectionDataset, kind: str, place: Place) -> Tile | None:
    """The example's picture; only the box that is meant has a label."""
    try:
        example = dataset[place.index]
    except InputError:
        return None
    labels = [
        dataset.label_map[class_id] if place.box in (None, number) else ""
        for number, class_id in enumerate(example.classes.tolist())
    ]
    order = sorted(range(len(labels)), key=lambda number: number != place.box)
    return Tile(
        example.image, example.boxes_yxyx[order], example.classes[order], [labels[number] for number in order],
        f"{kind}: {example.path.name}",
    )  # fmt: skip
