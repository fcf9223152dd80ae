"""PyTorch's side of parity: images read ahead, the network in batches, candidates and suppression of one image."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from effdet_model.decoding import decode_image
from effdet_model.efficientdet import EfficientDet
from effdet_model.engines import create_engine
from effdet_model.errors import InputError
from effdet_model.nms import suppress
from effdet_model.nms_profiles import NmsProfile
from effdet_model.preprocessing import preprocess
from effdet_model.selection import Candidates, select
from verify.evaluation.coco import ImageRecord

Outputs = tuple[list[Tensor], list[Tensor]]
"""Of one image: class and box outputs by level, [1, channels, h, w]."""

_BATCHES_AHEAD = 2
_PIXELS_IN_A_BATCH, _LARGEST_BATCH = 4 * 512 * 512, 8


@dataclass(frozen=True)
class ReadImage:
    """One image file as PyTorch's side reads it.

    Attributes:
        sha256: of the file; None where it cannot be opened. refused: why it cannot be used; None where it can.
        pixels: uint8 [h, w, 3]. input: float32 [3, H, W]. scale: original pixels per input pixel.
    """

    record: ImageRecord
    sha256: str | None = None
    refused: str | None = None
    pixels: np.ndarray | None = None
    input: Tensor | None = None
    scale: float = 1.0


class PortSide:
    """One model with its suppression, on the CPU.

    Args:
        model: in eval mode; is put into NHWC memory format. threads: that read images ahead.
        engine: what runs the network, see `effdet_model.engines`; None: the model as it is.
    """

    def __init__(
        self, model: EfficientDet, profile: NmsProfile, threads: int = 1, engine: str | None = None
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.profile = profile
        self.threads = threads
        self.run: Callable[[Tensor], Outputs] = self.model
        if engine is not None:
            self.run = create_engine(engine, self.model, batch=self.batch_size)
        self.anchors = torch.from_numpy(anchors_from_config(model.config))

    @property
    def config(self) -> EfficientDetConfig:
        """Of the model."""
        return self.model.config

    @property
    def batch_size(self) -> int:
        """How many images at once: as many as keep the outputs of both frameworks small."""
        height, width = self.config.image_size
        return max(1, min(_LARGEST_BATCH, _PIXELS_IN_A_BATCH // (height * width)))

    def read(self, groups: Sequence[Sequence[ImageRecord]]) -> Iterator[list[ReadImage]]:
        """The images of every group; while one is used, the next ones are read."""
        with ThreadPoolExecutor(self.threads, thread_name_prefix="images") as pool:
            ahead: collections.deque[list[Future[ReadImage]]] = collections.deque()
            try:
                for group in groups:
                    ahead.append([pool.submit(self._read, record) for record in group])
                    if len(ahead) > _BATCHES_AHEAD:
                        yield [future.result() for future in ahead.popleft()]
                while ahead:
                    yield [future.result() for future in ahead.popleft()]
            finally:
                for futures in ahead:
                    for future in futures:
                        future.cancel()

    def _read(self, record: ImageRecord) -> ReadImage:
        sha256 = file_contents_sha256(record)
        try:
            pixels = decode_image(record.path)
            image, scale = preprocess(pixels, self.config)
        except InputError as error:
            return ReadImage(record, sha256, str(error))
        return ReadImage(record, sha256, None, pixels, image, scale)

    def outputs(self, images: Sequence[Tensor]) -> list[Outputs]:
        """The network on a batch of inputs [3, H, W]."""
        if not images:
            return []
        with torch.inference_mode():
            batch = torch.stack(list(images)).contiguous(memory_format=torch.channels_last)
            classes, boxes = self.run(batch)
        return [
            ([level[i : i + 1] for level in classes], [level[i : i + 1] for level in boxes])
            for i in range(len(images))
        ]

    def candidates(self, outputs: Outputs) -> Candidates:
        """What is left of one image's outputs before suppression."""
        limit = self.profile.max_candidates
        count = len(self.anchors) * self.config.num_classes if limit is None else limit
        return select(*outputs, self.anchors, self.config.num_classes, count)[0]

    def detections(self, candidates: Candidates, scale: float, original: tuple[int, int]) -> np.ndarray:
        """float32 [n, 6]: y0, x0, y1, x1 in original pixels, score, category id."""
        return suppress(self.profile, candidates, scale, self.config.image_size, original)


def file_contents_sha256(record: ImageRecord) -> str | None:
    """SHA-256 of an image file; None where it cannot be read."""
    try:
        with open(record.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def thread_shares(total: int | None = None) -> tuple[int, int]:
    """(TensorFlow's, PyTorch's) threads, so that both together have no more than there are cores to use.

    Args:
        total: of both; by default the cores that this process may use.
    """
    if total is None:
        total = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    port = max(1, total // 2)
    return max(1, total - port), port
