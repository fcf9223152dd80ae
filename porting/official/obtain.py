"""Which checkpoint is meant: a local one, a URL, or the official one of a variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet_model.errors import InputError
from effdet_model.hparams import AUTO as HPARAMS_AUTO
from effdet_model.hparams import Hparams
from effdet_model.variants import canonical_variant
from porting.official.cache import public_url
from porting.official.catalog import CatalogEntry, catalog, config_overrides, find
from porting.official.training_config import training_hparams
from porting.recognise.files import WeightSettings, weight_settings
from porting.recognise.recognise import AUTO

if TYPE_CHECKING:
    from porting.official.http import Progress


@dataclass(frozen=True)
class Obtained:
    """A checkpoint on this machine, and what is known of it before it is opened.

    Attributes:
        path: the file or folder.
        variant: a variant's name, or "auto".
        overrides: config fields from its family's day and --hparams; the latter win.
        hparams: those of the overrides that --hparams set.
        named: the URL that it was loaded from; the names in it may tell the variant.
        origin: {"url", "family", "nms_profile"} of a released checkpoint; empty for a user's own.
        notes: what the user should know, in sentences.
        moving_average_decay: of the training, as --hparams say; None where they don't.
        declared: --hparams for a reader of its own: as given, or the config.yaml that "auto" found.
    """

    path: Path
    variant: str
    overrides: Mapping[str, Any]
    origin: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    hparams: Mapping[str, Any] = field(default_factory=dict)
    moving_average_decay: float | None = None
    named: tuple[str, ...] = ()
    declared: str | None = None


def obtain(
    variant: str,
    checkpoint: str | None = None,
    *,
    family: str | None = None,
    hparams: str | None = None,
    mirror: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Obtained:
    """The checkpoint that a command line means; downloads what is not here.

    Args:
        variant: a variant's name, or "auto" where a checkpoint is named.
        checkpoint: a path or URL; None: the official checkpoint of the variant.
        family: an official family; with a path: the file is that family's release.
        hparams: what google/automl's --hparams takes, or "auto": the config.yaml in the checkpoint's folder.
        mirror, offline, progress: see `porting.official.download.fetch`.

    Raises:
        InputError: nothing there, or the names do not fit together.
    """
    if checkpoint is None and variant == AUTO:
        raise InputError(
            "expected --variant NAME (then the official checkpoint is downloaded) or --checkpoint PATH, found neither; "
            "see `cli.py variants`."
        )
    is_url = checkpoint is not None and "://" in checkpoint
    entry = _official(variant, family) if family or checkpoint is None else None
    if checkpoint is not None and is_url and entry is None:
        entry = next((e for e in catalog() if checkpoint in (e.ckpt_url, e.h5_url)), None)
        if entry and variant not in (AUTO, entry.variant):
            entry = None
    parsed, notes = training_hparams(hparams, checkpoint, official=entry is not None)
    declared = str(parsed.source) if parsed.source else hparams
    if hparams == HPARAMS_AUTO and variant == AUTO:
        variant = _named_in(parsed)
    if checkpoint is None or is_url:
        wanted = checkpoint or entry
        assert wanted is not None
        path = _fetched(wanted, mirror, offline, progress)
    else:
        path = Path(checkpoint)
    if entry is None:
        named = (public_url(checkpoint),) if checkpoint is not None and is_url else ()
        decay = parsed.moving_average_decay
        return Obtained(path, variant, parsed.fields, {}, notes, parsed.fields, decay, named, declared)
    origin = {"url": entry.url, "family": entry.family, "nms_profile": entry.nms_profile}
    if entry.note:
        notes = (*notes, f"{entry.variant}, {entry.family}: {entry.note}")
    overrides = {**config_overrides(entry), **parsed.fields}
    decay = parsed.moving_average_decay
    return Obtained(path, entry.variant, overrides, origin, notes, parsed.fields, decay, declared=declared)


def _named_in(parsed: Hparams) -> str:
    """The variant that a training's config.yaml names; "auto" where it names none that is known here."""
    try:
        return canonical_variant(parsed.name or AUTO)
    except InputError:
        return AUTO


def obtain_for_weights(
    weights: str | Path,
    variant: str | None = None,
    checkpoint: str | None = None,
    *,
    family: str | None = None,
    hparams: str | None = None,
    mirror: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> tuple[Obtained, WeightSettings]:
    """The checkpoint to compare weights with, and what the weights are.

    Without a checkpoint it is the official one that the weights' metadata name, or that of the variant named.

    Raises:
        InputError: also where the weights were made from a user's own checkpoint, which has to be named.
    """
    parsed, _ = training_hparams(hparams, checkpoint, official=checkpoint is None)
    names = [checkpoint] if checkpoint is not None else []
    settings = weight_settings(weights, variant, parsed.fields, names)
    if checkpoint is None:
        source = (settings.metadata or {}).get("source")
        made_from = source if isinstance(source, dict) else {}
        recorded = str((settings.metadata or {}).get("variant")) if made_from else None
        asked = canonical_variant(variant) if variant else recorded
        if variant is None and not made_from.get("family"):
            what = f"made from {made_from.get('file')}, no official one" if made_from else "without metadata"
            raise InputError(
                f"weights {weights}: expected --checkpoint PATH of what they were made from, found weights {what}; "
                "name it, or name --variant to compare with the official checkpoint."
            )
        variant = asked
        if family is None and asked == recorded:
            family = made_from.get("family")
            url = str(made_from.get("url"))
            checkpoint = url if any(url == entry.h5_url for entry in catalog()) else None
    found = obtain(
        variant or AUTO, checkpoint, family=family, hparams=hparams, mirror=mirror, offline=offline, progress=progress
    )
    return found, settings


def obtain_url(
    path: str, *, mirror: str | None = None, offline: bool = False, progress: Progress | None = None
) -> tuple[Path, tuple[str, ...]]:
    """The file of a path or URL, downloaded where it is a URL; and the URL, whose names may tell the variant."""
    if "://" not in path:
        return Path(path), ()
    public = public_url(path)
    return _fetched(path, mirror, offline, progress), (public,)


def _fetched(wanted: str | CatalogEntry, mirror: str | None, offline: bool, progress: Progress | None) -> Path:
    from porting.official.download import fetch

    return fetch(wanted, mirror=mirror, offline=offline, progress=progress)


def _official(variant: str, family: str | None) -> CatalogEntry:
    if variant == AUTO:
        raise InputError(f"--family {family}: expected --variant NAME with it, found auto; name the variant.")
    return find(variant, family)
