"""What a release cites: the diff and the parity run of exactly this weight file, passed, and their pages; the proofs of
exported files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.errors import shown
from verify.evidence.digest import publishable
from verify.evidence.reading import Report, read_report
from verify.evidence.record import Complaint, Evidence

DIFF, PARITY, EXPORT = "diff", "parity", "export"
_LARGEST_PAGE = 256 << 20

Expected = Mapping[str, Any]
"""Field of a record -> the value it must have, as plain JSON data; of `versions` those named."""


@dataclass(frozen=True)
class Proof:
    """One passed verification of one weight file.

    Attributes:
        report: with its record. page: the HTML page of the same run; beside an export's report where one would lie.
    """

    report: Report
    page: Path

    @property
    def record(self) -> Evidence:
        """What was proved, of which files, with what."""
        return self.report.record

    @property
    def data(self) -> Mapping[str, Any]:
        """The report without what changes from run to run or belongs to the machine alone (times, paths)."""
        return publishable(self.report.data)

    @property
    def verdict(self) -> str:
        """The report's own sentence."""
        return self.report.verdict


def read_proof(path: Path, kind: str, expected: Expected, complaint: Complaint) -> Proof:
    """The proof at `path`, if its record is what is expected, field by field, and its page belongs to it.

    Args:
        path: of diff.json or parity.json, whose page lies beside it, or of an export's proof, which has none.

    Raises:
        InputError: missing, damaged, edited, or not what is expected; names field and command.
    """
    report = read_report(path, kind, complaint)
    for name, wanted, found in differences(report.record, expected):
        told = f"{shown(report.verdict)} (evidence.verdict {shown(found)})" if name == "verdict" else _told(found)
        raise complaint.told(f"evidence.{name}", _told(wanted), told)
    page = path.with_suffix(".html")
    if kind != EXPORT:
        _check_page(page, report, complaint)
    return Proof(report, page)


def differences(record: Evidence, expected: Expected) -> Iterator[tuple[str, Any, Any]]:
    """(field, expected, found) of everything that is not as expected; the first difference of a list or mapping."""
    found = record.to_json()
    for name, wanted in expected.items():
        mine = found[name]
        if name == "versions":
            for package, version in wanted.items():
                if mine.get(package) != version:
                    yield f"versions.{package}", version, mine.get(package)
        elif mine != wanted:
            yield _first_difference(name, wanted, mine)


def _first_difference(name: str, wanted: Any, found: Any) -> tuple[str, Any, Any]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        missing = object()
        key = next(key for key in [*wanted, *found] if wanted.get(key, missing) != found.get(key, missing))
        return _first_difference(f"{name}.{key}", wanted.get(key), found.get(key))
    if isinstance(wanted, list) and isinstance(found, list) and name == "inputs":
        if len(wanted) != len(found):
            return f"{name}: how many", len(wanted), len(found)
        place = next(number for number, pair in enumerate(zip(wanted, found, strict=True)) if pair[0] != pair[1])
        return _first_difference(f"{name}.{place}", wanted[place], found[place])
    return name, wanted, found


def _told(value: Any) -> str:
    return "none" if value is None else shown(value)


def _check_page(page: Path, report: Report, complaint: Complaint) -> None:
    """The page must name the report's hash, which stands in every page that was made from the same result."""
    try:
        known = page.stat().st_size <= _LARGEST_PAGE and report.sha256.encode() in page.read_bytes()
    except OSError as error:
        raise complaint.told("page", f"{page.name} beside the report", error.strerror or "none") from error
    if not known:
        raise complaint.told("page", f"{page.name} of this very report ({report.sha256[:16]}...)", "another page")
