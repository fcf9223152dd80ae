"""Named ways to suppress overlapping boxes: one registry of the parameters that official numbers were made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from effdet_model.errors import InputError, unknown_name

Family = Literal["numpy", "graph", "torchvision"]
METHODS = {
    "numpy": ("hard", "gaussian", "linear", "diou"),
    "graph": ("hard", "gaussian"),
    "torchvision": ("hard",),
}
DEFAULT_NMS_CONFIGS: Mapping[str, Any] = {
    "method": "gaussian",
    "iou_thresh": None,
    "score_thresh": 0.0,
    "sigma": None,
    "pyfunc": False,
    "max_nms_inputs": 0,
    "max_output_size": 100,
}
"""google/automl's `nms_configs` (hparams_config.py)."""
MAX_DETECTION_POINTS = 5000
"""How many anchor x class scores the official evaluation keeps (tf2/anchors.py, tf2/eval.py)."""


@dataclass(frozen=True)
class NmsProfile:
    """Everything that decides which of the candidates become detections.

    family: "numpy" is google/automl's nms_np.py (areas one pixel larger), "graph" TensorFlow's
    NonMaxSuppressionV5 (plain areas), "torchvision" the fast hard NMS of PyTorch ports.
    """

    name: str
    family: Family
    method: str
    per_class: bool = True
    """Whether boxes of different classes leave each other alone."""
    iou_threshold: float = 0.5
    """Hard cut (hard, diou), start of the decay (linear), cut of soft-NMS where `soft_cut` is set."""
    score_threshold: float | None = None
    """numpy: decayed scores below end; graph: scores not above never start and end. None: no threshold."""
    sigma: float = 0.5
    soft_cut: bool = False
    """Whether gaussian soft-NMS also drops everything above the IoU threshold."""
    clip: bool = False
    """Whether boxes are clipped to the model's input after suppression."""
    max_candidates: int | None = MAX_DETECTION_POINTS
    """Top scores of anchors x classes; 0: the best class of every anchor; None: all anchors x classes."""
    max_output_size: int = 100

    def __post_init__(self) -> None:
        if self.method not in METHODS[self.family]:
            raise unknown_name(f"method of {self.family} suppression", self.method, METHODS[self.family])
        if self.max_output_size < 1 or (self.max_candidates is not None and self.max_candidates < 0):
            raise InputError(
                f"suppression {self.name}: expected max_output_size >= 1 and max_nms_inputs >= 0, found "
                f"{self.max_output_size} and {self.max_candidates}; correct them."
            )
        if self.family == "numpy" and self.method in ("gaussian", "linear") and not (self.score_threshold or 0) > 0:
            raise InputError(
                f"suppression {self.name}: expected a score threshold above 0, where decayed boxes end, found "
                f"{self.score_threshold}; set score_thresh to 0.001 or another small number."
            )


_PROFILES = (
    NmsProfile("numpy_gaussian", "numpy", "gaussian", score_threshold=0.001),
    NmsProfile("numpy_linear", "numpy", "linear", iou_threshold=0.3, score_threshold=0.001),
    NmsProfile("numpy_hard", "numpy", "hard"),
    NmsProfile("numpy_diou", "numpy", "diou"),
    NmsProfile("graph_gaussian", "graph", "gaussian", score_threshold=0.001),
    NmsProfile("graph_gaussian_cut", "graph", "gaussian", score_threshold=0.001, soft_cut=True),
    NmsProfile("graph_gaussian_nocut", "graph", "gaussian", iou_threshold=1.0, score_threshold=0.001),
    NmsProfile("graph_hard", "graph", "hard"),
    NmsProfile("global_gaussian", "graph", "gaussian", per_class=False, score_threshold=0.001, clip=True),
    NmsProfile("global_hard", "graph", "hard", per_class=False, clip=True),
    NmsProfile("combined", "graph", "hard", clip=True, max_candidates=None),
    NmsProfile("torchvision", "torchvision", "hard"),
)
PROFILES: Mapping[str, NmsProfile] = {profile.name: profile for profile in _PROFILES}
DEFAULT_PROFILE = "numpy_gaussian"


