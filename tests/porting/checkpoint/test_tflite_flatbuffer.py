"""Small .tflite files written table by table: what is read of them, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import pytest
import tflite

from effdet_model.errors import InputError
from porting.checkpoint.sources import open_source
from porting.checkpoint.tflite.flatbuffer import read_graph
from porting.checkpoint.tflite.metadata import NAME


def vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def table(builder: flatbuffers.Builder, **fields: int) -> int:
    """A table of offsets alone: place of the field (f0, f1, ...) -> offset."""
    builder.StartObject(10)
    for name, offset in fields.items():
        builder.PrependUOffsetTRelativeSlot(int(name[1:]), offset, 0)
    return int(builder.EndObject())


def numbers(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())


def metadata(mean: Sequence[float], deviation: Sequence[float]) -> bytes:
    builder = flatbuffers.Builder()
    options = table(builder, f0=numbers(builder, mean), f1=numbers(builder, deviation))
    builder.StartObject(2)
    builder.PrependUint8Slot(0, 1, 0)
    builder.PrependUOffsetTRelativeSlot(1, options, 0)
    unit = int(builder.EndObject())
    image = table(builder, f4=vector(builder, [unit]))
    graph = table(builder, f2=vector(builder, [image]))
    builder.Finish(table(builder, f3=vector(builder, [graph])), file_identifier=b"M001")
    return bytes(builder.Output())


def model(content: bytes = b"", shape: Sequence[int] = (1, 64, 64, 3), constant: bytes = b"", graphs: int = 1) -> bytes:
    """A file of one tensor, which is input and output (or a constant), and no operator."""
    builder = flatbuffers.Builder()
    buffers = []
    for data in (constant, content):
        held = builder.CreateByteVector(data) if data else 0
        tflite.BufferStart(builder)
        if held:
            tflite.BufferAddData(builder, held)
        buffers.append(tflite.BufferEnd(builder))
    name, described = builder.CreateString("images"), builder.CreateString(NAME)
    tflite.TensorStartShapeVector(builder, len(shape))
    for size in reversed(shape):
        builder.PrependInt32(size)
    sizes = builder.EndVector()
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, sizes)
    tflite.TensorAddName(builder, name)
    tflite.TensorAddBuffer(builder, 0)
    tensors = vector(builder, [tflite.TensorEnd(builder)])
    tflite.SubGraphStartInputsVector(builder, 1)
    builder.PrependInt32(0)
    ends = builder.EndVector()
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensors)
    tflite.SubGraphAddInputs(builder, ends)
    tflite.SubGraphAddOutputs(builder, ends)
    graph = tflite.SubGraphEnd(builder)
    tflite.MetadataStart(builder)
    tflite.MetadataAddName(builder, described)
    tflite.MetadataAddBuffer(builder, 1)
    entry = tflite.MetadataEnd(builder)
    entries, held, subgraphs = vector(builder, [entry]), vector(builder, buffers), vector(builder, [graph] * graphs)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddSubgraphs(builder, subgraphs)
    tflite.ModelAddBuffers(builder, held)
    tflite.ModelAddMetadata(builder, entries)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("mean", "deviation"), [((127.5,), (127.5,)), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))]
)
def test_normalisation_of_the_metadata(tmp_path: Path, mean: Sequence[float], deviation: Sequence[float]) -> None:
    found = read_graph(written(tmp_path, model(metadata(mean, deviation))), "model").normalisation
    assert found is not None
    assert found[0] == pytest.approx(mean, rel=1e-6) and found[1] == pytest.approx(deviation, rel=1e-6)
    assert read_graph(written(tmp_path, model()), "model").normalisation is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model(shape=(1, -64, 64, 3)), "sizes of 0 or more of images"),
        (model(shape=(1,) * 9), "at most 8 sizes"),
        (model(constant=b"\0" * 8), "expected 49152 bytes for images"),
        (model(shape=(1 << 30,) * 4, constant=b"\0" * 8), "bytes for images"),
        (model(graphs=2), "expected one graph .* found 2"),
        (model(metadata((1.0,), (0.0,))), "offset or size"),
        (model(metadata((float("nan"),), (1.0,))), "offset or size"),
        (model(b"\xff" * 40), "offset or size"),
        (model(), "expected outputs made of class and box predictions"),
        (model().replace(struct.pack("<i", 64), struct.pack("<i", 9000)), "expected one input of images"),
    ],
)
def test_what_is_no_model_is_one_message(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(written(tmp_path, content))
    assert "model.tflite" in str(caught.value) and len(str(caught.value)) < 600


def test_a_file_cut_anywhere_is_read_or_one_message(tmp_path: Path) -> None:
    whole = model(metadata((127.5,), (127.5,)))
    for end in range(len(whole)):
        try:
            read_graph(written(tmp_path, whole[:end]), "model.tflite")
        except InputError as error:
            assert len(str(error)) < 600
