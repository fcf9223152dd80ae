"""What runs a model's network: a small protocol, the engines of PyTorch itself, and those that other rooms bring.

An engine takes images and gives what `EfficientDet.forward` gives. Others than PyTorch's are found by the entry points
of the group `effdet_port.engines`, each a function `(model, *, weights, batch) -> Engine`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from effdet_model.errors import InputError, unknown_name
from effdet_model.inference import inference_form
from effdet_model.packed import can_pack, packed

ENTRY_POINTS = "effdet_port.engines"
DEFAULT_ENGINE = "torch"
EXACT = "exact"
"""The model itself, as it is."""
MAX_AT_ONCE = 4
"""Images that go through the network at the same time; more would wait for Python's global lock."""

Outputs = tuple[list[Tensor], list[Tensor]]


class Engine(Protocol):
    """Something that runs a network.

    Attributes:
        name: as `create_engine` takes it.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, images: Tensor) -> Outputs:
        """float32 [N, 3, H, W], normalised, on any device -> (class_outputs, box_outputs), as the model gives them."""
        ...

    def describe(self) -> str:
        """What it is, for people and for records; the same text means the same computation."""
        ...


def engine_names() -> list[str]:
    """The engines that `create_engine` can try here; their packages may still be missing."""
    return [*_OWN, *sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)} - set(_OWN))]


def create_engine(
    name: str, model: nn.Module, *, weights: str | Path | None = None, batch: int | None = None
) -> Engine:
    """An engine for a model as it is now, in eval mode, at its config's image size.

    Args:
        name: one of `engine_names()`. model: as `create_model` makes it, on its device.
        weights: the file that the model's weights are from; what an engine keeps for another day is bound to it.
        batch: images in a call, where it is known; fewer are always taken.

    Raises:
        InputError: no such engine, its package is missing, or it does not take this model.
    """
    if name in _OWN:
        return _OWN[name](model, batch)
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return entry.load()(model, weights=weights, batch=batch)
    raise unknown_name("engine", name, engine_names())


class ExactEngine:
    """The model itself."""

    name = EXACT

    def __init__(self, model: nn.Module, batch: int | None = None) -> None:
        self.model = model

    def __call__(self, images: Tensor) -> Outputs:
        with torch.inference_mode():
            return self.model(_like(images, self.model))

    def describe(self) -> str:
        return "the model as it is"


class TorchEngine:
    """The inference form; on the CPU with packed convolutions, and several images at once on one thread each."""

    name = "torch"

    def __init__(self, model: nn.Module, batch: int | None = None) -> None:
        self.form = inference_form(model)
        self._packed: dict[int, nn.Module] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Outputs:
        images = _like(images, self.form)
        kind = images.device.type
        with torch.inference_mode():
            if kind != "cpu" or not can_pack(self.form) or torch.is_autocast_enabled(kind):
                return self.form(images)
            threads = torch.get_num_threads()
            at_once = min(len(images), threads, MAX_AT_ONCE)
            if at_once < 2:
                return _joined([self._for(threads)(images[i : i + 1]) for i in range(len(images))])
            network = self._for(max(1, threads // at_once))
        run = functools.partial(_run, network)
        with _POOLS:
            pool = _threads_of(at_once, max(1, threads // at_once))
        return _joined(list(pool.map(run, images.split(1))))

    def describe(self) -> str:
        return "inference form" + (", packed convolutions" if can_pack(self.form) else "")

    def _for(self, threads: int) -> nn.Module:
        with self._lock:
            if threads not in self._packed:
                self._packed[threads] = packed(self.form, threads)
            return self._packed[threads]


class CompileEngine:
    """The inference form compiled by torch.compile, weights frozen; compiled anew for each batch size it is made for."""

    name = "compile"

    def __init__(self, model: nn.Module, batch: int | None = None) -> None:
        self.form = inference_form(model)
        self.batch = batch
        self._compiled: Any = torch.compile(self.form, fullgraph=True, dynamic=False, options={"freezing": True})
        if batch is not None:
            self(torch.zeros(batch, 3, *self.form.image_size))

    def __call__(self, images: Tensor) -> Outputs:
        images = _like(images, self.form)
        batch = self.batch = self.batch or max(1, len(images))
        parts = [self._batch(part, batch) for part in images.split(batch)]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def describe(self) -> str:
        return "inference form, torch.compile, weights frozen"

    def _batch(self, images: Tensor, batch: int) -> Outputs:
        count = len(images)
        if count < batch:
            images = torch.cat([images, images.new_zeros(batch - count, *images.shape[1:])])
        try:
            with torch.no_grad():
                classes, boxes = self._compiled(images.contiguous(memory_format=torch.channels_last))
        except Exception as error:  # compilers fail in many ways
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"engine compile: expected that torch.compile works here (on the CPU it needs a C++ compiler), found "
                f"{type(error).__name__}: {reason}; use the engine torch."
            ) from error
        return [level[:count] for level in classes], [level[:count] for level in boxes]


_OWN: dict[str, Callable[[nn.Module, int | None], Engine]] = {
    "torch": TorchEngine,
    "compile": CompileEngine,
    EXACT: ExactEngine,
}


def _like(images: Tensor, module: nn.Module) -> Tensor:
    """Images on a module's device and in its dtype, NHWC in memory."""
    first = next(module.parameters())
    return images.to(first.device, first.dtype, memory_format=torch.channels_last, non_blocking=True)


def _run(network: nn.Module, images: Tensor) -> Outputs:
    with torch.inference_mode():
        return network(images)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several calls as those of one."""
    if len(parts) == 1:
        return parts[0]
    classes, boxes = ([torch.cat(levels) for levels in zip(*kind, strict=True)] for kind in zip(*parts, strict=True))
    return classes, boxes


_POOLS = threading.Lock()


@functools.cache
def _threads_of(workers: int, threads: int) -> ThreadPoolExecutor:
    """Worker threads whose operations use so many threads each. Python's threads have their own number of them."""
    ready = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(threads)
        ready.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, thread_name_prefix=f"network-{threads}", initializer=begin)
    for _ in range(workers):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)  # what threads begin with is the number that was set last, by whichever
    return pool
