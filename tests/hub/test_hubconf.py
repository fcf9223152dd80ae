"""hubconf.py: every variant through torch.hub from a local clone."""

from __future__ import annotations

import hashlib
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


def test_pretrained_converts_the_official_checkpoint(repository: Path, mirror: Path, tmp_path: Path) -> None:
    """A mirror with the official layout; the conversion needs no TensorFlow."""
    code = (
        "import sys, torch; from pathlib import Path\n"
        "model = torch.hub.load(sys.argv[1], 'tf_efficientdet_lite0', source='local', pretrained=True,"
        " mirror=sys.argv[2])\n"
        "assert not any(name == 'tensorflow' or name.startswith('tensorflow.') for name in sys.modules)\n"
        "torch.save(model.state_dict(), sys.argv[3])\n"
    )
    in_process(code, repository, mirror, tmp_path / "got.pth", cwd=tmp_path)
    files = (tmp_path / "got.pth", mirror.parent / "expected.pth")
    got, expected = (torch.load(path, weights_only=True) for path in files)
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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder; plain http to this machine is allowed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("EFFDET_PORT_HTTP_LOCALHOST", "1")
    return tmp_path / "hub" / "checkpoints"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_released_pth_is_bound_to_its_metadata(repository: Path, weights: Path, hub: Path) -> None:
    content, beside = weights.read_bytes(), metadata_path(weights).read_bytes()
    name = f"tf_efficientdet_lite0-{sha256(content)[:8]}"
    load = hubconf(repository).tf_efficientdet_lite0
    with serving(files={f"/{name}.pth": content, f"/{name}.json": beside}) as server:
        url = f"{server.url}/{name}.pth"
        for _ in range(2):
            assert load(weights=url, metadata_sha256=sha256(beside)).config.aspect_ratios == ASPECT_RATIO_PAIRS
        assert len(server.requests) == 2, "the second time from torch.hub's folder"

        falsified = json.loads(beside)
        falsified["config"]["mean_rgb"] = [1.0, 2.0, 3.0]
        server.files[f"/{name}.json"] = json.dumps(falsified).encode()
        (hub / f"{name}.json").unlink()
        with pytest.raises(InputError, match=f"json: expected a file whose SHA-256 begins with {sha256(beside)}"):
            load(weights=url, metadata_sha256=sha256(beside))
        (hub / f"{name}.json").write_bytes(server.files[f"/{name}.json"])
        with pytest.raises(InputError, match="expected a file whose SHA-256"):
            load(weights=url, metadata_sha256=sha256(beside))

        other = json.dumps({**json.loads(beside), "weights_sha256": "0" * 64}).encode()
        server.files[f"/{name}.json"] = other
        with pytest.raises(InputError, match=f"expected the .json of this very file, found .* SHA-256 {'0' * 64}"):
            load(weights=url, metadata_sha256=sha256(other))
        with pytest.raises(InputError, match="expected metadata_sha256=SHA-256 of its .json, .*found None"):
            load(weights=url)


def test_a_released_safetensors_is_bound_by_its_name_alone(repository: Path, tmp_path: Path, hub: Path) -> None:
    model = create_model("lite0", num_classes=3, aspect_ratios=ASPECT_RATIO_PAIRS)
    path = tmp_path / "a.safetensors"
    digest = write_weights(path, dict(model.state_dict()), {"format_version": 1, "config": model.config.to_dict()})
    name = f"tf_efficientdet_lite0-{digest[:8]}.safetensors"
    load = hubconf(repository).tf_efficientdet_lite0
    with serving(files={f"/{name}": path.read_bytes()}) as server:
        url = f"{server.url}/{name}?signature=hidden"
        server.files[f"/{name}?signature=hidden"] = path.read_bytes()
        assert load(weights=url).config.aspect_ratios == ASPECT_RATIO_PAIRS
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        (hub / name).write_bytes(damaged)
        assert torch.equal(load(weights=url).state_dict()["class_net.predict.conv_pw.bias"],
                           model.state_dict()["class_net.predict.conv_pw.bias"])
        server.files[f"/{name}?signature=hidden"] = bytes(damaged)
        (hub / name).unlink()
        with pytest.raises(InputError, match=f"expected a file whose SHA-256 begins with {digest[:8]}") as told:
            load(weights=url)
        assert "hidden" not in str(told.value) and not (hub / name).exists()


