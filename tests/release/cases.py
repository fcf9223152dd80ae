"""Made-up weights and proofs for the tests of releases: sealed as a run would seal them."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from effdet_model import create_model
from effdet_model.config import EfficientDetConfig
from effdet_model.weights import read_metadata
from porting.official.catalog import find
from porting.version import tool_version
from porting.weights.files import file_sha256, write_weights
from porting.weights.metadata import usage
from release.build import ReleaseItem
from verify.evidence.digest import configuration_sha256
from verify.evidence.record import Evidence, EvidenceInput
from verify.evidence.seal import sealed

CHECKPOINT_SHA256 = "c" * 64
TWELVE = dict.fromkeys(
    ("AP", "AP50", "AP75", "APs", "APm", "APl", "ARmax1", "ARmax10", "ARmax100", "ARs", "ARm", "ARl"), 0.3456
)
RULES = {
    "diff": "every layer within 1e-09 relative; every value of every tensor equal to the bit; no difference of "
    "configuration but what was declared",
    "parity": "every stage, alone and from the file, within 8 times TensorFlow's own distance from its float64; at "
    "most 1e-05 of the detections without a partner; agreement AP at least 0.999; no difference of configuration but "
    "what was declared",
}
NMS = {"name": "graph_hard", "family": "graph"}
VERSIONS = {
    "effdet-port": tool_version(), "torch": "2.14.1", "timm": "1.0.31", "numpy": "2.4.6", "tensorflow": "2.21.0",
}  # fmt: skip

Change = Callable[[dict[str, Any]], Any]


def metadata_of(variant: str, official: bool) -> dict[str, Any]:
    """Metadata as a conversion writes it."""
    config = create_model(variant).config
    entry = find(variant)
    return {
        "format_version": 1,
        "tool": {"name": "effdet-port", "version": "0"},
        "variant": variant,
        "config": config.to_dict(),
        "source": {
            "file": entry.url.rsplit("/", 1)[1] if official else "my.tar.gz",
            "sha256": CHECKPOINT_SHA256,
            "dialect": "tf1",
            "variables": "ema",
            "url": entry.url if official else None,
            "family": entry.family if official else None,
        },
        **usage(config, entry.nms_profile if official else None),
    }


def record_of(kind: str, weights: Path) -> Evidence:
    """The record that a run on this weight file would have written."""
    metadata = read_metadata(weights)
    assert metadata is not None
    config = EfficientDetConfig.from_dict(metadata["config"])
    diff = kind == "diff"
    inputs = (
        (EvidenceInput("drawn-0", "drawn", "d" * 64, 0), EvidenceInput("noise-0", "noise", "e" * 64, 0))
        if diff
        else tuple(EvidenceInput(f"{number}.png", "image", str(number) * 64) for number in range(1, 5))
    )
    family = metadata["source"]["family"] or ("lite" if config.name.startswith("lite") else None)
    return Evidence(
        kind=kind, verdict="passed", rule=RULES[kind], tolerance=1e-9 if diff else None, variant=config.name,
        family=family, weights_sha256=file_sha256(weights), checkpoint_sha256=metadata["source"]["sha256"],
        configuration_sha256=configuration_sha256(metadata, config), variables="ema", image_size=config.image_size,
        dtype="float64" if diff else "float32", reference="tensorflow", versions=VERSIONS, inputs=inputs,
        nms=None if diff else NMS, annotations_sha256=None if diff else "a" * 64,
    )  # fmt: skip


def report_of(record: Evidence) -> dict[str, Any]:
    """A report that says what its record says, and things that differ from run to run; sealed."""
    make = _diff if record.kind == "diff" else _parity
    environment = {name: text for name, text in record.versions.items() if name != "tensorflow"}
    environment |= {"reference_tensorflow": record.versions.get("tensorflow"), "hostname": "mine"}
    report = {
        "passed": record.verdict == "passed", "variant": record.variant, "variables": record.variables,
        "image_size": list(record.image_size), "environment": environment, "seconds": {"total": 12.5},
        "source": "/home/me/ckpt.tar.gz", "config_differences": [], "images_per_second": 3.5, **make(record),
    }  # fmt: skip
    return sealed(report, record, record.verdict)  # type: ignore[arg-type]


def _diff(record: Evidence) -> dict[str, Any]:
    return {
        "inconclusive": False, "verdict": "Same function: 2 of 2 layers within 1e-09 (float64).", "max_abs": 1e-12,
        "max_rel": 3.25e-13, "first_divergent_layer": None, "tolerance": record.tolerance, "dtype": record.dtype,
        "isolate": False, "reference": record.reference if record.reference == "tensorflow" else "automl:/clone",
        "layers": [{"name": name, "max_rel": 3.25e-13, "ok": True} for name in ("stem", "head")],
        "tensors": {"compared": 3_880_067, "equal": 3_880_067, "differing": [], "ok": True},
        "inputs": [{"name": item.name, "kind": item.kind, "sha256": item.sha256} for item in record.inputs],
        "weights_sha256": record.weights_sha256, "checkpoint_sha256": record.checkpoint_sha256,
    }  # fmt: skip


def _parity(record: Evidence) -> dict[str, Any]:
    return {
        "outcome": record.verdict, "verdict": "Same detections on 4 of 4 images.", "agreement_ap": 0.9996,
        "pytorch": {**TWELVE, "APs": -1.0}, "tensorflow": TWELVE, "dataset": "shapes", "failures": [], "doubts": [],
        "images": [{"file_name": item.name, "sha256": item.sha256} for item in record.inputs], "nms": record.nms,
        "stages": [{"name": "decoding", "unit": "of 255", "allowed": "1 of 255", "ok": True,
                    "alone": {"largest": 0.0, "ok": True}, "from_file": {"largest": 0.125, "ok": True}}],
        "weights_sha256": record.weights_sha256, "checkpoint_sha256": record.checkpoint_sha256,
    }  # fmt: skip


def write_report(folder: Path, report: dict[str, Any]) -> Path:
    """KIND.json and a page that names the report's hash."""
    kind = report["evidence"]["kind"]
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(report))
    path.with_suffix(".html").write_text(f"<html>{kind} {report['evidence']['report_sha256']}</html>")
    return path


