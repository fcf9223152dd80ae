"""Whose a weight file is: what an output is called by default, and what may be written over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError
from effdet_model.variants import OFFICIAL_VARIANTS
from effdet_model.weights import read_metadata
from porting.files import file_sha256
from porting.official.catalog import find


def weight_name(variant: str, family: str | None) -> str:
    """tf_efficientdet_d0, and tf_efficientdet_d0_coco where the family is not the variant's newest."""
    if variant not in OFFICIAL_VARIANTS:
        return variant
    plain = f"tf_efficientdet_{variant}"
    return plain if family is None or find(variant).family == family else f"{plain}_{family}"


def default_name(variant: str, family: str | None) -> str:
    """The file that a conversion writes where no output is named."""
    return f"{weight_name(variant, family)}.pth"


def check_replaceable(
    path: Path, variant: str, checkpoint_sha256: Callable[[], str], family: str | None, overwrite: bool
) -> None:
    """Refuse to write over what is not an earlier conversion of the same checkpoint as the same variant and family.

    Args:
        checkpoint_sha256: asked only where a file lies in the way.

    Raises:
        InputError: a file of something else lies there and `overwrite` is false.
    """
    if overwrite or not path.exists():
        return
    found = _belongs_to(path, variant, checkpoint_sha256, family)
    if found:
        raise InputError(
            f"output {path}: expected no file, or an earlier conversion of the same checkpoint, found {found}; name "
            "another --output, or use --overwrite to replace it."
        )


def _belongs_to(path: Path, variant: str, checkpoint_sha256: Callable[[], str], family: str | None) -> str:
    """What else a file is; "" where it is an earlier conversion of the same."""
    try:
        metadata: dict[str, Any] = read_metadata(path) or {}
    except InputError:
        metadata = {}
    source = metadata.get("source")
    if not isinstance(source, dict):
        return "a file that is not a conversion of this project"
    if metadata.get("weights_sha256") not in (None, file_sha256(path)):
        return "a file that its metadata do not belong to"
    if metadata.get("variant") != variant:
        return f"weights of {metadata.get('variant')} (these are {variant})"
    if source.get("family") != family:
        return f"{variant} of {_family(source.get('family'))} (these are of {_family(family)})"
    if source.get("sha256") != checkpoint_sha256():
        return f"{variant} converted from another checkpoint, {source.get('file')}"
    return ""


def _family(name: Any) -> str:
    return f"the family {name}" if name else "no official family"
