"""What trainers and wrappers put around a model's tensors: prefixes, benches, averages, other things in the file.

An EfficientDet's own names begin with backbone, fpn, class_net or box_net; what stands before is a wrapper's
(DataParallel's `module.`, effdet's benches and Lightning's `model.`, torch.compile's `_orig_mod.`), whatever it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from effdet_model.errors import InputError, shown
from effdet_model.fit import listed

MAX_DEPTH = 4
"""How deep dictionaries may be nested around a state_dict."""
MAX_PLACES = 100
"""How many models are looked for in one file."""

_OWN = re.compile(r"((?:[^.]+\.)*?)(backbone|fpn|class_net|box_net)\.")
_PARTS = {"backbone", "fpn", "class_net", "box_net"}
_BENCH = re.compile(r"(?:[^.]+\.)*(?:anchors\.boxes|anchor_labeler\..+|loss_fn\..+|n_averaged)")
_AVERAGES = re.compile(r"(?:^|[._])(?:ema|swa|average|averaged)(?:$|[._])")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class ModelNames:
    """Which tensors of a file are a model's.

    Attributes:
        names: name in the model -> name in the file, in the file's order.
        counters: the model's batch counters that the file lacks; they are 0 and no output depends on them.
        notes: what was done, in sentences.
    """

    names: Mapping[str, str]
    counters: tuple[str, ...]
    notes: tuple[str, ...]


def model_names(keys: Iterable[str], label: str) -> ModelNames:
    """Take wrappers' prefixes off the names of a file, leave out what benches add, complete batch counters.

    Raises:
        InputError: several whole models in one file.
    """
    every = list(keys)
    prefixes = whole_models(every)
    if len(prefixes) > 1:
        raise InputError(
            f"{label}: expected the tensors of one model, found several, below "
            f"{listed(repr(prefix) for prefix in prefixes)}; save the state_dict of the one you mean."
        )
    prefix = prefixes[0] if prefixes else ""
    notes = []
    names = {key[len(prefix) :] if key.startswith(prefix) else key: key for key in every}
    if len(names) != len(every):
        names, prefix = {key: key for key in every}, ""
    if prefix:
        notes.append(f"took the prefix {prefix!r} off all names, which a wrapper had added")
    bench = [name for name in names if prefixes and _BENCH.fullmatch(name) and not name.startswith(tuple(_PARTS))]
    if bench:
        notes.append(f"left out {listed(bench)}, which a bench or an averaging wrapper had added")
        names = {name: key for name, key in names.items() if name not in bench}
    norms = [name.removesuffix("running_var") for name in names if name.endswith(".running_var")]
    counters = tuple(norm + _COUNTER for norm in norms if norm + _COUNTER not in names)
    if counters:
        notes.append(f"{len(counters)} num_batches_tracked are not in the file; they are 0, no output depends on them")
    return ModelNames(names, counters, tuple(notes))


def whole_models(keys: Iterable[str]) -> list[str]:
    """The prefixes below which all parts of an EfficientDet are; "" for names without one."""
    parts: dict[str, set[str]] = {}
    for key in keys:
        match = _OWN.match(key)
        if match:
            parts.setdefault(match[1], set()).add(match[2])
    return sorted(prefix for prefix, found in parts.items() if found == _PARTS)


def find_state_dict(loaded: Any, label: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The state_dict in what a .pth holds, alone or in a trainer's dictionary; and notes on the choice.

    Moving averages go before raw values, as they are what trainers evaluate and keep the best by.

    Raises:
        InputError: none, or several that are equally likely.
    """
    if isinstance(loaded, dict) and loaded and all(map(_is_tensor, loaded.values())):
        return dict(loaded), ()
    places = dict(islice(_models_in(loaded, "", 0, set()), MAX_PLACES))
    averages = [place for place in places if _AVERAGES.search(place)]
    chosen = averages if averages else list(places)
    if len(chosen) > 1:
        raise InputError(
            f"{label}: expected one state_dict, found {listed(chosen)}; save the one you mean alone."
        )
    if not chosen:
        raise InputError(
            f"{label}: expected a plain state_dict (names to tensors), found {_describe(loaded)}; save "
            "model.state_dict() alone."
        )
    place = chosen[0]
    other = [name for name in places if name != place]
    what = f"the moving averages under {place!r}" if averages else f"the state_dict under {place!r}" if place else (
        "the tensors alone, beside which other values lie"
    )
    note = f"took {what}" + (f"; {listed(map(repr, other))} holds other values of the same model" if other else "")
    return places[place], (note,)


def _models_in(
    value: Any, place: str, depth: int, barren: set[tuple[int, int]]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Where models are; what has none is remembered, as there may be billions of ways to one dictionary."""
    if not isinstance(value, dict) or depth > MAX_DEPTH or (id(value), depth) in barren:
        return
    found = False
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and _is_tensor(item)}
    if whole_models(tensors):
        found = True
        yield place, tensors
    for key, item in value.items():
        if isinstance(key, str) and isinstance(item, dict):
            for model in _models_in(item, f"{place}.{key}" if place else key, depth + 1, barren):
                found = True
                yield model
    if not found:
        barren.add((id(value), depth))


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _describe(value: Any) -> str:
    kind = f"a {type(value).__name__}"
    return f"{kind} with {listed(map(_text, value), 6, 200)}" if isinstance(value, dict) and value else kind


def _text(key: Any) -> str:
    return key if isinstance(key, str) else shown(key)
