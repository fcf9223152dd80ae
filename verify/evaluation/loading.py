"""Images of a dataset as batches of model inputs, read ahead by worker threads."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet_model.decoding import decode_image
from effdet_model.errors import InputError
from effdet_model.preprocessing import preprocess
from verify.evaluation.coco import ImageRecord

_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """One batch of model inputs.

    Attributes:
        images: float32 [n, 3, H, W], normalised and padded; n may be 0.
        records, scales, sizes: of these n images: where from, original pixels per input pixel, (height, width) as
            decoded.
        bad: the images of this batch that cannot be used, each with the reason and its hash.
        hashes: SHA-256 of the files of these n images, as read.
    """

    images: Tensor
    records: tuple[ImageRecord, ...]
    scales: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...]
    bad: tuple[tuple[ImageRecord, str, str | None], ...]
    hashes: tuple[str | None, ...] = ()


def batches(
    groups: Iterable[Sequence[ImageRecord]], config: Any, workers: int = 2, channels_last: bool = False
) -> Iterator[Batch]:
    """Batches in the order given; while one is used, the next ones are read.

    Decoding, resizing and numpy's loops release Python's global lock, so threads keep several cores busy and need
    neither copies between processes nor shared memory.

    Args:
        groups: the images of each batch. config: of the model. workers: threads.
        channels_last: memory format of the batches.
    """
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="images") as pool:
        ahead: collections.deque[list[Future[_Loaded | _Bad]]] = collections.deque()
        try:
            for group in groups:
                ahead.append([pool.submit(_load, record, config) for record in group])
                if len(ahead) > _BATCHES_AHEAD:
                    yield _collate(ahead.popleft(), config.image_size, channels_last)
            while ahead:
                yield _collate(ahead.popleft(), config.image_size, channels_last)
        finally:
            for futures in ahead:
                for future in futures:
                    future.cancel()


@dataclass(frozen=True)
class _Loaded:
    record: ImageRecord
    image: Tensor
    scale: float
    size: tuple[int, int]
    sha256: str | None


@dataclass(frozen=True)
class _Bad:
    record: ImageRecord
    reason: str
    sha256: str | None


def image_sha256(path: Path) -> str | None:
    """SHA-256 of an image file; None where it cannot be read."""
    data = _bytes_of(path)
    return None if data is None else hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _load(record: ImageRecord, config: Any) -> _Loaded | _Bad:
    data = _bytes_of(record.path)
    sha256 = None if data is None else hashlib.sha256(data).hexdigest()
    try:
        pixels = decode_image(record.path) if data is None else decode_image(data, name=str(record.path))
        image, scale = preprocess(pixels, config)
    except InputError as error:
        return _Bad(record, str(error), sha256)
    return _Loaded(record, image, scale, (pixels.shape[0], pixels.shape[1]), sha256)


def _collate(futures: list[Future[_Loaded | _Bad]], size: tuple[int, int], channels_last: bool) -> Batch:
    done = [future.result() for future in futures]
    good = [item for item in done if isinstance(item, _Loaded)]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.empty((len(good), 3, *size), memory_format=layout)
    for index, item in enumerate(good):
        images[index] = item.image
    return Batch(
        images,
        tuple(item.record for item in good),
        tuple(item.scale for item in good),
        tuple(item.size for item in good),
        tuple((item.record, item.reason, item.sha256) for item in done if isinstance(item, _Bad)),
        tuple(item.sha256 for item in good),
    )
