"""Detection from files to files: what is drawn and listed is what the detector finds, and nothing is left half done."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from demo.drawn_images import draw_dataset
from detect.run import DetectOptions, detect, output_names
from effdet_model import Detector, InputError, create_model
from effdet_model.decoding import decode_image


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny inputs: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(create_model("lite0", image_size=64).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw_dataset(folder, 4, suffixes=(".jpg", ".png", ".bmp", ".jpeg"))
    images = folder / "images"
    Image.open(images / "000000000002.png").save(images / "000000000001.png")
    (images / "notes.txt").write_text("no image")
    (images / "deeper").mkdir()
    Image.open(images / "000000000002.png").save(images / "deeper" / "other.png")
    return images


@pytest.fixture
def options(weights, pictures, tmp_path):
    return DetectOptions(
        source=pictures, weights=weights, output=tmp_path / "out", variant="lite0", image_size=64,
        score_threshold=0.0, min_score=0.0, max_detections=5, batch_size=2, device="cpu",
    )  # fmt: skip


def listing(options):
    return json.loads((options.output / "detections.json").read_text())


def test_a_folder_is_drawn_and_listed_in_the_order_of_its_names(options, pictures):
    steps = []
    result = detect(options, lambda done, total: steps.append((done, total)))
    names = ["000000000001.jpg", "000000000001.png", "000000000002.png", "000000000003.bmp", "000000000004.jpeg"]
    images = listing(options)["images"]
    assert [entry["file"] for entry in images] == names
    annotated = [*names[:3], "000000000003.bmp.png", names[4]]
    assert [entry["annotated"] for entry in images] == annotated
    assert sorted(path.name for path in options.output.iterdir()) == sorted([*annotated, "detections.json"])
    assert steps == [(done, 5) for done in range(1, 6)]
    assert (result.kind, result.images, result.detections, result.drawn) == ("folder", 5, 25, 25)
    for entry in images:
        original = decode_image(pictures / entry["file"])
        drawn = np.asarray(Image.open(options.output / entry["annotated"]))
        assert drawn.shape == original.shape == (entry["height"], entry["width"], 3)
        assert (np.abs(drawn.astype(int) - original) > 60).any()


def test_the_list_has_the_detectors_numbers(options, weights, pictures):
    detect(options)
    model = create_model("lite0", image_size=64, weights=weights)
    expected = Detector(model, nms_configs={"max_output_size": 5}, batch_size=2)
    content = listing(options)
    assert (content["variant"], content["image_size"], content["nms"]["name"]) == ("lite0", [64, 64], "numpy_gaussian")
    paths = [pictures / entry["file"] for entry in content["images"]]
    for entry, found in zip(content["images"], expected(paths), strict=True):
        listed = entry["detections"]
        np.testing.assert_array_equal(np.float32([one["bbox_xyxy"] for one in listed]), found.boxes_xyxy)
        np.testing.assert_array_equal(np.float32([one["score"] for one in listed]), found.scores)
        assert [one["category_id"] for one in listed] == found.category_ids.tolist()
        assert [one["category"] for one in listed] == found.names
        for one in listed:
            x0, y0, x1, y1 = one["bbox_xyxy"]
            assert one["bbox_xywh"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-4)


def test_thresholds_of_drawing_and_of_the_list_are_apart(options, pictures):
    one = replace(options, source=pictures / "000000000002.png")
    undrawn = detect(replace(one, score_threshold=1.0))
    assert (undrawn.kind, undrawn.detections, undrawn.drawn) == ("image", 5, 0)
    original = decode_image(one.source)
    np.testing.assert_array_equal(decode_image(options.output / "000000000002.png"), original)
    unlisted = detect(replace(one, min_score=1.0))
    assert (unlisted.detections, unlisted.drawn) == (0, 5)
    assert listing(options)["images"][0]["detections"] == []
    assert (decode_image(options.output / "000000000002.png") != original).any()


def test_names_of_pictures_never_meet(tmp_path):
    names = ("a.jpg", "a.png", "a.bmp", "a.bmp.png", "A.JPG", "b.GIF", "c.jpeg")
    files = tuple(tmp_path / name for name in sorted(names))
    written = output_names(files)
    assert {path.name: name for path, name in written.items()} == {
        "A.JPG": "A.JPG", "a.jpg": "a_2.jpg", "a.png": "a.png", "a.bmp.png": "a.bmp.png", "a.bmp": "a.bmp_2.png",
        "b.GIF": "b.GIF.png", "c.jpeg": "c.jpeg",
    }  # fmt: skip
    assert len({name.casefold() for name in written.values()}) == len(files)


def test_a_still_gif_is_an_image(options, tmp_path, pictures):
    Image.open(pictures / "000000000002.png").save(tmp_path / "still.gif")
    assert detect(replace(options, source=tmp_path / "still.gif")).kind == "image"
    assert (options.output / "still.gif.png").is_file()


def test_the_configs_suppression_counts(options):
    overrides = {"nms_configs": {"method": "hard", "max_output_size": 3}}
    detect(replace(options, overrides=overrides, max_detections=None))
    found = listing(options)
    assert (found["nms"]["name"], found["nms"]["max_output_size"]) == ("numpy_hard", 3)
    detect(replace(options, overrides=overrides, max_detections=4))
    assert listing(options)["nms"]["max_output_size"] == 4


def test_a_bad_image_is_refused_by_name_or_listed(options, tmp_path, pictures):
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = Image.open(pictures / "000000000002.png")
    good.save(folder / "c.png")
    (folder / "a.png").write_bytes((pictures / "000000000002.png").read_bytes()[:-40])
    good.resize((200, 1)).save(folder / "b.png")
    mixed = replace(options, source=folder)
    with pytest.raises(InputError, match=r"a\.png: expected a whole PNG file.*Or use --skip-bad-images\."):
        detect(mixed)
    assert list(options.output.iterdir()) == []
    result = detect(replace(mixed, skip_bad_images=True))
    assert [one.path for one in result.skipped] == ["a.png", "b.png"]
    assert result.images == 1 and "skipped a.png: " in result.summary()
    content = listing(options)
    assert [entry["file"] for entry in content["images"]] == ["c.png"]
    assert [one["file"] for one in content["skipped"]] == ["a.png", "b.png"]
    assert "survive scaling" in content["skipped"][1]["reason"]


def test_all_images_bad_is_an_error_also_when_skipping(options, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="expected at least one image that can be read, all 1 were skipped"):
        detect(replace(options, source=tmp_path / "bad", skip_bad_images=True))
    assert list(options.output.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 3])
def test_an_interruption_leaves_whole_files_only(options, kept):
    def interrupt(done, total):
        if done > kept:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect(options, interrupt)
    left = sorted(options.output.iterdir())
    assert len(left) == kept + 1
    for path in left:
        decode_image(path)


def test_an_old_list_stays_until_the_new_one_is_whole(options):
    detect(options)
    before = (options.output / "detections.json").read_bytes()

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect(replace(options, max_detections=2), interrupt)
    assert (options.output / "detections.json").read_bytes() == before


def test_boxes_that_are_not_finite_are_left_out(options, weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    key = "box_net.predict.conv_pw.bias"
    state[key] = torch.full_like(state[key], float("inf"))
    torch.save(state, tmp_path / "broken.pth")
    assert detect(replace(options, weights=tmp_path / "broken.pth")).detections == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_threshold": 1.5}, "--score-threshold: expected a number from 0 to 1, found 1.5"),
        ({"min_score": float("nan")}, "--min-score: expected a number from 0 to 1, found nan"),
        ({"max_detections": 0}, "--max-detections: expected at least 1, found 0"),
        ({"batch_size": 0}, "batch_size: expected a whole number from 1 to 1048576, found 0"),
        ({"nms": "soft"}, "unknown suppression profile: 'soft'"),
        ({"device": "cuda:99"}, "--device: expected a device that works here, found 'cuda:99'"),
        ({"label_map": "imagenet"}, "unknown label map: 'imagenet'"),
        ({"variant": "d0"}, "do not fit this model"),
        ({"variant": None}, "expected metadata that names the variant"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(options, change, message):
    with pytest.raises(InputError, match=message):
        detect(replace(options, **change))
    assert not options.output.exists()


def test_wrong_paths_are_refused(options, tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("words")
    (tmp_path / "text.gif").write_text("words")
    cases = {
        r"gone: expected an image, a folder of images or a video, found none": {"source": tmp_path / "gone"},
        r"folder .*empty: expected images .*found none.*subfolders": {"source": tmp_path / "empty"},
        r"text\.txt: expected an image .*, found '\.txt'": {"source": tmp_path / "text.txt"},
        r"text\.gif: expected a JPEG, PNG": {"source": tmp_path / "text.gif"},
        r"weights .*gone\.pth: expected a \.pth or \.safetensors file": {"weights": tmp_path / "gone.pth"},
        r"--output .*text\.txt: expected a folder, found a file": {"output": tmp_path / "text.txt"},
        r"--output .*deeper: expected a folder that can be made": {"output": tmp_path / "text.txt" / "deeper"},
        r"--output .*: expected a folder of its own": {"output": pictures / "deeper" / ".."},
    }
    for message, change in cases.items():
        with pytest.raises(InputError, match=message):
            detect(replace(options, **change))
