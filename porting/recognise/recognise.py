"""What is it: variant, config, classes and anchors of a checkpoint or a weight file, by one set of rules.

Every command asks here, so that all give the same answer for the same file:

1. metadata of this project, where the file has them;
2. the variant that the user names;
3. shapes; of variants with the same shapes the one that the names around the file say (path, URL, an archive's
   folders, the `checkpoint` file);
4. else nothing: the file is refused with the candidates to choose from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.fit import MESSAGE_LIMIT, Mismatch, Shape, compare
from effdet_model.variants import OFFICIAL_VARIANTS, canonical_variant, get_config
from mappings.committed import table_for, table_name
from porting.recognise.census import Census, model_shapes, take_census
from porting.recognise.guess import guess
from porting.recognise.heads import Framework, Heads, heads_overrides, read_heads
from porting.recognise.surroundings import contradicts, named_variant

AUTO = "auto"

_NEARLY = 0.97
_ROOM = 250
"""Characters of a message for what differs from the nearest variant."""
_DIFFERENCES = {
    "image_size": "image size", "aspect_ratios": "anchors", "anchor_scale": "anchors", "mean_rgb": "preprocessing",
    "stddev_rgb": "preprocessing", "scale_range": "preprocessing",
}  # fmt: skip
_DIFFERENCES_IN_ORDER = ("mean_rgb", "stddev_rgb", "aspect_ratios", "anchor_scale", "image_size")


@dataclass(frozen=True)
class Evidence:
    """What is known of a file.

    Attributes:
        shapes: name -> shape, canonical variables or a state_dict's keys, as `framework` says.
        label: what messages call the file. names: paths, URLs and folders around it.
        backbone_scope: first part of the backbone's canonical names, where they tell it.
        recorded: the config in the file's metadata. stated: config fields that the file itself decides.
    """

    shapes: Mapping[str, Shape]
    framework: Framework
    label: str
    names: Sequence[str] = ()
    backbone_scope: str | None = None
    recorded: EfficientDetConfig | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recognised:
    """The answer.

    Attributes:
        config: complete, ready for a mapping table; None where it is not known. hparams: its fields that the variant's
            name and what the user gave do not say.
        candidates: variants with exactly these shapes, the heads' outputs aside.
        choices: (variant, hparams) between which the user has to choose; empty where it is settled.
        nearest, similarity: of the census; "" and 0 where none was needed.
        heads: None where the prediction layers do not tell.
        notes: what was inferred or assumed, in sentences. problems: why it cannot be used so, without the file's name.
    """

    label: str
    config: EfficientDetConfig | None = None
    hparams: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    choices: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    nearest: str = ""
    similarity: float = 0.0
    heads: Heads | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def variant(self) -> str | None:
        """Name of the config."""
        return self.config.name if self.config else None

    def settled(self, commands: Sequence[str] = ()) -> EfficientDetConfig:
        """The config.

        Args:
            commands: what to type for each of `choices`, in their order.

        Raises:
            InputError: there is a problem, or a choice to make.
        """
        if self.problems:
            message = f"{self.label}: {self.problems[0]}"
            whole = f"{message} Use `{'` or `'.join(commands)}`." if commands else message
            raise InputError(whole if len(whole) <= MESSAGE_LIMIT else message)
        assert self.config is not None, "without a problem there is a config"
        return self.config


def recognise(evidence: Evidence, variant: str = AUTO, overrides: Mapping[str, Any] | None = None) -> Recognised:
    """Say what a file is.

    Args:
        variant: the variant that the user names, or "auto".
        overrides: config fields that the user (or an official family) gives.

    Raises:
        InputError: no such variant or config field. What the file makes impossible is in `problems`.
    """
    given = dict(overrides or {})
    if evidence.recorded is not None:
        return _recorded(evidence, evidence.recorded, variant, given)
    try:
        heads = read_heads(evidence.shapes, evidence.framework)
    except InputError as error:
        census = take_census(evidence.shapes, evidence.framework)
        return Recognised(
            evidence.label, None, {}, census.variants, (), census.nearest, census.similarity, problems=(str(error),)
        )
    if variant != AUTO:
        return _asked(evidence, canonical_variant(variant), given, heads)
    census = take_census(evidence.shapes, evidence.framework)
    found = _by_shapes(evidence, census, given, heads)
    return dataclasses.replace(
        found, candidates=census.variants, nearest=census.nearest, similarity=census.similarity
    )


def expected_shapes(config: EfficientDetConfig, framework: Framework) -> dict[str, Shape]:
    """Name -> shape of all that a config's model has: canonical variables, or keys of the state_dict."""
    if framework == "tensorflow":
        return table_for(config).tensorflow_shapes
    if config.is_official:
        return {row.pytorch_key: row.pytorch_shape for row in table_for(config).rows}
    return model_shapes(config)


