"""What is trained on, as the loop sees it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from verify.evaluation.coco import CocoDataset


class Batch(Protocol):
    """One process' part of a batch; see `training.data.loading`."""

    @property
    def images(self) -> Tensor: ...
    @property
    def boxes(self) -> Sequence[Tensor]: ...
    @property
    def classes(self) -> Sequence[Tensor]: ...
    @property
    def image_ids(self) -> Sequence[int]: ...


class Loader(Protocol):
    """Gives the same batches of an epoch whenever it is asked, in any number of processes."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Data:
    """What is trained on and judged by.

    Attributes:
        images: how many to train on. label_map: class id, from 1 on, to name. loader: of the training images.
        validation: None: nothing is judged. fingerprint: what must not change between a run and its resumption.
    """

    images: int
    label_map: Mapping[int, str]
    fingerprint: str
    validation: CocoDataset | None
    notes: tuple[str, ...] = ()
    dataset: Any = None
    validation_dataset: Any = None


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
