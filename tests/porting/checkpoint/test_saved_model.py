"""SavedModels: the variables are the checkpoint's, the graph is read for what it says and never run."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from demo.synthetic import write_synthetic_checkpoint
from effdet_model.anchors import anchors_from_config, generate_anchors
from effdet_model.config import ASPECT_RATIO_PAIRS
from effdet_model.errors import InputError
from effdet_model.variants import get_config
from porting.checkpoint.saved_model.program import Program, read_program
from porting.checkpoint.saved_model.stated import stated_by
from porting.checkpoint.sources import open_source
from porting.checkpoint.stated import anchor_fields
from porting.checkpoint.wire import write_varint
from porting.convert import convert
from porting.inspect.run import inspect_file
from porting.recognise.files import recognise_source

HEADS = {f"class_net/class-0-bn-{level}/gamma": (64,) for level in range(3, 8)} | {"box_net/box-predict/bias": (36,)}


def message(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return write_varint(number << 3) + write_varint(content)
    return write_varint(number << 3 | 2) + write_varint(len(content)) + content


def shape(sizes: Sequence[int]) -> bytes:
    return b"".join(message(2, message(1, size % (1 << 64))) for size in sizes)


def signature(name: str, sizes: Sequence[int], dtype: int = 1) -> bytes:
    info = message(1, b"images:0") + message(2, dtype) + message(3, shape(sizes))
    definition = message(1, message(1, b"images") + message(2, info))
    return message(5, message(1, name.encode()) + message(2, definition))


def node(name: str, operation: str, inputs: Sequence[str] = (), constant: np.ndarray | None = None) -> bytes:
    content = message(1, name.encode()) + message(2, operation.encode())
    content += b"".join(message(3, word.encode()) for word in inputs)
    if constant is not None:
        whole = constant.dtype.kind == "i" and constant.ndim == 0
        values = constant.astype("<i4" if whole else "<f4").tobytes()
        tensor = message(1, 3 if whole else 1) + message(2, shape(constant.shape)) + message(4, values)
        content += message(5, message(1, b"value") + message(2, message(8, tensor)))
    return content


def program(signatures: Sequence[bytes], nodes: Sequence[bytes]) -> bytes:
    """A saved_model.pb with one function."""
    function = b"".join(message(3, content) for content in nodes)
    graph = message(2, message(2, message(1, function)))
    return message(1, 1) + message(2, message(1, message(5, b"2.15.1")) + graph + b"".join(signatures))


def network(mean: Sequence[float], stddev: Sequence[float], boxes: np.ndarray, activation: str) -> list[bytes]:
    return [
        node("m", "Const", constant=np.array(mean).reshape(1, 1, 3)),
        node("s", "Const", constant=np.array(stddev).reshape(1, 1, 3)),
        node("sub", "Sub", ["images", "m:output:0"]),
        node("div", "RealDiv", ["sub:z:0", "s:output:0"]),
        node("anchors", "Const", constant=boxes),
        *(node(f"a{place}", activation, ["x"]) for place in range(30)),
    ]


def saved_model(folder: Path, variant: str, content: bytes) -> Path:
    """An export of made-up weights with this saved_model.pb."""
    write_synthetic_checkpoint(variant, folder / "variables", ema=False, momentum=False)
    for path in (folder / "variables").iterdir():
        if path.name == "checkpoint":
            path.unlink()
        else:
            path.rename(path.with_name("variables" + path.name[path.name.rindex("."):]))
    (folder / "saved_model.pb").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lite0 for pictures of 128 x 192, whose anchors have the sides that were usual before 2020-09-10."""
    boxes = generate_anchors((128, 192), 3, 7, 3, ASPECT_RATIO_PAIRS, 3.0)
    nodes = network((127,) * 3, (128,) * 3, boxes, "Relu6")
    content = program([signature("predict", (1, 128, 192, 3)), signature("serving_default", (1, -1, -1, 3), 4)], nodes)
    return saved_model(tmp_path_factory.mktemp("export"), "lite0", content)