def contradiction(recorded: EfficientDetConfig, variant: str) -> tuple[str, ...]:
    """The problem where the user names another variant than a file's metadata."""
    asked = recorded.name if variant == AUTO else canonical_variant(variant)
    if asked == recorded.name:
        return ()
    return (f"its metadata says {recorded.name}, you asked for {asked}; use --variant {recorded.name}.",)


def _recorded(
    evidence: Evidence, config: EfficientDetConfig, variant: str, given: Mapping[str, Any]
) -> Recognised:
    census = take_census(evidence.shapes, evidence.framework)
    problems = contradiction(config, variant)
    heads = None
    try:
        heads = read_heads(evidence.shapes, evidence.framework)
    except InputError as error:
        problems = (*problems, str(error))
    return Recognised(
        evidence.label, config.replace(**given), {}, census.variants, (), census.nearest, census.similarity, heads,
        problems=problems,
    )  # fmt: skip


def _asked(evidence: Evidence, name: str, given: Mapping[str, Any], heads: Heads) -> Recognised:
    """The variant that the user names; another one where the shapes are plainly that one's."""
    found = _completed(evidence, name, given, heads, ())
    assert found.config is not None
    mismatch = Mismatch()
    if not found.problems:
        try:
            mismatch = compare(expected_shapes(found.config, evidence.framework), evidence.shapes)
        except InputError:  # the mapping says itself why there is none
            return found
    if mismatch:
        census = take_census(evidence.shapes, evidence.framework)
        found = dataclasses.replace(
            found, candidates=census.variants, nearest=census.nearest, similarity=census.similarity
        )
        if census.variants and name not in census.variants:
            problem = (
                f"this is a {' or '.join(census.variants)} checkpoint with {heads.num_classes} classes, you asked for "
                f"{name}; use --variant {' or --variant '.join(census.variants)}."
            )
            return dataclasses.replace(found, problems=(problem,))
        return found
    twins = tuple(twin for twin in OFFICIAL_VARIANTS if table_name(twin) == table_name(name))
    named = named_variant(twins, evidence.names)
    notes = found.notes
    if named.decided not in (None, name):
        notes = (
            *notes,
            f"took {name} as asked, though the names around the file say {named.decided} (they differ in "
            f"{differences((name, str(named.decided)))})",
        )
    return dataclasses.replace(found, notes=notes, candidates=twins or (name,), nearest=name, similarity=1.0)


def _by_shapes(evidence: Evidence, census: Census, given: Mapping[str, Any], heads: Heads) -> Recognised:
    if census.variants:
        return _chosen(evidence, census.variants, given, {}, heads, ())
    if evidence.framework == "tensorflow":
        guessed = guess(evidence.shapes, evidence.backbone_scope, heads, given)
        if guessed is not None:
            fields = {key: value for key, value in guessed.overrides.items() if key not in given}
            notes = (
                "hparams were read from names and shapes; act_type, image_size and aspect_ratios are in no checkpoint",
            )
            if not guessed.undecided:
                return _chosen(evidence, guessed.variants, given, fields, heads, notes)
            choices = tuple(
                (name, {**fields, "fpn_weight_method": method})
                for name in guessed.variants
                for method in guessed.undecided
            )
            problem = (
                f"{' and '.join(guessed.undecided)} have the same variables and make another network; say "
                f"--hparams fpn_weight_method={' or fpn_weight_method='.join(guessed.undecided)}."
            )
            return _undecided(evidence, choices, heads, notes, problem)
    problem = (
        f"no variant has exactly these shapes; nearest is {census.nearest} ({_share(evidence, census, heads)}). Name "
        "--variant and the --hparams it was trained with."
    )
    return Recognised(evidence.label, heads=heads, problems=(problem,))


def _share(evidence: Evidence, census: Census, heads: Heads) -> str:
    """How near the nearest variant is: what differs, where that is little, else the share of equal shapes."""
    if census.similarity < _NEARLY:
        return f"{census.similarity:.0%} of shapes"
    config = get_config(census.nearest)
    config = config.replace(**heads_overrides(config, heads))
    mismatch = compare(expected_shapes(config, evidence.framework), evidence.shapes)
    return mismatch.text(_ROOM) or "other heads"


