"""What a file is, and what to type next: checkpoints of every dialect, archives, PyTorch weight files."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.variants import get_config
from mappings.committed import table_for
from porting.accounting import account
from porting.checkpoint.sources import Source, open_source
from porting.checkpoint.values import Choice, Kind
from porting.inspect.value_statistics import Statistics, pytorch_role, tensorflow_role
from porting.recognise.census import Heads, read_heads, take_census
from porting.recognise.guess import guess, named_variant
from porting.recognise.identify import explain_mismatch, identify
from porting.recognise.weight_census import foreign_prefix, heads_overrides, model_shapes, take_weight_census
from porting.weights.reader import WeightFile, is_weight_file

Progress = Callable[[int, int], None]

_LISTED = 12


@dataclass(frozen=True)
class FileInfo:
    """One file: name, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Averages:
    """Moving averages: of "all" model variables, of "none" or "partial"; how many have one and how many lack it."""

    state: Literal["all", "none", "partial"]
    present: int
    absent: int


@dataclass
class Inspection:
    """What `inspect_file` found.

    Attributes:
        kind: "checkpoint" (TensorFlow) or "weights" (PyTorch).
        dialect: "tf1", "h5" or "object"; "pth" or "safetensors".
        files: what it consists of (an archive is one file). sha256: of the whole, as conversions record it.
        variants: models with exactly these shapes, the heads' outputs aside; they may share them.
        nearest: the variant that shares most; similarity: shared over all, 0 to 1.
        variant, hparams: what the next command names. None where nothing fits.
        heads: class count and anchors per location; None where the prediction layers do not tell.
        averages: None for weights. ignored: reason -> how many tensors. unknown: names that mean nothing here.
        metadata: what a weight file says of itself. values: "raw", "ema" or "weights" -> statistics.
        problems: why it cannot be used as it is. notes: what was inferred or assumed.
        next_command: what to type; None where nothing helps.
    """

    path: Path
    kind: Literal["checkpoint", "weights"]
    dialect: str
    files: list[FileInfo]
    sha256: str
    variants: tuple[str, ...] = ()
    nearest: str = ""
    similarity: float = 0.0
    variant: str | None = None
    hparams: dict[str, Any] = field(default_factory=dict)
    heads: Heads | None = None
    averages: Averages | None = None
    ignored: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    metadata: dict[str, Any] | None = None
    values: dict[str, Statistics] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    next_command: str | None = None

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way of the next command."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The same as plain data, every list in full."""
        values = {kind: statistics.to_json() for kind, statistics in self.values.items()}
        return {**asdict(self), "path": str(self.path), "values": values, "usable": self.usable}


def inspect_file(path: str | Path, progress: Progress | None = None) -> Inspection:
    """Look at a checkpoint, an archive or a weight file: one pass over its values, tensor by tensor.

    Args:
        progress: called with (tensors done, tensors in all).

    Raises:
        InputError: unreadable, damaged, hostile, or neither a checkpoint of EfficientDet nor weights. What is
            merely unfit for porting is reported in `problems`.
    """
    path = Path(path)
    if is_weight_file(path):
        with WeightFile(path) as weights:
            return _inspect_weights(weights, progress)
    with open_source(path) as source:
        source.start_hashing()
        return _inspect_checkpoint(source, progress)


def _inspect_checkpoint(source: Source, progress: Progress | None) -> Inspection:
    values = _checkpoint_values(source, progress)
    hashes = source.file_sha256()
    files = [FileInfo(file.name, file.stat().st_size, hashes[file.name]) for file in source.files]
    found = Inspection(source.path, "checkpoint", source.dialect, files, source.sha256())
    found.values, found.unknown = values, source.unknown
    found.ignored = dict(sorted(Counter(item.reason for item in source.ignored).items()))
    shapes = {name: info.shape for name, info in source.variables.items()}
    with _problem(found, source.label):
        found.heads = read_heads(shapes, source.label)
    census = take_census(shapes)
    found.variants, found.nearest, found.similarity = census.variants, census.nearest, census.similarity
    found.averages = _averages(source)
    _name_variant(found, source, shapes)
    choice = _choose_values(found, source)
    if found.variant and found.heads:
        _account(found, source, choice)
    ema = choice == "auto" and found.averages.state == "all"
    used = values.get("ema" if ema else "raw") or next(iter(values.values()))
    _report_values(found, used)
    if found.heads:
        found.next_command = _convert_command(found, choice, used)
    return found


