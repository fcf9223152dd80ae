"""What the doctor found, as lines, JSON and a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from effdet_model.errors import InputError
from porting.files import atomic_write, make_folder

LEVELS = ("error", "warning", "note")
"""Errors cannot be trained on; warnings look like mistakes; notes are good to know."""


@dataclass(frozen=True)
class Place:
    """An example of a finding.

    Attributes:
        index: of the picture in the dataset. box: of that picture's boxes; None: the picture itself.
    """

    index: int
    box: int | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: "error", "warning" or "note".
        kind: a short name that stays, such as "missing_images".
        message: what was found, how often, and what to do.
        count: how many pictures, boxes or classes it concerns. of: out of how many.
        examples: where; a few.
    """

    level: str
    kind: str
    message: str
    count: int = 0
    of: int = 0
    examples: tuple[Place, ...] = ()


@dataclass(frozen=True)
class DataReport:
    """All that was found in a dataset.

    Attributes:
        findings: errors first.
        pictures, boxes, classes: counts; boxes without crowds by class name.
        unusable: indices of pictures that are missing or cannot be decoded.
        picture: examples of the findings, and other pictures with their boxes; None where none is drawn.
        names: of the pictures in `findings`, by index.
    """

    findings: tuple[Finding, ...]
    pictures: int
    boxes: int
    classes: Mapping[str, int]
    unusable: tuple[int, ...] = ()
    picture: Image.Image | None = None
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What cannot be trained on."""
        return self._of("error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What looks like a mistake."""
        return self._of("warning")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is good to know."""
        return self._of("note")

    def _of(self, level: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == level)

    def lines(self) -> list[str]:
        """The report for a terminal, a finding a line, with the names of a few examples."""
        result = [f"{self.pictures} pictures, {self.boxes} boxes, {len(self.classes)} classes"]
        for finding in self.findings:
            names = list(dict.fromkeys(self.names.get(place.index, "") for place in finding.examples))[:3]
            where = f" [{', '.join(names)}]" if names else ""
            result.append(f"{finding.level}: {finding.message}{where}")
        return result

    def refuse(self) -> None:
        """Nothing, unless there are errors.

        Raises:
            InputError: the first error, and how many more there are.
        """
        if self.errors:
            more = f" ({len(self.errors) - 1} more errors; see train --check)" if len(self.errors) > 1 else ""
            raise InputError(f"training data: {self.errors[0].message}{more}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        findings = []
        for finding in self.findings:
            row = dataclasses.asdict(finding)
            row["examples"] = [
                {"picture": self.names.get(place.index, str(place.index)), "box": place.box}
                for place in finding.examples
            ]
            findings.append(row)
        return {
            "pictures": self.pictures, "boxes": self.boxes, "classes": dict(self.classes),
            "unusable": [self.names.get(index, str(index)) for index in self.unusable], "findings": findings,
        }  # fmt: skip

    def save(self, folder: Path) -> list[Path]:
        """Write `data.json`, and `data.png` where something was drawn.

        Raises:
            InputError: the folder cannot be written to.
        """
        make_folder(folder, "report folder")
        written = [folder / "data.json"]
        with atomic_write(written[0]) as path:
            path.write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")
        if self.picture is not None:
            written.append(folder / "data.png")
            with atomic_write(written[1]) as path:
                self.picture.save(path, format="PNG")
        return written