def test_a_saved_model_says_how_it_is_used(export: Path, tmp_path: Path) -> None:
    written = convert(export, tmp_path / "a.safetensors")
    config, variables = written.conversion.config, export / "variables" / "variables"
    assert config == get_config(
        "lite0", image_size=(128, 192), aspect_ratios=ASPECT_RATIO_PAIRS, mean_rgb=127.0, stddev_rgb=128.0
    )
    assert written.conversion.notes[0] == (
        "the SavedModel's own graph says image size 128x192, mean 127, standard deviation 128, act_type relu6, "
        "num_scales 3, aspect_ratios [[1, 1], [1.4, 0.7], [0.7, 1.4]], anchor_scale 3"
    )
    for path in (export / "saved_model.pb", variables, export / "variables"):
        with open_source(path) as source:
            assert source.dialect == "savedmodel" and source.stated["image_size"] == (128, 192)
    found = inspect_file(export)
    assert found.usable and found.notes[0].startswith("the SavedModel's own graph says")
    assert found.next_command == f"python cli.py convert --variant lite0 --checkpoint {export}"


def test_the_user_goes_before_the_graph(export: Path) -> None:
    with open_source(export) as source:
        found = recognise_source(source, overrides={"image_size": (64, 64), "act_type": "relu6"})
    assert found.config is not None and found.config.image_size == (64, 64)
    assert "took image_size=(64, 64) as asked, though the file itself says (128, 192)" in found.notes


def test_an_archive_as_the_hub_has_them(export: Path, tmp_path: Path) -> None:
    """Everything at the top: saved_model.pb, variables/, assets/."""
    (tmp_path / "vocabulary.txt").write_text("x")
    with tarfile.open(tmp_path / "1.tar.gz", "w:gz") as archive:
        archive.add(export, "./")
        archive.add(tmp_path / "vocabulary.txt", "./assets/vocabulary.txt")
    with open_source(tmp_path / "1.tar.gz") as packed, open_source(export) as plain:
        assert packed.dialect == "savedmodel" and packed.stated == plain.stated
        name = "class_net/class-predict/bias"
        assert packed.read(name).tobytes() == plain.read(name).tobytes()


def test_preprocessing_tells_models_of_the_same_shapes_apart(tmp_path: Path) -> None:
    """d0 and d0_ap have the same variables."""
    for name, mean, stddev in (("d0", get_config("d0").mean_rgb, get_config("d0").stddev_rgb),
                               ("d0_ap", (0.0,) * 3, (1.0,) * 3)):  # fmt: skip
        nodes = network(mean, stddev, np.zeros((5, 4)), "Sigmoid")  # type: ignore[arg-type]
        folder = saved_model(tmp_path / f"made{name[2:]}", "d0", program([signature("predict", (1, 64, 64, 3))], nodes))
        with open_source(folder) as source:
            found = recognise_source(source)
        assert found.config == get_config(name, image_size=(64, 64)), found


@pytest.mark.parametrize(
    ("scales", "aspects", "scale"),
    [
        (3, (1.0, 2.0, 0.5), 4.0), (3, ASPECT_RATIO_PAIRS, 4.0), (2, (1.0, 3.0, 0.25), 2.5), (1, (1.0,), 3.0),
        (3, (), 4.0),
    ],
)
def test_anchors_come_back(scales: int, aspects: tuple[float, ...], scale: float) -> None:
    size, levels = (96, 160), range(3, 8)
    boxes = generate_anchors(size, 3, 7, scales, aspects or (1.0, 2.0, 0.5), scale)
    if not aspects:
        boxes[100] += 1.0
    found = anchor_fields(boxes, size, levels, scales * (len(aspects) or 3))
    expected = {"num_scales": scales, "aspect_ratios": aspects, "anchor_scale": scale}
    assert found == (expected if aspects else None)


