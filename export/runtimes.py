"""The runtimes of exported files: `load_file(path, format)(images)` gives the outputs by name."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model.config import EfficientDetConfig
from export.outputs import DETECTION_OUTPUTS, INPUT, level_names

Outputs = dict[str, np.ndarray]
Run = Callable[..., Outputs]
"""Called with the inputs by name; gives the outputs by name."""


def load_file(path: Path | bytes, format_name: str, config: EfficientDetConfig, threads: int | None = None) -> Run:
    """A function that runs a file on the CPU in float32.

    Args:
        path: of the file; for ONNX also its bytes. threads: at most so many; None: as many as torch uses.
    """
    import torch

    return _LOADERS[format_name](path, config, threads or torch.get_num_threads())


def runtime_version(format_name: str) -> str:
    """Name and version of the program that runs a format, as text."""
    package = {"onnx": "onnxruntime", "openvino": "openvino"}.get(format_name, "torch")
    return f"{package} {importlib.import_module(package).__version__}"


def onnx_session(model: Path | bytes, threads: int) -> Any:
    """`onnxruntime.InferenceSession` on the CPU that does not spin while it waits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def openvino_model(path: Path, threads: int) -> Any:
    """A compiled model in float32: left alone, OpenVINO computes in bfloat16 where the processor can."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return _openvino_core().compile_model(str(path), "CPU", settings)


@functools.cache
def _openvino_core() -> Any:
    """One for the whole process.

    Its CPU plugin gives the thread that made it a stack for signals and takes it away with itself, after which the next
    signal, such as that of a child's end, kills the process.
    """
    import openvino

    return openvino.Core()


def _load_onnx(path: Path | bytes, config: EfficientDetConfig, threads: int) -> Run:
    session = onnx_session(path, threads)
    names = [output.name for output in session.get_outputs()]

    def run(**inputs: np.ndarray) -> Outputs:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def _load_openvino(path: Path | bytes, config: EfficientDetConfig, threads: int) -> Run:
    assert isinstance(path, Path)
    compiled = openvino_model(path, threads)

    def run(**inputs: np.ndarray) -> Outputs:
        results = compiled(inputs)
        return {output.get_any_name(): np.array(results[output]) for output in compiled.outputs}

    return run


def _load_torch(path: Path | bytes, config: EfficientDetConfig, threads: int) -> Run:
    import torch

    with open(str(path), "rb") as file:
        return _of_module(torch.export.load(file).module(), config)


def _load_torchscript(path: Path | bytes, config: EfficientDetConfig, threads: int) -> Run:
    import torch

    return _of_module(torch.jit.load(str(path), map_location="cpu"), config)


def _of_module(module: Any, config: EfficientDetConfig) -> Run:
    import torch

    names: Sequence[str] = sum(level_names(config), [])

    def run(**inputs: np.ndarray) -> Outputs:
        with torch.no_grad():
            levels = module(torch.from_numpy(inputs[INPUT]))
        return {name: level.numpy() for name, level in zip(names, levels, strict=True)}

    return run


def detections_of(outputs: Outputs) -> list[np.ndarray]:
    """float32 [n, 6] of every image as `effdet_model.nms` gives them: y0, x0, y1, x1, score, category id."""
    numbers, boxes, scores, ids = (outputs[name] for name in DETECTION_OUTPUTS)
    return [
        np.column_stack((boxes[i, :n][:, [1, 0, 3, 2]], scores[i, :n], ids[i, :n])).astype(np.float32)
        for i, n in enumerate(np.asarray(numbers).reshape(-1).tolist())
    ]


_LOADERS: dict[str, Callable[[Path | bytes, EfficientDetConfig, int], Run]] = {
    "onnx": _load_onnx,
    "openvino": _load_openvino,
    "torch": _load_torch,
    "torchscript": _load_torchscript,
}
