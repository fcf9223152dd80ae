"""What is wrong with the pictures' files: missing, damaged, of another size than the data says, the same twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from effdet_model.decoding import decode_image
from effdet_model.errors import InputError
from training.data.dataset import DetectionDataset, Picture
from training.data.doctor.report import Finding, Place
from training.data.headers import has_turned_size, image_size

Progress = Callable[[int, int | None], None]

_EXAMPLES = 6
_WHOLE = 2000
"""So many pictures are decoded whole, evenly spread; of the others only the first bytes are read."""
_BEGINNING = 1 << 16
"""Bytes by which copies are found, with the file's size."""


@dataclass(frozen=True)
class File:
    """One picture's file.

    Attributes:
        size: (height, width); None where it cannot be read, for `problem`. digest: of its content.
    """

    size: tuple[int, int] | None
    problem: str | None = None
    missing: bool = False
    digest: bytes = b""


def read_files(
    dataset: DetectionDataset, every: bool = False, workers: int = 2, progress: Progress | None = None
) -> list[File]:
    """All files of a dataset, read in threads."""
    stride = 1 if every else max(1, len(dataset) // _WHOLE)
    jobs = [(picture, index % stride == 0) for index, picture in enumerate(dataset.pictures)]
    result = []
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="doctor") as pool:
        for done, file in enumerate(pool.map(lambda job: _read(*job), jobs), 1):
            result.append(file)
            if progress is not None:
                progress(done, len(jobs))
    return result


def _read(picture: Picture, whole: bool) -> File:
    path = picture.path
    if not path.is_file():
        return File(None, f"{path}: expected an image file, found none", missing=True)
    try:
        if not whole:
            with open(path, "rb") as file:
                return File(image_size(path), digest=_digest(file.read(_BEGINNING), path.stat().st_size))
        data = path.read_bytes()
        height, width = decode_image(data, name=str(path)).shape[:2]
    except OSError as error:
        return File(None, f"{path}: expected a readable image file, found: {error.strerror}")
    except InputError as error:
        return File(None, str(error))
    return File((height, width), digest=_digest(data[:_BEGINNING], len(data)))


def _digest(beginning: bytes, size: int) -> bytes:
    return hashlib.sha256(beginning + str(size).encode()).digest()


def file_findings(dataset: DetectionDataset, files: Sequence[File]) -> Iterator[Finding]:
    """All of this file, but copies."""
    total = len(files)
    missing = [index for index, file in enumerate(files) if file.missing]
    damaged = [index for index, file in enumerate(files) if file.problem is not None and not file.missing]
    if missing:
        yield Finding(
            "error", "missing_images",
            f"{len(missing)} of {total} pictures are missing, the first {dataset.pictures[missing[0]].path}; check the "
            "folder, or leave them out.", len(missing), total, _places(missing),
        )  # fmt: skip
    if damaged:
        yield Finding(
            "error", "unreadable_images",
            f"{len(damaged)} of {total} pictures cannot be decoded; {(files[damaged[0]].problem or '')[:300]}",
            len(damaged), total, _places(damaged),
        )  # fmt: skip
    other = [
        index
        for index, (file, picture) in enumerate(zip(files, dataset.pictures, strict=True))
        if file.size is not None and picture.size is not None and file.size != picture.size
    ]
    if other:
        first = dataset.pictures[other[0]]
        turned = [index for index in other if has_turned_size(dataset.pictures[index].path)]
        why = (
            f" {len(turned)} of them carry EXIF data that turns them, which training and evaluation do not follow."
            if turned
            else ""
        )
        said, found = first.size or (0, 0), files[other[0]].size or (0, 0)
        yield Finding(
            "warning", "other_sizes",
            f"{len(other)} of {total} pictures have another size than the annotations say, e.g. {first.path.name}: "
            f"{said[0]}x{said[1]} said, {found[0]}x{found[1]} found (height x width); boxes may lie elsewhere.{why}",
            len(other), total, _places(other),
        )  # fmt: skip


def copy_findings(
    dataset: DetectionDataset, files: Sequence[File], validation_files: Sequence[File] | None
) -> Iterator[Finding]:
    """Pictures that are there twice, within the set or in the validation set as well."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        if file.digest:
            groups[file.digest].append(index)
    copies = [index for group in groups.values() for index in group[1:]]
    if copies:
        firsts = [index for group in groups.values() if len(group) > 1 for index in group[:2]]
        yield Finding(
            "warning", "copied_images", f"{len(copies)} of {len(files)} pictures are copies of others.", len(copies),
            len(files), _places(firsts),
        )  # fmt: skip
    shared = [
        groups[file.digest][0] for file in validation_files or () if file.digest and file.digest in groups
    ]
    if shared:
        yield Finding(
            "warning", "leaked_images",
            f"{len(shared)} pictures of the validation set are in the training set as well: its AP says too much.",
            len(shared), len(validation_files or ()), _places(shared),
        )  # fmt: skip


def _places(indices: Sequence[int]) -> tuple[Place, ...]:
    return tuple(Place(index) for index in indices[:_EXAMPLES])
