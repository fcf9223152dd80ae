"""Every name on both sides is mapped or ignored with a reason; anything else stops the conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effdet_model.errors import InputError, nearest
from mappings.table import MappingTable
from porting.checkpoint.sources import Source
from porting.checkpoint.values import Choice, Kind

_LISTED = 12


@dataclass(frozen=True)
class Account:
    """Where every tensor of the checkpoint went.

    Attributes:
        kind: "ema" or "raw": which values are used. why: what decided it, in a part of a sentence.
        consumed: canonical names, each used exactly once.
        ignored: reason -> how many tensors.
    """

    kind: Kind
    why: str
    consumed: tuple[str, ...]
    ignored: Mapping[str, int]


def account(
    source: Source, table: MappingTable, choice: Choice, moving_average_decay: float | None = None
) -> Account:
    """Match a checkpoint against a table, completely.

    Args:
        choice, moving_average_decay: see `porting.checkpoint.values.meant_kind`.

    Raises:
        InputError: a variable is missing, left over, or of another shape or dtype; the lists are sorted and
            missing names come with the nearest ones that are left over.
    """
    expected = table.tensorflow_shapes
    present = source.variables
    missing = sorted(set(expected) - set(present))
    extra = sorted([*(set(present) - set(expected)), *source.unknown])
    shapes = sorted(
        f"{name} {_shape(present[name].shape)} instead of {_shape(shape)}"
        for name, shape in expected.items()
        if name in present and present[name].shape != shape
    )
    dtypes = sorted(
        f"{name} ({present[name].dtype})"
        for name in expected
        if name in present and present[name].dtype not in ("float32", "float16", "bfloat16")
    )
    if missing or extra or shapes or dtypes:
        raise InputError(_difference(source.label, table.variant, missing, extra, shapes, dtypes))
    consumed = tuple(name for row in table.rows for name in row.tensorflow_names)
    if len(set(consumed)) != len(consumed):
        raise AssertionError("a variable would be consumed twice")
    kind, why = source.meant(consumed, choice, moving_average_decay)
    reasons = Counter(item.reason for item in source.ignored)
    other = (
        "raw value; the moving average is used" if kind == "ema" else "moving average; the raw value is used"
    )
    unused = sum(present[name].has_raw if kind == "ema" else present[name].has_ema for name in consumed)
    if unused:
        reasons[other] += unused
    return Account(kind, why, consumed, dict(sorted(reasons.items())))


def _difference(
    label: str, variant: str, missing: list[str], extra: list[str], shapes: list[str], dtypes: list[str]
) -> str:
    parts = []
    if missing:
        hints = []
        for name in missing[:_LISTED]:
            close = nearest(name, extra, 1)
            hints.append(f"{name} (nearest: {close[0]})" if close else name)
        parts.append(f"{len(missing)} missing: {', '.join(hints)}{_more(missing)}")
    if extra:
        parts.append(f"{len(extra)} left over: {_listed(extra)}")
    if shapes:
        parts.append(f"{len(shapes)} of another shape: {_listed(shapes)}")
    if dtypes:
        parts.append(f"{len(dtypes)} not float32: {_listed(dtypes)}")
    return (
        f"{label}: expected exactly the variables of {variant}, found {'; '.join(parts)}. Nothing was written; name "
        "the variant and --hparams that the checkpoint was trained with."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + _more(names)


def _more(names: Sequence[str]) -> str:
    return f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
