"""OpenImages' CSV files: a row per box, corners as fractions of the picture's sides."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from effdet_model.errors import InputError, shown
from training.data.dataset import Box, Picture, Readout
from training.data.text_files import images_below, read_text
from verify.evaluation.annotations.values import finite_number, flag

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_MOST_NAME_BYTES, _LONGEST_FIELD = 1 << 26, 1000


def is_openimages(path: Path) -> bool:
    """Whether a file's first line names the columns of OpenImages' boxes."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return set(COLUMNS) <= set(file.readline(10_000).strip().split(","))
    except OSError:
        return False


def read_openimages(images: Path, boxes: Path, skip_bad: bool = False) -> Readout:
    """Pictures of a folder, named by their ImageID, and a CSV file of boxes.

    Names of classes come from class-descriptions*.csv beside the boxes. Classes are those that boxes use, in that
    file's order. Boxes of a group (IsGroupOf) are crowds.

    Raises:
        InputError: a file is missing or has other columns, a row is no box, or no row is of these pictures.
    """
    pictures = [Picture(number, path) for number, path in enumerate(images_below(images), 1)]
    ids = {picture.path.stem: picture.image_id for picture in pictures}
    rows, notes = [], []
    elsewhere = skipped = 0
    for number, row in _rows(boxes):
        image_id = ids.get((row["ImageID"] or "")[:_LONGEST_FIELD])
        if image_id is None:
            elsewhere += 1
            continue
        corners = [finite_number(row[name], 1e4) for name in ("YMin", "XMin", "YMax", "XMax")]
        label = (row["LabelName"] or "").strip()
        if any(corner is None for corner in corners) or not 0 < len(label) <= 200:
            if not skip_bad:
                raise InputError(
                    f"annotations {boxes}, row {number}: expected a LabelName and XMin, XMax, YMin, YMax as fractions, "
                    f"found {shown(dict(row))}; correct it, or leave out such rows with --skip-bad-images."
                )
            skipped += 1
            continue
        y0, x0, y1, x1 = (float(corner or 0) for corner in corners)
        rows.append((image_id, label, (y0, x0, y1, x1), flag(row.get("IsGroupOf") or "0") == 1))
    if not rows:
        raise InputError(
            f"annotations {boxes}: expected boxes of the {len(pictures)} pictures in {images} (ImageID is a file's "
            f"name without suffix), found none among {elsewhere} rows; check the folder."
        )
    if elsewhere:
        notes.append(f"{elsewhere} rows of pictures that are not in {images} left out.")
    if skipped:
        notes.append(f"{skipped} rows that are no boxes left out.")
    labels = _order({label for _, label, _, _ in rows}, boxes.parent)
    numbers = {label: number for number, label in enumerate(labels, 1)}
    found = tuple(Box(image_id, numbers[label], corners, crowd=crowd) for image_id, label, corners, crowd in rows)
    categories = {numbers[label]: name for label, name in labels.items()}
    return Readout(tuple(pictures), found, categories, boxes, "openimages", relative=True, notes=tuple(notes))


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """(number of the line, columns) of each row."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            missing = [name for name in COLUMNS if name not in columns]
            if missing:
                raise InputError(
                    f"annotations {path}: expected the columns {', '.join(COLUMNS)}, found {shown(list(columns))}; "
                    "name OpenImages' file of boxes."
                )
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"annotations {path}: expected a CSV file, found: {reason}; check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"annotations {path}: expected a CSV file in UTF-8, found: {error}; correct it.") from None


def _order(used: set[str], folder: Path) -> dict[str, str]:
    """Label -> name, in the order of the descriptions; labels that these lack come last, by themselves."""
    names: dict[str, str] = {}
    for path in sorted(folder.glob("*class-descriptions*.csv")):
        for row in csv.reader(read_text(path, "class descriptions", _MOST_NAME_BYTES).splitlines()):
            if len(row) >= 2 and row[0] in used:
                names.setdefault(row[0], row[1].strip()[:200] or row[0])
    return {**names, **{label: label for label in sorted(used - set(names))}}
