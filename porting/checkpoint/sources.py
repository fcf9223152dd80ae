"""Any checkpoint, by its content: canonical names and arrays, whatever the dialect.

Nothing behind `open_source` knows TF1 Saver checkpoints, Keras .h5 files and TF2 checkpoints apart.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from effdet_model.errors import InputError
from porting.checkpoint import dialects
from porting.checkpoint.dialects import Translation
from porting.checkpoint.h5 import H5Weights
from porting.checkpoint.locate import SAVED_MODEL, Located, locate
from porting.checkpoint.object_graph import ObjectGraph, parse_object_graph
from porting.checkpoint.saved_model.program import read_program
from porting.checkpoint.saved_model.stated import stated_by
from porting.checkpoint.stated import Stated
from porting.checkpoint.tensorbundle import OBJECT_GRAPH_KEY, TensorBundle
from porting.checkpoint.tflite.weights import TfliteWeights
from porting.checkpoint.values import Choice, Kind, meant_kind
from porting.files import file_sha256


@dataclass(frozen=True)
class VariableInfo:
    """One variable of the model: canonical name, TensorFlow shape (kernels [h, w, in, out]), numpy dtype.

    `raw_name` is its name in the file (of the raw value, else of the moving average).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    raw_name: str
    has_raw: bool
    has_ema: bool


@dataclass(frozen=True)
class Ignored:
    """A tensor of the file that is no part of the model, and why."""

    raw_name: str
    reason: str