def test_what_a_graph_does_not_say() -> None:
    found = stated_by(None, HEADS)
    assert not found.fields and "missing or empty" in found.notes[0]
    several = Program(signatures={})
    assert not stated_by(several, HEADS).fields
    config = get_config("lite0", image_size=(64, 64))
    wrong = anchors_from_config(config) + np.arange(4, dtype=np.float32)
    nodes = network((127,) * 3, (128,) * 3, wrong, "Relu")
    graph = read(program([signature("predict", (1, 64, 64, 3)), signature("other", (1, 64, 64, 3))], nodes))
    found = stated_by(graph, HEADS)
    assert set(found.fields) == {"image_size", "mean_rgb", "stddev_rgb"}
    assert "anchor boxes that no num_scales" in found.notes[1]
    two = read(program([signature("a", (1, 64, 64, 3)), signature("b", (1, 96, 64, 3))], []))
    assert "several sizes (64x64, 96x64)" in stated_by(two, HEADS).notes[0]


def suppression(most: int, iou: float, score: float, sigma: float) -> list[bytes]:
    """A NonMaxSuppressionV5 as google/automl's exporter has it; numbers as TensorFlow may write them."""
    by_value = message(1, b"value") + message(2, message(8, message(1, 3) + message(2, b"") + message(7, most)))
    return [
        node("n/most", "Const") + message(5, by_value),
        node("n/iou", "Const", constant=np.array(iou)), node("n/score", "Const", constant=np.array(score)),
        node("n/sigma", "Const", constant=np.array(sigma)),
        node("n", "NonMaxSuppressionV5", [
            "boxes", "scores", *(f"n/{name}:output:0" for name in ("most", "iou", "score", "sigma"))
        ]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((100, 0.5, 0.001, 0.25), None),
        ((100, 0.5, float("-inf"), 0.0), {"method": "hard"}),
        ((200, 0.6, 0.4, 0.0), {"method": "hard", "iou_thresh": 0.6, "score_thresh": 0.4, "max_output_size": 200}),
        ((100, 0.5, 0.001, 0.4), {"sigma": 0.8}),
    ],
)
def test_suppression_that_the_graph_has(
    settings: tuple[int, float, float, float], expected: Mapping[str, object] | None
) -> None:
    found = stated_by(read(program([], suppression(*settings))), HEADS)
    assert found.fields.get("nms_configs") == expected
    assert "the graph's own suppression is TensorFlow's" in found.notes[-1]
    config = get_config("lite0")
    assert (config.replace(**found.fields) == config) == (expected is None)


def test_suppression_that_is_not_taken() -> None:
    for settings in ((100, 7.0, 0.1, 0.0), (100, float("nan"), 0.1, 0.0), (1 << 31, 0.5, 0.1, 0.0)):
        assert "nms_configs" not in stated_by(read(program([], suppression(*settings))), HEADS).fields
    two = [node("k", "Const", constant=np.array(5000)), node("t", "TopKV2", ["x", "k:output:0"])]
    found = stated_by(read(program([], [*suppression(100, 0.5, 0.001, 0.25), *two])), HEADS)
    assert found.fields["nms_configs"] == {"max_nms_inputs": 5000}


def read(content: bytes) -> Program:
    path = Path(read.folder) / "saved_model.pb"  # type: ignore[attr-defined]
    path.write_bytes(content)
    found = read_program(path, "saved_model.pb")
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    read.folder = tmp_path  # type: ignore[attr-defined]


