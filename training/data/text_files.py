"""Text files of annotations, bounded before they are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from effdet_model.errors import InputError
from verify.evaluation.coco import IMAGE_SUFFIXES


def read_text(path: Path, what: str, most: int) -> str:
    """A file's text.

    Args:
        what: it is, for messages. most: bytes that it may have.

    Raises:
        InputError: the file is missing, too large, or no UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise InputError(f"{what} {path}: expected at most {most} bytes, found {size}; name another file.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{what} {path}: expected a readable text file, found: {reason}; check the path.") from None
    except UnicodeDecodeError:
        raise InputError(f"{what} {path}: expected UTF-8 text, found other bytes; convert the file.") from None


def images_below(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> list[Path]:
    """All pictures in a folder and the folders in it, by name; links to folders are not followed.

    Raises:
        InputError: no such folder, or it has no pictures.
    """
    wanted = tuple(suffixes)
    if not folder.is_dir():
        raise InputError(f"images {folder}: expected a folder of images, found none; check the path.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in wanted and path.is_file())
    if not paths:
        raise InputError(f"images {folder}: expected images ({', '.join(wanted)}), found none; check the folder.")
    return paths
