"""A release is refused where a proof is not of this very file, made so, by this version; field by field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from effdet_model import InputError
from effdet_model.weights import metadata_path
from release.build import ReleaseItem, check_release, make_release
from tests.release.cases import (
    Change,
    make_item,
    record_of,
    report_of,
    with_edited,
    with_record,
    write_report,
)
from verify.evidence.record import Evidence

KINDS = ("diff", "parity")
ZEROS = "0" * 64


@pytest.fixture(scope="module")
def item(tmp_path_factory: pytest.TempPathFactory) -> ReleaseItem:
    """d0 with both proofs."""
    return make_item(tmp_path_factory.mktemp("work") / "d0", "d0")


def refused(item: ReleaseItem, tmp_path: Path, message: str) -> str:
    """The one message of a release that is not made."""
    with pytest.raises(InputError, match=message) as caught:
        make_release([item], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(str(caught.value)) < 800
    return str(caught.value)


OTHERS: dict[str, tuple[Any, Any]] = {
    "verdict": ("failed", "inconclusive"),
    "rule": ("every layer within 0.5 relative", "nothing at all"),
    "tolerance": (1e-3, 0.5),
    "variant": ("d1", "d0_ap"),
    "family": ("coco", None),
    "weights_sha256": (ZEROS, "f" * 64),
    "configuration_sha256": (ZEROS, "f" * 64),
    "overrides": ({"aspect_ratios": [1.0, 2.0, 0.5]}, {"act_type": "relu"}),
    "checkpoint_sha256": (ZEROS, "f" * 64),
    "variables": ("raw", "raw"),
    "image_size": ((128, 128), (512, 640)),
    "dtype": ("float16", "bfloat16"),
    "reference": ("automl", "savedmodel"),
    "versions": ({"effdet-port": "0.0.9", "torch": "2.14.1"}, {"effdet-port": "unknown", "torch": "2.14.1"}),
}
"""Field of the record -> two values that a genuine proof of something else has."""
OF_RUN: dict[str, tuple[Any, Any]] = {
    "hparams": ({"num_classes": 20}, {"aspect_ratios": [1.0, 2.0, 0.5]}),
    "nms": ({"name": "graph_hard", "family": "numpy"}, {"name": "numpy_hard", "family": "numpy"}),
    "annotations_sha256": (ZEROS, None),
}
"""The same of what the weight file does not tell: compared where the release's own run says what it must be."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("name", OTHERS)
def test_a_proof_of_something_else_is_refused(
    item: ReleaseItem, tmp_path: Path, name: str, other: int, kind: str
) -> None:
    """It is genuine, sealed and agrees with itself; but it is of something else."""
    changes = {name: OTHERS[name][other]}
    if name == "reference":
        changes["reference_sha256"] = ZEROS
    if name == "dtype" and kind == "diff" and other:
        changes["dtype"] = "float32"
    message = refused(with_record(item, kind, tmp_path, **changes), tmp_path, f"evidence.{name}")
    assert "expected" in message and "found" in message and f"run `python cli.py {kind} --weights" in message


@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize(
    ("kind", "name"),
    [("parity", name) for name in (*OTHERS, *OF_RUN, "inputs")]
    + [("diff", name) for name in (*OTHERS, "hparams", "inputs")],
)
def test_what_the_run_says_is_compared_as_well(
    item: ReleaseItem, tmp_path: Path, kind: str, name: str, other: int
) -> None:
    right = record_of(kind, item.weights)
    inputs = right.inputs[:-1], (dataclasses.replace(right.inputs[0], sha256=ZEROS), *right.inputs[1:])
    value = inputs[other] if name == "inputs" else {**OTHERS, **OF_RUN}[name][other]
    changes: dict[str, Any] = {name: value, **({"reference_sha256": ZEROS} if name == "reference" else {})}
    if name == "dtype" and value == right.dtype:
        changes[name] = "float16"
    bound = dataclasses.replace(item, expected={kind: right.to_json()})
    refused(with_record(bound, kind, tmp_path, **changes), tmp_path, f"evidence.{name}")


