"""From a name to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from effdet_model.config import EfficientDetConfig, parse_image_size
from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError
from effdet_model.variants import canonical_variant, get_config
from effdet_model.weights import load_into, read_metadata, read_state_dict


def create_model(
    variant: str | None = None,
    *,
    image_size: int | str | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    pretrained_backbone: bool = False,
    **overrides: Any,
) -> EfficientDet:
    """A model in eval mode.

    Args:
        variant: a name of `list_variants()`; also tf_efficientdet_d0 and efficientdet-d0. May be left out
            where the weights' metadata names it.
        image_size: (height, width), or one number; the variant's or the weights' own by default.
        weights: .pth or .safetensors; its metadata sets the config. Without: random weights.
        pretrained_backbone: take timm's ImageNet weights for the backbone (downloads them).
        overrides: fields of `EfficientDetConfig`, e.g. num_classes=20, fpn_name="qufpn".

    Raises:
        InputError: unknown name or field, or weights that do not fit.
    """
    config = resolve_config(variant, weights, **overrides)
    if image_size is not None:
        config = config.replace(image_size=parse_image_size(image_size))
    if weights is None:
        return EfficientDet(config, pretrained_backbone).eval()
    with _NoRandomValues():
        model = EfficientDet(config)
    load_into(model, read_state_dict(weights), weights)
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


def resolve_config(
    variant: str | None, weights: str | Path | None = None, **overrides: Any
) -> EfficientDetConfig:
    """The config that a variant, a weight file's metadata and overrides make together.

    Raises:
        InputError: neither names a variant, or they name different ones.
    """
    metadata = read_metadata(weights) if weights is not None else None
    if metadata is None or "config" not in metadata:
        if variant is None:
            raise InputError(
                f"weights {weights}: expected metadata that names the variant, found none; name the variant."
            )
        return get_config(variant, **overrides)
    config = EfficientDetConfig.from_dict(metadata["config"])
    if variant is not None and canonical_variant(variant) != config.name:
        raise InputError(
            f"weights {weights} are {config.name}, you asked for {canonical_variant(variant)}; "
            f"use variant {config.name}."
        )
    return config.replace(**overrides)
