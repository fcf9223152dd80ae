"""Detection in videos: same times, same size, a list per frame; damage is named; only a batch is held."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from detect.job import DetectionJob
from detect.run import DetectOptions, detect
from detect.video import open_video
from effdet_model import Detector, InputError, create_model
from tests.detect.video_cases import moving_disc, turn_mp4, write_frames

FRAMES = 10


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
def clip(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_disc(FRAMES))


@pytest.fixture
def options(weights, clip, tmp_path):
    return DetectOptions(
        source=clip, weights=weights, output=tmp_path / "out", variant="lite0", image_size=64,
        score_threshold=0.0, min_score=0.0, max_detections=3, batch_size=4, device="cpu",
    )  # fmt: skip


def read(path):
    """(frames [n, height, width, 3], their times in seconds, frame rate) of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.to_ndarray(format="rgb24"), float(frame.time)) for frame in container.decode(stream)]
        return np.stack([pixels for pixels, _ in frames]), [time for _, time in frames], stream.average_rate


def test_a_video_keeps_its_size_its_times_and_its_pictures(options, clip):
    steps = []
    result = detect(replace(options, score_threshold=1.0), lambda done, total: steps.append((done, total)))
    assert (result.kind, result.images, result.detections, result.drawn) == ("video", FRAMES, 3 * FRAMES, 0)
    assert result.annotated == (str(options.output / "clip.mp4"),) and result.notes == ()
    assert steps == [(done, FRAMES) for done in range(1, FRAMES + 1)]
    before, times_before, rate_before = read(clip)
    after, times_after, rate_after = read(options.output / "clip.mp4")
    assert after.shape == before.shape and rate_after == rate_before
    assert times_after == pytest.approx(times_before)
    assert np.abs(after.astype(int) - before).mean() < 3


def test_boxes_are_drawn_into_the_frames(options, clip):
    detect(options)
    before, after = read(clip)[0].astype(int), read(options.output / "clip.mp4")[0]
    assert all((np.abs(drawn - plain) > 80).any() for drawn, plain in zip(after, before, strict=True))


def test_the_list_has_the_detectors_numbers_for_every_frame(options, clip, weights):
    detect(options)
    content = json.loads((options.output / "detections.json").read_text())
    assert content["video"] == {
        "width": 96, "height": 72, "frames_per_second": 25.0, "file": "clip.mp4", "annotated": "clip.mp4",
    }  # fmt: skip
    pixels, times, _ = read(clip)
    assert [entry["frame"] for entry in content["frames"]] == list(range(FRAMES))
    assert [entry["time"] for entry in content["frames"]] == pytest.approx(times)
    model = create_model("lite0", image_size=64, weights=weights)
    detector = Detector(model, nms_configs={"max_output_size": 3}, batch_size=4)
    for entry, found in zip(content["frames"], detector(list(pixels)), strict=True):
        listed = np.float32([one["bbox_xyxy"] for one in entry["detections"]])
        np.testing.assert_array_equal(listed, found.boxes_xyxy)


def test_uneven_times_stay_uneven(options, tmp_path):
    times = [0, 10, 50, 300, 301]
    source = write_frames(tmp_path / "uneven.mkv", moving_disc(5), times=times)
    detect(replace(options, source=source))
    assert read(options.output / "uneven.mp4")[1] == pytest.approx([time / 1000 for time in times])


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("clip.avi", "mpeg4", "yuv420p"),
        ("clip.mov", "mpeg4", "yuv420p"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("clip.gif", "gif", "rgb8"),
    ],
)
def test_other_containers_become_mp4(options, tmp_path, name, codec, pixel_format):
    source = write_frames(tmp_path / name, moving_disc(4), codec, pixel_format)
    result = detect(replace(options, source=source, score_threshold=1.0))
    frames, times, _ = read(options.output / "clip.mp4")
    assert result.images == 4 and frames.shape == (4, 72, 96, 3)
    assert times == pytest.approx([0, 0.04, 0.08, 0.12])
    assert np.abs(frames.astype(int) - moving_disc(4)).mean() < 25