def test_what_is_as_the_run_says_is_released(item: ReleaseItem, tmp_path: Path) -> None:
    bound = dataclasses.replace(item, expected={kind: record_of(kind, item.weights).to_json() for kind in KINDS})
    make_release([bound], tmp_path / "out")


EDITS: dict[str, Change] = {
    field.name: lambda record, name=field.name: record.update({name: _another(record[name])})
    for field in dataclasses.fields(Evidence)
}


GOOD: dict[str, tuple[type, ...]] = {
    "tolerance": (int, type(None)), "family": (type(None),), "overrides": (dict,), "reference_sha256": (type(None),),
    "hparams": (dict,), "nms": (dict, type(None)), "annotations_sha256": (type(None),), "inputs": (list,),
    "subject_sha256": (type(None),),
}  # fmt: skip
"""Field -> types that its schema allows; what is wrong with such values shows elsewhere."""


def _another(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    if isinstance(value, dict):
        return {**value, "more": "1"}
    if isinstance(value, list):
        return value[:-1]
    if isinstance(value, int | float):
        return value * 2
    if value is None:
        return ZEROS
    return value[:-1] + ("0" if value[-1] != "0" else "1")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EDITS)
def test_every_field_of_the_record_is_refused_when_falsified(
    item: ReleaseItem, tmp_path: Path, kind: str, name: str
) -> None:
    edited = with_edited(item, kind, tmp_path, lambda report: EDITS[name](report["evidence"]))
    refused(edited, tmp_path, r"evidence")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EDITS)