def profile_from_config(
    config: Any, asked: str | NmsProfile | None = None, nms_configs: Mapping[str, Any] | None = None
) -> NmsProfile:
    """The suppression that a model's detections are made with: the one way from configuration and options to a profile.

    Args:
        config: of the model. What its `nms_configs` has other than google/automl's defaults counts: thresholds, sizes
            and the method (None: hard). `pyfunc` does not: which code runs is the profile's to say.
        asked: a name of `PROFILES`, or a profile of one's own, which holds without the config. None: the code of
            `DEFAULT_PROFILE`, with the method that is set.
        nms_configs: what replaces both, key by key, names as in google/automl.

    Raises:
        InputError: no such profile, method or key; a value that does not fit; or a name whose method is another than
            the one that is set.
    """
    if nms_configs is not None and not isinstance(nms_configs, Mapping):
        config.replace(nms_configs=nms_configs)  # which refuses what is no mapping
    given = dict(nms_configs or {})
    settings = {**({} if isinstance(asked, NmsProfile) else _set_by(config)), **given}
    if given:
        _check_keys(given)
        config.replace(nms_configs=given)  # refuses what no configuration may hold
    method = _method(settings["method"]) if "method" in settings else None
    default = PROFILES[DEFAULT_PROFILE]
    profile = resolve_profile(asked or f"{default.family}_{method or default.method}", settings)
    if method is not None and profile.method != method:
        others = ", ".join(other.name for other in _PROFILES if other.method == method)
        raise InputError(
            f"suppression: expected a profile whose method is the one that nms_configs sets, found {profile.name}, "
            f"which is {profile.method}, and nms_configs.method={method}; name no profile or one of {others}, or set "
            f"nms_configs.method={profile.method}."
        )
    return profile


def resolve_profile(
    profile: str | NmsProfile = DEFAULT_PROFILE, nms_configs: Mapping[str, Any] | None = None
) -> NmsProfile:
    """A profile by name, with the thresholds and sizes that `nms_configs` (names as in automl) sets.

    As in the official code, None and 0 of iou_thresh, score_thresh and sigma mean the method's default;
    max_nms_inputs and max_output_size count where they are given. method and pyfunc are the profile's own.
    Raises InputError for an unknown name.
    """
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise unknown_name("suppression profile", profile, PROFILES)
        profile = PROFILES[profile]
    elif not isinstance(profile, NmsProfile):
        raise unknown_name("suppression profile", profile, PROFILES)
    given = nms_configs or {}
    _check_keys(given)
    changes: dict[str, Any] = {
        field: given[key]
        for key, field in (("iou_thresh", "iou_threshold"), ("score_thresh", "score_threshold"), ("sigma", "sigma"))
        if given.get(key)
    }
    if given.get("max_output_size") is not None:
        changes["max_output_size"] = given["max_output_size"]
    if given.get("max_nms_inputs") is not None and profile.max_candidates is not None:
        changes["max_candidates"] = given["max_nms_inputs"]
    return replace(profile, **changes) if changes else profile


def _set_by(config: Any) -> dict[str, Any]:
    """What a config's `nms_configs` has other than google/automl's defaults."""
    values: Mapping[str, Any] = config.nms_configs
    return {key: value for key, value in values.items() if value != DEFAULT_NMS_CONFIGS.get(key)}


def _method(value: Any) -> str:
    """A method's name; nothing means hard, as in the official code."""
    known = sorted({method for methods in METHODS.values() for method in methods})
    if value and value not in known:
        raise unknown_name("nms_configs.method", str(value), known)
    return str(value or "hard")


def _check_keys(nms_configs: Mapping[str, Any]) -> None:
    for key in nms_configs:
        if key not in DEFAULT_NMS_CONFIGS:
            raise unknown_name("nms_configs key", str(key), DEFAULT_NMS_CONFIGS)
