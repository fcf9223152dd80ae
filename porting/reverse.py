"""From PyTorch weights back to TensorFlow: a TF1 checkpoint or a Keras .h5 that google/automl loads.

How the official code restores (6a54c87) decides what is written:

- `det_model_fn.py` (main.py, eval) and `inference.py` (model_inspect.py) restore every variable X from
  X/ExponentialMovingAverage, as the published hparams have moving_average_decay 0.9998; the estimator's
  saver asks for global_step as well.
- `utils.get_ckpt_var_map` (main.py --ckpt, fine-tuning) and moving_average_decay=0 read X itself.
- `tf2/util_keras.restore_ckpt` assigns X first and the moving average after it.

So a checkpoint holds every variable twice, with the same bits, and global_step 0. It has no optimizer slots: name
it as --ckpt of a new training, not as the --model_dir of one to resume. A .h5 file holds each variable once.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.fit import compare, listed, same_bits
from effdet_model.weights import Weights, check_pairing, dtype_name, read_metadata, read_weights
from mappings.committed import table_for
from mappings.layouts import LAYOUTS
from mappings.table import MappingTable, Row
from porting.checkpoint.dialects import EMA_SUFFIX, H5
from porting.checkpoint.sources import open_source
from porting.checkpoint.tensorbundle import TensorBundle
from porting.checkpoint.values import Kind
from porting.checkpoint.write_h5 import layer_order, write_h5
from porting.checkpoint.write_tensorbundle import write_checkpoint
from porting.files import file_sha256
from porting.recognise.command import command
from porting.recognise.files import recognise_tensors
from porting.recognise.recognise import AUTO

Progress = Callable[[int, int], None]

STEM = "model"
H5_SUFFIXES = (".h5", ".hdf5")
_FILES = (f"{STEM}.data-00000-of-00001", f"{STEM}.index", "checkpoint")  # in the order in which they appear
_UNFINISHED = ".writing."


@dataclass(frozen=True)
class ReverseWritten:
    """Weights that have been written for TensorFlow.

    Attributes:
        output: the folder, or the .h5 file. dialect: "tf1" or "h5".
        consumed: PyTorch keys, each used exactly once; with `ignored` they are all keys of the weights.
        ignored: reason -> how many PyTorch tensors.
        variables: how many TensorFlow variables were filled. tensors: how many the file holds (see the module).
        files: SHA-256 of every file, by its name.
        notes: what was inferred or assumed, in sentences.
    """

    config: EfficientDetConfig
    table: MappingTable
    output: Path
    dialect: Literal["tf1", "h5"]
    consumed: tuple[str, ...]
    ignored: Mapping[str, int]
    variables: int
    tensors: int
    files: Mapping[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "output": str(self.output), "dialect": self.dialect, "variant": self.config.name,
            "mapped": self.table.counts(), "pytorch_tensors": len(self.consumed), "ignored": dict(self.ignored),
            "tensorflow_variables": self.variables, "tensors_written": self.tensors, "files": dict(self.files),
            "notes": list(self.notes), "config": self.config.to_dict(),
        }  # fmt: skip


def to_tensorflow(
    weights: str | Path,
    output: str | Path,
    variant: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    allow_nonfinite: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ReverseWritten:
    """Write PyTorch weights (.pth, .safetensors) as a TensorFlow checkpoint, whole or not at all.

    Every variable has the bits that `porting.convert` read it with. What was written is read back and compared
    bit by bit before it gets its name; the same weights give the same bytes.

    Args:
        output: a new or empty folder (or one that this function wrote) for model.index,
            model.data-00000-of-00001 and `checkpoint`; or FILE.h5.
        variant: may be left out where the weights' metadata or their tensors tell.
        overrides: config fields, e.g. parsed from --hparams.
        allow_nonfinite: accept NaN, Inf and negative variances.
        overwrite: replace a checkpoint that other bytes would be written over. The same weights give the same bytes,
            so that writing the same again needs no leave.
        progress: called with (tensors done, tensors in all).

    Raises:
        InputError: anything about the weights or the output is not as it must be; nothing is written.
    """
    output = Path(output)
    dialect: Literal["tf1", "h5"] = "h5" if output.suffix.lower() in H5_SUFFIXES else "tf1"
    check_reverse_output(output)
    loaded = read_weights(weights, mapped=True)
    state_dict = loaded.state_dict
    config, notes = _config(Path(weights), loaded, variant or AUTO, overrides or {})
    table = table_for(config)
    ignored = _account(weights, state_dict, table, notes)
    if not allow_nonfinite:
        _refuse_implausible(weights, state_dict, table)
    if not overwrite:
        _check_earlier(output, table, _reader(state_dict, table, None))
    read = _reader(state_dict, table, progress)
    if dialect == H5:
        write_h5(
            output, layer_order(config, table), read,
            before=lambda new: _check_replaceable(output, [(new, output)], overwrite),
        )  # fmt: skip
        tensors, files = len(table.tensorflow_shapes), {output.name: file_sha256(output)}
    else:
        tensors = _write_folder(output, list(table.tensorflow_shapes), read, overwrite)
        files = {name: file_sha256(output / name) for name in _FILES}
    consumed = tuple(row.pytorch_key for row in table.rows if row.tensorflow_names)
    return ReverseWritten(
        config, table, output, dialect, consumed, ignored, len(table.tensorflow_shapes), tensors, files, tuple(notes)
    )


def check_reverse_output(output: Path) -> None:
    """Refuse an output before any work is done.

    Raises:
        InputError: a folder with other things in it, a file in the folder's place, or a .h5 that is a folder.
    """
    if output.suffix.lower() in H5_SUFFIXES:
        if output.is_dir() or not output.parent.is_dir():
            found = "a folder of this name" if output.is_dir() else f"no folder {output.parent}"
            raise InputError(f"output {output}: expected a file in an existing folder, found {found}; name another.")
        return
    if output.exists() and not output.is_dir():
        raise InputError(f"output {output}: expected a folder or a name that ends in .h5, found a file; name another.")
    entries = [path.name for path in output.iterdir()] if output.is_dir() else []
    others = sorted(name for name in entries if name not in _FILES and not name.startswith(_UNFINISHED))
    if others:
        raise InputError(
            f"output {output}: expected a new or empty folder, found {listed(others)} in it; name another folder, so "
            "that no training continues from these weights by mistake."
        )


def _check_earlier(output: Path, table: MappingTable, read: Callable[[str], np.ndarray]) -> None:
    """Refuse a checkpoint in the output's place that holds other values, before anything is written.

    Whether one with the same values has the same bytes is `_check_replaceable`'s to say.
    """
    earlier = output if output.suffix.lower() in H5_SUFFIXES else output / STEM
    if not all(path.is_file() for path in ([earlier] if earlier == output else [output / name for name in _FILES])):
        return
    try:
        with open_source(earlier) as source:
            if source.variables.keys() != table.tensorflow_shapes.keys():
                raise _in_the_way(output, "it holds other variables")
            for name, info in source.variables.items():
                for kind in (["raw"] if info.has_raw else []) + (["ema"] if info.has_ema else []):
                    if not same_bits(read(name), np.asarray(source.read(name, cast(Kind, kind)))):
                        raise _in_the_way(output, f"{name} differs")
    except _InTheWayError:
        raise
    except InputError as error:
        raise _in_the_way(output, "one of another model, or a damaged one") from error


class _InTheWayError(InputError):
    pass


def _in_the_way(output: Path, how: str) -> InputError:
    return _InTheWayError(
        f"output {output}: expected nothing, or what was written from the same weights before, found another "
        f"checkpoint ({how}); name another --output, or use --overwrite to replace it."
    )


def _check_replaceable(output: Path, pairs: list[tuple[Path, Path]], overwrite: bool) -> None:
    """Refuse to write new files over old ones of other content.

    Args:
        pairs: (new file, its place).
    """
    if overwrite:
        return
    others = [place for new, place in pairs if place.exists() and file_sha256(place) != file_sha256(new)]
    if others:
        raise _in_the_way(output, f"{listed(path.name for path in others)} differs")


def _config(
    weights: Path, loaded: Weights, variant: str, overrides: Mapping[str, Any]
) -> tuple[EfficientDetConfig, list[str]]:
    """The weights' config, as the recogniser says: from metadata, the variant, or the tensors and names."""
    shapes = {key: tuple(tensor.shape) for key, tensor in loaded.state_dict.items()}
    metadata = read_metadata(weights)
    check_pairing(weights, metadata)
    found = recognise_tensors(weights, shapes, metadata, variant, overrides)
    commands = [
        command("convert", "--to", "tf", "--variant", name, "--weights", str(weights)) for name, _ in found.choices
    ]
    return found.settled(commands), [*loaded.notes, *found.notes]