def test_fields_of_a_wrong_type_or_missing_are_named(
    item: ReleaseItem, tmp_path: Path, kind: str, name: str
) -> None:
    for wrong in (7, "", None, [], {"a": 1}, True, -1.5, "x" * 2000):
        if any(isinstance(wrong, good) for good in GOOD.get(name, ())) and wrong is not True:
            continue
        change: Change = lambda report, wrong=wrong: report["evidence"].update({name: wrong})  # noqa: E731
        wrongly = with_edited(item, kind, tmp_path, change)
        refused(wrongly, tmp_path, rf"evidence\.{name}: expected .*, found .*; run `python cli.py {kind} ")
    missing = with_edited(item, kind, tmp_path, lambda report: report["evidence"].pop(name))
    refused(missing, tmp_path, rf"evidence\.{name}: expected .*; run `python cli.py {kind} ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(passed=False), r"evidence.verdict: expected what goes with passed = False"),
        (lambda report: report.pop("passed"), r"evidence.verdict: expected what goes with passed = None"),
        (lambda report: report.update(passed="true"), r"evidence.verdict: expected what goes with passed = 'true'"),
        (lambda report: report.update(passed=False, outcome="failed"), r"evidence.verdict"),
        (lambda report: report.update(outcome="inconclusive"), r"evidence.verdict: expected 'inconclusive'"),
        (lambda report: report.update(failures=["decoding differs"]), "but failures: 'decoding differs'"),
        (lambda report: report.update(first_divergent_layer="stem"), "but first_divergent_layer = 'stem'"),
        (lambda report: report.update(config_differences=[{"field": "act_type", "declared": False}]), "'act_type'"),
        (lambda report: report.update(stages=[{"name": "network", "ok": False}]), "stages: 'network' is not ok"),
        (lambda report: report.update(layers=[]), r"layers = \[\]"),
        (lambda report: report.update(weights_sha256=ZEROS), "evidence.weights_sha256: expected '0"),
        (lambda report: report.update(checkpoint_sha256=ZEROS), "evidence.checkpoint_sha256: expected '0"),
        (lambda report: report.update(variant="d1"), "evidence.variant: expected 'd1', which the rest of the report"),
        (lambda report: report.update(image_size=[1, 1]), "evidence.image_size"),
        (lambda report: report["environment"].update(torch="1.0"), "evidence.versions.torch: expected '1.0'"),
        (lambda report: report["environment"].update(reference_tensorflow="1"), "evidence.versions.tensorflow"),
        (lambda report: report.update(verdict="All is well."), "evidence.report_sha256: .* it was edited"),
        (lambda report: report.update(anything="more"), "evidence.report_sha256: .* it was edited"),
        (lambda report: report["evidence"].update(report_sha256=ZEROS), "evidence.report_sha256"),
        (lambda report: report["evidence"].pop("report_sha256"), "evidence.report_sha256"),
        (lambda report: report["evidence"].update(more=1), "no other fields than those of its schema, found 'more'"),
        (lambda report: report["evidence"].update(schema_version=2), "schema_version: expected 1, which .* found 2"),
        (lambda report: report["evidence"].update(schema_version=True), "schema_version: expected 1"),
        (lambda report: report["evidence"].update(kind="export"), "evidence.reference: expected that of an export"),
        (lambda report: report.pop("evidence"), "expected a record in this (diff|parity), found none, as older"),
        (lambda report: report.update(evidence=None), "expected a record of schema version 1, found none"),
    ],
)
def test_an_edited_report_is_refused(
    item: ReleaseItem, tmp_path: Path, kind: str, change: Change, message: str
) -> None:
    told = refused(with_edited(item, kind, tmp_path, change), tmp_path, message)
    assert told.startswith("release of d0: ") and f"run `python cli.py {kind} --weights" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(max_rel=None), "max_rel = None"),
        (lambda report: report.update(max_rel=1.0), "max_rel = 1.0"),
        (lambda report: report["layers"][1].update(ok=False), "layers: 'head' is not ok"),
        (lambda report: report.update(tensors=None), "tensors are not proved equal"),
        (lambda report: report["tensors"].update(equal=1), "tensors: 1 of 3880067 equal"),
        (lambda report: report.update(dtype="float32"), "evidence.dtype: expected 'float32'"),
        (lambda report: report.update(tolerance=0.5), "evidence.tolerance: expected 0.5"),
        (lambda report: report.update(reference="automl:x"), "evidence.reference: expected 'automl'"),
        (lambda report: report["inputs"][1].update(sha256=ZEROS), "evidence.inputs: 'noise-0'"),
        (lambda report: report["inputs"].pop(), "evidence.inputs: how many: expected 1"),
    ],
)
def test_a_diff_that_contradicts_itself_is_refused(
    item: ReleaseItem, tmp_path: Path, change: Change, message: str
) -> None:
    refused(with_edited(item, "diff", tmp_path, change), tmp_path, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(doubts=["1 image was compared"]), "but doubts: '1 image was compared'"),
        (lambda report: report.update(nms={"name": "numpy_gaussian"}), "evidence.nms: expected"),
        (lambda report: report["images"][2].update(sha256=ZEROS), "evidence.inputs: '3.png'"),
        (lambda report: report["images"].pop(), "evidence.inputs: how many: expected 3"),
    ],
)
def test_a_parity_run_that_contradicts_itself_is_refused(
    item: ReleaseItem, tmp_path: Path, change: Change, message: str
) -> None:
    refused(with_edited(item, "parity", tmp_path, change), tmp_path, message)


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_or_page_that_is_missing_or_another_is_refused(item: ReleaseItem, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.json"
    changed = dataclasses.replace(item, **{kind: path})
    refused(changed, tmp_path, f"expected a report, found no such file; run `python cli.py {kind} ")
    for text in ("{", "[]", "9" * 5000, "[" * 5000):
        path.write_text(text)
        refused(changed, tmp_path, f"{kind}: expected a report (in JSON|as a JSON object), found")
    path.write_bytes(getattr(item, kind).read_bytes())
    refused(changed, tmp_path, f"page: expected {kind}.html beside the report")
    path.with_suffix(".html").write_text("the page of another run")
    refused(changed, tmp_path, f"page: expected {kind}.html of this very report .* found another page")


def test_one_kind_does_not_stand_for_the_other(item: ReleaseItem, tmp_path: Path) -> None:
    refused(dataclasses.replace(item, parity=item.diff), tmp_path, "evidence.kind: expected 'parity'|kind: expected")


def test_proofs_at_another_image_size_count_where_it_was_asked_for(item: ReleaseItem, tmp_path: Path) -> None:
    other = item
    for kind in KINDS:
        other = with_record(other, kind, tmp_path, image_size=(128, 256))
    refused(other, tmp_path, r"evidence.image_size: expected \[512, 512\], found \[128, 256\]")
    asked = dataclasses.replace(other, image_size=(128, 256))
    card = (make_release([asked], tmp_path / "out").folder / "tf_efficientdet_d0.md").read_text()
    assert "128 x 256; these weights' own is 512 x 512" in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metadata: metadata["config"].update(act_type="relu"), "evidence.configuration_sha256: expected"),
        (lambda metadata: metadata["config"].update(anchor_scale=3.0), "metadata anchors.anchor_scale: expected 3.0"),
        (lambda metadata: metadata["anchors"].update(anchor_scale=3.0), "metadata anchors.anchor_scale: expected 4.0"),
        (lambda metadata: metadata["preprocessing"].update(mean_rgb=0.0), "metadata preprocessing.mean_rgb: expected"),
        (lambda metadata: metadata["nms"].update(profile="numpy_hard"), "metadata nms.profile: expected 'numpy_gau"),
        (lambda metadata: metadata["classes"].update(count=2), "metadata classes.count: expected 90, which .* found 2"),
        (lambda metadata: metadata.pop("preprocessing"), "metadata preprocessing: expected .* found None"),
        (lambda metadata: metadata.update(variant="d0_ap"), "metadata variant: expected 'd0', which .* found 'd0_ap'"),
        (lambda metadata: metadata["source"].update(family="coco"), "metadata nms.published_profile: expected 'nu"),
        (lambda metadata: metadata["source"].update(sha256=ZEROS), "evidence.checkpoint_sha256: expected '0"),
        (lambda metadata: metadata["source"].update(variables="raw"), "evidence.variables: expected 'raw', found 'ema"),
        (lambda metadata: metadata.update(source=[]), "source: expected an object"),
    ],
)
def test_a_configuration_changed_after_the_proof_is_refused(
    item: ReleaseItem, tmp_path: Path, change: Change, message: str
) -> None:
    """The weights are the same, bit by bit; what says how to use them is not."""
    weights = tmp_path / "d0.pth"
    weights.symlink_to(item.weights)
    metadata = json.loads(metadata_path(item.weights).read_text())
    change(metadata)
    metadata_path(weights).write_text(json.dumps(metadata))
    refused(dataclasses.replace(item, weights=weights), tmp_path, message)