def test_odd_sides_grow_by_a_pixel_and_the_list_says_the_true_size(options, tmp_path):
    source = write_frames(tmp_path / "odd.gif", moving_disc(3, 71, 95), "gif", "rgb8")
    result = detect(replace(options, source=source))
    assert any("one pixel larger" in note for note in result.notes)
    video = json.loads((options.output / "detections.json").read_text())["video"]
    assert (video["height"], video["width"]) == (71, 95)
    assert read(options.output / "odd.mp4")[0].shape == (3, 72, 96, 3)


def test_a_turned_video_is_seen_upright(tmp_path):
    source = write_frames(tmp_path / "turned.mp4", moving_disc(2))
    plain = read(source)[0]
    turn_mp4(source)
    with open_video(source) as video:
        assert video.size == (96, 72)
        for frame, stored in zip(video, plain, strict=True):
            np.testing.assert_array_equal(frame.pixels, np.rot90(stored, -1))


def test_only_a_batch_is_held(options, monkeypatch):
    sizes = []
    find = DetectionJob.find
    monkeypatch.setattr(DetectionJob, "find", lambda job, images: sizes.append(len(images)) or find(job, images))
    detect(options)
    assert sizes == [4, 4, 2]


def test_no_video_is_refused_and_nothing_is_written(options, tmp_path, clip):
    data = clip.read_bytes()
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n"
    cases = {"cut.mp4": data[: len(data) // 2], "text.mp4": b"words", "empty.avi": b"", "list.mkv": playlist.encode()}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: expected a whole video, found "):
            detect(replace(options, source=tmp_path / name))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"sound\.mp4: expected a whole video, found no video stream"):
        detect(replace(options, source=tmp_path / "sound.mp4"))
    assert list(options.output.iterdir()) == []


def test_damage_within_is_refused_or_counted(options, tmp_path):
    source = write_frames(tmp_path / "damaged.avi", moving_disc(FRAMES), "mjpeg", "yuvj420p")
    data = bytearray(source.read_bytes())
    starts = [at for at in range(len(data)) if data.startswith(b"00dc", at)]
    data[starts[4] + 8 : starts[5] - 2] = bytes(starts[5] - 2 - starts[4] - 8)
    source.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged\.avi: .* found damage after frame \d+ .*--skip-bad-images"):
        detect(replace(options, source=source))
    assert list(options.output.iterdir()) == []
    result = detect(replace(options, source=source, skip_bad_images=True))
    assert result.images == FRAMES - 1
    assert any("1 damaged parts" in note for note in result.notes)


def test_a_video_that_ends_early_is_said_to(options, tmp_path):
    source = write_frames(tmp_path / "short.avi", moving_disc(FRAMES), "mjpeg", "yuvj420p")
    data = source.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(b"00dc", at)]
    source.write_bytes(data[: starts[6]])
    result = detect(replace(options, source=source))
    assert 0 < result.images < FRAMES
    assert f"announces {FRAMES} frames, {result.images} could be read" in result.notes[0]
    assert json.loads((options.output / "detections.json").read_text())["notes"] == list(result.notes)


@pytest.mark.parametrize("after", [1, 6])
def test_an_interruption_leaves_nothing(options, after):
    def interrupt(done, total):
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect(options, interrupt)
    assert list(options.output.iterdir()) == []


def test_without_pyav_the_message_says_how_to_get_it(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"expected the package 'av', found none; .*effdet-port\[video\]"):
        detect(options)


def test_an_animated_gif_in_a_folder_counts_as_its_first_frame(options, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    first, *others = [Image.fromarray(pixels) for pixels in moving_disc(3)]
    first.save(folder / "moving.gif", save_all=True, append_images=others)
    assert detect(replace(options, source=folder)).images == 1
    assert (options.output / "moving.gif.png").is_file()
    assert detect(replace(options, source=folder / "moving.gif")).images == 3
