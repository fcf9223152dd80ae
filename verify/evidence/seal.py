"""A record into its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from verify.evidence.digest import EVIDENCE, REPORT_SHA256, plain, report_sha256
from verify.evidence.record import Evidence, Verdict


def sealed(report: Mapping[str, Any], record: Evidence | None, verdict: Verdict) -> dict[str, Any]:
    """A report, plain data, with the record under `evidence` and in it the hash of what the whole says.

    Args:
        record: None: the report proves nothing of files, and gets no record. verdict: that of the report.
    """
    if record is None:
        return {**report, EVIDENCE: None}
    written = dataclasses.replace(record, verdict=verdict).to_json()
    report = plain(report)  # as it is read again: names are text
    written[REPORT_SHA256] = report_sha256({**report, EVIDENCE: written})
    return {**report, EVIDENCE: written}
