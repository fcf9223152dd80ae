"""hubconf.py: every variant through torch.hub from a local clone."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from demo.synthetic import write_synthetic_checkpoint
from effdet_model import InputError, create_model
from effdet_model.config import ASPECT_RATIO_PAIRS
from effdet_model.variants import PYTORCH_MODELS, list_variants
from effdet_model.weights import metadata_path
from porting.convert import convert
from porting.weights.files import write_weights
from tests.misbehaving_server import serving


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lite0 with 3 classes and old anchors, so that its metadata matters."""
    torch.manual_seed(3)
    model = create_model("lite0", num_classes=3, aspect_ratios=ASPECT_RATIO_PAIRS)
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    write_weights(path, dict(model.state_dict()), {"format_version": 1, "config": model.config.to_dict()})
    return path


def hubconf(repository: Path) -> ModuleType:
    """hubconf.py as a module."""
    spec = importlib.util.spec_from_file_location("hubconf", repository / "hubconf.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_variant_has_an_entry_point(repository: Path) -> None:
    names = {name for name, value in vars(hubconf(repository)).items() if callable(value) and name[0] != "_"}
    expected = {name if name in PYTORCH_MODELS else f"tf_efficientdet_{name}" for name in list_variants()}
    assert expected <= names
    assert "weights" in hubconf(repository).tf_efficientdet_d0.__doc__


def test_weights_from_a_file(repository: Path, weights: Path) -> None:
    model = torch.hub.load(str(repository), "tf_efficientdet_lite0", source="local", weights=str(weights))
    assert model.config.num_classes == 3 and model.config.aspect_ratios == ASPECT_RATIO_PAIRS
    stored = torch.load(weights, weights_only=True)
    assert all(torch.equal(tensor, stored[key]) for key, tensor in model.state_dict().items())
    assert not model.training


def test_pretrained_converts_the_official_checkpoint(repository: Path, tmp_path: Path) -> None:
    """A mirror with the official layout; the conversion needs no TensorFlow."""
    prefix = write_synthetic_checkpoint("lite0", tmp_path / "efficientdet-lite0", momentum=False)
    mirror = tmp_path / "mirror"
    (mirror / "coco").mkdir(parents=True)
    with tarfile.open(mirror / "coco" / "efficientdet-lite0.tgz", "w:gz", compresslevel=1) as archive:
        archive.add(prefix.parent, arcname=prefix.parent.name)
    code = (
        "import sys, torch; from pathlib import Path\n"
        "model = torch.hub.load(sys.argv[1], 'tf_efficientdet_lite0', source='local', pretrained=True,"
        " mirror=sys.argv[2])\n"
        "assert not any(name == 'tensorflow' or name.startswith('tensorflow.') for name in sys.modules)\n"
        "torch.save(model.state_dict(), sys.argv[3])\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(repository), str(mirror), str(tmp_path / "got.pth")],
        check=True, env={**os.environ, "EFFDET_PORT_CACHE": str(tmp_path / "cache")}, cwd=tmp_path,
    )  # fmt: skip
    convert(prefix, tmp_path / "expected.pth", "lite0")
    got, expected = (torch.load(tmp_path / name, weights_only=True) for name in ("got.pth", "expected.pth"))
    assert set(got) == set(expected) and all(torch.equal(got[key], expected[key]) for key in got)
    assert (tmp_path / "cache" / "coco" / "efficientdet-lite0.tgz").is_file()


def test_random_weights_and_settings(repository: Path) -> None:
    model = torch.hub.load(
        str(repository), "tf_efficientdet_lite0", source="local", pretrained=False, num_classes=5, image_size=(64, 96)
    )
    assert model.config.num_classes == 5 and model.config.image_size == (64, 96)
    plain = torch.hub.load(str(repository), "efficientdet_d0", source="local")
    assert plain.config.pad_type == ""


def test_wrong_weights_are_told(repository: Path, weights: Path) -> None:
    with pytest.raises(InputError, match="are lite0, you asked for d0"):
        torch.hub.load(str(repository), "tf_efficientdet_d0", source="local", weights=str(weights))


def test_weights_from_a_url(
    repository: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    beside = metadata_path(weights).read_bytes()
    name = f"tf_efficientdet_lite0-{json.loads(beside)['weights_sha256'][:8]}"
    files = {f"/{name}.pth": weights.read_bytes(), f"/{name}.json": beside}
    load = hubconf(repository).tf_efficientdet_lite0
    with serving(files=files) as server:
        assert load(weights=f"{server.url}/{name}.pth").config.num_classes == 3
        assert load(weights=f"{server.url}/{name}.pth").config.num_classes == 3
        assert len(server.requests) == 2, "the second time from torch.hub's folder"
        wrong = f"/{name[:-8]}00000000"
        server.files.update({f"{wrong}.pth": files[f"/{name}.pth"], f"{wrong}.json": beside})
        with pytest.raises(InputError, match="expected a released .pth .*invalid hash value"):
            load(weights=f"{server.url}{wrong}.pth")
        with pytest.raises(InputError, match="404"):
            load(weights=f"{server.url}/none-00000000.pth")
        with pytest.raises(InputError, match="expected the URL of a released file NAME-<8 of sha256>.pth"):
            load(weights=f"{server.url}/lite0.pth")
