"""From a name to a model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from effdet_model.config import EfficientDetConfig, parse_image_size
from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError, InputWarning
from effdet_model.initial_weights import CLASS_PREDICT
from effdet_model.released_weights import assumed_anchors, named_as_released, released_weights
from effdet_model.variants import canonical_variant, get_config
from effdet_model.weights import check_pairing, load_into, read_metadata, read_state_dict


def create_model(
    variant: str | None = None,
    *,
    image_size: int | str | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    pretrained_backbone: bool = False,
    reset_head: bool = False,
    **overrides: Any,
) -> EfficientDet:
    """A model in eval mode.

    Args:
        variant: a name of `list_variants()`; also tf_efficientdet_d0 and efficientdet-d0. May be left out
            where the weights' metadata names it.
        image_size: (height, width), or one number; the variant's or the weights' own by default.
        weights: .pth or .safetensors; its metadata sets the config. Without: random weights. Where a file has no
            metadata and is none of effdet's releases, a warning says which anchors were assumed.
        pretrained_backbone: take timm's ImageNet weights for the backbone (downloads them).
        reset_head: with `weights`: give `class_net.predict` new random weights, so that num_classes may be another.
        overrides: fields of `EfficientDetConfig`, e.g. num_classes=20, fpn_name="qufpn".

    Raises:
        InputError: unknown name or field, or weights that do not fit.
    """
    _check_arguments(variant, weights, overrides)
    if reset_head and overrides.get("num_classes") not in (None, resolve_config(variant, weights).num_classes):
        overrides.setdefault("label_map", None)  # the names of the old classes go with them
    config = resolve_config(variant, weights, **overrides)
    if image_size is not None:
        config = config.replace(image_size=parse_image_size(image_size))
    if weights is None:
        return EfficientDet(config, pretrained_backbone).eval()
    with _NoRandomValues():
        model = EfficientDet(config)
    load_weights(model, read_state_dict(weights), weights, reset_head)
    _warn_of_assumed_anchors(weights, config, overrides)
    return model.eval()


class _NoRandomValues(TorchFunctionMode):
    """Leave parameters unset where a model would fill them with random numbers: a weight file fills them all.

    Everything else is made as always: buffers that no file holds (blur kernels, position indices) are computed.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _RANDOM and isinstance(args[0], nn.Parameter):
            return args[0]
        return function(*args, **(kwargs or {}))


_RANDOM = (Tensor.normal_, Tensor.uniform_)


def load_weights(
    model: EfficientDet, state_dict: dict[str, Tensor], source: str | Path, reset_head: bool = False
) -> None:
    """Copy tensors into a model, strictly; with `reset_head` all but `class_net.predict`, which begins anew.

    Raises:
        InputError: names or shapes differ.
    """
    if reset_head:
        model.reset_class_predict()
        new = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(f"{CLASS_PREDICT}.")}
        state_dict = {name: tensor for name, tensor in state_dict.items() if not name.startswith(f"{CLASS_PREDICT}.")}
        state_dict |= new
    else:
        _check_classes(model, state_dict, source)
    load_into(model, state_dict, source)


def _check_classes(model: EfficientDet, state_dict: dict[str, Tensor], source: str | Path) -> None:
    """Where nothing but the number of classes differs, name the way to change it."""
    own = model.state_dict()
    other = [name for name, tensor in own.items() if name in state_dict and state_dict[name].shape != tensor.shape]
    if own.keys() != state_dict.keys() or not other or not all(name.startswith(CLASS_PREDICT) for name in other):
        return
    values = next(state_dict[name].numel() for name in other if name.endswith(".bias"))
    found, rest = divmod(values, model.config.anchors_per_location)
    if rest == 0:
        raise InputError(
            f"weights {source}: expected {model.config.num_classes} classes, found {found}; leave num_classes out, or "
            "keep all but the class layer, which then begins with new random weights, with reset_head=True."
        )


def _check_arguments(variant: str | None, weights: str | Path | None, overrides: dict[str, Any]) -> None:
    if overrides.pop("pretrained", False):
        name = canonical_variant(variant) if variant else "NAME"
        raise InputError(
            f"create_model: expected weights=FILE, found pretrained=True; `python cli.py convert --variant {name}` "
            "downloads and converts the official checkpoint, and so does "
            f'torch.hub.load(CLONE, "tf_efficientdet_{name}", source="local", pretrained=True).'
        )
    if weights is not None and not isinstance(weights, (str, os.PathLike)):
        raise InputError(
            f"create_model: expected weights as the path of a .pth or .safetensors file, found a "
            f"{type(weights).__name__}; tensors go into a model with model.load_state_dict(tensors)."
        )
    if variant is None and weights is None:
        raise InputError(
            "create_model: expected the name of a variant, or weights whose metadata names it, found neither; "
            "effdet_model.list_variants() has the names."
        )


def resolve_config(
    variant: str | None, weights: str | Path | None = None, **overrides: Any
) -> EfficientDetConfig:
    """The config that a variant, a weight file's metadata and overrides make together.

    A file without metadata that effdet's author released is known by its content; one that has such a name with
    another content gets the same config, and `create_model` warns of it.

    Raises:
        InputError: neither names a variant, they name different ones, or the metadata is of another file.
    """
    metadata = read_metadata(weights) if weights is not None else None
    if weights is not None:
        check_pairing(weights, metadata)
    if metadata is not None and "config" in metadata:
        config = EfficientDetConfig.from_dict(metadata["config"], f"weights {weights}: config ")
        _check_same(variant, config.name, weights)
        return config.replace(**overrides)
    released = (released_weights(weights) or named_as_released(weights)) if weights is not None else None
    if released is not None:
        _check_same(variant, released.variant, weights)
        return get_config(released.variant, **{**released.overrides, **overrides})
    if variant is None:
        raise InputError(
            f"weights {weights}: expected metadata that names the variant, found none; name the variant."
        )
    return get_config(variant, **overrides)


def _check_same(asked: str | None, found: str, weights: str | Path | None) -> None:
    if asked is not None and canonical_variant(asked) != found:
        raise InputError(
            f"weights {weights} are {found}, you asked for {canonical_variant(asked)}; use variant {found}."
        )


def _warn_of_assumed_anchors(
    weights: str | Path, config: EfficientDetConfig, overrides: Mapping[str, Any]
) -> None:
    """Say which anchors were assumed where neither the file, its metadata nor the caller tells them."""
    if "aspect_ratios" in overrides or "config" in (read_metadata(weights) or {}):
        return
    if released_weights(weights) is None:
        warnings.warn(assumed_anchors(weights, config), InputWarning, stacklevel=3)
