"""Files of every format, written into a folder that nobody else looks into; `export.run` gives them their names."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.nms_profiles import NmsProfile
from export.graph.onnx_graph import OPSET, append_detections
from export.metadata import KEY
from export.network import ExportedNetwork, InputKind, example_input, exported_program
from export.outputs import INPUT, level_names


@dataclass(frozen=True)
class Job:
    """One file to write.

    Attributes:
        network: in eval mode. config: its image_size is the file's. suppression: a profile, "tensorrt", or None.
        batch: None: any number of images. metadata: plain data.
    """

    network: ExportedNetwork
    config: EfficientDetConfig
    kind: InputKind
    batch: int | None
    suppression: NmsProfile | str | None
    metadata: Mapping[str, Any]


def write(job: Job, format_name: str, path: Path) -> list[Path]:
    """Write a file of a format; the files that it consists of, `path` first.

    Of a file with detections a second one is written for its proof, whose outputs the levels are too (`levels_path`);
    with those of TensorRT alone.
    """
    with _quiet():
        return _WRITERS[format_name](job, path)


def levels_path(path: Path) -> Path:
    """Where the file for the proof lies."""
    return path.with_name(f"levels-{path.name}")


def onnx_model(job: Job) -> Any:
    """`onnx.ModelProto` of the network alone."""
    import torch

    program = exported_program(job.network, job.config, job.kind, job.batch)
    classes, boxes = level_names(job.config)
    made = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[*classes, *boxes], verbose=False,
    )  # fmt: skip
    assert made is not None
    model = made.model_proto
    _name_batch(model)
    return model


def _write_onnx(job: Job, path: Path) -> list[Path]:
    import onnx

    model = onnx_model(job)
    if job.suppression is not None:
        with_levels = onnx.ModelProto()
        with_levels.CopyFrom(model)
        append_detections(model, job.config, job.suppression, keep_levels=False)
        if isinstance(job.suppression, NmsProfile):
            append_detections(with_levels, job.config, job.suppression, keep_levels=True)
            onnx.save(with_levels, levels_path(path))
        else:
            onnx.save(with_levels, levels_path(path))
    model.producer_name = job.metadata["tool"]["name"]
    model.producer_version = job.metadata["tool"]["version"]
    onnx.helper.set_model_props(model, {KEY: json.dumps(job.metadata, sort_keys=True)})
    if not isinstance(job.suppression, str):
        onnx.checker.check_model(model)
    onnx.save(model, path)
    return [path]


def _name_batch(model: Any) -> None:
    """A dynamic first dimension is called batch everywhere; what the exporter noted of its own graphs is left out."""
    del model.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
        shape = value.type.tensor_type.shape.dim
        if len(shape) and shape[0].dim_param:
            shape[0].dim_param = "batch"
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


def _write_openvino(job: Job, path: Path) -> list[Path]:
    import openvino

    source = path.with_suffix(".onnx")
    _write_onnx(job, source)
    models = {path: source}
    if levels_path(source).exists():
        models[levels_path(path)] = levels_path(source)
    for target, made_from in models.items():
        model = openvino.convert_model(str(made_from))
        model.set_rt_info(json.dumps(job.metadata, sort_keys=True), [KEY])
        openvino.save_model(model, str(target), compress_to_fp16=False)
        made_from.unlink()
    return [path, path.with_suffix(".bin")]


def _write_torch(job: Job, path: Path) -> list[Path]:
    import torch

    program = exported_program(job.network, job.config, job.kind, job.batch)
    with open(path, "wb") as file:
        torch.export.save(program, file, extra_files={KEY: json.dumps(job.metadata, sort_keys=True)})
    return [path]


def _write_torchscript(job: Job, path: Path) -> list[Path]:
    import torch

    with torch.no_grad():
        traced: Any = torch.jit.trace(job.network, example_input(job.config, job.kind, job.batch or 2))
    extra = {KEY: json.dumps(job.metadata, sort_keys=True)}
    torch.jit.save(traced, str(path), _extra_files=extra)
    return [path]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell of themselves: deprecated passes, formats, versions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_WRITERS = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch": _write_torch,
    "torchscript": _write_torchscript,
}
