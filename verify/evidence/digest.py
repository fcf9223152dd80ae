"""Hashes of plain data: the same content gives the same hash on every machine."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from effdet_model.config import EfficientDetConfig
from porting.files import file_sha256

EVIDENCE, REPORT_SHA256 = "evidence", "report_sha256"
CONFIGURATION_PARTS = ("variant", "config", "preprocessing", "anchors", "nms", "classes")
"""Of a weight file's metadata: everything that says how to use the tensors."""

_PASSING = re.compile(
    r"(^|_)(seconds?|time|times|date|started|finished|duration|elapsed|pid|host|hostname|user|command|argv|"
    r"per_second|memory|peak_memory|cwd|folder|threads)($|_)"
)


def canonical(value: Any) -> str:
    """One JSON text for equal plain data: names sorted, no spaces, ASCII.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(value: Any) -> str:
    """SHA-256, in hex, of plain data as canonical JSON."""
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


def plain(value: Any) -> Any:
    """Plain JSON data: names are text, sequences lists, what JSON does not know is text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def configuration_sha256(metadata: Mapping[str, Any] | None, config: EfficientDetConfig) -> str:
    """SHA-256 of the whole configuration that goes with a weight file: model, anchors, preprocessing, suppression.

    Args:
        metadata: of the weight file, as it stands. config: what was used where the metadata has none.
    """
    if metadata is not None and "config" in metadata:
        return sha256_of(plain({part: metadata.get(part) for part in CONFIGURATION_PARTS}))
    return sha256_of(plain({"variant": config.name, "config": config.to_dict()}))


def changed_fields(metadata: Mapping[str, Any] | None, config: EfficientDetConfig) -> dict[str, Any]:
    """Fields of a config that was run which the weight file's own does not have so, the image size aside."""
    if metadata is None or "config" not in metadata:
        return {}
    own = EfficientDetConfig.from_dict(metadata["config"]).to_dict()
    return plain({
        name: value for name, value in config.to_dict().items() if name != "image_size" and value != own[name]
    })


def folder_sha256(folder: Path, pattern: str = "*") -> str:
    """SHA-256 of the names and contents of a folder's files, hidden ones and Python's caches left out."""
    found = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob(pattern))
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts)
    }
    return sha256_of(found)


def publishable(value: Any) -> Any:
    """A report without times, machine names and folders, so that the same input gives the same report."""
    if isinstance(value, Mapping):
        return {key: publishable(item) for key, item in value.items() if not _PASSING.search(str(key))}
    if isinstance(value, list):
        return [publishable(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~/", "file:")) or re.match(r"[A-Za-z]:\\", value)):
        return PureWindowsPath(value).name if "\\" in value else PurePosixPath(value).name
    return value


def report_sha256(report: Mapping[str, Any]) -> str:
    """SHA-256 of all that a report says, its record included, but for this hash and what `publishable` leaves out."""
    record = {key: value for key, value in report[EVIDENCE].items() if key != REPORT_SHA256}
    return sha256_of(publishable({**report, EVIDENCE: record}))