WHOLE = program([signature("predict", (1, 64, 64, 3))], network((1, 2, 3), (4, 5, 6), np.ones((8, 4)), "Relu6"))
HOSTILE: Mapping[str, bytes] = {
    "no graph": message(1, 1),
    "web page": b"<!doctype html><html>",
    "many graphs": message(2, b"") * 101,
    "length beyond the end": write_varint(2 << 3 | 2) + write_varint(1 << 40),
    "group": b"\x0b",
    "constant of 2**62": program([], [node("c", "Const") + message(5, message(1, b"value") + message(2, message(8,
        message(1, 1) + message(2, shape((1 << 60, 4))) + message(4, b"\0" * 16))))]),
    "negative size": program([signature("predict", (1, -5, 64, 3))], []),
    "text that is none": program([], [message(1, b"\xff\xfe") + message(2, b"Const")]),
    "number of 64 bits": program([], [node("c", "Const") + message(5, message(1, b"value") + message(2, message(8,
        message(1, 1) + message(2, shape((3,))) + message(5, (1 << 64) - 1) + message(2, shape((-2,))))))]),
    "rank of 33": program([signature("predict", (1,) * 33)], []),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_graph_is_one_message(kind: str) -> None:
    with pytest.raises(InputError, match=r"saved_model.pb: expected .*; copy or download the checkpoint again"):
        read(HOSTILE[kind])


def test_a_graph_cut_anywhere_is_read_or_one_message() -> None:
    for end in range(1, len(WHOLE), 7):
        try:
            read(WHOLE[:end])
        except InputError as error:
            assert len(str(error)) < 600


def test_half_a_saved_model(export: Path, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(WHOLE)
    with pytest.raises(InputError, match=r"expected the variables of this SavedModel .* found saved_model.pb alone"):
        open_source(tmp_path)
    frozen = tmp_path / "efficientdet-d0_frozen.pb"
    frozen.write_bytes(message(1, node("c", "Const")))
    with pytest.raises(InputError, match="found a graph without variables; name the SavedModel's folder"):
        open_source(frozen)
    folder = tmp_path / "cut"
    (folder / "variables").mkdir(parents=True)
    for path in (export / "variables").iterdir():
        (folder / "variables" / path.name).write_bytes(path.read_bytes())
    (folder / "saved_model.pb").write_bytes(WHOLE[:-9])
    with pytest.raises(InputError, match=r"cut/saved_model.pb: expected .* found"):
        open_source(folder)


EXPORTER = """
import os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
import numpy as np, tensorflow as tf
reader = tf.train.load_checkpoint(sys.argv[1])

class Model(tf.Module):
    def __init__(self):
        super().__init__()
        names = [name for name in reader.get_variable_to_shape_map() if "global_step" not in name]
        self.model = tf.Module()
        self.model.kept = [tf.Variable(reader.get_tensor(name), name=name) for name in sorted(names)]
        self.bias = next(v for v in self.model.kept if v.name == "box_net/box-predict/bias:0")
    @tf.function(input_signature=[tf.TensorSpec([1, 64, 96, 3], tf.float32, name="images")])
    def predict(self, images):
        return [tf.nn.relu6(images[..., :1]) + self.bias]
    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8, name="images")])
    def __call__(self, images):
        x = tf.cast(images, tf.float32)
        x -= tf.constant([127.0, 127.0, 127.0], shape=(1, 1, 3))
        return x / tf.constant([128.0, 128.0, 128.0], shape=(1, 1, 3)), tf.constant(np.load(sys.argv[3]))

model = Model()
tf.saved_model.save(model, sys.argv[2], {"predict": model.predict, "serving_default": model.__call__})
"""


@pytest.mark.slow
def test_an_export_of_tensorflow_itself(tmp_path: Path) -> None:
    prefix = write_synthetic_checkpoint("lite0", tmp_path / "checkpoint", momentum=False, ema=False)
    np.save(tmp_path / "anchors.npy", anchors_from_config(get_config("lite0", image_size=(64, 96))))
    words = [str(prefix), str(tmp_path / "export"), str(tmp_path / "anchors.npy")]
    done = subprocess.run([sys.executable, "-c", EXPORTER, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = convert(tmp_path / "export", tmp_path / "one.safetensors").conversion
    other = convert(prefix, tmp_path / "other.safetensors", variables="raw").conversion
    assert one.config == get_config("lite0", image_size=(64, 96))
    assert {key: value.numpy().tobytes() for key, value in one.state_dict.items()} == {
        key: value.numpy().tobytes() for key, value in other.state_dict.items()
    }
