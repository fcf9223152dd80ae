"""What a release cites: the diff and the parity run of exactly this weight file, passed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from effdet_model.errors import InputError

DIFF, PARITY = "diff", "parity"
_PASSING = re.compile(
    r"(^|_)(seconds?|time|times|date|started|finished|duration|elapsed|pid|host|hostname|user|command|argv|"
    r"per_second|memory|peak_memory|cwd|folder|threads)($|_)"
)


@dataclass(frozen=True)
class Evidence:
    """One passed verification of one weight file.

    Attributes:
        kind: "diff" or "parity".
        data: the report without what changes from run to run or belongs to the machine alone (times, paths).
    """

    kind: str
    data: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The report's own sentence; "passed" where it has none."""
        return str(self.data.get("verdict") or "passed")


def read_evidence(
    path: Path, kind: str, variant: str, weights_sha256: str, checkpoint_sha256: str
) -> Evidence:
    """The report at `path`, if it passed and belongs to these files.

    The report names them at its top level or under `environment`: `weights_sha256`, `checkpoint_sha256` (hex, as the
    weight file's metadata names its source), beside `variant` and `passed`.

    Raises:
        InputError: missing, damaged, failed, contradicting itself, or of another file.
    """
    again = f"run `python cli.py {kind} --variant {variant} ...` with this weight file"
    data = _read(path, kind, variant, again)
    passed = data.get("passed")
    if passed is not True:
        told = data.get("verdict") or f"passed = {json.dumps(passed)}"
        raise InputError(f"release of {variant}: expected a {kind} that passed, found in {path}: {told}; {again}.")
    contradiction = _contradiction(data)
    if contradiction:
        raise InputError(
            f"release of {variant}: expected a {kind} that passed, found in {path} passed = true but {contradiction}; "
            f"{again}."
        )
    for key, what, expected in (
        ("weights_sha256", "weight file", weights_sha256),
        ("checkpoint_sha256", "checkpoint", checkpoint_sha256),
    ):
        environment = data.get("environment")
        found = data.get(key) or (environment.get(key) if isinstance(environment, dict) else None)
        if found != expected:
            raise InputError(
                f"release of {variant}: expected the {kind} of the {what} with SHA-256 {expected}, found in {path} "
                f"{f'that of {found}' if found else f'no {key}'}; {again}."
            )
    if data.get("variant") != variant:
        raise InputError(
            f"release of {variant}: expected its {kind}, found in {path} that of {data.get('variant')}; {again}."
        )
    return Evidence(kind, publishable(data))


def publishable(value: Any) -> Any:
    """A report without times, machine names and folders, so that the same input gives the same release."""
    if isinstance(value, Mapping):
        return {key: publishable(item) for key, item in value.items() if not _PASSING.search(str(key))}
    if isinstance(value, list):
        return [publishable(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~/", "file:")) or re.match(r"[A-Za-z]:\\", value)):
        return PureWindowsPath(value).name if "\\" in value else PurePosixPath(value).name
    return value


def _read(path: Path, kind: str, variant: str, again: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"release of {variant}: expected its {kind} at {path}, found none; {again}.") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"release of {variant}: expected its {kind} as JSON at {path}, found: {error}; {again}."
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"release of {variant}: expected its {kind} as a JSON object at {path}; {again}.")
    return data


def _contradiction(data: Mapping[str, Any]) -> str | None:
    """What in a report speaks against its `passed`."""
    failures = data.get("failures")
    if failures:
        return f"failures: {failures[0] if isinstance(failures, list) else failures}"
    layer = data.get("first_divergent_layer")
    if layer is not None:
        return f"first_divergent_layer = {layer}"
    largest, tolerance = data.get("max_rel"), data.get("tolerance")
    if isinstance(tolerance, (int, float)) and "max_rel" in data:
        if not isinstance(largest, (int, float)) or not math.isfinite(largest):
            return f"max_rel = {largest}"
        layers = data.get("layers") or []
        bad = [item for item in layers if isinstance(item, dict) and item.get("ok") is False]
        if bad:
            return f"layer {bad[0].get('name')} is not ok"
        if largest > tolerance and not any("tolerance" in item for item in layers if isinstance(item, dict)):
            return f"max_rel = {largest} above the tolerance {tolerance}"
    return None
