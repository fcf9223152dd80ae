"""Batches for training. A picture looks the same in an epoch whoever loads it, and whenever."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from training.augmentation.pipeline import augment
from training.augmentation.scene import Prepared, Scene
from training.augmentation.settings import AugmentationSettings
from training.data.dataset import DetectionDataset, Example
from training.data.order import batch_indices, count_steps, epoch_order, image_random
from training.targets import IGNORED

_AHEAD = 4
"""Batches that each worker process prepares ahead."""


@dataclass(frozen=True)
class Batch:
    """One batch of this process.

    Attributes:
        images: float32 [N, 3, H, W], normalised. N may be one less than in other processes, even 0, in the last batch.
        boxes: N of float32 [n, 4], (y0, x0, y1, x1) in pixels of the input.
        classes: N of int64 [n], from 1 on, or -1 for boxes to be ignored.
        image_ids: N ids of the dataset.
        global_images: pictures of this step in all processes together.
    """

    images: Tensor
    boxes: list[Tensor]
    classes: list[Tensor]
    image_ids: tuple[int, ...]
    global_images: int


class TrainingLoader:
    """Batches of a dataset, epoch by epoch.

    Args:
        config: of the model: image size, mean and deviation of colours.
        batch_size: pictures of one batch of one process.
        seed: with it, the epoch and its index a picture always looks the same.
        workers: processes that load; 0: this one does.
        rank, world_size: which of how many training processes this is.
        drop_last: leave out the pictures that fill no whole batch.

    Raises:
        InputError: a number is out of range, or there is no batch.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        config: EfficientDetConfig,
        augmentation: AugmentationSettings,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        for name, value, low, high in (
            ("batch size", batch_size, 1, 1_000_000), ("seed", seed, 0, 2**63 - 1), ("workers", workers, 0, 1024),
            ("world size", world_size, 1, 100_000), ("rank", rank, 0, world_size - 1),
        ):  # fmt: skip
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"{name}: expected a whole number from {low} to {high}, found {value!r}; correct it.")
        self.dataset, self.config, self.augmentation = dataset, config, augmentation
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = count_steps(len(dataset), batch_size, world_size, drop_last)
        if not self.steps_per_epoch:
            raise InputError(
                f"training data {dataset.source}: expected at least {batch_size * world_size} pictures for one batch, "
                f"found {len(dataset)}; use a smaller batch."
            )

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from 0 on; with `start` without the first ones, which were trained already.

        Raises:
            InputError: a picture is missing or cannot be decoded.
        """
        order = epoch_order(len(self.dataset), self.seed, number)
        steps = [
            batch_indices(order, step, self.batch_size, self.rank, self.world_size)
            for step in range(start, self.steps_per_epoch)
        ]
        pictures = _Pictures(self.dataset, self.config, self.augmentation, self.seed, number)
        loader: Any = DataLoader(
            pictures,
            batch_sampler=[indices.tolist() for indices, _ in steps],
            num_workers=self.workers,
            collate_fn=_collate,
            prefetch_factor=_AHEAD if self.workers else None,
            generator=torch.Generator(),  # else it draws from the global one, whose state belongs to the model
        )
        for (_, together), loaded in zip(steps, loader, strict=True):
            yield _batch(loaded, together, self.config.image_size)


class _Pictures(Dataset[Any]):
    """Augmented pictures of one epoch; an `InputError` is returned, since workers cannot raise it as it is."""

    def __init__(
        self, dataset: DetectionDataset, config: EfficientDetConfig, settings: AugmentationSettings, seed: int,
        epoch: int,
    ) -> None:
        self.dataset, self.config, self.settings, self.seed, self.epoch = dataset, config, settings, seed, epoch

    def __getitem__(self, index: int) -> tuple[int, Prepared] | InputError:
        try:
            prepared = self.prepared(index)
        except InputError as error:
            return error
        return self.dataset.pictures[index].image_id, prepared

    def prepared(self, index: int) -> Prepared:
        random = image_random(self.seed, self.epoch, index)
        scene = training_scene(self.dataset[index], self.settings)
        return augment(scene, self.config, self.settings, random, self._another)

    def _another(self, number: int) -> Scene:
        return training_scene(self.dataset[number % len(self.dataset)], self.settings)


def training_scene(example: Example, settings: AugmentationSettings) -> Scene:
    """A picture with the boxes that count: moved into it, without those that have no area there.

    Crowds and difficult boxes are left out, ignored or kept, as the settings say.
    """
    height, width = example.image.shape[:2]
    limit = np.array([height, width, height, width], np.float32)
    boxes = np.clip(example.boxes_yxyx, np.float32(0), limit)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    classes = example.classes.copy()
    for marked, use in ((example.difficult, settings.difficult), (example.crowd, settings.crowd)):
        if use == "skip":
            kept &= ~marked
        elif use == "ignore":
            classes[marked] = IGNORED
    return Scene(example.image, boxes[kept], classes[kept])


def _collate(loaded: Sequence[tuple[int, Prepared] | InputError]) -> Any:
    """Tensors of a batch: worker processes hand them on by shared memory."""
    good: list[tuple[int, Prepared]] = []
    for item in loaded:
        if isinstance(item, InputError):
            return str(item)
        good.append(item)
    if not good:
        return None
    images = torch.from_numpy(np.stack([prepared.image for _, prepared in good]))
    boxes = [torch.from_numpy(prepared.boxes) for _, prepared in good]
    classes = [torch.from_numpy(prepared.classes) for _, prepared in good]
    return images, boxes, classes, tuple(image_id for image_id, _ in good)


def _batch(loaded: Any, together: int, image_size: tuple[int, int]) -> Batch:
    if isinstance(loaded, str):
        raise InputError(loaded)
    if loaded is None:
        return Batch(torch.zeros(0, 3, *image_size), [], [], (), together)
    images, boxes, classes, image_ids = loaded
    return Batch(images, list(boxes), list(classes), tuple(image_ids), together)
