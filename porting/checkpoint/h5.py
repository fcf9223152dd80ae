"""Read a Keras .h5 weight file: names and arrays, nothing that leads out of the file.

Facts: keras/src/legacy/saving/legacy_h5_format.py. The root's attribute `layer_names` lists groups, each
group's `weight_names` lists datasets below it (long lists are split over `NAME0`, `NAME1`, ...).
`model.save` puts the same below a group `model_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model.errors import InputError

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_WEIGHTS = 100_000
MAX_NAME_BYTES = 16 << 20
MAX_WEIGHT_NAME = 4096
MAX_RANK = 8
MAX_TENSOR_BYTES = 1 << 30
MAX_TOTAL_BYTES = 8 << 30
_PLAIN_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32"}
_DEFLATE_LIMIT = 1100  # deflate packs at most 1032 to 1


@dataclass(frozen=True)
class H5Entry:
    """One dataset: raw name `GROUP/WEIGHT:0`, shape and numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class H5Weights:
    """The weights in a .h5 file: `entries` by raw name, `read(name)`.

    Raises:
        InputError: not a Keras weight file, cut off, or with links, filters, external or virtual data that a
            weight file does not need.
    """

    def __init__(self, path: Path, label: str | None = None) -> None:
        self.path, self.label = Path(path), label or str(path)
        self.entries: dict[str, H5Entry] = {}
        self._datasets: dict[str, Any] = {}
        with self._guard("open the file"):
            import h5py

            self._file = h5py.File(self.path, "r", locking=False)
        try:
            with self._guard("list its weights"):
                self._list()
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> np.ndarray:
        """The dataset `name`, read-only, bit by bit as written."""
        dataset = self._datasets[name]
        with self._guard(f"read {name}"):
            array = np.empty(dataset.shape, dataset.dtype)
            if array.size:
                dataset.read_direct(array)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("="))
        array.flags.writeable = False
        return array

    def close(self) -> None:
        self._datasets.clear()
        self._file.close()

    def _list(self) -> None:
        root = self._file
        if "layer_names" not in root.attrs and "layer_names0" not in root.attrs and "model_weights" in root:
            root = self._child(root, "model_weights", "the root")
        layers = self._names(root, "layer_names")
        if layers is None:
            if "layers" in root or "_layer_checkpoint_dependencies" in root:
                raise self._newer_format()
            raise InputError(
                f"{self.label}: expected a Keras weight file (root attribute layer_names), found an HDF5 "
                f"file with {sorted(root)[:5]}; write it with model.save_weights(FILE.h5)."
            )
        total = 0
        for layer in layers:
            group = self._child(root, layer, "the root")
            for weight in self._names(group, "weight_names") or []:
                name = f"{layer}/{weight}"
                if len(name) > MAX_WEIGHT_NAME:
                    raise self._refuse(f"names of at most {MAX_WEIGHT_NAME} characters", f"one of {len(name)}")
                if name in self.entries or len(self.entries) >= MAX_WEIGHTS:
                    raise self._refuse(f"each weight once and at most {MAX_WEIGHTS}", f"{name} again or more")
                dataset = group
                for part in weight.split("/"):
                    dataset = self._child(dataset, part, name)
                total += self._check_dataset(dataset, name)
                if total > MAX_TOTAL_BYTES:
                    raise self._refuse(f"at most {MAX_TOTAL_BYTES} bytes of weights", "more")
                self._datasets[name] = dataset
                self.entries[name] = H5Entry(name, tuple(dataset.shape), dataset.dtype.newbyteorder("=").name)

    def _newer_format(self) -> InputError:
        """Keras' format of FILE.weights.h5 (keras/src/saving/saving_lib.py) saves layers in lists, but none in lists of
        lists, in which google/automl keeps the heads' batch norms (tf2/efficientdet_keras.py): of d0's 709 variables
        tf-keras 2.21 leaves out 120."""
        return InputError(
            f"{self.label}: expected all variables of an EfficientDet, found Keras' format for FILE.weights.h5, which "
            "leaves out layers in lists of lists, as google/automl has the batch norms of its heads: they are in no "
            "such file. Save the model again where it was trained, with model.save_weights(PREFIX) or FILE.h5, "
            "without .weights in the name."
        )

    def _child(self, parent: Any, name: str, where: str) -> Any:
        import h5py

        if not isinstance(parent, h5py.Group):
            raise self._refuse(f"a group above {name!r} of {where}", type(parent).__name__)
        link = parent.get(name, getlink=True) if name not in ("", ".", "..") else None
        if not isinstance(link, h5py.HardLink):
            found = "no such member" if link is None else f"a {type(link).__name__}"
            raise self._refuse(f"hard links inside the file alone ({name!r} of {where})", found)
        return parent[name]

    def _names(self, group: Any, attribute: str) -> list[str] | None:
        """The strings of a list attribute, joined from its numbered parts; None where there is none."""
        parts: list[str] | None = None
        chunks = [attribute] if attribute in group.attrs else []
        while not chunks or chunks[0] != attribute:
            chunk = f"{attribute}{len(chunks)}"
            if chunk not in group.attrs or len(chunks) > 1000:
                break
            chunks.append(chunk)
        for chunk in chunks:
            attr = group.attrs.get_id(chunk)
            count = prod(attr.shape) if attr.shape is not None else MAX_WEIGHTS + 1
            if count > MAX_WEIGHTS or count * attr.dtype.itemsize > MAX_NAME_BYTES:
                raise self._refuse(f"at most {MAX_WEIGHTS} names in {attribute}", f"{count}")
            parts = parts or []
            if count:
                if attr.dtype.kind not in "SO" or attr.dtype.hasobject and not _is_text(attr.dtype):
                    raise self._refuse(f"text in {attribute}", f"{attr.dtype}")
                values = np.asarray(group.attrs[chunk]).ravel()
                parts += [value.decode() if isinstance(value, bytes) else str(value) for value in values]
        return parts

    def _check_dataset(self, dataset: Any, name: str) -> int:
        """Bytes of the dataset after all checks that go before reading it."""
        import h5py

        if not isinstance(dataset, h5py.Dataset):
            raise self._refuse(f"{name} to be a dataset", type(dataset).__name__)
        plist = dataset.id.get_create_plist()
        if plist.get_external_count() or dataset.is_virtual:
            raise self._refuse(f"{name} inside the file", "external or virtual data")
        if dataset.shape is None or len(dataset.shape) > MAX_RANK or dataset.dtype.kind not in "fiub":
            raise self._refuse(f"{name} to be numbers of rank up to {MAX_RANK}", f"{dataset.dtype}, {dataset.shape}")
        if dataset.dtype.itemsize > 8:
            raise self._refuse(f"{name} to have numbers of at most 8 bytes", f"{dataset.dtype}")
        filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
        if not set(filters) <= set(_PLAIN_FILTERS):
            raise self._refuse(f"{name} with the filters {', '.join(_PLAIN_FILTERS.values())}", f"{filters}")
        size = prod(dataset.shape) * dataset.dtype.itemsize
        stored = dataset.id.get_storage_size()
        if size > MAX_TENSOR_BYTES or size > stored * (_DEFLATE_LIMIT if filters else 1):
            raise self._refuse(f"{name} written in full, {size} bytes (limit {MAX_TENSOR_BYTES})", f"{stored} stored")
        return size

    def _refuse(self, expected: str, found: str) -> InputError:
        return InputError(
            f"{self.label}: expected {expected}, found {found}; use a file as model.save_weights writes it."
        )

    @contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        """HDF5 reports damage by many exceptions; the user sees one."""
        try:
            yield
        except InputError:
            raise
        except (
            OSError,
            RuntimeError,
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            OverflowError,
        ) as error:
            raise InputError(
                f"{self.label}: expected a whole HDF5 weight file, found, on the way to {doing}: {error}; "
                "copy or download the file again."
            ) from error


def _is_text(dtype: np.dtype) -> bool:
    import h5py

    return h5py.check_string_dtype(dtype) is not None
