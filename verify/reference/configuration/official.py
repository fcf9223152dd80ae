"""The reference's own configuration: google/automl's facts, what the user declares, and the file's head shapes.

Nothing of the port goes into it (`effdet_model` gives its error class alone), so that a mistake in the port's tables,
mappings or metadata shows as a difference.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError, unknown_name
from verify.reference.configuration.facts import DEFAULTS, FAMILIES, SUFFIXES, TRAINER, TRAINING, VARIANTS

Hparams = str | Mapping[str, Any] | None

_PREFIXES = ("tf_efficientdet_", "efficientdet-", "efficientdet_")
_MERGED = ("nms_configs",)


def reference_config(
    variant: str, *, family: str | None = None, hparams: Hparams = None,
    shapes: Mapping[str, Sequence[int]] | None = None, stated: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A model's configuration under google/automl's names, as plain values.

    Args:
        variant: d0 .. d7, d7x, lite0 .. lite4, lite3x, d0_ap .. d5_ap, d2_640 .. d6_640; efficientdet-d0 and
            tf_efficientdet_d0 as well.
        family: the release whose day counts: coco, coco2, coco640, advprop, lite; None: the variant's only one, else
            the code of today.
        hparams: what google/automl's --hparams takes, as text, or as a mapping of its names.
        shapes: canonical variable name -> TensorFlow shape; the predict layers' tell classes and anchors.
        stated: what the checkpoint's own graph says, under the same names; hparams go before it.

    Returns:
        All of `facts.DEFAULTS`; `image_size` as [height, width]; `name`, e.g. "efficientdet-d0"; `family`.

    Raises:
        InputError: unknown names, unreadable hparams, or shapes that contradict them.
    """
    name, own_family = official_name(variant)
    family = family or own_family
    facts = {**DEFAULTS, **VARIANTS[name], **_family_facts(name, family, own_family)}
    declared = declared_hparams(hparams)
    for key, value in [*(stated or {}).items(), *declared.items()]:
        merges = key in _MERGED and isinstance(value, Mapping)
        facts[key] = {**facts[key], **value} if merges else value
    facts["image_size"] = _size(facts["image_size"])
    if shapes is not None:
        _take_head_shapes(facts, shapes, "num_classes" in declared)
    return {**_plain(facts), "name": name, "family": family}


def official_name(variant: str) -> tuple[str, str | None]:
    """google/automl's model name, and the family where the variant's name has one of its own.

    Raises:
        InputError: google/automl has no such model.
    """
    short = variant.strip().lower()
    for prefix in _PREFIXES:
        short = short.removeprefix(prefix)
    short = short.replace("-", "_")
    family = None
    for suffix, of_suffix in SUFFIXES.items():
        if short.endswith(suffix):
            short, family = short.removesuffix(suffix), of_suffix
    name = f"efficientdet-{short}"
    if name not in VARIANTS or (family and name not in FAMILIES[family][0]):
        own = [f"{model}{suffix}" for suffix, of in SUFFIXES.items() for model in FAMILIES[of][0]]
        known = [model.removeprefix("efficientdet-") for model in (*VARIANTS, *own)]
        raise unknown_name("variant of google/automl", variant, known)
    return name, family or ("lite" if short.startswith("lite") else None)


def _family_facts(name: str, family: str | None, own: str | None) -> Mapping[str, Any]:
    if family is None:
        return {}
    if family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    models, facts = FAMILIES[family]
    if name not in models or (own is not None and family != own):
        raise InputError(
            f"family {family}: expected one of its models ({', '.join(models)}), found {name} of family "
            f"{own or 'coco2'}; name the variant and the family that belong together."
        )
    return facts


def declared_hparams(hparams: Hparams) -> dict[str, Any]:
    """What the user declares of the model, under google/automl's names; what only training reads is left out.

    Raises:
        InputError: see `all_hparams`.
    """
    return {key: value for key, value in all_hparams(hparams).items() if key in DEFAULTS}


