"""What runs a model's network: a small protocol, the engines of PyTorch itself, and those that other rooms bring.

An engine takes images and gives what `EfficientDet.forward` gives. Others than PyTorch's are found by the entry points
of the group `effdet_port.engines`, each a function `(model, *, weights, batch) -> Engine`. Before an engine is used, it
has to give what the model gives in float64, on noise, as nearly as the model itself does.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError, unknown_name
from effdet_model.inference import InferenceForm, inference_form
from effdet_model.packed import can_pack, packed

ENTRY_POINTS = "effdet_port.engines"
DEFAULT_ENGINE = "torch"
EXACT = "exact"
"""The model itself, as it is."""
MAX_AT_ONCE = 4
"""Images that go through the network at the same time; more would wait for Python's global lock."""
MULTIPLE = 10.0
"""How many times as far from the float64 model an engine may be as the model itself is."""

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
    name: str,
    model: nn.Module,
    *,
    weights: str | Path | None = None,
    batch: int | None = None,
    channels_last: bool | None = None,
) -> Engine:
    """An engine for a model as it is now, in eval mode, at its config's image size.

    Args:
        name: one of `engine_names()`. model: as `create_model` makes it, on its device.
        weights: the file that the model's weights are from; what an engine keeps for another day is bound to it.
        batch: images in a call, where it is known; fewer are always taken.
        channels_last: NHWC memory format of PyTorch's engines; None: on the CPU.

    Raises:
        InputError: no such engine, its package is missing, or it does not take this model.
    """
    if name in _OWN:
        with eval_mode(model):
            return _OWN[name](model, batch, channels_last)
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return entry.load()(model, weights=weights, batch=batch)
    raise unknown_name("engine", name, engine_names())


def default_engine(model: nn.Module) -> str:
    """`DEFAULT_ENGINE`; `EXACT` for a model without a proved inference form: changed layers, hooks, half precision."""
    return DEFAULT_ENGINE if _has_form(model) else EXACT


def _has_form(model: nn.Module) -> bool:
    if type(model) is not EfficientDet or not _is_plain(model):
        return False
    side = 2 ** max(7, model.config.max_level)
    try:
        with torch.inference_mode(), eval_mode(model):
            return agrees(functools.partial(_run, inference_form(model, image_size=(side, side))), model, (side, side))
    except Exception:  # whatever was built into the model does not fit: it runs as it is
        return False


def _is_plain(model: nn.Module) -> bool:
    """Float32 or float64 without hooks: who watches a layer wants it to run (those of a backbone stay in the form)."""
    backbone = set(model.backbone.modules())  # type: ignore[union-attr]
    watched = any(
        part._forward_hooks or part._forward_pre_hooks for part in model.modules() if part not in backbone
    )
    return next(model.parameters()).dtype in (torch.float32, torch.float64) and not watched


def agrees(run: Callable[[Tensor], Outputs], model: nn.Module, image_size: tuple[int, int]) -> bool:
    """Whether something gives a model's outputs: on noise, no farther from float64 than `MULTIPLE` times the model."""
    first = next(model.parameters())
    config: Any = model.config
    channels = int(dict(config.backbone_args).get("in_chans", 3))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, channels, *image_size, generator=generator).to(first.device, first.dtype)
    with torch.inference_mode(), eval_mode(model):
        plain, exact = model(images), copy.deepcopy(model).double()(images.double())
    found = run(images)
    for kind in range(2):
        for mine, own, true in zip(found[kind], plain[kind], exact[kind], strict=True):
            allowed = MULTIPLE * float((own.double() - true).abs().max()) + 1e-6 * float(true.abs().max())
            if mine.shape != true.shape or not float((mine.double() - true).abs().max()) <= allowed:
                return False
    return True


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every layer in eval mode; afterwards those that were in training mode are so again."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class CurrentEngine:
    """An engine of a model as it is at each call: made anew when weights, device or dtype have changed.

    Changes are seen by the tensors' version counters and places, and, as `.data` hides from those, by their norms.

    Attributes:
        model: what it is of.
    """

    def __init__(self, model: nn.Module, name: str | None = None, batch: int | None = None) -> None:
        """
        Args:
            name: see `create_engine`; None: what `default_engine` says. batch: see `create_engine`.

        Raises:
            InputError: no such engine, or its package is missing.
        """
        if name is not None and name not in engine_names():
            raise unknown_name("engine", name, engine_names())
        self.model, self.name, self.batch = model, name, batch
        self._state: tuple[Any, ...] | None = None
        self._engine: Engine | None = None

    def current(self) -> Engine:
        """The engine of the model as it is now."""
        state = _state_of(self.model)
        if self._engine is None or state != self._state:
            self._engine = create_engine(self.name or default_engine(self.model), self.model, batch=self.batch)
            self._state = state
        return self._engine

    def __call__(self, images: Tensor) -> Outputs:
        """See `Engine`; the model's layers are in eval mode meanwhile."""
        engine = self.current()
        with eval_mode(self.model):
            return engine(images)


