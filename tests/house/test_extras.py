"""What only some commands need: named with the line that installs it, and nothing else imports it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.drawn_images import draw_dataset
from demo.synthetic import write_synthetic_checkpoint
from effdet_model.errors import InputError
from effdet_model.extras import EXTRAS, install_line, needs
from porting.convert import convert

tomllib = pytest.importorskip("tomllib")

BASE = {
    "click", "h5py", "numpy", "pillow", "pyyaml", "rich", "safetensors", "simplejpeg", "timm", "torch", "torchvision",
}  # fmt: skip


def declared(requirements: list[str]) -> set[str]:
    """Names without versions and extras."""
    return {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in requirements}


def test_what_a_user_with_weights_installs(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert declared(project["dependencies"]) == BASE
    extras = project["optional-dependencies"]
    assert set(extras) - {"all", "dev"} == set(EXTRAS)
    assert {"pycocotools", "faster-coco-eval"} == declared(extras["eval"])
    assert "effdet-port[eval,report,release]" in extras["verify"] and "tensorflow" in declared(extras["verify"])
    assert {"onnx", "onnxruntime", "onnxscript", "openvino"} == declared(extras["export"])
    assert extras["all"] == ["effdet-port[verify,export,video,fast,tflite]"]
    assert ".[all,dev]" in (repository / "Makefile").read_text()


def test_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError) as told, needs("video", "clip.mp4"):
        import av  # noqa: F401
    assert str(told.value) == (
        "clip.mp4: expected the package 'av', found none; install the extra 'video': "
        'pip install "effdet-port[video]" (in a clone: pip install ".[video]").'
    )
    with pytest.raises(InputError, match="expected its packages, found: libx.so: cannot open"), needs("eval", "AP"):
        raise ImportError("libx.so: cannot open")


HIDING = """
import sys
import torch, timm, torchvision.ops  # first: they import some of these packages for themselves
for name in {hidden}:
    sys.modules[name] = None
import cli
sys.argv = ["effdet-port", *{arguments}]
cli.main()
"""
BEYOND_BASE = (
    "pycocotools", "faster_coco_eval", "plotly", "jinja2", "markupsafe", "huggingface_hub", "av", "google_crc32c",
    "cramjam", "requests", "filelock", "platformdirs", "tensorflow",
)  # fmt: skip


def run_without(hidden: tuple[str, ...], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process where packages are missing."""
    code = HIDING.format(hidden=hidden, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "hidden", "arguments"),
    [
        ("report", "plotly", "diff --weights w.pth --checkpoint c --report R"),
        ("report", "jinja2", "parity --weights w.pth --checkpoint c --images . --report R"),
        ("eval", "pycocotools", "parity --weights w.pth --checkpoint c --images ."),
        ("release", "huggingface_hub", "release --variant d0 --output R"),
        ("release", "jinja2", "release --variant d0 --output R"),
        ("export", "onnxruntime", "export --weights w.pth --format onnx --output R.onnx"),
        ("export", "openvino", "export --weights w.pth --format openvino --output R.xml"),
    ],
)
def test_commands_name_their_extra_before_any_work(
    repository: Path, tmp_path: Path, extra: str, hidden: str, arguments: str
) -> None:
    words = [str(tmp_path / "R") if word == "R" else word for word in arguments.split()]
    done = run_without((hidden,), *words, cwd=repository)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"expected the package {hidden!r}, found none" in done.stderr
    assert install_line(extra) in done.stderr


@pytest.mark.slow
def test_convert_inspect_and_detect_need_the_base_alone(repository: Path, tmp_path: Path) -> None:
    """The same weight file as with everything installed."""
    prefix = write_synthetic_checkpoint("lite0", tmp_path / "checkpoint", momentum=False)
    image = draw_dataset(tmp_path, count=1).parent / "images"
    weights = tmp_path / "lite0.pth"
    for arguments in (
        ("convert", "--variant", "lite0", "--checkpoint", str(prefix.parent), "--output", str(weights)),
        ("inspect", str(prefix.parent)),
        ("detect", str(image), "--weights", str(weights), "--output", str(tmp_path / "found")),
        ("variants",),
        ("mapping", "--variant", "d0"),
    ):
        done = run_without(BEYOND_BASE, *arguments, cwd=repository)
        assert done.returncode == 0, done.stderr
    convert(prefix, tmp_path / "expected.pth", "lite0")
    assert weights.read_bytes() == (tmp_path / "expected.pth").read_bytes()
