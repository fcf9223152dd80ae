"""The proof of an exported file: it is run, and held against the truth and against the project's suppression."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from effdet_model.nms import postprocess
from effdet_model.nms_profiles import NmsProfile
from effdet_model.preprocessing import normalize
from export.evidence import BOX_PIXELS, SCORE, evidence_input
from export.graph.onnx_graph import suppression_model
from export.network import InputKind, input_channels
from export.outputs import INPUT, level_names
from export.runtimes import Outputs, Run, detections_of, load_file
from export.truth import Levels, Truth, worst
from export.write import Job, levels_path
from verify.diff.comparison import compare_with_truth
from verify.diff.inputs import draw_picture
from verify.evidence.record import EvidenceInput

SEVERAL = 3
"""How many images at once prove a file for any number of them, beside one."""
_EMPTY_LOGIT = -40.0


@dataclass(frozen=True)
class Check:
    """One thing that was held against another.

    Attributes:
        name: what was run. passed: whether it was as expected. text: the figures, in a sentence. data: the same.
    """

    name: str
    passed: bool
    text: str
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


def prove(job: Job, format_name: str, path: Path, truth: Truth, report: Callable[[str], None]) -> list[Check]:
    """Run a file that was written, and what belongs to its proof.

    Args:
        path: as `export.write.write` was given it. report: is told what is being worked on.
    """
    checks = [Check("configuration", False, problem) for problem in truth.problems]
    judged = isinstance(job.suppression, NmsProfile)  # what TensorRT alone can run is held by its levels
    with_levels = load_file(levels_path(path) if job.suppression else path, format_name, job.config)
    run = load_file(path, format_name, job.config) if judged else with_levels
    for name, images in proof_inputs(job.config, job.kind, job.batch):
        report(f"{name}, {len(images)} at once")
        label = f"{name}, batch {len(images)}"
        outputs = with_levels(**{INPUT: images})
        found = _of_levels(outputs, job.config)
        checks.append(_same_levels(label, found, truth, _normalised(images, job.config, job.kind)))
        if judged:
            mine = detections_of(run(**{INPUT: images}))
            checks.append(_same_detections(f"detections of {label}", mine, _expected(job, found)))
    if isinstance(job.suppression, NmsProfile):
        report("pictures without detections")
        checks += _made_up_levels(job, format_name, path, job.suppression)
    return checks


def proof_inputs(config: EfficientDetConfig, kind: InputKind, batch: int | None) -> list[tuple[str, np.ndarray]]:
    """(name, images as the file takes them): drawn pictures and noise, as many at once as the file is for."""
    return [
        (name, np.stack([make(config, kind, seed) for seed in range(count)]))
        for count in ((1, SEVERAL) if batch is None else (batch,)) for name, make in _INPUTS.values()
    ]  # fmt: skip


def proved_inputs(config: EfficientDetConfig, kind: InputKind, batch: int | None) -> list[EvidenceInput]:
    """The same, image by image, for the record."""
    return [
        evidence_input(name, seed, _normalised(make(config, kind, seed)[None], config, kind)[0])
        for name, (_, make) in _INPUTS.items() for seed in range(batch or SEVERAL)
    ]  # fmt: skip


def _drawn(config: EfficientDetConfig, kind: InputKind, seed: int) -> np.ndarray:
    height, width = config.image_size
    pixels = np.resize(draw_picture(seed, height, width), (height, width, input_channels(config)))
    return pixels if kind == "uint8" else _normalised(pixels[None], config, "uint8")[0]


def _noise(config: EfficientDetConfig, kind: InputKind, seed: int) -> np.ndarray:
    height, width = config.image_size
    random, channels = np.random.RandomState(seed), input_channels(config)
    if kind == "uint8":
        return random.randint(0, 256, (height, width, channels)).astype(np.uint8)
    return random.standard_normal((channels, height, width)).astype(np.float32)


_INPUTS = {"drawn": ("drawn pictures", _drawn), "noise": ("noise", _noise)}


def _normalised(images: np.ndarray, config: EfficientDetConfig, kind: InputKind) -> np.ndarray:
    """What the network gets: float32 [N, C, H, W]."""
    if kind != "uint8":
        return images
    planes = np.stack([normalize(picture, config.mean_rgb, config.stddev_rgb) for picture in images])
    if config.scale_range:
        planes = planes * np.float32(2.0) / np.float32(255) - np.float32(1.0)
    return np.ascontiguousarray(planes, np.float32)


def _of_levels(outputs: Outputs, config: EfficientDetConfig) -> Levels:
    return {name: outputs[name] for name in sum(level_names(config), [])}


def _same_levels(label: str, found: Levels, truth: Truth, images: np.ndarray) -> Check:
    """Every level within a multiple of rounding, by the verdict of `diff`."""
    exact = truth.levels(images)
    differences = {
        name: compare_with_truth(exact.truth[name], exact.single[name], level) for name, level in found.items()
    }
    bad = [name for name, difference in differences.items() if not difference.ok]
    undecided = [name for name, difference in differences.items() if difference.undecided]
    name, largest = worst(differences), max(d.max_rel for d in differences.values())
    text = (
        f"{len(differences) - len(bad)} of {len(differences)} levels within rounding; at most "
        f"{differences[name].excess:.0%} of what is allowed, at {name}; largest relative difference {largest:.1e}"
    )
    if undecided:
        text += f"; rounding hides too much to tell at {', '.join(undecided)}"
    data = {
        "levels": {
            name: {
                **{key: _finite(getattr(d, key)) for key in ("max_abs", "max_rel", "rms_rel", "excess")}, "ok": d.ok
            }
            for name, d in differences.items()
        }
    }
    return Check(f"levels of {label}", not bad and not undecided, text, data)


def _expected(job: Job, levels: Levels) -> list[np.ndarray]:
    return expected_detections(job.config, job.suppression, levels)  # type: ignore[arg-type]


def expected_detections(config: EfficientDetConfig, profile: NmsProfile, levels: Levels) -> list[np.ndarray]:
    """The project's own suppression of levels, in pixels of the model's input."""
    import torch

    classes, boxes = ([torch.from_numpy(levels[name]) for name in names] for names in level_names(config))
    anchors = torch.from_numpy(anchors_from_config(config))
    count = len(classes[0])
    return postprocess(profile, classes, boxes, anchors, config.num_classes, [1.0] * count, config.image_size)


def _same_detections(label: str, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Check:
    """All of them, in the same order; those of equal score may change places."""
    numbers = [len(rows) for rows in expected]
    if [len(rows) for rows in found] != numbers:
        text = f"expected {numbers} detections, found {[len(rows) for rows in found]}"
        return Check(label, False, text, {"expected": numbers, "found": [len(rows) for rows in found]})
    box = score = 0.0
    lost = 0
    for mine, theirs in zip(found, expected, strict=True):
        for row, other in paired(mine, theirs):
            if other is None:
                lost += 1
                continue
            box = max(box, float(np.abs(row[:4] - other[:4]).max()))
            score = max(score, float(np.abs(row[4] - other[4])))
    text = (
        f"{sum(numbers) - lost} of {sum(numbers)} detections {numbers} the same; boxes within {box:.1e} pixels, scores "
        f"within {score:.1e}"
    )
    data = {"detections": numbers, "without_partner": lost, "box_pixels": box, "score": score}
    return Check(label, lost == 0 and box <= BOX_PIXELS and score <= SCORE, text, data)


def paired(found: np.ndarray, expected: np.ndarray) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Every detection expected, with the one found: of its class, within `BOX_PIXELS` and `SCORE`; each once."""
    free = np.ones(len(found), bool)
    pairs: list[tuple[np.ndarray, np.ndarray | None]] = []
    for row in expected:
        with np.errstate(invalid="ignore"):
            near = np.abs(found[:, :4] - row[:4]).max(1, initial=0) <= BOX_PIXELS
        near |= (found[:, :4] == row[:4]).all(1)
        close = free & near & (np.abs(found[:, 4] - row[4]) <= SCORE) & (found[:, 5] == row[5])
        place = int(np.argmax(close)) if close.any() else None
        if place is not None:
            free[place] = False
        pairs.append((row, found[place] if place is not None else None))
    return pairs


