"""Models for torch.hub, e.g. `torch.hub.load(CLONE, "tf_efficientdet_d0", source="local", weights="d0.pth")`.

Every entry point takes:
    weights: a .pth or .safetensors file, or the URL of a released .pth (NAME-<8 of sha256>.pth, which is checked).
    pretrained: without `weights`, download the official TensorFlow checkpoint and convert it (no TensorFlow needed).
    family: which official checkpoint, e.g. "coco" for the first generation; the newest by default.
    mirror: a URL or folder in place of the official one.
    everything else: `effdet_model.create_model`, e.g. num_classes=20, image_size=(384, 640).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import effdet_model
from effdet_model.variants import OFFICIAL_VARIANTS, list_variants

dependencies = ["torch", "timm", "numpy", "safetensors"]


def _load(
    variant: str,
    weights: str | Path | None = None,
    pretrained: bool = False,
    family: str | None = None,
    mirror: str | None = None,
    **settings: Any,
) -> effdet_model.EfficientDet:
    if weights is not None:
        return effdet_model.create_model(variant, weights=_local(weights), **settings)
    if pretrained:
        return _converted(variant, family, mirror, settings)
    return effdet_model.create_model(variant, **settings)


def _local(weights: str | Path) -> Path:
    """The weight file of a path or URL; a released .pth with its metadata beside it."""
    if not str(weights).startswith(("https://", "http://")):
        return Path(weights)
    import re
    import urllib.error

    import torch

    name = str(weights).rsplit("/", 1)[-1].split("?")[0]
    match = re.fullmatch(r".*-([0-9a-f]{8,})\.pth", name)
    if match is None:
        raise effdet_model.InputError(
            f"weights {weights}: expected the URL of a released file NAME-<8 of sha256>.pth, found {name}; download "
            "other files yourself."
        )
    folder = Path(torch.hub.get_dir(), "checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    path, beside = folder / name, (folder / name).with_suffix(".json")
    try:
        if not beside.exists():
            torch.hub.download_url_to_file(str(weights).replace(".pth", ".json"), str(beside), progress=False)
        if not path.exists():
            torch.hub.download_url_to_file(str(weights), str(path), hash_prefix=match[1], progress=False)
    except (urllib.error.URLError, RuntimeError) as error:
        raise effdet_model.InputError(
            f"weights {weights}: expected a released .pth with its .json beside it, found: {error}; check the URL."
        ) from error
    return path


def _converted(
    variant: str, family: str | None, mirror: str | None, settings: dict[str, Any]
) -> effdet_model.EfficientDet:
    from effdet_model.weights import load_into
    from porting.checkpoint.sources import open_source
    from porting.convert import convert_source
    from porting.official.catalog import config_overrides, find
    from porting.official.download import fetch

    entry = find(variant, family)
    checkpoint = fetch(entry, mirror=mirror)
    with open_source(checkpoint) as source:
        state_dict = convert_source(source, entry.variant, overrides=config_overrides(entry)).state_dict
    model = effdet_model.create_model(entry.variant, **{**config_overrides(entry), **settings})
    load_into(model, state_dict, checkpoint)
    return model


def _entry_point(variant: str, name: str) -> Callable[..., effdet_model.EfficientDet]:
    def load(*args: Any, **settings: Any) -> effdet_model.EfficientDet:
        return _load(variant, *args, **settings)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"{variant}; the arguments are those at the top of hubconf.py. {__doc__}"
    return load


for _variant in list_variants():
    _name = f"tf_efficientdet_{_variant}" if _variant in OFFICIAL_VARIANTS else _variant
    globals()[_name] = _entry_point(_variant, _name)
