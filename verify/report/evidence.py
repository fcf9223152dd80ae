"""The record of a proof on its page."""

from __future__ import annotations

from typing import Any, Protocol

from verify.evidence.digest import EVIDENCE
from verify.report.blocks import Facts


class Recorded(Protocol):
    """A result that writes its record into its JSON."""

    def to_json(self) -> dict[str, Any]: ...


def evidence_facts(result: Recorded) -> Facts:
    """The record, its inputs counted, and the hash that ties the page to its JSON; empty without a record."""
    record = dict(result.to_json()[EVIDENCE] or {})
    if record:
        kinds = [item["kind"] for item in record["inputs"]]
        record["inputs"] = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "none"
    return Facts("Evidence", record, media=frozenset(("html", "markdown")))
