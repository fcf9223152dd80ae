"""The detector: its parts put together give what the parts give, for any mixture of images."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim.swa_utils import AveragedModel

from effdet_model import InputError, create_model
from effdet_model.anchors import anchors_from_config
from effdet_model.decoding import decode_image, rgb_pixels
from effdet_model.detector import Detector
from effdet_model.nms import postprocess
from effdet_model.preprocessing import preprocess
from tests.image_cases import image_files


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("d0", image_size=(128, 256))


@pytest.fixture
def pictures():
    random = np.random.RandomState(0)
    return [
        random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        for height, width in ((50, 90), (70, 30), (128, 256))
    ]


def test_detections_are_those_of_the_parts(model, pictures):
    found = Detector(model, batch_size=2)(pictures)
    assert len(found) == 3
    for picture, one in zip(pictures, found, strict=True):
        inputs, scale = preprocess(picture, model.config)
        with torch.inference_mode():
            outputs = model(inputs[None])
        anchors = torch.from_numpy(anchors_from_config(model.config))
        (rows,) = postprocess("numpy_gaussian", *outputs, anchors, 90, [scale], (128, 256))
        np.testing.assert_array_equal(one.category_ids, rows[:, 5])
        np.testing.assert_allclose(one.scores, rows[:, 4], atol=1e-6)
        np.testing.assert_allclose(one.boxes_xyxy, rows[:, [1, 0, 3, 2]], atol=1e-3)
        assert len(one) == len(one.names) == 100


def test_paths_arrays_and_tensors_mix(model, pictures, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(image_files()["png-rgb"])
    detector = Detector(model, "graph_hard")
    found = detector([path, str(path), torch.from_numpy(pictures[0]), pictures[0]])
    for one, other in (found[:2], found[2:]):
        np.testing.assert_array_equal(one.category_ids, other.category_ids)
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)


def test_a_single_image_is_a_list_of_one(model, pictures, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(image_files()["jpeg-2-95-False"])
    detector = Detector(model)
    assert len(detector(pictures[0])) == len(detector(path)) == len(detector(str(path))) == 1
    assert detector([]) == []


def test_a_stream_is_read_batch_by_batch(model, pictures):
    taken = []

    def source():
        for picture in pictures * 2:
            taken.append(picture)
            yield picture

    results = Detector(model, batch_size=2).stream(source())
    next(results)
    assert len(taken) == 2
    assert len(list(results)) == 5


def test_above_keeps_the_best(model, pictures):
    (found,) = Detector(model)(pictures[0])
    limit = float(found.scores[9])
    best = found.above(limit)
    assert len(best) >= 10 and (best.scores >= limit).all() and best.names == found.names[: len(best)]


def test_names_come_from_the_label_map(model, pictures):
    (found,) = Detector(model, label_map={1: "thing"})(pictures[0])
    expected = ["thing" if number == 1 else f"class {number}" for number in found.category_ids]
    assert found.names == expected
    (coco,) = Detector(model)(pictures[0])
    assert any(not name.startswith("class ") for name in coco.names)


def test_the_profile_and_its_sizes_count(model, pictures):
    (found,) = Detector(model, "numpy_hard", nms_configs={"max_output_size": 5})(pictures[0])
    assert len(found) == 5


def test_what_the_weights_set_counts(pictures):
    model = create_model("d0", image_size=64, nms_configs={"max_output_size": 3, "method": "hard"})
    detector = Detector(model)
    assert detector.profile.name == "numpy_hard"
    assert [len(found) for found in detector(pictures)] == [3, 3, 3]
    assert len(Detector(model, nms_configs={"max_output_size": 5})(pictures[0])[0]) == 5
    with pytest.raises(InputError, match="nms_configs.method=hard"):
        Detector(model, "numpy_gaussian")


def test_score_threshold_leaves_out_what_is_below(model, pictures):
    (found,) = Detector(model)(pictures[0])
    limit = float(found.scores[9])
    (above,) = Detector(model, score_threshold=limit)(pictures[0])
    assert len(above) == len(found.above(limit)) >= 10 and above.scores.min() >= limit
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="score_threshold: expected a number from 0 to 1, found"):
            Detector(model, score_threshold=wrong)


def same(one, other, atol=1e-3):
    assert one.category_ids.tolist() == other.category_ids.tolist()
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=atol)


def test_pillow_images_alone_and_in_lists(model, pictures):
    detector = Detector(model, "graph_hard")
    expected = detector(pictures)
    images = [Image.fromarray(picture) for picture in pictures]
    (alone,) = detector(images[0])
    same(alone, expected[0])
    for one, other in zip(detector(images), expected, strict=True):
        same(one, other)
    same(detector([pictures[0], images[1]])[1], expected[1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pillow_images_of_every_mode_become_rgb(mode):
    colors = Image.fromarray(np.random.RandomState(1).randint(0, 256, (20, 30, 3)).astype(np.uint8))
    grey = np.asarray(colors.convert("L"))
    if mode == "I;16":
        image, expected = Image.fromarray(grey.astype(np.uint16) * 257), np.stack([grey] * 3, axis=-1)
    elif mode == "RGBa":
        image, expected = colors.convert("RGBA").convert("RGBa"), np.asarray(colors)
    elif mode == "CMYK":
        image, expected = colors.convert("CMYK"), np.asarray(colors)
    else:
        image = colors.convert(mode)
        expected = np.asarray(image.convert("RGB"))
    if mode == "RGBA":
        image.putalpha(0)
    before = image.tobytes()
    found = rgb_pixels(image)
    assert found.dtype == np.uint8 and found.flags.writeable
    np.testing.assert_array_equal(found, expected)
    assert image.tobytes() == before


def test_pillow_images_equal_their_files(tmp_path):
    """To the bit where Pillow decodes both, closely for JPEG; EXIF orientation is ignored."""
    compared = 0
    for name, data in image_files().items():
        if name.startswith(("broken", "damaged", "refused")):
            continue
        found, expected = rgb_pixels(Image.open(io.BytesIO(data))).astype(int), decode_image(data)
        limit = 0
        if name.startswith("jpeg"):
            limit = 40 if "30" in name or "cmyk" in name or "ycck" in name else 20
        assert found.shape == expected.shape and abs(found - expected).max() <= limit, name
        compared += 1
    assert compared > 30
    turned = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert rgb_pixels(Image.open(tmp_path / "turned.png")).shape == decode_image(tmp_path / "turned.png").shape
    assert rgb_pixels(Image.open(tmp_path / "turned.png")).shape == (20, 30, 3)


def test_pillow_images_without_a_meaning_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected 8 or 16 bits per channel, found mode F"):
        rgb_pixels(Image.new("F", (4, 4)))
    (tmp_path / "cut.png").write_bytes(image_files()["png-rgb"][:-60])
    with pytest.raises(InputError, match=r"cut\.png: expected one that converts to RGB"):
        rgb_pixels(Image.open(tmp_path / "cut.png"))


@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_models_of_every_precision(model, pictures, dtype, atol):
    """What the model gives in its own precision, suppressed in float32."""
    typed = copy.deepcopy(model).to(dtype)
    (found,) = Detector(typed)(pictures[2])
    assert next(typed.parameters()).dtype == dtype and found.boxes_xyxy.dtype == found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, Detector(model)(pictures[2])[0].scores, atol=atol)
    inputs, scale = preprocess(pictures[2], model.config)
    with torch.inference_mode():
        outputs = typed(inputs[None].to(dtype))
    anchors = torch.from_numpy(anchors_from_config(model.config))
    (rows,) = postprocess("numpy_gaussian", *outputs, anchors, 90, [scale], (128, 256))
    assert found.category_ids.tolist() == rows[:, 5].tolist()
    np.testing.assert_allclose(found.boxes_xyxy, rows[:, [1, 0, 3, 2]], atol=1e-3)


def test_the_callers_model_stays_as_it_is(model, pictures):
    mine = copy.deepcopy(model)
    expected = Detector(model)(pictures[0])[0]
    mine.train()
    mine.backbone.bn1.eval()
    modes = [module.training for module in mine.modules()]
    state = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    detector = Detector(mine)
    same(detector(pictures[0])[0], expected)
    assert [module.training for module in mine.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in mine.state_dict().items())
    with pytest.raises(InputError):
        detector(np.zeros((3, 8, 8), np.float32))
    assert [module.training for module in mine.modules()] == modes
    assert detector.model is mine and Detector(mine, device="cpu").model is mine


def test_the_model_is_looked_at_anew_in_every_call(model, pictures):
    mine = copy.deepcopy(model)
    detector = Detector(mine)
    before = detector(pictures[0])[0]
    with torch.no_grad():
        mine.class_net.predict.conv_pw.bias.add_(1.0)
    assert detector(pictures[0])[0].scores[0] > before.scores[0]


def test_wrapped_models(model, pictures):
    expected = Detector(model)(pictures[0])[0]
    model, parallel = copy.deepcopy(model), torch.nn.DataParallel  # which moves a model to the GPU
    for wrapped in (parallel(model), AveragedModel(model), parallel(AveragedModel(model))):
        same(Detector(wrapped)(pictures[0])[0], expected)
    with pytest.raises(InputError, match="Detector: expected a model as create_model makes it, found Linear without"):
        Detector(torch.nn.Linear(1, 1))


def test_a_distributed_model(model, pictures, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model))
        same(Detector(wrapped)(pictures[0])[0], Detector(model)(pictures[0])[0])
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nonsense"])
def test_a_device_that_does_not_work_here_is_named(model, device):
    with pytest.raises(InputError, match=f"device: expected a device that works here, found '{device}'") as error:
        Detector(model, device=device)
    assert len(str(error.value)) < 600
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_clear_error(model):
    with pytest.raises(InputError, match="found 'cuda': .*; use cpu or another"):
        Detector(model, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_runs_on_the_gpu(model, pictures):
    detector = Detector(model, device="cuda")
    assert detector.device.type == "cuda" and next(model.parameters()).device.type == "cpu"
    same(detector(pictures[0])[0], Detector(model)(pictures[0])[0], atol=0.1)


def test_wrong_use_is_refused(model, pictures, tmp_path):
    for wrong in (0, 1.5, "a", None):
        with pytest.raises(InputError, match=f"batch_size: expected a whole number from 1 to .*, found {wrong!r}"):
            Detector(model, batch_size=wrong)
    for wrong in ("a", None, True, [0.5]):
        with pytest.raises(InputError, match="score_threshold: expected a number from 0 to 1, found"):
            Detector(model, score_threshold=wrong)
    with pytest.raises(InputError, match="nms_configs: expected a mapping with keys such as method"):
        Detector(model, nms_configs=["method"])
    with pytest.raises(InputError, match="unknown suppression profile: 5"):
        Detector(model, 5)
    for wrong in (None, 5, b"\xff\xd8\xff"):
        with pytest.raises(InputError, match="images: expected uint8 arrays, Pillow images or paths, one or several"):
            Detector(model)(wrong)
    with pytest.raises(InputError, match=r"image: expected uint8 .* found uint8 \[8, 9\]"):
        Detector(model)(np.zeros((8, 9), np.uint8))
    with pytest.raises(InputError, match="unknown suppression profile: 'soft'"):
        Detector(model, "soft")
    with pytest.raises(InputError, match=r"gone\.png: expected an image file, found no such file"):
        Detector(model)([pictures[0], tmp_path / "gone.png"])
    with pytest.raises(InputError, match=r"image: expected uint8 \[height, width, 3\]"):
        Detector(model)(np.zeros((3, 8, 8), np.float32))
