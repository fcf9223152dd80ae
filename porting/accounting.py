"""Every name on both sides is mapped or ignored with a reason; anything else stops the conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from effdet_model.errors import InputError
from effdet_model.fit import compare
from mappings.table import MappingTable
from porting.checkpoint.sources import Source
from porting.checkpoint.values import Choice, Kind


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
    present = source.variables
    mismatch = compare(
        table.tensorflow_shapes,
        {name: info.shape for name, info in present.items()} | {name: () for name in source.unknown},
        {name: info.dtype for name, info in present.items()},
    )
    if mismatch:
        raise InputError(
            mismatch.sentence(
                f"{source.label}: expected exactly the variables of {table.variant}, found ",
                ". Nothing was written; name the variant and --hparams that the checkpoint was trained with.",
            )
        )
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