def test_weights_that_changed_or_say_nothing_are_refused(tmp_path: Path) -> None:
    item = make_item(tmp_path / "lite0", "lite0")
    with open(item.weights, "ab") as file:
        file.write(b"\0")
    refused(item, tmp_path, "as its metadata says, found .*; the file was changed after its conversion")
    metadata_path(item.weights).unlink()
    refused(item, tmp_path, "expected metadata with variant, config and source")


def test_a_release_whose_proof_is_of_other_weights_is_no_release(item: ReleaseItem, tmp_path: Path) -> None:
    folder = make_release([item], tmp_path / "out").folder
    check_release(folder)
    report = json.loads((folder / "tf_efficientdet_d0.diff.json").read_text())
    other = report_of(dataclasses.replace(record_of("diff", item.weights), weights_sha256=ZEROS))
    assert report["evidence"]["report_sha256"] == json.loads(item.diff.read_text())["evidence"]["report_sha256"]
    path = write_report(tmp_path, other)
    (folder / "tf_efficientdet_d0.diff.json").write_bytes(path.read_bytes())
    (folder / "tf_efficientdet_d0.diff.html").write_bytes(path.with_suffix(".html").read_bytes())
    _sum_again(folder)
    with pytest.raises(InputError, match="evidence.weights_sha256: expected that of a weight file of this release"):
        check_release(folder)


def _sum_again(folder: Path) -> None:
    from porting.weights.files import file_sha256

    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{file_sha256(folder / name)}  {name}\n" for name in names))