def _account(
    weights: str | Path, state_dict: Mapping[str, Tensor], table: MappingTable, notes: list[str]
) -> dict[str, int]:
    """Match weights against a table, completely; the reasons why tensors are ignored, with their counts."""
    expected = {row.pytorch_key: row for row in table.rows}
    filling = [key for key in state_dict if key in expected and expected[key].tensorflow_names]
    mismatch = compare(
        {key: row.pytorch_shape for key, row in expected.items()},
        {key: tuple(tensor.shape) for key, tensor in state_dict.items()},
        {key: dtype_name(state_dict[key]) for key in filling},
    )
    if mismatch:
        raise InputError(
            mismatch.sentence(
                f"weights {weights}: expected exactly the tensors of {table.variant}, found ",
                ". Nothing was written; name the variant and --hparams they were made for.",
            )
        )
    small = sum(state_dict[key].dtype != torch.float32 for key in filling)
    if small:
        notes.append(f"{small} tensors of 16 bits became float32, which holds each of their values exactly")
    counters = len(state_dict) - len(filling)
    return {"num_batches_tracked, which TensorFlow does not count": counters} if counters else {}


def _refuse_implausible(weights: str | Path, state_dict: Mapping[str, Tensor], table: MappingTable) -> None:
    bad = []
    for row in table.rows:
        tensor = state_dict[row.pytorch_key]
        if not bool(torch.isfinite(tensor).all()):
            bad.append(f"{row.pytorch_key} (NaN or Inf)")
        if row.pytorch_key.endswith(".running_var") and bool((tensor < 0).any()):
            bad.append(f"{row.pytorch_key} (negative variance)")
    if bad:
        raise InputError(
            f"weights {weights}: expected finite values and variances >= 0, found {listed(sorted(bad))}; the training "
            "diverged or the file is damaged. Use --allow-nonfinite to write them all the same."
        )


