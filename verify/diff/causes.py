"""Why a layer differs: recognised from the weights and the values, without the mapping that made the port.

The reference says which TensorFlow variables the layer used and in what order; the PyTorch model has its tensors in
the order of execution. Paired by that order they are compared in every layout; where all agree, the layer is
computed in TensorFlow with one mistake after the other until one gives the port's values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effdet_model.errors import InputError
from verify.diff.comparison import compare
from verify.diff.result import Cause, Difference
from verify.diff.tensors import TensorPair, agrees, expected_layout, layouts
from verify.reference.faults import FAULTS, PLACES, describe_fault
from verify.reference.ops import BATCH_NORM, FUSION

if TYPE_CHECKING:
    from porting.checkpoint.sources import Kind, Source
    from verify.reference.process import ReferenceProcess

NOT_RECOGNISED = "not_recognised"

_EXPLAINED = 6
"""Tensors that are looked into where only tensors differ."""


@dataclass(frozen=True)
class Suspect:
    """The first divergent layer of one input: all that is needed to look for the cause.

    Attributes:
        reference, port: the layer's output on both sides, NHWC.
        variables: TensorFlow variables of the layer, in the order of use.
        images: the network's input, NHWC.
    """

    name: str
    difference: Difference
    reference: np.ndarray
    port: np.ndarray
    variables: tuple[str, ...]
    images: np.ndarray


@dataclass(frozen=True)
class Investigation:
    """All that is known about a divergence.

    Attributes:
        kind: which values of the source the reference used, "raw" or "ema".
        suspect: the first divergent layer; None where tensors alone differ.
        tolerance: within which a layer with a fault counts as the port's.
        pairs: of the suspect's tensors. wrong: of tensors anywhere that differ.
    """

    source: Source
    kind: Kind
    reference: ReferenceProcess
    suspect: Suspect | None
    tolerance: float
    pairs: Sequence[TensorPair] = ()
    wrong: Sequence[TensorPair] = ()


def find_cause(case: Investigation) -> Cause:
    """The likeliest cause of a divergence; kind "not_recognised" where the values point to none."""
    wrong = [pair for pair in case.pairs if not _fits(case, pair)]
    if wrong and case.suspect is not None:
        return _explain_weights(case, wrong, f"{len(wrong)} of {len(case.pairs)} tensors of {case.suspect.name}")
    if case.suspect is None:
        some = list(case.wrong)[:_EXPLAINED]
        return _explain_weights(case, some, f"{len(case.wrong)} tensors (no layer shows it)")
    suspect = case.suspect
    return _non_finite(suspect) or _same_mistake(case, suspect) or _shifted_output(case, suspect) or _unexplained(case)


def _fits(case: Investigation, pair: TensorPair) -> bool:
    arrays = [_read(case, name) for name in pair.variables]
    return agrees(pair.value, expected_layout(pair, arrays))


def _read(case: Investigation, name: str, kind: Kind | None = None) -> np.ndarray:
    return np.asarray(case.source.read(name, kind or case.kind), np.float32)


def _explain_weights(case: Investigation, wrong: list[TensorPair], what: str) -> Cause:
    """The likeliest explanation of any tensor is the headline; those of the others are evidence."""
    found = {pair.key: _explanation(case, pair) for pair in wrong}
    evidence = [
        explained[1].evidence[0] if explained else _size_of_difference(case, pair)
        for pair, explained in zip(wrong, found.values(), strict=True)
    ]
    ranked = sorted((explained for explained in found.values() if explained), key=lambda item: item[0])
    if ranked:
        first = ranked[0][1]
        return Cause(first.kind, first.summary, tuple(evidence[:12]), first.try_next)
    return Cause(
        "weights_differ",
        f"{what} differ from the checkpoint",
        tuple(evidence[:12]),
        "Convert the checkpoint again; compare its checksum with the one in the weights' metadata.",
    )


def _size_of_difference(case: Investigation, pair: TensorPair) -> str:
    expected = expected_layout(pair, [_read(case, name) for name in pair.variables])
    if expected.shape != pair.value.shape:
        return f"{pair.key} has shape {list(pair.value.shape)}, {pair.label} would give {list(expected.shape)}"
    count = int((pair.value != expected).sum())
    return (
        f"{pair.key}: {count} of {expected.size} values differ from {pair.label}, by up to "
        f"{np.abs(pair.value - expected).max():.3g}"
    )


def _explanation(case: Investigation, pair: TensorPair) -> tuple[int, Cause] | None:
    """(rank, cause) of the first explanation that holds; a lower rank is likelier."""
    for rank, explain in enumerate(_EXPLAINERS):
        cause = explain(case, pair)
        if cause is not None:
            return rank, cause
    return None


def _other_kind(case: Investigation, pair: TensorPair) -> Cause | None:
    other: Kind = "raw" if case.kind == "ema" else "ema"
    try:
        arrays = [_read(case, name, other) for name in pair.variables]
    except InputError:
        return None
    if not agrees(pair.value, expected_layout(pair, arrays)):
        return None
    if other == "raw":
        return Cause(
            "moving_averages_not_used",
            "the moving averages were not used: the weights hold the checkpoint's raw values",
            (f"{pair.key} equals the raw value of {pair.label}, not its moving average",),
            "Convert with --variables auto or ema, or compare with --variables raw if raw values are wanted.",
        )
    return Cause(
        "moving_averages_used", "the weights hold moving averages where the raw values were asked for",
        (f"{pair.key} equals the moving average of {pair.label}, not its raw value",),
        "Compare with --variables auto or ema, or convert with --variables raw.",
    )


def _other_layout(case: Investigation, pair: TensorPair) -> Cause | None:
    arrays = [_read(case, name) for name in pair.variables]
    for meaning, candidate in layouts(pair, arrays):
        if agrees(pair.value, candidate):
            if pair.operation == FUSION:
                return Cause(
                    "edge_weights_swapped", "the edge weights of this node are in another order",
                    (f"{pair.key} holds {pair.label} {meaning}",),
                    "One TensorFlow variable (WSM, WSM_1, ...) belongs to each input, in the order of the inputs.",
                )
            return Cause(
                "kernel_transposed", f"transposed kernel: {pair.key} has {meaning}",
                (f"{pair.key} equals {pair.label} with {meaning}",),
                "TensorFlow kernels are [h, w, in, out] (depthwise: [h, w, channels, 1]); look at the layout.",
            )
    return None


def _other_variable(case: Investigation, pair: TensorPair) -> Cause | None:
    """Another variable of the checkpoint fills the tensor."""
    if pair.operation == FUSION or np.unique(pair.value).size < 2:
        return None
    for name, info in case.source.variables.items():
        if int(np.prod(info.shape)) != pair.value.size or name in pair.variables:
            continue
        for meaning, candidate in layouts(pair, [_read(case, name)], own=True):
            if agrees(pair.value, candidate):
                turned = f", with {meaning}" if meaning else ""
                norm = pair.operation == BATCH_NORM
                return Cause(
                    "batch_norm_swapped" if norm else "conv_swapped",
                    f"swapped {'batch norms' if norm else 'convolutions'}: {pair.key} holds {name}",
                    (f"{pair.key} equals {name}{turned}; expected {pair.label}",),
                    "Two names of the map are exchanged; look at the scope that fills this module.",
                )
    return None


def _reduced_precision(case: Investigation, pair: TensorPair) -> Cause | None:
    import torch

    expected = expected_layout(pair, [_read(case, name) for name in pair.variables])
    if expected.shape != pair.value.shape:
        return None
    for dtype, name in ((torch.float16, "float16"), (torch.bfloat16, "bfloat16")):
        rounded = torch.from_numpy(np.array(expected, order="C")).to(dtype).float().numpy()
        if agrees(pair.value, rounded):
            return Cause(
                "precision_lost", f"precision lost: the weights were rounded to {name}",
                (f"{pair.key} equals {pair.label} rounded to {name}",), "Keep float32 from end to end.",
            )
    return None


def _untouched(case: Investigation, pair: TensorPair) -> Cause | None:
    if pair.value.size < 2 or np.unique(pair.value).size != 1:
        return None
    value = float(pair.value.flat[0])
    return Cause(
        "not_loaded", f"never loaded: {pair.key} is {value:g} everywhere, as a new model has it",
        (f"{pair.key} is constant; {pair.label} is not",), "Load with strict=True; look for a missing name.",
    )


_EXPLAINERS = (_other_kind, _other_layout, _untouched, _reduced_precision, _other_variable)


def _non_finite(suspect: Suspect) -> Cause | None:
    difference = suspect.difference
    if np.isfinite(difference.max_abs):
        return None
    return Cause(
        "not_finite" if "non-finite" in difference.note else "shape",
        difference.note, (f"first at index {list(difference.worst_index)}",),
        "Check the checkpoint for NaN and Inf, and the image size.",
    )


def _same_mistake(case: Investigation, suspect: Suspect) -> Cause | None:
    """The reference with a mistake that gives the port's values: at every use in the layer, else at one."""
    if case.reference.kind != "tensorflow":
        return None
    best = _best_match(case, suspect, list(FAULTS))
    if best is None:
        best = _best_match(case, suspect, [f"{fault}@{place}" for fault in FAULTS for place in range(PLACES)])
    if best is None:
        return None
    left, fault = best
    summary, advice = describe_fault(fault)
    evidence = (
        "every tensor of this layer equals the checkpoint's",
        f"TensorFlow with this mistake in {suspect.name} gives the port's values within {left:.2e} "
        f"(without it: {suspect.difference.max_rel:.2e})",
    )
    return Cause(fault.partition("@")[0], summary, evidence, advice)