def all_hparams(hparams: Hparams) -> dict[str, Any]:
    """Everything that the user declares, under google/automl's names.

    Raises:
        InputError: not readable as google/automl reads it, or names that it does not have.
    """
    if not hparams:
        return {}
    values = dict(hparams) if not isinstance(hparams, str) else _parsed(hparams)
    for key in values:
        if key not in DEFAULTS and key not in TRAINING and key not in TRAINER:
            raise unknown_name("hparams key", str(key), [*DEFAULTS, *TRAINING, *TRAINER])
    return values


def _parsed(text: str) -> dict[str, Any]:
    if "=" in text:
        values: dict[str, Any] = {}
        for pair in filter(None, text.split(",")):
            key, separator, value = pair.partition("=")
            if not separator or "=" in value:
                raise InputError(f"--hparams: expected key=value, found {pair!r}; separate list items by *.")
            _place(values, key.strip().split("."), _items(value))
        return values
    return _from_yaml(Path(text))


def _from_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--hparams {path}: expected a YAML file or key=value, found: {reason}.") from error
    if not isinstance(found, dict | None):
        raise InputError(f"--hparams {path}: expected names with values, found {type(found).__name__}; correct it.")
    return found or {}


def _loader() -> Any:
    """The safe loader, with the tuples that google/automl's trainer writes."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def as_list(loader: Any, node: Any) -> list[Any]:
        return loader.construct_sequence(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", as_list)
    return Loader


def _place(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        below = values.setdefault(part, {})
        if not isinstance(below, dict):
            raise InputError(f"--hparams {'.'.join(path)}: expected {part} to hold keys, found a value as well.")
        values = below
    values[path[-1]] = value


def _items(text: str) -> Any:
    """One value, or a list where `*` separates several."""
    return [_value(item) for item in text.split("*")] if "*" in text else _value(text)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _size(value: Any) -> list[int]:
    """[height, width] of google/automl's sizes: one number, WIDTHxHEIGHT, or (height, width)."""
    try:
        if isinstance(value, str) and "x" in value.lower():
            width, height = value.lower().split("x")
        elif isinstance(value, str | int | float):
            height = width = value  # type: ignore[assignment]
        else:
            height, width = value
        size = [int(height), int(width)]
    except (TypeError, ValueError):
        size = [0, 0]
    if min(size) < 1:
        raise InputError(f"image_size: expected a number or WIDTHxHEIGHT, found {value!r}; write e.g. 512 or 640x384.")
    return size


def _take_head_shapes(facts: dict[str, Any], shapes: Mapping[str, Sequence[int]], declared: bool) -> None:
    """Classes and anchors per place as the checkpoint's predict layers have them."""
    channels = {}
    for net, prefix in (("class_net", "class"), ("box_net", "box")):
        shape = shapes.get(f"{net}/{prefix}-predict/bias")
        if shape is None or len(shape) != 1:
            raise InputError(
                f"checkpoint: expected a vector {net}/{prefix}-predict/bias, found {shape or 'none'}; it holds no "
                "whole EfficientDet."
            )
        channels[net] = int(shape[0])
    anchors, odd = divmod(channels["box_net"], 4)
    expected = facts["num_scales"] * len(facts["aspect_ratios"])
    if odd or anchors != expected:
        raise InputError(
            f"checkpoint: expected {expected} anchors at each place (num_scales {facts['num_scales']}, "
            f"{len(facts['aspect_ratios'])} aspect_ratios), found {channels['box_net']} box channels, that is "
            f"{channels['box_net'] / 4:g} anchors; say with --hparams num_scales=...,aspect_ratios=... how it was "
            "trained."
        )
    classes, odd = divmod(channels["class_net"], anchors)
    if odd or classes < 1 or (declared and classes != facts["num_classes"]):
        raise InputError(
            f"checkpoint: expected {facts['num_classes']} classes as --hparams or the variant say, found "
            f"{channels['class_net']} class channels for {anchors} anchors; correct num_classes."
        )
    facts["num_classes"] = classes


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
