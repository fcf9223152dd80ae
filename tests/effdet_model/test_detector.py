"""The detector: its parts put together give what the parts give, for any mixture of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effdet_model import InputError, create_model
from effdet_model.anchors import anchors_from_config
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


def test_wrong_use_is_refused(model, pictures, tmp_path):
    with pytest.raises(InputError, match="batch size: expected at least 1, found 0"):
        Detector(model, batch_size=0)
    with pytest.raises(InputError, match="unknown suppression profile: 'soft'"):
        Detector(model, "soft")
    with pytest.raises(InputError, match=r"gone\.png: expected an image file, found no such file"):
        Detector(model)([pictures[0], tmp_path / "gone.png"])
    with pytest.raises(InputError, match=r"image: expected uint8 \[height, width, 3\]"):
        Detector(model)(np.zeros((3, 8, 8), np.float32))
