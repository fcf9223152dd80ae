"""What a training begins with: weights that fit, the class layer anew where the classes are others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effdet_model.config import EfficientDetConfig, parse_image_size
from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError
from effdet_model.factory import resolve_config
from effdet_model.fit import listed
from effdet_model.initial_weights import CLASS_PREDICT
from effdet_model.labels import resolve_label_map
from effdet_model.weights import load_into, read_metadata, read_weights
from porting.recognise.files import weight_settings
from training.initialise import WHOLE_CLASS_HEAD, initialise
from training.recipes import Recipe
from training.running.options import TrainOptions

BOX_PREDICT = "box_net.predict"


@dataclass(frozen=True)
class Start:
    """The model that training begins with.

    Attributes:
        kept, replaced: names of tensors from the file, and of those that begin anew. notes: in sentences.
    """

    model: EfficientDet
    kept: tuple[str, ...]
    replaced: tuple[str, ...]
    notes: tuple[str, ...]


def starting_model(options: TrainOptions, recipe: Recipe, label_map: Mapping[int, str]) -> Start:
    """The model for the classes of a dataset, from weights or anew.

    Raises:
        InputError: neither weights nor variant, a config that makes no model, or weights that do not fit.
    """
    torch.manual_seed(recipe.seed)
    if options.weights is None:
        if options.variant is None:
            raise InputError("train: expected --weights FILE or --variant NAME to begin with, found neither; name one.")
        model = EfficientDet(_config(options, label_map), options.pretrained_backbone)
        initialise(model, recipe)
        origin = "timm's trained backbone" if options.pretrained_backbone else "random weights"
        return Start(model, (), tuple(model.state_dict()), (f"Begins with {origin}.",))
    loaded = read_weights(options.weights)
    before = _known_labels(options)
    config = _config(options, label_map)
    model = EfficientDet(config)
    initialise(model, recipe)
    own = model.state_dict()
    replaced = _replaced(own, loaded.state_dict, options, _other_classes(before, config))
    kept = {name: tensor for name, tensor in loaded.state_dict.items() if not name.startswith(replaced)}
    load_into(model, {**kept, **{name: own[name] for name in own if name.startswith(replaced)}}, options.weights)
    new = tuple(name for name in own if replaced and name.startswith(replaced))
    told = f"kept {len(own) - len(new)} of {len(own)} tensors"
    if new:
        told += f"; new: {', '.join(part.rstrip('.') for part in replaced)} ({len(new)} tensors)"
    notes = (*loaded.notes, f"{options.weights}: {told}.", *_without_statistics(options.weights, model, recipe))
    return Start(model, tuple(kept), new, notes)


def _without_statistics(weights: Path, model: EfficientDet, recipe: Recipe) -> tuple[str, ...]:
    """A warning where batch norms that would train came from a TFLite file, which has no statistics of a training."""
    source = (read_metadata(weights) or {}).get("source")
    if not isinstance(source, dict) or source.get("dialect") != "tflite":
        return ()
    norms = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    kept = re.compile(recipe.freeze) if recipe.freeze and recipe.freeze_statistics else None
    moving = sum(not (kept and kept.match(name)) for name in norms)
    if not moving:
        return ()
    return (
        f"Warning: {weights} was made from a TFLite file, which has no means and variances of a training, and {moving} "
        "of its batch norms are to train: with the statistics of a batch they make another network from the first "
        "step on. Freeze them (--freeze '.*bn' --freeze-statistics), or start from the checkpoint.",
    )


def _config(options: TrainOptions, label_map: Mapping[int, str]) -> EfficientDetConfig:
    """Of the model to train: the weights' or variant's, with the classes of the dataset."""
    variant, hparams = options.variant, dict(options.hparams)
    if options.weights is not None:
        settings = weight_settings(options.weights, options.variant, hparams)
        variant, hparams = settings.variant, dict(settings.overrides)
    config = resolve_config(variant, options.weights, **{**hparams, "label_map": None})
    if options.image_size is not None:
        config = config.replace(image_size=parse_image_size(options.image_size))
    if not label_map:
        raise InputError("dataset: expected at least one class, found none; check the annotations.")
    classes = max(label_map)
    if "num_classes" in options.hparams and config.num_classes < classes:
        raise InputError(
            f"num_classes: expected at least {classes}, the highest class id of the dataset, found "
            f"{config.num_classes}; leave it out."
        )
    if "num_classes" not in options.hparams:
        config = config.replace(num_classes=_class_count(config, classes, options))
    return config.replace(label_map=dict(label_map))


def _class_count(config: EfficientDetConfig, classes: int, options: TrainOptions) -> int:
    """The dataset's highest class id; COCO's 90 stay 90 where a part of COCO lacks the last."""
    known = _known_labels(options) if options.weights is not None else None
    if known and classes <= config.num_classes and known["num_classes"] == 90 and classes > 80:
        return config.num_classes
    return classes


def _known_labels(options: TrainOptions) -> dict[str, Any]:
    """{num_classes, label_map} that the weights were made for."""
    assert options.weights is not None
    settings = weight_settings(options.weights, options.variant, {})
    config = resolve_config(settings.variant, options.weights, **settings.overrides)
    return {
        "num_classes": config.num_classes,
        "label_map": resolve_label_map(config.label_map, config.num_classes),
    }


def _other_classes(before: Mapping[str, Any], config: EfficientDetConfig) -> bool:
    """Whether the classes of the weights are not those of the dataset; unnamed ones are taken for the same."""
    if before["num_classes"] != config.num_classes:
        return True
    known, wanted = before["label_map"], resolve_label_map(config.label_map, config.num_classes)
    return any(known.get(id_, name) != name for id_, name in wanted.items())


def _replaced(
    own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], options: TrainOptions, other_classes: bool
) -> tuple[str, ...]:
    """Where names begin that do not come from the file: of predict layers whose shapes or classes are others."""
    if options.reset_head == "whole":
        chosen = {f"{WHOLE_CLASS_HEAD}."}
    elif other_classes or options.reset_head == "predict":
        chosen = {f"{CLASS_PREDICT}."}
    else:
        chosen = set()
    misfits = [name for name in own if name in found and own[name].shape != found[name].shape]
    for predict in (f"{CLASS_PREDICT}.", f"{BOX_PREDICT}."):
        if any(name.startswith(predict) for name in misfits):
            chosen.add(predict)
    rest = [name for name in misfits if not name.startswith(tuple(chosen))] if chosen else misfits
    if rest:
        raise InputError(
            f"weights {options.weights}: expected tensors that fit the model but for the layers that predict, found "
            f"{len(rest)} of other shapes ({listed(rest, 3)}); name the --variant and --hparams that they were made "
            "with."
        )
    if f"{WHOLE_CLASS_HEAD}." in chosen:
        chosen.discard(f"{CLASS_PREDICT}.")
    return tuple(sorted(chosen))


def describe_file(path: Path | None) -> str:
    """A weight file's name for metadata; "random weights" without one."""
    return path.name if path is not None else "random weights"