def _made_up_levels(job: Job, format_name: str, path: Path, profile: NmsProfile) -> list[Check]:
    """The suppression alone, on levels that no picture gives for sure: many overlaps, and an image with nothing."""
    run = _suppression_alone(job, format_name, path, profile)
    random = np.random.RandomState(0)
    sizes, shapes = job.config.feature_sizes(), job.config.anchors_per_location
    (classes, boxes), levels = level_names(job.config), {}
    for names, values, mean, deviation in ((classes, job.config.num_classes, -4, 2), (boxes, 4, 0, 0.5)):
        for name, level in zip(names, job.config.levels, strict=True):
            drawn = random.normal(mean, deviation, (SEVERAL, shapes * values, *sizes[level]))
            levels[name] = drawn.astype(np.float32)
    for name in classes:
        levels[name][1] = _EMPTY_LOGIT + random.uniform(-1, 1, levels[name][1].shape)
    expected = expected_detections(job.config, profile, levels)
    found = detections_of(run(**levels))
    return [_same_detections("made-up levels, the second image empty, batch 3", found, expected)]


def _suppression_alone(job: Job, format_name: str, path: Path, profile: NmsProfile) -> Run:
    model = suppression_model(job.config, profile).SerializeToString()
    if format_name == "onnx":
        return load_file(model, format_name, job.config)
    source = path.with_name("suppression.onnx")
    source.write_bytes(model)
    return load_file(source, format_name, job.config)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