class _Entry(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


class _Store(Protocol):
    @property
    def entries(self) -> Mapping[str, _Entry]: ...
    def read(self, name: str) -> np.ndarray: ...
    def close(self) -> None: ...


class Source:
    """An open checkpoint; a context manager.

    Attributes:
        path: what the user named. label: what messages call it.
        dialect: "tf1", "h5", "object", "savedmodel" or "tflite".
        files: the files it consists of (an archive is one file).
        variables: canonical name -> `VariableInfo`, in the order of the file.
        ignored: tensors that are no part of the model. unknown: names that no row of the table knows.
        backbone_scope: first part of the backbone's canonical names, such as "efficientnet-b0".
        surroundings: names around it that the user did not type: folders in the archive, paths in the file
            `checkpoint`.
        stated: config fields that the file itself decides, under google/automl's names. notes: about what it states
            and lacks, in sentences.
    """

    def __init__(self, path: Path, dialect: str, store: _Store, found: Translation, located: Located) -> None:
        self.path, self.dialect, self.label = path, dialect, located.label
        self.files, self.surroundings = located.files, located.surroundings
        self._store, self._translation, self._located = store, found, located
        self._read: set[str] = set()
        self._hashes: concurrent.futures.Future[dict[str, str]] | None = None
        self.variables = _describe(store, found, located.label)
        self.ignored = [Ignored(name, reason) for name, reason in found.ignored.items()]
        self.unknown = sorted(found.unknown)
        self.backbone_scope = found.backbone_scope
        stated = _stated(store, located, {name: info.shape for name, info in self.variables.items()})
        self.stated: Mapping[str, Any] = stated.fields
        self.notes = tuple(stated.notes)

    def read(self, name: str, kind: Kind = "raw") -> np.ndarray:
        """The raw value or moving average of a canonical name, read-only, bit by bit as in the file.

        Raises:
            InputError: no such variable, no value of this kind, or damaged data.
        """
        table = self._translation.ema if kind == "ema" else self._translation.raw
        if name not in table:
            what = "moving average" if kind == "ema" else "raw value"
            found = "only the other kind" if name in self.variables else "no such variable"
            raise InputError(f"{self.label}: expected a {what} of {name}, found {found}; look with `inspect`.")
        self._read.add(table[name])
        return self._store.read(table[name])

    @property
    def raw_names(self) -> list[str]:
        """Every name in the file, as it stands there."""
        return list(self._store.entries)

    def meant(
        self, needed: Sequence[str], choice: Choice = "auto", moving_average_decay: float | None = None
    ) -> tuple[Kind, str]:
        """Which values are the model, and why: see `porting.checkpoint.values.meant_kind`."""
        return meant_kind(self.label, self.dialect, self.variables, needed, choice, moving_average_decay)

    def check_unread(self) -> None:
        """Check what was not read as well: optimizer slots and the like have checksums, and damage is damage.

        HDF5 and TFLite have no checksums; of these files nothing more is read.

        Raises:
            InputError: a tensor's checksum is wrong.
        """
        if self.dialect in (dialects.H5, dialects.TFLITE):
            return
        for name, entry in self._store.entries.items():
            if name not in self._read and not getattr(entry, "slices", 0):  # parts have checksums of their own
                self._store.read(name)

    def file_sha256(self) -> dict[str, str]:
        """SHA-256 in hex of every file the checkpoint consists of, by file name."""
        if self._hashes is None:
            self.start_hashing()
        assert self._hashes is not None
        return self._hashes.result()

    def start_hashing(self) -> None:
        """Begin the work of `file_sha256` in the background (it needs no interpreter lock)."""
        if self._hashes is None:
            pool = concurrent.futures.ThreadPoolExecutor(1)
            self._hashes = pool.submit(lambda: {file.name: file_sha256(file) for file in self.files})
            pool.shutdown(wait=False)

    def sha256(self) -> str:
        """SHA-256 in hex of the user's file: of the archive or .h5 file itself.

        For the several files of a TensorFlow checkpoint: of the text with one line `HEX  SUFFIX\\n` per
        file, the index first, then the shards in order, SUFFIX being `.index`, `.data-00000-of-00001` and
        so on.
        """
        hashes = self.file_sha256()
        if len(self.files) == 1:
            return hashes[self.files[0].name]
        lines = [f"{hashes[file.name]}  {file.name[len(self._located.stem) :]}\n" for file in self.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def close(self) -> None:
        if self._hashes is not None:
            concurrent.futures.wait([self._hashes])
        self._store.close()
        self._located.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(path: str | Path) -> Source:
    """Open a checkpoint: a folder, a prefix, a .index, .h5 or .tflite file, an archive.

    The dialect comes from the content. A folder's `checkpoint` file names the checkpoint in it.

    Raises:
        InputError: nothing there, not a checkpoint, incomplete, damaged, ambiguous, or no EfficientDet in it.
    """
    located = locate(Path(path))
    store: _Store | None = None
    try:
        if located.kind == "h5":
            store, dialect = H5Weights(located.location, located.label), dialects.H5
            found = dialects.translate_h5(store.entries)
        elif located.kind == "tflite":
            store, dialect = TfliteWeights(located.location, located.label), dialects.TFLITE
            found = Translation(raw={name: name for name in store.entries})
        else:
            bundle = store = TensorBundle(located.location, located.label)
            if not located.files:
                located.files = [bundle.index_path, *bundle.shard_paths.values()]
            dialect, found = _translate_bundle(bundle)
            if located.is_saved_model:
                dialect = dialects.SAVED_MODEL
        source = Source(Path(path), dialect, store, found, located)
        if not source.variables:
            raise _not_efficientdet(source)
        return source
    except BaseException as error:
        if store is not None:
            store.close()
        located.close()
        if isinstance(error, InputError) and located.label not in str(error):
            raise InputError(f"{located.label}: {error}") from error
        raise


def _stated(store: _Store, located: Located, shapes: Mapping[str, tuple[int, ...]]) -> Stated:
    """What the file says of the model beside its variables."""
    if isinstance(store, TfliteWeights):
        return store.stated()
    if not located.is_saved_model or located.program is None or not shapes:
        return Stated()
    folder = located.label.removesuffix("variables").removesuffix("variables/")
    return stated_by(read_program(located.program, folder + SAVED_MODEL), shapes)


def _translate_bundle(bundle: TensorBundle) -> tuple[str, Translation]:
    names = [name for name, entry in bundle.entries.items() if entry.dtype != "object"]
    if OBJECT_GRAPH_KEY not in bundle.entries:
        found = dialects.translate_tf1(names)
        dialect = dialects.TF1
    else:
        content = bundle.read(OBJECT_GRAPH_KEY)
        graph = ObjectGraph()
        if content.shape == () and isinstance(content.item(), bytes):
            graph = parse_object_graph(content.item(), f"{bundle.label}, {OBJECT_GRAPH_KEY}")
        found = dialects.translate_object(names, graph)
        dialect = dialects.OBJECT
    for name, entry in bundle.entries.items():
        if entry.dtype == "object":
            reason = dialects.ignored_reason(name, dialect)
            found.ignored[name] = reason or "text, not numbers"
    return dialect, found


def _describe(store: _Store, found: Translation, label: str) -> dict[str, VariableInfo]:
    variables = {}
    for name in dict.fromkeys((*found.raw, *found.ema)):
        raw, ema = found.raw.get(name), found.ema.get(name)
        first = store.entries[raw or ema or ""]
        if raw and ema and store.entries[ema].shape != first.shape:
            raise InputError(
                f"{label}: expected one shape for {name}, found {list(first.shape)} and for its moving "
                f"average {list(store.entries[ema].shape)}; save the checkpoint again."
            )
        variables[name] = VariableInfo(
            name, first.shape, first.dtype, raw or ema or "", raw is not None, ema is not None
        )
    return variables


def _not_efficientdet(source: Source) -> InputError:
    names = [*source.unknown, *(ignored.raw_name for ignored in source.ignored)]
    shown = ", ".join(names[:3]) or "no tensor"
    return InputError(
        f"{source.label}: expected variables of google/automl's EfficientDet (class_net/..., box_net/...), "
        f"found {len(names)} other tensors, such as {shown}; name a checkpoint of EfficientDet."
    )
