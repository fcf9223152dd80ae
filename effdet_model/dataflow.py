"""What one run of a network without values shows: which batch norm alone takes a convolution's output, all sizes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_NO_USE = ("__get__", "dim", "size")
"""Functions of a tensor that read no values."""


@dataclass
class Dataflow:
    """What was seen.

    Attributes:
        sizes: name of a module -> (height, width) of its first input, of those that are called once.
        norms: name of a convolution -> name of the batch norm that is the only user of its output, both called once.
    """

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)


class _Calls(TorchFunctionMode):
    """Notes which tensor each convolution gives, what each batch norm takes, and how often tensors are used."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[int] = Counter()
        self.kept: list[Any] = []  # so that no tensor's id is used again
        self.convolved: list[tuple[int, int]] = []
        self.normalised: list[tuple[int, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _NO_USE:
            return out
        taken = list(_tensors([args, kwargs or {}]))
        self.uses.update(id(tensor) for tensor in taken)
        self.kept += [taken, out]
        if func in (torch.conv2d, F.conv2d) and len(args) > 1:
            self.convolved.append((id(args[1]), id(out)))
        if func in (torch.batch_norm, F.batch_norm) and len(args) > 2:
            mean = args[1] if func is F.batch_norm else args[3]
            self.normalised.append((id(args[0]), id(mean)))
        return out


def dataflow(module: nn.Module, image: Tensor) -> Dataflow:
    """Run a copy of a module on the meta device, in eval mode, and say what was seen.

    Args:
        image: its input, of which shape and dtype count; [1, 3, H, W].
    """
    twin = copy.deepcopy(module).to("meta").eval()
    calls, seen, flow = _Calls(), Counter[str](), Dataflow()
    sizes: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[name] += 1
            if inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() == 4:
                sizes[name] = (inputs[0].shape[-2], inputs[0].shape[-1])

        return hook

    for name, part in twin.named_modules():
        part.register_forward_pre_hook(note(name))
    with torch.no_grad(), calls:
        out = twin(image.to("meta"))
    given = {id(tensor) for tensor in _tensors(out)}
    flow.sizes = {name: size for name, size in sizes.items() if seen[name] == 1}
    convs = {id(part.weight): name for name, part in twin.named_modules() if isinstance(part, nn.Conv2d)}
    means = {
        id(part.running_mean): name
        for name, part in twin.named_modules()
        if isinstance(getattr(part, "running_mean", None), Tensor)
    }
    takers = {tensor: means[mean] for tensor, mean in calls.normalised if mean in means}
    for weight, tensor in calls.convolved:
        conv, norm = convs.get(weight), takers.get(tensor)
        alone = calls.uses[tensor] == 1 and tensor not in given
        if conv is not None and norm is not None and alone and seen[conv] == seen[norm] == 1:
            flow.norms[conv] = norm
    return flow


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