def make_item(folder: Path, variant: str, suffix: str = ".pth", official: bool = True) -> ReleaseItem:
    """Random weights of a variant with both proofs, in a folder of its own."""
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    weights = folder / f"{variant}{suffix}"
    write_weights(weights, dict(create_model(variant).state_dict()), metadata_of(variant, official))
    paths = {kind: write_report(folder, report_of(record_of(kind, weights))) for kind in ("diff", "parity")}
    return ReleaseItem(weights, paths["diff"], paths["parity"])


def items_in(folder: Path) -> list[ReleaseItem]:
    """What `make_item` made, in the folder itself or in the folders of it."""
    found = sorted(path for end in ("*.pth", "*.safetensors") for path in folder.rglob(end))
    return [ReleaseItem(path, path.parent / "diff.json", path.parent / "parity.json") for path in found]


def with_record(item: ReleaseItem, kind: str, folder: Path, **changes: Any) -> ReleaseItem:
    """The item with a genuine proof of something else: sealed, and in agreement with itself."""
    record = dataclasses.replace(record_of(kind, item.weights), **changes)
    return dataclasses.replace(item, **{kind: write_report(folder, report_of(record))})


def with_edited(item: ReleaseItem, kind: str, folder: Path, change: Change) -> ReleaseItem:
    """The item with a report that somebody changed afterwards; its page is the same."""
    report = copy.deepcopy(json.loads(getattr(item, kind).read_text()))
    change(report)
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(report))
    path.with_suffix(".html").write_bytes(getattr(item, kind).with_suffix(".html").read_bytes())
    return dataclasses.replace(item, **{kind: path})
