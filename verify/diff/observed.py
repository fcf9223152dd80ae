"""What both networks do with their tensors, watched while they run: which went into which operation, in what role.

TensorFlow's side is told by the reference's operations, PyTorch's by the operations that reach PyTorch's dispatcher.
Neither knows of a mapping, of names, or of the order in which modules are registered.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from verify.reference.ops import BATCH_NORM, CONVOLUTION, DEPTHWISE, FUSION

_CONVOLUTION_ROLES = {"weight": "weight", "bias": "bias"}
_NORM_ROLES = {"weight": "weight", "bias": "bias", "running_mean": "mean", "running_var": "variance"}


class Place(NamedTuple):
    """One tensor in one operation.

    Attributes:
        operation, role: as in `verify.reference.ops`.
        names: TensorFlow's variables (all of a fusion's together), or the one key of the state_dict; empty where
            PyTorch used a tensor that is none of its state_dict.
    """

    operation: str
    role: str
    names: tuple[str, ...]


class Watch(TorchDispatchMode):
    """While it is active, notes every use of a tensor of a model's state_dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._keys = {_identity(tensor): key for key, tensor in model.state_dict().items() if tensor.numel()}
        self._seen: list[Place] = []

    def take(self) -> list[Place]:
        """What was used since this was last asked."""
        seen, self._seen = self._seen, []
        return seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _note(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        schema = func._schema
        given = {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)} | kwargs
        name = schema.name.partition("::")[2]
        if "conv" in name and isinstance(given.get("weight"), Tensor):
            operation, roles = DEPTHWISE if given.get("groups", 1) > 1 else CONVOLUTION, _CONVOLUTION_ROLES
        elif "batch_norm" in name:
            operation, roles = BATCH_NORM, _NORM_ROLES
        else:
            self._note_fusion(given.values())
            return
        for argument, role in roles.items():
            if isinstance(given.get(argument), Tensor):
                self._seen.append(Place(operation, role, self._names(given[argument])))

    def _note_fusion(self, values: Any) -> None:
        """Any other operation: the edge weights on their way to weighting a node's inputs."""
        for value in values:
            place = Place(FUSION, "edge weight", self._names(value) if isinstance(value, Tensor) else ())
            if place.names and self._seen[-1:] != [place]:
                self._seen.append(place)

    def _names(self, tensor: Tensor) -> tuple[str, ...]:
        key = self._keys.get(_identity(tensor))
        return () if key is None else (key,)


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """Memory and layout: a transposed view of a parameter is not the parameter."""
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def reference_places(variables: Sequence[str], uses: Sequence[tuple[str, str]]) -> Iterator[Place]:
    """The same of TensorFlow's side; a fusion's edge weights, one variable for each input, are one place."""
    told = zip(uses, variables, strict=True)
    for (operation, role), group in itertools.groupby(told, lambda item: item[0]):
        names = [name for _, name in group]
        if operation == FUSION:
            yield Place(operation, role, tuple(names))
        else:
            yield from (Place(operation, role, (name,)) for name in names)


def align(
    reference: Sequence[Place], port: Sequence[Place]
) -> tuple[list[tuple[Place, Place]], list[Place], list[Place]]:
    """(pairs, TensorFlow's places without a partner, PyTorch's) of one layer, by operation and role in order of use."""
    kinds, port_kinds = ([(place.operation, place.role) for place in side] for side in (reference, port))
    pairs: list[tuple[Place, Place]] = []
    alone: tuple[list[Place], list[Place]] = ([], [])
    matcher = SequenceMatcher(None, kinds, port_kinds, autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag == "equal":
            pairs += zip(reference[start:end], port[other_start:other_end], strict=True)
        else:
            alone[0].extend(reference[start:end])
            alone[1].extend(port[other_start:other_end])
    return pairs, *alone