def _best_match(case: Investigation, suspect: Suspect, faults: list[str]) -> tuple[float, str] | None:
    """(what is left of the difference, fault) of the fault that explains nearly all of it."""
    best: tuple[float, str] | None = None
    for found in case.reference.probe(suspect.images, suspect.name, faults):
        if found.output.shape != suspect.port.shape:
            continue
        left = compare(found.output, suspect.port, case.tolerance)
        if left.ok and (best is None or left.max_rel < best[0]):
            best = (left.max_rel, found.name)
    return best if best and best[0] < suspect.difference.max_rel / 10 else None


def _shifted_output(case: Investigation, suspect: Suspect) -> Cause | None:
    """The port's output is the reference's, moved by a pixel."""
    reference, port = suspect.reference, suspect.port
    if min(reference.shape[1:3]) < 4 or reference.shape != port.shape:
        return None
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            moved = np.roll(reference, (down, right), (1, 2))[:, 2:-2, 2:-2]
            inner = port[:, 2:-2, 2:-2]
            if (down or right) and moved.size and compare(moved, inner, case.tolerance).ok:
                return Cause(
                    "output_shifted", f"the output is shifted by {down} rows and {right} columns",
                    ("apart from two pixels at the border the values are the reference's, moved",),
                    "Look at the padding and the resize of this layer.",
                )
    return None


def _unexplained(case: Investigation) -> Cause:
    suspect, count = case.suspect, len(case.pairs)
    assert suspect is not None
    if count:
        evidence = [f"all {count} tensors of this layer equal the checkpoint's: the function differs, not the weights"]
    elif suspect.variables:
        evidence = ["the layer's tensors could not be paired with TensorFlow's: their numbers differ"]
    else:
        evidence = ["this layer has no tensors of its own: the function differs, not the weights"]
    if suspect.reference.dtype == np.float32 and suspect.difference.max_rel < 1e-3:
        evidence.append("the difference is small; it may be rounding")
        advice = "Run with --dtype float64: rounding vanishes there, a different function does not."
    else:
        advice = "Run with --isolate --dtype float64 to see whether later layers differ on their own."
    return Cause(NOT_RECOGNISED, f"{suspect.name} computes something else, by no mistake known here",
                 tuple(evidence), advice)