def _state_of(model: nn.Module) -> tuple[Any, ...]:
    tensors = [*model.parameters(), *model.buffers()]
    watched = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    with torch.no_grad():
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(floats)])
    marks = tuple((tensor.data_ptr(), tensor.dtype, _version(tensor)) for tensor in tensors)
    return watched, norms.cpu().numpy().tobytes(), marks


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class ExactEngine:
    """The model itself."""

    name = EXACT

    def __init__(self, model: nn.Module, batch: int | None = None, channels_last: bool | None = None) -> None:
        self.model = model

    def __call__(self, images: Tensor) -> Outputs:
        first = next(self.model.parameters())
        with torch.inference_mode():
            return self.model(images.to(first.device, first.dtype, non_blocking=True))

    def describe(self) -> str:
        return "the model as it is"


class TorchEngine:
    """The inference form; on the CPU with packed convolutions, and several images at once on one thread each."""

    name = "torch"

    def __init__(self, model: nn.Module, batch: int | None = None, channels_last: bool | None = None) -> None:
        self.form, self.layout = _form(model, channels_last)
        self._packed: dict[int, nn.Module] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Outputs:
        images = _like(images, self.form, self.layout)
        kind = images.device.type
        with torch.inference_mode():
            packs = self.layout == torch.channels_last and can_pack(self.form)
            if not packs or torch.is_autocast_enabled(kind):
                return self.form(images)
            threads = torch.get_num_threads()
            at_once = min(len(images), threads, MAX_AT_ONCE)
            if at_once < 2:
                return _joined([self._for(threads)(images[i : i + 1]) for i in range(len(images))])
            network = self._for(max(1, threads // at_once))
        run = functools.partial(_run, network)
        with _POOLS:
            pool = worker_threads(at_once, max(1, threads // at_once))
        return _joined(list(pool.map(run, images.split(1))))

    def describe(self) -> str:
        return "inference form" + (", packed convolutions" if can_pack(self.form) else "")

    def _for(self, threads: int) -> nn.Module:
        with self._lock:
            if threads not in self._packed:
                self._packed[threads] = packed(self.form, threads)
            return self._packed[threads]


class CompileEngine:
    """The inference form compiled by torch.compile, weights frozen; compiled anew for each size of batch."""

    name = "compile"

    def __init__(self, model: nn.Module, batch: int | None = None, channels_last: bool | None = None) -> None:
        self.form, self.layout = _form(model, channels_last)
        self.batch = batch
        self._compiled: Any = torch.compile(self.form, fullgraph=True, dynamic=False, options={"freezing": True})
        if batch is not None:
            channels = int(dict(self.form.config.backbone_args).get("in_chans", 3))
            self(torch.zeros(batch, channels, *self.form.image_size))

    def __call__(self, images: Tensor) -> Outputs:
        images = _like(images, self.form, self.layout)
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
                classes, boxes = self._compiled(images.contiguous(memory_format=self.layout))
        except Exception as error:  # compilers fail in many ways
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"engine compile: expected that torch.compile works here (on the CPU it needs a C++ compiler), found "
                f"{type(error).__name__}: {reason}; use the engine torch."
            ) from error
        return [level[:count] for level in classes], [level[:count] for level in boxes]


_OWN: dict[str, Callable[[nn.Module, int | None, bool | None], Engine]] = {
    "torch": TorchEngine,
    "compile": CompileEngine,
    EXACT: ExactEngine,
}


def _form(model: nn.Module, channels_last: bool | None) -> tuple[InferenceForm, torch.memory_format]:
    """The inference form, in the memory format that it is told or that its device likes."""
    form = inference_form(model)
    if channels_last is None:
        channels_last = next(model.parameters()).device.type == "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return form.to(memory_format=layout), layout


def _like(images: Tensor, module: nn.Module, layout: torch.memory_format) -> Tensor:
    """Images on a module's device, in its dtype, and in a memory format."""
    first = next(module.parameters())
    return images.to(first.device, first.dtype, memory_format=layout, non_blocking=True)


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
def worker_threads(workers: int, threads: int) -> ThreadPoolExecutor:
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
