"""Reading an annotation file in COCO's format: plain or gzip, and whether it has the parts that it needs."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError

EXPECTED = "an annotation file in COCO's format (a JSON object with images, annotations and categories)"
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_UNPACKED_AT_LEAST, _UNPACKED_TIMES = 1 << 28, 200
"""A gzip file may become 256 MiB, or 200 times its size where that is more; JSON shrinks 5 to 50 times."""


def read_annotation_file(path: Path) -> dict[str, Any]:
    """The file's content, with `images` (and where they must be, `annotations` and `categories`) as lists.

    Raises:
        InputError: no such file, no JSON, or another format.
    """
    if not path.is_file():
        raise InputError(f"annotations {path}: expected {EXPECTED}, found no such file; check the path.")
    content = _parsed(path)
    if isinstance(content, list):
        kind = "a JSON list of detections (COCO's results format)" if _are_results(content) else "a JSON list"
        raise InputError(f"annotations {path}: expected {EXPECTED}, found {kind}; name the file with the truth.")
    if not isinstance(content, dict):
        raise InputError(f"annotations {path}: expected {EXPECTED}, found a JSON {type(content).__name__}.")
    for key in ("images", "annotations", "categories"):
        optional = key != "images" and "annotations" not in content and path.name.startswith("image_info")
        if key not in content and not optional:
            found = ", ".join(sorted(key[:30] for key in content)[:8]) or "nothing"
            raise InputError(
                f"annotations {path}: expected {EXPECTED}, found no {key!r} but {found}; convert it to COCO's format."
            )
        if not isinstance(content.get(key, []), list):
            kind = "null" if content[key] is None else f"a {type(content[key]).__name__}"
            raise InputError(
                f"annotations {path}: expected {key!r} to be a list, found {kind}; convert it to COCO's format."
            )
    return content


def _parsed(path: Path) -> Any:
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = _unpacked(data, path)
        if data.startswith(_ZIP):
            raise InputError(f"annotations {path}: expected {EXPECTED}, found a .zip archive; unpack it first.")
        return json.loads(data)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"annotations {path}: expected {EXPECTED}, found: {reason}; check the file.") from error
    except (ValueError, RecursionError) as error:
        reason = str(error)[:120]
        raise InputError(
            f"annotations {path}: expected {EXPECTED}, found no JSON ({reason}); check the file."
        ) from error


def _unpacked(data: bytes, path: Path) -> bytes:
    limit = max(_UNPACKED_AT_LEAST, _UNPACKED_TIMES * len(data))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(limit + 1)
    except (EOFError, OSError, zlib.error) as error:
        reason = str(error)[:120]
        raise InputError(
            f"annotations {path}: expected a whole gzip file, found: {reason}; get the file again."
        ) from error
    if len(unpacked) > limit:
        raise InputError(
            f"annotations {path}: expected JSON of annotations, found a gzip file that becomes more than "
            f"{limit >> 20} MiB; unpack it yourself if you trust it."
        )
    return unpacked


def _are_results(content: list[Any]) -> bool:
    return bool(content) and isinstance(content[0], dict) and {"image_id", "score"} <= set(content[0])
