"""Does it fit: names, shapes and dtypes expected against found, with one text; and are two arrays the same bits.

Whatever fills a model, a mapping table or a file compares here, so that every command says the same of the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet_model.errors import nearest

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

MESSAGE_LIMIT = 600
"""Characters of a whole message; lists of names are cut to fit in it."""

EXACT_DTYPES = ("float32", "float16", "bfloat16")
"""Dtypes of which float32 holds every value exactly."""

_LISTED, _NAME_LIMIT, _LEAST_ROOM, _SEARCHED = 12, 120, 160, 3000
_LEAST_NAME, _MORE = 40, len(", and 1000 more")


@dataclass(frozen=True)
class Mismatch:
    """What does not fit; false where everything does. All names sorted.

    Attributes:
        missing: expected, not found. left_over: found, not expected.
        shapes: name -> (found, expected). dtypes: name -> found.
    """

    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[Shape, Shape]] | None = None
    dtypes: Mapping[str, str] | None = None

    def __bool__(self) -> bool:
        return bool(self.missing or self.left_over or self.shapes or self.dtypes)

    def sentence(self, before: str, after: str = "") -> str:
        """`before`, all lists, `after`: one message of at most `MESSAGE_LIMIT` characters."""
        return before + self.text(MESSAGE_LIMIT - len(before) - len(after)) + after

    def text(self, room: int = MESSAGE_LIMIT) -> str:
        """Counts and the first names of each kind, missing ones with the nearest that are left over."""
        return "; ".join(self.parts(room))

    def parts(self, room: int = MESSAGE_LIMIT) -> list[str]:
        """One text for each kind of mismatch; `room`: characters for all of them."""
        shapes, dtypes = self.shapes or {}, self.dtypes or {}
        lists: list[tuple[str, Sequence[str]]] = [
            (f"{len(self.missing)} missing: ", self._with_nearest()),
            (f"{len(self.left_over)} left over: ", self.left_over),
            (
                f"{len(shapes)} of another shape: ",
                [f"{name} {list(found)} instead of {list(wanted)}" for name, (found, wanted) in shapes.items()],
            ),
            (f"{len(dtypes)} not float32: ", [f"{name} ({dtype})" for name, dtype in dtypes.items()]),
        ]
        present = [(title, items) for title, items in lists if items]
        share = max(room, _LEAST_ROOM) // max(1, len(present)) - 2
        return [title + listed(items, room=share - len(title)) for title, items in present]

    def _with_nearest(self) -> list[str]:
        candidates = [name for name in self.left_over if len(name) <= _NAME_LIMIT][:_SEARCHED]
        shown = []
        for name in self.missing[:_LISTED]:
            close = nearest(name, candidates, 1) if len(name) <= _NAME_LIMIT else []
            shown.append(f"{name} (nearest: {close[0]})" if close else name)
        return [*shown, *self.missing[_LISTED:]]


def compare(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], dtypes: Mapping[str, str] | None = None
) -> Mismatch:
    """Hold names and shapes against each other.

    Args:
        dtypes: name -> dtype of what must have one of `EXACT_DTYPES`; names that it lacks may have any.
    """
    both = sorted(set(expected) & set(found))
    return Mismatch(
        missing=tuple(sorted(set(expected) - set(found))),
        left_over=tuple(sorted(set(found) - set(expected))),
        shapes={
            name: (tuple(found[name]), tuple(expected[name]))
            for name in both
            if tuple(found[name]) != tuple(expected[name])
        },
        dtypes={name: dtypes[name] for name in both if name in dtypes and dtypes[name] not in EXACT_DTYPES}
        if dtypes
        else {},
    )


def listed(names: Iterable[str], most: int = _LISTED, room: int = MESSAGE_LIMIT // 2) -> str:
    """The first names with commas between, and how many more there are; at least one, long ones shortened.

    Args:
        most: how many names. room: how many characters.
    """
    every = list(names)
    shown: list[str] = []
    length = 0
    limit = max(_LEAST_NAME, min(2 * _NAME_LIMIT, room - _MORE))
    for name in (shortened(name, limit) for name in every[:most]):
        length += len(name) + 2
        if shown and length + _MORE > room:
            break
        shown.append(name)
    more = len(every) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")


def shortened(name: str, limit: int = _NAME_LIMIT) -> str:
    """A name with its middle left out where it is longer than `limit` characters; what steers a terminal is escaped."""
    if not name.isprintable():
        name = name.encode("unicode_escape").decode()
    return name if len(name) <= limit else f"{name[: limit // 2 - 2]}...{name[-limit // 2 + 1 :]}"


def same_bits(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> bool:
    """Whether two arrays or tensors have the same dtype, shape and bits (NaN equals the same NaN, 0.0 not -0.0)."""
    if a.dtype != b.dtype or tuple(a.shape) != tuple(b.shape):
        return False
    return bool(np.array_equal(_bits(a), _bits(b)))


def _bits(value: Any) -> np.ndarray:
    """The memory of an array or tensor as a flat array of unsigned numbers."""
    if isinstance(value, (np.ndarray, np.generic)):
        flat = np.ascontiguousarray(value).reshape(-1)
        return flat.view({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}.get(flat.itemsize, np.uint8))
    import torch

    flat = value.detach().cpu().contiguous().reshape(-1)
    sizes = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return flat.view(sizes.get(flat.element_size(), torch.uint8)).numpy()
