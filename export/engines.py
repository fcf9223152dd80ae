"""Engines that run a network in another runtime: `--engine onnxruntime` and `--engine openvino`.

The network is exported once for each state of its weights, and kept in the cache folder under the hash of everything
that it depends on. It is used only if it gives what the PyTorch model gives in float64, as nearly as that model does.
"""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdet_model.engines import Outputs, agrees
from effdet_model.errors import InputError
from effdet_model.extras import needs
from export.network import ExportedNetwork
from export.options import PACKAGES
from export.outputs import INPUT, level_names
from export.runtimes import Run, load_file, runtime_version
from export.write import Job, write
from porting.files import file_sha256
from porting.official.cache import cache_folder
from porting.version import tool_version

FOLDER = "engines"
_ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}


class ExportedEngine:
    """A network that another runtime runs on the CPU in float32; any number of images at once.

    Attributes:
        name: as `effdet_model.engines.create_engine` takes it.
    """

    def __init__(self, name: str, format_name: str, model: Any) -> None:
        """
        Raises:
            InputError: a package is missing, the model is not on the CPU in float32, or what was exported does not
                give what the model gives.
        """
        for package in PACKAGES[format_name]:
            with needs("export", f"engine {name}"):
                __import__(package)
        first = next(model.parameters())
        if first.device.type != "cpu" or first.dtype != torch.float32:
            raise InputError(
                f"engine {name}: expected a model on the CPU in float32, found {first.dtype} on {first.device}; use "
                "the engine torch."
            )
        self.name, self.config = name, model.config
        self.version = runtime_version(format_name)
        self._run = self._load(model, format_name)

    def __call__(self, images: Tensor) -> Outputs:
        """See `effdet_model.engines.Engine`."""
        return self._levels(self._run, images)

    def describe(self) -> str:
        """See `effdet_model.engines.Engine`."""
        return f"{self.version}, float32"

    def _levels(self, run: Run, images: Tensor) -> Outputs:
        found = run(**{INPUT: images.float().contiguous().numpy()})
        classes, boxes = ([torch.from_numpy(found[name]) for name in names] for names in level_names(self.config))
        return classes, boxes

    def _load(self, model: Any, format_name: str) -> Run:
        """The network from the cache, where its hash is the one that was proved; else exported anew, and proved."""
        key = self._key(model)
        folder = cache_folder() / FOLDER / key
        kept, mark = folder / f"network{_ENDINGS[format_name]}", folder / "proved.json"
        if _intact(mark):
            return load_file(kept, format_name, self.config)
        staging = folder.with_name(f".{key}.{secrets.token_hex(8)}.tmp")
        staging.mkdir(parents=True)
        try:
            metadata = {"tool": {"name": "effdet-port", "version": tool_version()}, "engine": self.name}
            job = Job(ExportedNetwork(model), self.config, "float", None, None, metadata)
            files = write(job, format_name, staging / kept.name)
            run = load_file(files[0], format_name, self.config)
            if not agrees(lambda images: self._levels(run, images), model, self.config.image_size):
                raise InputError(
                    f"engine {self.name}: expected the outputs of the PyTorch model, found others than rounding "
                    f"explains ({self.version}, weights {key[:8]}); use the engine torch."
                )
            hashes = {path.name: file_sha256(path) for path in files}
            (staging / mark.name).write_text(json.dumps(hashes), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            try:
                staging.rename(folder)
            except OSError:  # another process was first
                return run
            return load_file(kept, format_name, self.config) if format_name == "openvino" else run
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _key(self, model: nn.Module) -> str:
        digest = hashlib.sha256()
        about = [self.name, self.version, torch.__version__, tool_version(), platform.machine(), self.config.to_dict()]
        digest.update(json.dumps(about, sort_keys=True, default=str).encode())
        for name, value in model.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def _intact(mark: Path) -> bool:
    """Whether the files beside a mark are those that were proved."""
    try:
        hashes = json.loads(mark.read_text(encoding="utf-8"))
        files = {mark.with_name(Path(name).name): found for name, found in hashes.items()}
        return bool(files) and all(file_sha256(path) == found for path, found in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def _engine(name: str, format_name: str) -> Callable[..., ExportedEngine]:
    def create(model: nn.Module, *, weights: str | Path | None = None, batch: int | None = None) -> ExportedEngine:
        return ExportedEngine(name, format_name, model)

    return create


onnxruntime = _engine("onnxruntime", "onnx")
"""For the entry points of `effdet_model.engines`."""
openvino = _engine("openvino", "openvino")
"""For the entry points of `effdet_model.engines`."""
