"""Files for other runtimes in a release: each with the proof of that very file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.synthetic import write_synthetic_checkpoint
from effdet_model.errors import CheckFailedError, InputError
from export.options import ExportOptions
from export.run import Exported
from porting.files import file_sha256
from release import exports
from release.build import SUMS, check_release
from release.run import ReleaseOptions, run_release
from tests.release.test_release_run import Step

SIZE = (128, 128)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    prefix = write_synthetic_checkpoint("lite0", tmp_path_factory.mktemp("tf") / "efficientdet-lite0", momentum=False)
    return str(prefix)


def make(checkpoint: str, folder: Path, say: Callable[[str], None], *formats: str, nms: str = "none") -> Path:
    options = ReleaseOptions(checkpoint=checkpoint, image_size=SIZE, exports=formats, export_nms=nms)
    steps = (Step("diff"), Step("parity"))
    made = run_release(["lite0"], folder / "out", folder / "work", options, verifications=steps, say=say)
    return made.folder


@pytest.mark.slow
def test_exported_files_come_with_their_proofs(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    folder = make(checkpoint, tmp_path, said.append, "onnx", "openvino", nms="graph_hard")
    name = "tf_efficientdet_lite0"
    (onnx,), (xml,), (parts,) = (list(folder.glob(f"{name}-????????{end}")) for end in (".onnx", ".xml", ".bin"))
    assert xml.stem == parts.stem and file_sha256(onnx).startswith(onnx.stem[-8:])
    card, index = (folder / f"{name}.md").read_text(), json.loads((folder / "index.json").read_text())
    for path in (onnx, xml, parts):
        assert f"[{path.name}]({path.name})" in card and file_sha256(path) in card
    record = json.loads((folder / f"{name}.onnx.proof.json").read_text())["evidence"]
    assert record["reference"] == "tensorflow" and record["nms"]["name"] == "graph_hard"
    assert record["subject_sha256"] == file_sha256(onnx)
    assert [item["name"] for item in record["inputs"]][:4] == ["drawn-0", "drawn-1", "drawn-2", "noise-0"]
    assert set(index["models"][0]["evidence"]) == {"diff", "parity", "onnx", "openvino"}

    again = make(checkpoint, tmp_path, said.append, "onnx", "openvino", nms="graph_hard")
    assert "lite0: onnx exported before" in said and "lite0: openvino exported before" in said
    _changes_are_seen(again, tmp_path)

    def fails(options: ExportOptions) -> Exported:
        return Exported((), tmp_path / "proof.unproved", (), {"passed": False, "verdict": "Not proved: all wrong."})

    monkeypatch.setattr(exports, "export", fails)
    with pytest.raises(CheckFailedError, match=r"lite0: onnx: .* so nothing is released: Not proved: all wrong"):
        make(checkpoint, tmp_path, said.append, "onnx")  # without suppression it is another file
    assert any("onnx of an earlier run is not of this one" in line and "evidence.rule" in line for line in said)
    assert list(again.glob("*.xml")), "the earlier release stays"


def _changes_are_seen(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"

    def changed(change: Callable[[], None]) -> None:
        change()
        names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
        (folder / SUMS).write_text("".join(f"{file_sha256(folder / name)}  {name}\n" for name in names))

    def byte() -> None:
        path = next(folder.glob("*.onnx"))
        path.write_bytes(path.read_bytes() + b"\0")

    def renamed() -> None:
        path = next(folder.glob("*.onnx"))
        path.rename(path.with_name("tf_efficientdet_lite0-00000000.onnx"))

    def edited() -> None:
        path = next(folder.glob("*.onnx.proof.json"))
        report = json.loads(path.read_text())
        report["checks"][0]["passed"] = False
        path.write_text(json.dumps(report))

    for change, message in ((byte, "expected the exported file that it is the proof of"),
                            (renamed, "expected the exported file that it is the proof of"),
                            (edited, "is not passed")):  # fmt: skip
        shutil.copytree(release, folder)
        for card in folder.glob("*.md"):
            card.write_text("")  # whose links are checked first
        changed(change)
        with pytest.raises(InputError, match=message):
            check_release(folder)
        shutil.rmtree(folder)


def test_what_cannot_be_exported_is_refused_first(tmp_path: Path) -> None:
    for formats, nms, message in ((("tflite",), "none", "tflite"), (("torch",), "numpy_gaussian", "--nms none"),
                                  (("onnx",), "softest", "softest")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            make("nowhere", tmp_path, lambda line: None, *formats, nms=nms)
        assert not (tmp_path / "work").exists() or not list((tmp_path / "work").rglob("*.pth"))
