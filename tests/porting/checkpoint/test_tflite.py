"""TFLite files: the network that their operators are, as variables; files that TensorFlow's converter makes here."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet_model import create_model
from effdet_model.errors import InputError
from effdet_model.variants import get_config
from porting.checkpoint.sources import open_source
from porting.checkpoint.tflite.flatbuffer import Graph, decoded, read_graph
from porting.checkpoint.tflite.fusion import EPSILON
from porting.checkpoint.tflite.recover import read_precision, recover
from porting.convert import convert
from porting.inspect.run import inspect_file
from porting.recognise.files import recognise_source
from tests.tflite_files import SIZE, make_files

BOUNDS = {"float32": 5e-6, "float16": 5e-3}
"""Kind -> largest difference from what the file was made from, relative to the largest output."""


def outputs(weights: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a model gives, under the names of the signature."""
    with torch.no_grad():
        found = create_model(weights=weights)(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    flat = [out.permute(0, 2, 3, 1).numpy() for outs in found for out in outs]
    return {f"output_{place}": out for place, out in enumerate(flat)}


def farthest(expected: Path, weights: Path) -> float:
    """Largest difference over the largest value, classes and boxes apart."""
    file = np.load(expected)
    found = outputs(weights, file["images"])
    worst = 0.0
    for places in (range(5), range(5, 10)):
        names = [f"output_{place}" for place in places]
        peak = max(np.abs(file[name]).max() for name in names)
        worst = max(worst, *(np.abs(file[name] - found[name]).max() / peak for name in names))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_outputs_are_those_of_what_the_file_was_made_from(lite: Path, tmp_path: Path, kind: str) -> None:
    written = convert(lite / f"{kind}.tflite", tmp_path / "a.pth")
    conversion = written.conversion
    assert conversion.config == get_config("lite0", image_size=SIZE)
    assert conversion.metadata["source"]["dialect"] == "tflite"
    assert conversion.notes[0] == (
        "the TFLite file's own graph says image size 128x192, act_type relu6, conv_after_downsample False"
    )
    assert "means and variances of the training are in no such file" in conversion.notes[1]
    assert any("rounded to float16" in note for note in conversion.notes) == (kind == "float16")
    assert farthest(lite / "outputs.npz", written.path) < BOUNDS[kind]


@pytest.mark.slow
def test_variables_are_the_checkpoint_s_with_its_batch_norms_multiplied_in(lite: Path) -> None:
    with open_source(lite / "checkpoint") as one, open_source(lite / "float32.tflite") as other:
        assert set(one.variables) == set(other.variables) and one.backbone_scope == other.backbone_scope
        assert {name: info.shape for name, info in one.variables.items()} == {
            name: info.shape for name, info in other.variables.items()
        }

        def folded(source: object, kernel: str, norm: str) -> np.ndarray:
            gamma, variance = (source.read(f"{norm}/{name}", "raw") for name in ("gamma", "moving_variance"))  # type: ignore[attr-defined]
            return np.asarray(source.read(kernel, "raw") * gamma / np.sqrt(variance + 1e-3))  # type: ignore[attr-defined]

        scope = "efficientnet-lite0"
        pairs = [(f"{scope}/stem/conv2d/kernel", f"{scope}/stem/tpu_batch_normalization")]
        pairs += [(f"{scope}/blocks_1/conv2d_1/kernel", f"{scope}/blocks_1/tpu_batch_normalization_2")]
        pairs += [("class_net/class-1/pointwise_kernel", f"class_net/class-1-bn-{level}") for level in range(3, 8)]
        for kernel, norm in pairs:
            a, b = folded(one, kernel, norm), folded(other, kernel, norm)
            assert np.abs(a - b).max() < 1e-6 * np.abs(a).max(), (kernel, norm)
        for name in ("class_net/class-predict/pointwise_kernel", "box_net/box-predict/bias"):
            np.testing.assert_array_equal(one.read(name, "raw"), other.read(name, "raw"))


@pytest.mark.slow
def test_int8_is_dequantised_as_the_interpreter_has_it(lite: Path, tmp_path: Path) -> None:
    """Each convolution with the recovered numbers, on the interpreter's own input, within one step of its output."""
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETER, str(lite / "int8.tflite"), str(lite / "outputs.npz"), str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    graph, kept = read_graph(lite / "int8.tflite", "int8"), np.load(tmp_path / "tensors.npz")
    assert read_precision(lite / "int8.tflite") == "int8"
    steps = [step for step in (_steps(graph, place, kept) for place in range(len(graph.operators))) if step is not None]
    assert len(steps) > 150 and max(steps) < 1.5, (len(steps), max(steps))
    written = convert(lite / "int8.tflite", tmp_path / "a.pth")
    assert any("dequantised from int8, per channel: an approximation" in note for note in written.conversion.notes)
    assert 1e-3 < farthest(lite / "outputs.npz", written.path) < 0.3


INTERPRETER = """
import sys, numpy as np, tensorflow as tf
interpreter = tf.lite.Interpreter(sys.argv[1], experimental_preserve_all_tensors=True, experimental_op_resolver_type=
    tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
interpreter.allocate_tensors()
taken = interpreter.get_input_details()[0]
scale, zero = taken["quantization"]
images = np.load(sys.argv[2])["images"]
interpreter.set_tensor(taken["index"], np.clip(np.round(images / scale + zero), 0, 255).astype(np.uint8))
interpreter.invoke()
kept = {}
for one in interpreter.get_tensor_details():
    try:
        kept[str(one["index"])] = interpreter.get_tensor(one["index"])
    except ValueError:
        pass  # of no use to an operator
np.savez(sys.argv[3] + "/tensors.npz", **kept)
"""


def _steps(graph: Graph, place: int, kept: np.lib.npyio.NpzFile) -> float | None:
    """How many steps of its output a convolution is from what the interpreter made; None of other operators."""
    operator = graph.operators[place]
    if operator.name not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return None

    def real(number: int) -> np.ndarray:
        found = graph.tensors[number].quantisation
        assert found is not None and len(found.scales) == 1
        return (kept[str(number)].astype(np.float64) - found.zero_points[0]) * found.scales[0]

    x, kernel, bias = real(operator.inputs[0]), decoded(graph.tensors[operator.inputs[1]]), operator.inputs[2]
    depthwise = operator.name == "DEPTHWISE_CONV_2D"
    weight = torch.from_numpy(kernel.transpose(3, 0, 1, 2) if depthwise else kernel.transpose(0, 3, 1, 2))
    image = torch.from_numpy(x.transpose(0, 3, 1, 2))
    pads = []
    for axis in (3, 2):
        size, stride = kernel.shape[axis - 1], operator.options["stride"][axis - 2]
        whole = max((-(-image.shape[axis] // stride) - 1) * stride + size - image.shape[axis], 0)
        pads += [whole // 2, whole - whole // 2]
    stride = operator.options["stride"]
    out = torch.nn.functional.conv2d(
        torch.nn.functional.pad(image, pads), weight.contiguous(), torch.from_numpy(decoded(graph.tensors[bias])),
        stride, groups=image.shape[1] if depthwise else 1,
    )  # fmt: skip
    if operator.options["activation"] == "relu6":
        out = out.clamp(0, 6)
    tensor = graph.tensors[operator.outputs[0]].quantisation
    assert tensor is not None
    limits = (np.array([-128, 127]) - tensor.zero_points[0]) * tensor.scales[0]
    out = out.clamp(*limits)
    return float(np.abs(out.permute(0, 2, 3, 1).numpy() - real(operator.outputs[0])).max() / tensor.scales[0])


@pytest.mark.slow
def test_swish_squeeze_and_fusion_weights(tmp_path: Path) -> None:
    folder = make_files(tmp_path, "d0", "float32")
    with open_source(folder / "float32.tflite") as source:
        assert recognise_source(source, "d0").config == get_config("d0", image_size=SIZE)
        weights = {
            name: source.read(name, "raw") for name in source.variables if "/cell_0/fnode4/WSM" in name
        }
    with open_source(folder / "checkpoint") as source:
        raw = {name: np.maximum(source.read(name, "raw"), 0) for name in weights}
    assert len(weights) == 3

    def shares(values: dict[str, np.ndarray]) -> np.ndarray:
        total = sum(float(value) for value in values.values()) + EPSILON
        return np.array([float(value) / total for _, value in sorted(values.items())])

    np.testing.assert_allclose(shares(weights), shares(raw), atol=2e-4)
    written = convert(folder / "float32.tflite", tmp_path / "a.pth", "d0")
    assert farthest(folder / "outputs.npz", written.path) < BOUNDS["float32"]


@pytest.mark.slow
def test_inspect_names_the_file_and_the_next_command(lite: Path) -> None:
    found = inspect_file(lite / "int8.tflite")
    assert found.usable and found.dialect == "tflite"
    assert found.next_command == f"python cli.py convert --variant lite0 --checkpoint {lite / 'int8.tflite'}"


@pytest.mark.slow
def test_half_a_file_or_another_is_one_message(lite: Path, tmp_path: Path) -> None:
    whole, draw = (lite / "float16.tflite").read_bytes(), random.Random(3)
    read_graph(lite / "float16.tflite", "whole")
    file = tmp_path / "half.tflite"
    cuts = [0, 3, 8, 9, 15, 16, 17, 100, len(whole) // 2, len(whole) - 1]
    for content in (*(whole[:cut] for cut in cuts), whole[:4] + b"TFL2" + whole[8:], b"\0\0\0\0TFL3" + bytes(50)):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"^.*half\.tflite.*: expected .*, found .*") as caught:
            open_source(file).close()
        assert len(str(caught.value)) < 600
    tables = len(whole) - 200_000  # the tables lie behind the numbers of the constants
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[draw.randrange(tables, len(whole))] = draw.choice([0, 1, 0x7F, 0x80, 0xFF])
        file.write_bytes(damaged)
        try:
            recover(read_graph(file, str(file)), str(file))
        except InputError as error:
            assert len(str(error)) < 600