def _convert_command(found: Inspection, choice: Choice, used: Statistics) -> str:
    hparams = _hparams(found.hparams) if found.variant else ["--hparams", "HPARAMS.yaml"]
    return _command(
        "convert", "--variant", found.variant or found.nearest, "--checkpoint", str(found.path), *hparams,
        *([] if choice == "auto" else ["--variables", choice]),
        *([] if used.plausible else ["--allow-nonfinite"]),
    )  # fmt: skip


def _checkpoint_values(source: Source, progress: Progress | None) -> dict[str, Statistics]:
    """Statistics of the raw values and of the moving averages, where there are any."""
    kinds: tuple[Kind, Kind] = ("raw", "ema")
    work = [
        (kind, info)
        for kind in kinds
        for info in source.variables.values()
        if (info.has_raw if kind == "raw" else info.has_ema)
    ]
    values: dict[str, Statistics] = {}
    for done, (kind, info) in enumerate(work, 1):
        array = source.read(info.name, kind)
        values.setdefault(kind, Statistics()).add(info.name, array, tensorflow_role(info.name), info.dtype)
        if progress:
            progress(done, len(work))
    return values


def _averages(source: Source) -> Averages:
    present = sum(info.has_ema for info in source.variables.values())
    absent = len(source.variables) - present
    return Averages("none" if not present else "partial" if absent else "all", present, absent)


