"""Which picture is in which batch: the same for any number of processes, workers and restarts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ORDER, _IMAGE = 1, 2


def epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of `count` pictures."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(count).astype(np.int64)


def image_random(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The chance of one picture in one epoch."""
    return np.random.default_rng([_IMAGE, seed, epoch, index])


def batch_indices(
    order: npt.NDArray[np.int64], step: int, batch_size: int, rank: int, world_size: int
) -> tuple[npt.NDArray[np.int64], int]:
    """(pictures of this process, pictures of all processes) in one step.

    The pictures of a step are dealt out one by one, so that processes differ by at most one of them.
    """
    together = order[step * batch_size * world_size : (step + 1) * batch_size * world_size]
    return together[rank::world_size], len(together)


def count_steps(count: int, batch_size: int, world_size: int, drop_last: bool) -> int:
    """Batches of an epoch."""
    whole, rest = divmod(count, batch_size * world_size)
    return whole + (rest > 0 and not drop_last)
