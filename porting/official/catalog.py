"""The released checkpoints: where each lies, what was published of it, and the rules of its day.

The data are in `porting/official/data/checkpoints.csv` (the 35 checkpoints of google/automl); each row names its
source. All metrics are COCO metrics in percent.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from effdet_model.config import ASPECT_RATIO_PAIRS, ASPECT_RATIOS, AspectRatio
from effdet_model.errors import InputError, unknown_name
from effdet_model.variants import OFFICIAL_VARIANTS, PYTORCH_MODELS, canonical_variant, get_config

OFFICIAL_PREFIX = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientdet"
"""Below it lie all released checkpoints; a mirror replaces it and keeps the rest of the path."""

KINDS = ("ckpt", "h5")


@dataclass(frozen=True)
class Family:
    """Checkpoints published together, trained and scored by the official code of their day.

    Attributes:
        date: when the family was published (commit date in google/automl).
        aspect_ratios: the anchors it was trained with: ratios width / height, or (width, height) factors.
        nms_profile: how its published numbers were scored.
        nms_exceptions: variants that were scored otherwise.
        reason: why these semantics, with google/automl's commits.
    """

    name: str
    date: str
    aspect_ratios: tuple[AspectRatio, ...]
    nms_profile: str
    reason: str
    nms_exceptions: Mapping[str, str] = field(default_factory=dict)

    def nms_profile_of(self, variant: str) -> str:
        """The NMS profile of the published number of one variant."""
        return self.nms_exceptions.get(variant, self.nms_profile)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "coco", "2020-03-13", ASPECT_RATIO_PAIRS, "numpy_hard",
            "First generation (72052f5): (width, height) pairs; hard NMS, except D3, D7 and D7x, which the "
            "README of 33a01e0 says were scored with soft-NMS.",
            {"d3": "numpy_gaussian", "d7": "numpy_gaussian", "d7x": "numpy_gaussian"},
        ),
        Family(
            "coco2", "2020-07-27", ASPECT_RATIO_PAIRS, "numpy_gaussian",
            "Second generation (2f93d04): before the anchors became ratios (7c9d26d, 2020-09-10); evaluation "
            "by the numpy gaussian soft-NMS per class (pyfunc defaults to true).",
        ),
        Family(
            "coco640", "2020-07-27", ASPECT_RATIO_PAIRS, "numpy_gaussian",
            "Fixed 640 x 640 images (2f93d04): as coco2, published in the same commit.",
        ),
        Family(
            "advprop", "2021-05-10", ASPECT_RATIOS, "graph_gaussian_nocut",
            "Det-AdvProp (d8f4c24): after 7c9d26d (ratios) and 8ddaeaf (pyfunc: False), before eda6c82: the "
            "graph op's gaussian soft-NMS without a hard cut.",
        ),
        Family(
            "lite", "2021-05-11", ASPECT_RATIOS, "graph_gaussian_nocut",
            "Lite (8ca79e3): one day after advprop and on the same defaults (method gaussian, pyfunc False, "
            "no lite override in hparams_config.py), before eda6c82 (2022-04-18) gave the graph op a cut at "
            "IoU 0.5.",
        ),
    )
}
"""Every family by name, with what the official code did when it was published (google/automl's history)."""


@dataclass(frozen=True)
class CatalogEntry:
    """One released checkpoint. Metrics are percent, None where not published; `kind` picks the URL."""

    variant: str
    family: str
    ckpt_url: str
    h5_url: str | None
    val_log_url: str | None
    testdev_log_url: str | None
    ap_val: float | None
    ap_testdev: float | None
    ap50_testdev: float | None
    ap75_testdev: float | None
    aps_testdev: float | None
    apm_testdev: float | None
    apl_testdev: float | None
    params: str | None
    flops: str | None
    source: str
    note: str | None
    kind: str = "ckpt"

    @property
    def url(self) -> str:
        """Where this kind of file lies."""
        url = self.h5_url if self.kind == "h5" else self.ckpt_url
        assert url is not None, "an entry of kind h5 is only made where there is an h5_url"
        return url

    @property
    def path(self) -> str:
        """The URL below `OFFICIAL_PREFIX`, e.g. coco2/efficientdet-d0.tar.gz."""
        return self.url.removeprefix(OFFICIAL_PREFIX + "/")

    @property
    def nms_profile(self) -> str:
        """The NMS profile that the published numbers were made with."""
        return FAMILIES[self.family].nms_profile_of(self.variant)


@functools.cache
def catalog() -> tuple[CatalogEntry, ...]:
    """All 35 released checkpoints in the order of the data file, each as kind "ckpt"."""
    return tuple(_entry(row) for row in _rows("checkpoints.csv"))


def find(variant: str, family: str | None = None, kind: str = "ckpt") -> CatalogEntry:
    """The released checkpoint of a variant; of several families the newest.

    Args:
        variant: any spelling that `canonical_variant` takes. With family="advprop" also d0 for d0_ap, with
            family="coco640" also d2 for d2_640.
        family: coco, coco2, coco640, advprop or lite.
        kind: "ckpt" (TensorFlow checkpoint in a .tar.gz) or "h5".

    Raises:
        InputError: no such variant, family or kind, or no such file was released.
    """
    if kind not in KINDS:
        raise unknown_name("kind of checkpoint", kind, KINDS)
    if family is not None and family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    name = canonical_variant(variant)
    if name in PYTORCH_MODELS:
        raise InputError(
            f"variant {name} exists in PyTorch only, google/automl released no checkpoint of it; expected "
            f"one of: {', '.join(OFFICIAL_VARIANTS)}."
        )
    suffix = {"advprop": "_ap", "coco640": "_640"}.get(family or "", "")
    if suffix and f"{name}{suffix}" in OFFICIAL_VARIANTS:
        name += suffix
    entries = [entry for entry in catalog() if entry.variant == name]
    entries.sort(key=lambda entry: FAMILIES[entry.family].date, reverse=True)
    chosen = [entry for entry in entries if family in (None, entry.family)]
    if not chosen:
        raise InputError(
            f"variant {name}: expected a family that has it ({', '.join(e.family for e in entries)}), found "
            f"{family}; family {family} has {', '.join(e.variant for e in catalog() if e.family == family)}."
        )
    if kind == "h5" and chosen[0].h5_url is None:
        raise InputError(
            f"variant {name}, family {chosen[0].family}: expected a released .h5, found only a .tar.gz; "
            "leave the kind at ckpt."
        )
    return dataclasses.replace(chosen[0], kind=kind)


def config_overrides(entry: CatalogEntry) -> dict[str, Any]:
    """The config fields in which this checkpoint differs from today's defaults of its variant.

    That is `aspect_ratios` for the families trained before 2020-09-10 (pairs), nothing for the others.
    """
    ratios = FAMILIES[entry.family].aspect_ratios
    return {} if get_config(entry.variant).aspect_ratios == ratios else {"aspect_ratios": ratios}


def _rows(name: str) -> list[dict[str, str]]:
    text = importlib.resources.files("porting.official").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _entry(row: Mapping[str, str]) -> CatalogEntry:
    values: dict[str, Any] = {
        key: None if not value else float(value) if key.startswith("ap") else value
        for key, value in row.items()
    }
    return CatalogEntry(**values)
