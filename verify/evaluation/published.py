"""What was published of a released checkpoint, and the rules of the day that a fair comparison needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.nms_profiles import NmsProfile, resolve_profile
from effdet_model.variants import get_config
from porting.official.catalog import FAMILIES, CatalogEntry, config_overrides, find
from verify.evaluation.coco import VALIDATION_COUNTS, CocoDataset

AP_TOLERANCE = 0.1
"""How far an AP may be from the published one, in points (percent)."""


@dataclass(frozen=True)
class Era:
    """Anchors and suppression that a family's published numbers were made with.

    Attributes:
        profile: name of the suppression profile. reason: why, with google/automl's commits.
    """

    entry: CatalogEntry
    profile: str
    overrides: Mapping[str, Any]
    reason: str

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.entry.family


@dataclass(frozen=True)
class PublishedVerdict:
    """A measured AP beside the published one, both in points (percent).

    Attributes:
        judged: whether dataset, configuration, image size, anchors, suppression and precision are the published
            ones; otherwise the numbers stand side by side without a verdict. reason: what is not, or where the number
            is from.
    """

    published_ap: float
    measured_ap: float
    family: str
    judged: bool
    reason: str

    @property
    def difference(self) -> float:
        """Measured minus published, in points."""
        return self.measured_ap - self.published_ap

    @property
    def passed(self) -> bool:
        """Whether the difference is within 0.1 point, or there is nothing to judge."""
        return not self.judged or abs(self.difference) <= AP_TOLERANCE + 1e-9

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "published_AP": self.published_ap,
            "measured_AP": self.measured_ap,
            "difference": self.difference,
            "tolerance": AP_TOLERANCE,
            "family": self.family,
            "judged": self.judged,
            "passed": self.passed,
            "reason": self.reason,
        }


def era_of(variant: str, metadata: Mapping[str, Any] | None, family: str | None = None) -> Era:
    """The semantics of the day for a variant's weights.

    Args:
        metadata: of the weight file; names the family if the weights came from a released checkpoint.
        family: overrules it.

    Raises:
        InputError: nothing says which family the weights are of, or the family has no such variant.
    """
    known = family or ((metadata or {}).get("source") or {}).get("family")
    if known is None:
        raise InputError(
            f"--as-published: expected weights of a released checkpoint, found none named in the metadata of these "
            f"{variant} weights; name the family ({', '.join(FAMILIES)}), or leave --as-published out for weights of "
            "your own, which have today's anchors."
        )
    entry = find(variant, known)
    overrides = {"aspect_ratios": FAMILIES[entry.family].aspect_ratios}
    return Era(entry, entry.nms_profile, overrides, FAMILIES[entry.family].reason)


def published_verdict(
    dataset: CocoDataset,
    config: EfficientDetConfig,
    profile: NmsProfile,
    metadata: Mapping[str, Any] | None,
    era: Era | None,
    ap: float,
    conditions: Sequence[str] = (),
) -> PublishedVerdict | None:
    """The published AP beside a measured one; None unless this is called val2017 and a released variant.

    It is judged only for the whole of val2017, with the official configuration, and where no `conditions` are named.

    Args:
        profile: the suppression. ap: measured, in [0, 1].
        conditions: how else this run differs from one that may be judged, e.g. "mixed precision".
    """
    if not dataset.claims_validation:
        return None
    try:
        origin = era or era_of(config.name, metadata)
    except InputError:
        return None
    published = origin.entry.ap_val
    if published is None:
        return None
    wrong = [*_dataset_differences(dataset), *_config_differences(config, origin)]
    if profile.name != origin.profile:
        wrong.append(f"suppression ({profile.name} instead of {origin.profile})")
    elif profile != resolve_profile(origin.profile):
        wrong.append(f"thresholds of the suppression {profile.name}")
    if ((metadata or {}).get("source") or {}).get("variables") == "raw":
        wrong.append("variables (raw instead of moving averages)")
    wrong += conditions
    reason = origin.reason
    if wrong:
        advice = "" if era else "; --as-published takes anchors and suppression"
        reason = f"not judged, since not the published: {', '.join(wrong)}{advice}"
    return PublishedVerdict(published, 100 * ap, origin.family, not wrong, reason)


def _dataset_differences(dataset: CocoDataset) -> list[str]:
    if dataset.is_published_validation:
        return []
    images, boxes, _ = VALIDATION_COUNTS
    found = f"{len(dataset.images)} images and {len(dataset.annotations or ())} annotations"
    whole = f"{images} and {boxes}"
    return [f"dataset ({found} instead of val2017's {whole})" if whole not in found else "dataset (not val2017's ids)"]


def _config_differences(config: EfficientDetConfig, origin: Era) -> list[str]:
    """Fields in which a model differs from the released one; the names of its classes don't matter."""
    official = get_config(origin.entry.variant, **config_overrides(origin.entry))
    mine, theirs = config.to_dict(), official.to_dict()
    named = {"image_size": "image size", "aspect_ratios": "anchors"}
    wrong = [
        named.get(key, key)
        for key in theirs
        if key not in ("label_map", "nms_configs") and mine[key] != theirs[key]
    ]
    of_method = ("method", "pyfunc")
    thresholds = [{k: v for k, v in side["nms_configs"].items() if k not in of_method} for side in (mine, theirs)]
    return wrong + ["nms_configs"] * (thresholds[0] != thresholds[1])