def _reader(
    state_dict: Mapping[str, Tensor], table: MappingTable, progress: Progress | None
) -> Callable[[str], np.ndarray]:
    """The value of a canonical variable name, float32, TensorFlow's axis order."""
    places = {name: (row, place) for row in table.rows for place, name in enumerate(row.tensorflow_names)}
    seen: set[str] = set()

    def read(name: str) -> np.ndarray:
        row, place = places[name]
        if progress and name not in seen:
            seen.add(name)
            progress(len(seen), len(places))
        return _variable(row, place, state_dict[row.pytorch_key])

    return read


def _variable(row: Row, place: int, tensor: Tensor) -> np.ndarray:
    arrays = LAYOUTS[row.kind].to_tensorflow(tensor.detach().to(torch.float32).contiguous().numpy())
    array = np.ascontiguousarray(arrays[place]).reshape(np.shape(arrays[place]))
    if len(arrays) != len(row.tensorflow_names) or array.shape != row.tensorflow_shape:
        raise AssertionError(f"{row.tensorflow_names[place]}: {array.shape} instead of {row.tensorflow_shape}")
    return array


def _write_folder(folder: Path, names: list[str], read: Callable[[str], np.ndarray], overwrite: bool) -> int:
    """Write and compare in a folder beside the files' final place, then move them there; how many tensors."""

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        yield "global_step", np.zeros((), np.int64)
        for name in sorted(names):
            value = read(name)
            yield name, value
            yield name + EMA_SUFFIX, value

    created = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder) as temporary:
            write_checkpoint(Path(temporary) / STEM, tensors())
            count = _compare(Path(temporary) / STEM, folder, tensors())
            _check_replaceable(folder, [(Path(temporary) / name, folder / name) for name in _FILES], overwrite)
            for name in _FILES:
                os.replace(Path(temporary) / name, folder / name)
        return count
    except BaseException as error:
        if created:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise InputError(
                f"cannot write {folder}: {error.strerror or error}; free space or name another output."
            ) from error
        raise


def _compare(prefix: Path, folder: Path, tensors: Iterator[tuple[str, np.ndarray]]) -> int:
    again = TensorBundle(prefix, str(folder))
    try:
        count, different = 0, []
        for name, value in tensors:
            count += 1
            if name not in again.entries or not same_bits(value, np.asarray(again.read(name))):
                different.append(name)
        if different or count != len(again.entries):
            raise InputError(
                f"{folder}: expected what was written, read back {len(different)} different tensors "
                f"({listed(different)}); the disk is failing or full, nothing was kept."
            )
        return count
    finally:
        again.close()
