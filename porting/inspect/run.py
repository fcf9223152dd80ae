"""What a file is, and what to type next: checkpoints of every dialect, archives, PyTorch weight files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from effdet_model.errors import InputError
from effdet_model.fit import compare, listed
from mappings.committed import table_for
from porting.accounting import account
from porting.checkpoint.sources import Source, open_source
from porting.checkpoint.values import Choice, Kind
from porting.inspect.value_statistics import Statistics, pytorch_role, tensorflow_role
from porting.recognise.command import command, convert_command, hparams_words
from porting.recognise.files import recognise_source, recognise_tensors
from porting.recognise.heads import Heads
from porting.recognise.recognise import Recognised, expected_shapes
from porting.weights.reader import WeightFile, is_weight_file

Progress = Callable[[int, int], None]

_NONFINITE = "--allow-nonfinite"


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
        next_command: what to type; None where nothing helps, or where there is a choice to make.
        choices: what to type instead, one command for each variant that the file may be.
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
    choices: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way of the next command."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The same as plain data, every list in full."""
        values = {kind: statistics.to_json() for kind, statistics in self.values.items()}
        return {**asdict(self), "path": str(self.path), "values": values, "usable": self.usable}


def inspect_file(
    path: str | Path, progress: Progress | None = None, named: Sequence[str] = ()
) -> Inspection:
    """Look at a checkpoint, an archive or a weight file: one pass over its values, tensor by tensor.

    Args:
        named: further names of the file, e.g. the URL that it was loaded from; the next command takes the first.
        progress: called with (tensors done, tensors in all).

    Raises:
        InputError: unreadable, damaged, hostile, or neither a checkpoint of EfficientDet nor weights. What is
            merely unfit for porting is reported in `problems`.
    """
    path = Path(path)
    if is_weight_file(path):
        with WeightFile(path) as weights:
            return _inspect_weights(weights, progress, named)
    with open_source(path) as source:
        source.start_hashing()
        return _inspect_checkpoint(source, progress, named)


def _inspect_checkpoint(source: Source, progress: Progress | None, named: Sequence[str]) -> Inspection:
    values = _checkpoint_values(source, progress)
    hashes = source.file_sha256()
    files = [FileInfo(file.name, file.stat().st_size, hashes[file.name]) for file in source.files]
    found = Inspection(source.path, "checkpoint", source.dialect, files, source.sha256())
    found.values, found.unknown = values, source.unknown
    found.ignored = dict(sorted(Counter(item.reason for item in source.ignored).items()))
    recognised = recognise_source(source, named=named)
    _adopt(found, recognised)
    found.averages = _averages(source)
    choice = _choose_values(found, source)
    if recognised.config and not recognised.problems:
        _problem_of(found, source.label, lambda: _account(found, source, recognised, choice))
    ema = choice == "auto" and found.averages.state == "all"
    used = values.get("ema" if ema else "raw") or next(iter(values.values()))
    _report_values(found, used)
    if found.heads:
        more = [*([] if choice == "auto" else ["--variables", choice]), *([] if used.plausible else [_NONFINITE])]
        checkpoint = named[0] if named else found.path
        found.choices = [convert_command(checkpoint, *each, *more) for each in recognised.choices]
        if recognised.config:
            found.next_command = convert_command(checkpoint, recognised.config.name, found.hparams, *more)
        elif not found.choices:
            unknown = ["--hparams", "HPARAMS.yaml", *more]
            found.next_command = convert_command(checkpoint, found.nearest, {}, *unknown)
    return found


def _adopt(found: Inspection, recognised: Recognised) -> None:
    """Take over what the recogniser says."""
    found.variants, found.nearest, found.similarity = (
        recognised.candidates, recognised.nearest, recognised.similarity,
    )  # fmt: skip
    found.variant, found.hparams, found.heads = recognised.variant, dict(recognised.hparams), recognised.heads
    found.problems += recognised.problems
    found.notes += recognised.notes


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


def _account(found: Inspection, source: Source, recognised: Recognised, choice: Choice) -> None:
    """What conversion would ignore, or why it would refuse."""
    found.ignored = dict(account(source, table_for(recognised.settled()), choice).ignored)


def _inspect_weights(weights: WeightFile, progress: Progress | None, named: Sequence[str]) -> Inspection:
    size = weights.path.stat().st_size
    statistics = Statistics()
    norms = {key.removesuffix(".running_var") for key in weights.shapes if key.endswith(".running_var")}
    kept = [key for key in weights.shapes if key not in weights.counters]
    whole: dict[str, str] = {}
    for done, key in enumerate(kept, 1):
        array, dtype = weights.read(key)
        if array.dtype.kind != "f":
            whole[key] = dtype
        statistics.add(key, array, pytorch_role(key, norms), dtype)
        if progress:
            progress(done, len(kept))
    digest = weights.sha256()
    found = Inspection(
        weights.path, "weights", weights.dialect, [FileInfo(weights.path.name, size, digest)], digest,
        metadata=weights.metadata, values={"weights": statistics},
    )  # fmt: skip
    found.notes += weights.notes
    if not isinstance((found.metadata or {}).get("config"), dict):
        found.notes.append("no metadata of this project: variant and classes come from the tensors")
    _problem_of(found, str(weights.path), lambda: _compare_weights(found, weights, whole, named))
    _report_values(found, statistics)
    recorded = (found.metadata or {}).get("weights_sha256", digest)
    if recorded != digest:
        found.problems.append(f"the .json beside it belongs to another file, with SHA-256 {recorded}")
    return found


def _compare_weights(
    found: Inspection, weights: WeightFile, whole: Mapping[str, str], named: Sequence[str]
) -> None:
    """Which model the weights are of, and whether they are whole; the next command.

    Args:
        whole: names of tensors of whole numbers -> dtype; only counters may be that.
    """
    recognised = recognise_tensors(weights.path, weights.shapes, weights.metadata, named=named)
    _adopt(found, recognised)
    found.choices = [_evaluate_command(weights.path, *choice) for choice in recognised.choices]
    if recognised.config is None:
        return
    found.next_command = _evaluate_command(weights.path, recognised.config.name, found.hparams)
    numbers = {name: dtype for name, dtype in whole.items() if not name.endswith(".num_batches_tracked")}
    mismatch = compare(expected_shapes(recognised.config, "pytorch"), weights.shapes, numbers)
    found.unknown = list(mismatch.left_over)
    found.problems += [f"as weights of {recognised.config.name}: {part}" for part in mismatch.parts()]


def _evaluate_command(weights: Path, variant: str, hparams: Mapping[str, Any]) -> str:
    return command(
        "evaluate", "--variant", variant, "--weights", str(weights), "--coco", "COCO_FOLDER", *hparams_words(hparams)
    )


def _report_values(found: Inspection, used: Statistics) -> None:
    """Problems in the values that would be used."""
    for names, what in (
        (used.nan, "NaN"), (used.infinite, "infinite values"), (used.negative_variances, "negative variances"),
    ):  # fmt: skip
        if names:
            found.problems.append(
                f"{sum(names.values())} {what} in {len(names)} tensors ({listed(sorted(names))}): the training "
                "diverged or the file is damaged"
            )
    if used.dead_batch_norms:
        found.notes.append(
            f"{len(used.dead_batch_norms)} batch norms pass nothing on or never saw data (scale or variance 0): "
            f"{listed(used.dead_batch_norms)}"
        )


def _problem_of(found: Inspection, label: str, look: Callable[[], None]) -> None:
    """Report what makes a file unfit, without the file's name."""
    try:
        look()
    except InputError as error:
        found.problems.append(str(error).removeprefix(f"{label}: "))
