"""Work split over the processes that torchrun started; without torchrun, one process that has it all."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

_PATIENCE = datetime.timedelta(days=1)
"""How long a process that is done waits for the others."""


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `world`; `local_rank` counts on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every process' value (plain JSON data), by rank, on all of them; waits for all."""
        if self.world == 1:
            return [value]
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        torch.distributed.all_gather(sizes, torch.tensor([len(mine)]))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(mine)] = mine
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        torch.distributed.all_gather(parts, padded)
        return [
            json.loads(part[: int(size)].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)
        ]

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.gather(None)


@contextlib.contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun started together (it sets WORLD_SIZE), connected by gloo, which needs no GPU."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not torch.distributed.is_available():
        yield Ranks()
        return
    begun_here = not torch.distributed.is_initialized()
    if begun_here:
        torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(
            torch.distributed.get_rank(),
            torch.distributed.get_world_size(),
            int(os.environ.get("LOCAL_RANK", "0")),
        )
    finally:
        if begun_here:
            torch.distributed.destroy_process_group()
