"""Models for torch.hub, e.g. `torch.hub.load(CLONE, "tf_efficientdet_d0", source="local", weights="d0.pth")`.

Every entry point takes, by name:
    weights: a .pth or .safetensors file; or the https URL of a released one, NAME-<8 of sha256>.safetensors or .pth,
        which is checked against the hash in its name.
    metadata_sha256: with the URL of a .pth: the SHA-256 of the .json beside it (the model card and SHA256SUMS have it).
    pretrained: without `weights`, download the official TensorFlow checkpoint and convert it (no TensorFlow needed).
    family: which official checkpoint, e.g. "coco" for the first generation; the newest by default.
    mirror: a URL or folder in place of the official one.
    reset_head: with weights: a new class layer with random weights. With `pretrained` another num_classes implies it.
    everything else: `effdet_model.create_model`, e.g. num_classes=20, image_size=(384, 640).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import effdet_model
    from effdet_model.variants import OFFICIAL_VARIANTS, get_config, list_variants
except ImportError as error:
    if (error.name or "").split(".")[0] != "effdet_model":
        raise
    found = sys.modules.get("effdet_model")
    raise ImportError(
        f"torch.hub: expected this repository's package effdet_model, found {found}, which has its name; rename that "
        "module, or load this repository before it is imported."
    ) from error

dependencies = ["torch", "timm", "numpy", "safetensors"]
HTTP_FOR_TESTS = "EFFDET_PORT_HTTP_LOCALHOST"
"""Where this environment variable is 1, plain http to this very machine is taken for https."""
_OWN_ROOMS = ("mappings", "porting")


def _load(
    variant: str,
    weights: str | Path | None = None,
    pretrained: bool = False,
    family: str | None = None,
    mirror: str | None = None,
    metadata_sha256: str | None = None,
    **settings: Any,
) -> effdet_model.EfficientDet:
    if isinstance(weights, bool):
        raise effdet_model.InputError(
            f"{variant}: expected arguments by name, found {weights}; write pretrained={weights}, or weights=FILE."
        )
    if weights is not None:
        with _own_rooms():
            path = _local(str(weights), metadata_sha256)
        return effdet_model.create_model(variant, weights=path, **settings)
    if pretrained:
        with _own_rooms():
            return _converted(variant, family, mirror, settings)
    return effdet_model.create_model(variant, **settings)


def _local(weights: str, metadata_sha256: str | None) -> Path:
    """The weight file of a path or URL; a released .pth with its metadata beside it."""
    if "://" not in weights:
        return Path(weights)
    import torch

    from effdet_model.weights import metadata_path, read_metadata
    from porting.files import file_sha256
    from porting.official.cache import public_url

    parts = urllib.parse.urlsplit(weights)
    shown, name = public_url(weights), parts.path.rsplit("/", 1)[-1]
    match = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*-([0-9a-f]{8,64})\.(pth|safetensors)", name)
    if match is None:
        raise effdet_model.InputError(
            f"weights {shown}: expected the URL of a released file NAME-<8 of sha256>.safetensors or .pth, found "
            f"{name[:80]}; download other files yourself."
        )
    local_test = parts.hostname in ("localhost", "127.0.0.1", "::1") and os.environ.get(HTTP_FOR_TESTS) == "1"
    if parts.scheme != "https" and not (parts.scheme == "http" and local_test):
        raise effdet_model.InputError(
            f"weights {shown}: expected an https URL, found {parts.scheme}; use https, or download the file yourself."
        )
    if match[2] == "pth" and re.fullmatch("[0-9a-f]{64}", metadata_sha256 or "") is None:
        raise effdet_model.InputError(
            f"weights {shown}: expected metadata_sha256=SHA-256 of its .json, which sets anchors and preprocessing, "
            f"found {metadata_sha256}; SHA256SUMS of the release has it. (A .safetensors has all under its own hash.)"
        )
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    _download(weights, path, match[1])
    if match[2] == "pth":
        beside = urllib.parse.urlunsplit(parts._replace(path=parts.path.removesuffix(".pth") + ".json"))
        _download(beside, metadata_path(path), str(metadata_sha256))
        named, found = (read_metadata(path) or {}).get("weights_sha256"), file_sha256(path)
        if named != found:
            raise effdet_model.InputError(
                f"weights {shown}: expected the .json of this very file, found one of weights with SHA-256 {named} "
                f"(these have {found}); check the URL and metadata_sha256."
            )
    return path


def _download(url: str, target: Path, sha256: str) -> None:
    """A file whose SHA-256 begins as given: the one that is there, else downloaded."""
    from porting.files import file_sha256, locked
    from porting.official.cache import part_path, public_url
    from porting.official.http import download, forget

    with locked(target.with_name(f"{target.name}.lock")):
        if target.is_file() and file_sha256(target).startswith(sha256):
            return
        part = part_path(target)
        download(url, part)
        found = file_sha256(part)
        if not found.startswith(sha256):
            forget(part)
            raise effdet_model.InputError(
                f"{public_url(url)}: expected a file whose SHA-256 begins with {sha256}, found {found}; the server has "
                "another file under this name, or the hash is wrong."
            )
        part.replace(target)
        forget(part)


def _converted(
    variant: str, family: str | None, mirror: str | None, settings: dict[str, Any]
) -> effdet_model.EfficientDet:
    from effdet_model.factory import load_weights
    from porting.checkpoint.sources import open_source
    from porting.convert import convert_source
    from porting.official.catalog import config_overrides, find
    from porting.official.download import fetch

    entry = find(variant, family)
    official = get_config(entry.variant, **config_overrides(entry))
    asked = dict(settings)
    reset_head = bool(asked.pop("reset_head", False))
    model = effdet_model.create_model(entry.variant, **{**config_overrides(entry), **asked})
    checkpoint = fetch(entry, mirror=mirror)
    with open_source(checkpoint) as source:
        state_dict = convert_source(source, entry.variant, overrides=config_overrides(entry)).state_dict
    load_weights(model, state_dict, checkpoint, reset_head or model.config.num_classes != official.num_classes)
    return model


@contextlib.contextmanager
def _own_rooms() -> Iterator[None]:
    """Import `mappings` and `porting` from beside `effdet_model`, whatever the caller has under these names.

    The caller's modules of these names are put aside and back, and what was imported here meanwhile is forgotten, so
    that the caller's own can still be imported afterwards.
    """
    root = Path(str(effdet_model.__file__)).resolve().parents[1]
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in _OWN_ROOMS}
    for room in _OWN_ROOMS:
        if room in before and not _lies_at(before[room], root / room):
            for name in [name for name in before if name.split(".")[0] == room]:
                del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if name.split(".")[0] in _OWN_ROOMS]:
            del sys.modules[name]
        sys.modules.update(before)


def _lies_at(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().parent == folder


def _entry_point(variant: str, name: str) -> Callable[..., effdet_model.EfficientDet]:
    def load(*args: Any, **settings: Any) -> effdet_model.EfficientDet:
        return _load(variant, *args, **settings)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"{variant}; the arguments are those at the top of hubconf.py. {__doc__}"
    return load


for _variant in list_variants():
    _name = f"tf_efficientdet_{_variant}" if _variant in OFFICIAL_VARIANTS else _variant
    globals()[_name] = _entry_point(_variant, _name)