def test_urls_that_hub_does_not_take(repository: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = hubconf(repository).tf_efficientdet_lite0
    with serving() as server, pytest.raises(InputError, match="404"):
        load(weights=f"{server.url}/none-00000000.safetensors")
    with pytest.raises(InputError, match="expected the URL of a released file NAME-<8 of sha256>") as told:
        load(weights="https://user:hidden@example.com/lite0.pth?token=hidden")
    assert "hidden" not in str(told.value)
    for url in ("http://example.com/a-00000000.safetensors", "ftp://127.0.0.1/a-00000000.safetensors"):
        with pytest.raises(InputError, match="expected an https URL, found (http|ftp)"):
            load(weights=url)
    monkeypatch.delenv("EFFDET_PORT_HTTP_LOCALHOST")
    with pytest.raises(InputError, match="expected an https URL, found http"):
        load(weights="http://127.0.0.1/a-00000000.safetensors")


def test_arguments_go_by_name(repository: Path) -> None:
    with pytest.raises(InputError, match="expected arguments by name, found True; write pretrained=True"):
        hubconf(repository).tf_efficientdet_d0(True)


def test_other_classes_from_a_file(repository: Path, weights: Path) -> None:
    with pytest.raises(InputError, match="expected 20 classes, found 3; .*reset_head=True"):
        torch.hub.load(str(repository), "tf_efficientdet_lite0", source="local", weights=str(weights), num_classes=20)
    model = torch.hub.load(
        str(repository), "tf_efficientdet_lite0", source="local", weights=str(weights), num_classes=20, reset_head=True
    )
    assert model.config.num_classes == 20


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lite0 in the official layout."""
    folder = tmp_path_factory.mktemp("official")
    prefix = write_synthetic_checkpoint("lite0", folder / "efficientdet-lite0", momentum=False)
    (folder / "mirror" / "coco").mkdir(parents=True)
    with tarfile.open(folder / "mirror" / "coco" / "efficientdet-lite0.tgz", "w:gz", compresslevel=1) as archive:
        archive.add(prefix.parent, arcname=prefix.parent.name)
    convert(prefix, folder / "expected.pth", "lite0")
    return folder / "mirror"


def in_process(code: str, *arguments: object, cwd: Path) -> str:
    """Run code in a new interpreter; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "EFFDET_PORT_CACHE": str(cwd / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pretrained_with_other_classes(
    repository: Path, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Official weights but for the class layer, which begins as google/automl's: each class at 0.01."""
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path))
    model = torch.hub.load(
        str(repository), "tf_efficientdet_lite0", source="local", pretrained=True, mirror=str(mirror), num_classes=20
    )
    official = torch.load(mirror.parent / "expected.pth", weights_only=True)
    state = model.state_dict()
    predict = {name for name in state if name.startswith("class_net.predict.")}
    assert all(torch.equal(state[name], official[name]) for name in state.keys() - predict)
    bias = state["class_net.predict.conv_pw.bias"]
    assert bias.shape == (180,) and torch.allclose(torch.sigmoid(bias), torch.tensor(0.01))
    kernel = state["class_net.predict.conv_pw.weight"]
    assert abs(kernel.std().item() - 64**-0.5) < 0.01 and kernel.mean().abs() < 0.01
    assert model.config.num_classes == 20 and model.config.label_map is None


# A caller with modules of his own under the names of two rooms, one of them imported already.
FOREIGN = """
import sys, torch
sys.path.insert(0, sys.argv[3])
import mappings
model = torch.hub.load(sys.argv[1], "tf_efficientdet_lite0", source="local", pretrained=True, mirror=sys.argv[2])
import mappings as again, porting
print(again is mappings, again.WHOSE, porting.WHOSE)
torch.hub.load(sys.argv[1], "tf_efficientdet_lite0", source="local", pretrained=True, mirror=sys.argv[2])
torch.save(model.state_dict(), "got.pth")
"""


def test_modules_of_the_caller_with_our_names(repository: Path, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "own" / "porting").mkdir(parents=True)
    (tmp_path / "own" / "mappings.py").write_text("WHOSE = 'mine'")
    (tmp_path / "own" / "porting" / "__init__.py").write_text("WHOSE = 'mine too'")
    said = in_process(FOREIGN, repository, mirror, tmp_path / "own", cwd=tmp_path)
    assert said.split("\n")[0] == "True mine mine too"
    files = (tmp_path / "got.pth", mirror.parent / "expected.pth")
    got, expected = (torch.load(path, weights_only=True) for path in files)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    (tmp_path / "own" / "effdet_model.py").write_text("")
    code = FOREIGN.replace("import mappings\n", "import effdet_model\n").replace("model = torch", "try: torch", 1)
    code = code.split("import mappings as")[0] + "except ImportError as error: print(error)"
    said = in_process(code, repository, mirror, tmp_path / "own", cwd=tmp_path)
    assert "expected this repository's package effdet_model, found <module 'effdet_model' from" in said


# Which packages files of the repository import while models are loaded in every way.
IMPORTS = """
import builtins, sys
seen, real = set(), builtins.__import__
def spy(name, globals=None, *rest, **more):
    importer = str((globals or {}).get("__file__"))
    if importer.startswith(sys.argv[1]) and "site-packages" not in importer:  # `make` puts .venv into the clone
        seen.add(name.split(".")[0])
    return real(name, globals, *rest, **more)
builtins.__import__ = spy
sys.modules["google_crc32c"] = None
import torch
for how in ({}, {"weights": sys.argv[3]}, {"weights": sys.argv[4]}, {"pretrained": True, "mirror": sys.argv[2]}):
    torch.hub.load(sys.argv[1], "tf_efficientdet_lite0", source="local", **how)
print(*sorted(seen - set(sys.stdlib_module_names)))
"""


def test_dependencies_are_what_is_imported(repository: Path, mirror: Path, weights: Path, tmp_path: Path) -> None:
    safetensors = tmp_path / "a.safetensors"
    write_weights(safetensors, torch.load(weights, weights_only=True), json.loads(metadata_path(weights).read_text()))
    said = in_process(IMPORTS, repository, mirror, weights, safetensors, cwd=tmp_path)
    others = set(said.split()) - {"effdet_model", "mappings", "porting"}
    assert others == {*hubconf(repository).dependencies, "google_crc32c"}, "google-crc32c is used where it is installed"