def _chosen(
    evidence: Evidence, candidates: tuple[str, ...], given: Mapping[str, Any], fields: Mapping[str, Any], heads: Heads,
    notes: tuple[str, ...],
) -> Recognised:  # fmt: skip
    """The one candidate, or that which the file itself or the names around it say."""
    candidates = _agreeing(candidates, evidence.stated)
    named = named_variant(candidates, evidence.names)
    name = candidates[0] if len(candidates) == 1 else named.decided
    if contradicts(candidates[0], named) and (name is None or contradicts(name, named)):
        notes = (f"the names around the file say {' or '.join(named.variants)}, its shapes "
                 f"{' or '.join(candidates)}; shapes decide", *notes)  # fmt: skip
    if name is None:
        problem = (
            f"{', '.join(candidates)} have the same shapes and differ in {differences(candidates)}, and no name around "
            f"the file says which it is; name it: --variant {' or --variant '.join(candidates)}."
        )
        return _undecided(evidence, tuple((choice, dict(fields)) for choice in candidates), heads, notes, problem)
    if len(candidates) > 1:
        notes = (
            f"{', '.join(candidates)} have the same shapes; took {name}, as the names around the file say (they differ "
            f"in {differences(candidates)}: name --variant if it is another)",
            *notes,
        )
    return _completed(evidence, name, {**fields, **given}, heads, notes, fields)


def _agreeing(candidates: tuple[str, ...], stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Of variants with the same shapes, those whose preprocessing, anchors and image size are what the file states.

    A field that none of them has in common with the file decides nothing.
    """
    for key in _DIFFERENCES_IN_ORDER:
        if key in stated and len(candidates) > 1:
            same = [
                name for name in candidates
                if getattr(config := get_config(name), key) == getattr(config.replace(**{key: stated[key]}), key)
            ]  # fmt: skip
            candidates = tuple(same) or candidates
    return candidates


def _undecided(
    evidence: Evidence, choices: tuple[tuple[str, Mapping[str, Any]], ...], heads: Heads, notes: tuple[str, ...],
    problem: str,
) -> Recognised:  # fmt: skip
    whole = tuple(
        (name, {**fields, **heads_overrides(get_config(name, **fields), heads)}) for name, fields in choices
    )
    return Recognised(evidence.label, choices=whole, heads=heads, notes=notes, problems=(problem,))


def _completed(
    evidence: Evidence, name: str, fields: Mapping[str, Any], heads: Heads, notes: tuple[str, ...],
    read: Mapping[str, Any] | None = None,
) -> Recognised:  # fmt: skip
    """A variant's config with the classes and anchors that the heads say.

    Args:
        read: those of the fields that came from the file, for the next command.
    """
    config = get_config(name, **fields)
    problems = []
    missing = heads_overrides(config, heads)
    if "num_scales" in missing and ("aspect_ratios" in fields or "num_scales" in fields):
        problems.append(
            f"num_scales x aspect_ratios make {config.anchors_per_location} anchors per location, the shape of "
            f"box-predict says {heads.anchors_per_location}; correct --hparams num_scales and aspect_ratios."
        )
    elif "num_scales" in missing:
        ratios = len(missing.get("aspect_ratios", config.aspect_ratios))
        notes = (*notes, f"{heads.anchors_per_location} anchors per location, as the shape of box-predict says; "
                 f"assumed {missing['num_scales']} scales x {ratios} ratios, which no checkpoint tells: set --hparams "
                 "num_scales and aspect_ratios before detecting with these weights")  # fmt: skip
    if "num_classes" in missing and "num_classes" in fields:
        problems.append(
            f"--hparams say num_classes={config.num_classes}, the shape of class-predict says {heads.num_classes}; "
            "correct or drop num_classes."
        )
    elif "num_classes" in missing:
        notes = (*notes, f"{heads.num_classes} classes, as the shape of class-predict says")
    hparams = {**(read or {}), **missing}
    if problems:
        return Recognised(evidence.label, config, hparams, heads=heads, notes=notes, problems=tuple(problems))
    return Recognised(evidence.label, config.replace(**missing), hparams, heads=heads, notes=notes)


def differences(variants: Sequence[str]) -> str:
    """In what variants of the same shapes differ: image size, anchors, preprocessing."""
    configs = [get_config(name) for name in variants]
    found = [what for key, what in _DIFFERENCES.items() if len({repr(getattr(c, key)) for c in configs}) > 1]
    *first, last = dict.fromkeys(found or ["name"])
    return f"{', '.join(first)} and {last}" if first else last