def _name_variant(found: Inspection, source: Source, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Settle on a variant and hparams, and say what was assumed."""
    if found.heads is None:
        return
    if not found.variants:
        guessed = guess(shapes, source.backbone_scope, found.heads)
        if guessed is None:
            found.problems.append(
                f"no variant has exactly these shapes; nearest is {found.nearest} ({found.similarity:.0%} of shapes). "
                "Write the hparams it was trained with to HPARAMS.yaml."
            )
        else:
            found.variant, found.hparams = guessed.variant, dict(guessed.overrides)
            found.notes.append(f"hparams were read from names and shapes; {guessed.untold}")
        return
    named = named_variant(source.path, found.variants)
    found.variant = named or found.variants[0]
    if len(found.variants) > 1:
        why = "as its path says" if named else "the first of them"
        found.notes.append(
            f"{', '.join(found.variants)} have the same shapes; took {found.variant}, {why} (they differ in image "
            "size, anchors or preprocessing)"
        )
    found.hparams = heads_overrides(get_config(found.variant), found.heads)
    if "num_scales" in found.hparams:
        found.notes.append("which scales and aspect ratios make the anchors is assumed: no checkpoint tells")


def _choose_values(found: Inspection, source: Source) -> Choice:
    """Raw values where some moving averages are missing, else what conversion takes by itself."""
    averages = found.averages
    if averages is None or averages.state != "partial":
        return "auto"
    raw = all(info.has_raw for info in source.variables.values())
    found.problems += [] if raw else [
        f"{averages.absent} variables have no moving average and not all have a raw value: neither kind is complete"
    ]  # fmt: skip
    found.notes += [f"only {averages.present} variables have a moving average; took the raw values"] if raw else []
    return "raw"


def _account(found: Inspection, source: Source, choice: Choice) -> None:
    """What conversion would ignore, or why it would refuse."""
    with _problem(found, source.label):
        config = identify(source, found.variant or "", found.hparams).config
        try:
            found.ignored = dict(account(source, table_for(config), choice).ignored)
        except InputError as error:
            raise explain_mismatch(source, config, error) from error


def _inspect_weights(weights: WeightFile, progress: Progress | None) -> Inspection:
    size = weights.path.stat().st_size
    statistics = Statistics()
    norms = {key.removesuffix(".running_var") for key in weights.shapes if key.endswith(".running_var")}
    for done, key in enumerate(weights.shapes, 1):
        array, dtype = weights.read(key)
        statistics.add(key, array, pytorch_role(key, norms), dtype)
        if progress:
            progress(done, len(weights.shapes))
    digest = weights.sha256()
    found = Inspection(
        weights.path, "weights", weights.dialect, [FileInfo(weights.path.name, size, digest)], digest,
        metadata=weights.metadata, values={"weights": statistics},
    )  # fmt: skip
    census = take_weight_census(weights.shapes)
    found.variants, found.nearest, found.similarity, found.heads = (
        census.variants, census.nearest, census.similarity, census.heads,
    )  # fmt: skip
    with _problem(found, str(weights.path)):
        config = _weights_config(found)
        if config:
            _compare_weights(found, weights.shapes, config)
    _report_values(found, statistics)
    prefix = foreign_prefix(list(weights.shapes))
    if prefix:
        found.problems.append(f"all names begin with {prefix!r}, which a training wrapper added; take it off")
    recorded = (found.metadata or {}).get("weights_sha256", digest)
    if recorded != digest:
        found.problems.append(f"the .json beside it belongs to another file, with SHA-256 {recorded}")
    if found.variant:
        found.next_command = _command(
            "evaluate", "--variant", found.variant, "--weights", str(weights.path), "--coco", "COCO_FOLDER",
            *_hparams(found.hparams),
        )  # fmt: skip
    return found


def _weights_config(found: Inspection) -> EfficientDetConfig | None:
    """The config that the weights' metadata or tensors say; sets variant and hparams."""
    recorded = (found.metadata or {}).get("config")
    if isinstance(recorded, dict):
        config = EfficientDetConfig.from_dict(recorded)
        found.variant = config.name
        return config
    found.notes.append("no metadata of this project: variant and classes come from the tensors")
    if not found.variants:
        found.problems.append(
            f"no model has exactly these tensors; nearest is {found.nearest} ({found.similarity:.0%} of tensors). "
            "Name --variant and the --hparams they were made for."
        )
        return None
    found.variant = found.variants[0]
    if len(found.variants) > 1:
        found.notes.append(
            f"{', '.join(found.variants)} have the same tensors; took {found.variant} (they differ in image size, "
            "anchors or preprocessing)"
        )
    base = get_config(found.variant)
    found.hparams = heads_overrides(base, found.heads)
    return base.replace(**found.hparams)


def _compare_weights(
    found: Inspection, shapes: Mapping[str, tuple[int, ...]], config: EfficientDetConfig
) -> None:
    if config.is_official:
        expected = {row.pytorch_key: row.pytorch_shape for row in table_for(config).rows}
    else:
        expected = model_shapes(config)
    found.unknown = sorted(set(shapes) - set(expected))
    missing = sorted(set(expected) - set(shapes))
    other = sorted(key for key in set(shapes) & set(expected) if shapes[key] != expected[key])
    for names, what in ((missing, "missing"), (found.unknown, "left over"), (other, "of another shape")):
        if names:
            found.problems.append(f"{len(names)} tensors of {config.name} are {what}: {_listed(names)}")


def _report_values(found: Inspection, used: Statistics) -> None:
    """Problems in the values that would be used."""
    for names, what in (
        (used.nan, "NaN"), (used.infinite, "infinite values"), (used.negative_variances, "negative variances"),
    ):  # fmt: skip
        if names:
            found.problems.append(
                f"{sum(names.values())} {what} in {len(names)} tensors ({_listed(sorted(names))}): the training "
                "diverged or the file is damaged"
            )
    if used.dead_batch_norms:
        found.notes.append(
            f"{len(used.dead_batch_norms)} batch norms pass nothing on or never saw data (scale or variance 0): "
            f"{_listed(used.dead_batch_norms)}"
        )


@contextmanager
def _problem(found: Inspection, label: str) -> Iterator[None]:
    """Report what makes a file unfit, without the file's name."""
    try:
        yield
    except InputError as error:
        found.problems.append(str(error).removeprefix(f"{label}: "))


def _hparams(fields: Mapping[str, Any]) -> list[str]:
    """--hparams as google/automl takes them: key=value, list items joined by *."""
    if not fields:
        return []
    return ["--hparams", ",".join(f"{key}={_hparam(value)}" for key, value in fields.items())]


def _hparam(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "*".join(map(str, value)) if len(value) > 1 else str(list(value))
    return str(value)


def _command(*words: str) -> str:
    return shlex.join(["python", "cli.py", *words])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
