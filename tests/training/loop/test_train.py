"""`train` from data to files: what it writes, that it goes on to the same bits, and how it stops."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from demo.drawn_dataset import draw_training_set
from effdet_model import InputError, create_model
from effdet_model.weights import read_metadata
from porting.weights.files import write_weights
from tests.training.loop.cases import TINY, TINY_HPARAMS, tiny_model
from training.loop import train
from training.records.average import averaged
from training.records.clean import clean_weights
from training.running.options import TrainOptions


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_training_set(tmp_path_factory.mktemp("data"), 12, 3, sizes=(64, 96))


def options(data: Path, output: Path, **more: object) -> TrainOptions:
    hparams = {name: value for name, value in TINY.items() if name != "num_classes"}
    settings = {"epochs": 2, **dict(more.pop("settings", {}))}
    if "weights" not in more:
        more = {"variant": "d0", "hparams": hparams, **more}
    return TrainOptions(
        output, coco=data, split="train", val_split="val", image_size=128, batch_size=4, settings=settings,
        report=False, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs with everything written."""
    output = tmp_path_factory.mktemp("trained") / "out"
    how = options(data, output, average=2)
    done = train(TrainOptions(**{**how.__dict__, "report": True}))
    assert done is not None and done.steps == 6 and done.epochs == 2
    return output


def test_files_of_a_training(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"last.pth", "last.json", "best.pth", "average.pth", "log.csv", "steps.csv", "report.html"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    metadata = read_metadata(trained / "last.pth")
    assert metadata and metadata["variant"] == "d0" and metadata["classes"]["label_map"] == {
        "1": "disc", "2": "square", "3": "triangle",
    }  # fmt: skip
    assert metadata["training"]["epoch"] == 2 and metadata["training"]["recipe"]["name"] == "google"
    assert metadata["source"]["dialect"] == "training" and metadata["preprocessing"]["image_size"] == [128, 128]
    model = create_model(weights=trained / "last.pth")
    assert model.config.num_classes == 3 and model.config.backbone_name == TINY["backbone_name"]
    epochs = list(csv.DictReader((trained / "log.csv").open()))
    assert [row["epoch"] for row in epochs] == ["1", "2"] and all(float(row["AP"]) >= 0 for row in epochs)
    steps = list(csv.DictReader((trained / "steps.csv").open()))
    assert [int(row["step"]) for row in steps] == list(range(1, 7))
    mean = sum(float(row["loss"]) for row in steps[3:]) / 3
    assert float(epochs[1]["loss"]) == pytest.approx(mean, rel=1e-6)
    page = (trained / "report.html").read_text(encoding="utf-8")
    for part in ("First batches", "Learning rate", "Confusion matrix", "Precision over recall", "triangle"):
        assert part in page, part


def test_average_is_the_mean_of_the_best(trained: Path) -> None:
    kept = sorted((trained / "kept").glob("*.pth"))
    assert len(kept) == 2
    first, second = (torch.load(path, weights_only=True) for path in kept)
    mean = torch.load(trained / "average.pth", weights_only=True)
    for name, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (first[name] + second[name]) / 2)
    assert averaged(kept[:1]).keys() == mean.keys()


def test_clean_names_a_file_by_its_values(trained: Path, tmp_path: Path) -> None:
    done = clean_weights(trained / "last.pth", tmp_path)
    assert done.output.name.startswith("last-") and len(done.output.stem) == len("last-12345678")
    assert create_model(weights=done.output).config.label_map == {1: "disc", 2: "square", 3: "triangle"}
    other = clean_weights(trained / "last.pth", tmp_path / "mine.safetensors")
    assert other.output.stem.removeprefix("mine-") == done.output.stem.removeprefix("last-")
    state = torch.load(trained / "last.pth", weights_only=True)
    wrapped = tmp_path / "trainer.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, wrapped)
    metadata = {"format_version": 1, "config": read_metadata(trained / "last.pth")["config"]}
    (tmp_path / "trainer.json").write_text(json.dumps(metadata))
    same = clean_weights(wrapped, tmp_path)
    assert same.output.stem.removeprefix("trainer-") == done.output.stem.removeprefix("last-")
    state["box_net.predict.conv_pw.bias"][0] = float("nan")
    write_weights(tmp_path / "bad.safetensors", state, read_metadata(trained / "last.pth"))
    with pytest.raises(InputError, match="expected finite values"):
        clean_weights(tmp_path / "bad.safetensors", tmp_path)


@pytest.mark.slow
def test_killed_and_resumed_is_undisturbed(repository: Path, data: Path, tmp_path: Path) -> None:
    """kill -9 after some updates; then the same bits as a run that nothing disturbed."""
    how = {"save_every": 1, "average": 2, "settings": {"epochs": 3}}
    train(options(data, tmp_path / "whole", **how))
    command = [
        "train", "--variant", "d0", "--hparams", TINY_HPARAMS, "--coco", data, "--split", "train", "--val-split", "val",
        "--image-size", "128", "--batch-size", 4, "--epochs", 3, "--save-every", 1, "--no-report", "--average", 2,
        "--output", tmp_path / "cut",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(repository / "cli.py"), *map(str, command)], cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    steps = tmp_path / "cut" / "steps.csv"
    deadline = time.monotonic() + 240
    while not (steps.exists() and steps.read_text().count("\n") > 5):  # in the second epoch
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "average.pth").exists()
    train(options(data, tmp_path / "cut", resume=True, **how))
    for name in ("last.pth", "last.json", "best.pth", "average.pth", "steps.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_resuming_with_other_settings_is_refused(trained: Path, data: Path) -> None:
    with pytest.raises(InputError, match="expected the settings of the training .* found others .*recipe"):
        train(options(data, trained, average=2, resume=True, settings={"epochs": 2, "momentum": 0.8}))
    with pytest.raises(InputError, match="go on with it by --resume"):
        train(options(data, trained, average=2))
    with pytest.raises(InputError, match="--resume: expected the folder of an interrupted training"):
        train(options(data, trained / "nowhere", resume=True))


def test_a_damaged_state_is_one_message(trained: Path, data: Path, tmp_path: Path) -> None:
    content = (trained / "training_state.pth").read_bytes()
    other = content.replace(b"effdet-port training 1", b"effdet-port training 9")
    for damaged in (content[: len(content) // 2], b"nothing", other):
        (tmp_path / "training_state.pth").write_bytes(damaged)
        with pytest.raises(InputError, match="expected the state of a training"):
            train(options(data, tmp_path, resume=True))


def test_nan_stops_with_the_batch_kept_and_good_files_untouched(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import loop

    real = loop.labelled

    def poisoned(batch: object, *more: object) -> object:
        if poisoned.count == 4:  # the second batch of the second epoch
            batch.images[0, 0, 0, 0] = float("nan")
        poisoned.count += 1
        return real(batch, *more)

    poisoned.count = 0
    monkeypatch.setattr(loop, "labelled", poisoned)
    with pytest.raises(InputError) as told:
        train(options(data, tmp_path))
    assert "at step 5 (epoch 2)" in str(told.value) and "last.pth is of epoch 1" in str(told.value)
    (kept,) = (tmp_path / "not_finite").iterdir()
    (content,) = torch.load(kept, weights_only=True)
    assert content["images"].shape == (4, 3, 128, 128) and content["images"].isnan().sum() == 1
    assert len(content["image_ids"]) == len(content["boxes_yxyx"]) == 4
    state = torch.load(tmp_path / "last.pth", weights_only=True)
    assert all(bool(torch.isfinite(value.double()).all()) for value in state.values())
    assert read_metadata(tmp_path / "last.pth")["training"]["epoch"] == 1


def test_early_stop(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import loop

    real, found = loop.Judge.evaluate, iter([0.2, 0.5, 0.3, 0.4, 0.6, 0.6])

    def evaluate(self: object, weights: object, name: str, report: bool = False) -> object:
        result = real(self, weights, name, report)
        if not report:
            result.metrics.values["AP"] = next(found)
        return result

    monkeypatch.setattr(loop.Judge, "evaluate", evaluate)
    done = train(options(data, tmp_path, patience=2, settings={"epochs": 6}))
    assert done is not None and done.stopped == "stopped after 2 evaluations without a better AP"
    assert (done.epochs, done.best, done.best_epoch) == (4, 0.5, 2)
    assert read_metadata(tmp_path / "best.pth")["training"]["epoch"] == 2
    assert read_metadata(tmp_path / "last.pth")["training"]["epoch"] == 4


def test_nothing_to_judge_by(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    where = {"coco": None, "images": data / "train", "annotations": data / "annotations" / "instances_train.json"}
    how = {**options(data, tmp_path, settings={"epochs": 1}).__dict__, **where, "say": said.append}
    done = train(TrainOptions(**how))
    assert done is not None and done.best is None
    assert any("best.pth is last.pth" in text for text in said)
    assert (tmp_path / "best.pth").read_bytes() == (tmp_path / "last.pth").read_bytes()


def test_other_classes_replace_the_predict_layer_alone(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "five.pth"
    model = tiny_model(torch.float32, num_classes=5)
    write_weights(weights, dict(model.state_dict()), {"format_version": 1, "config": model.config.to_dict()})
    said: list[str] = []
    settings = {"learning_rate": 0.0, "epochs": 1}
    train(options(data, tmp_path / "out", weights=weights, say=said.append, settings=settings))
    assert any("new: class_net.predict (3 tensors)" in text for text in said)
    before, after = model.state_dict(), create_model(weights=tmp_path / "out" / "last.pth").state_dict()
    for name, value in after.items():
        if name.startswith("class_net.predict"):
            continue
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, before[name]), name
    assert after["class_net.predict.conv_pw.bias"].shape == (27,)
    assert torch.allclose(after["class_net.predict.conv_pw.bias"], torch.tensor(-4.59511985))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "zero"], "--batch-size: expected auto or a number from 1"),
        (["--batch-size", "5", "--accumulate", "2"], "expected a multiple of 2"),
        (["--batch-size", "auto"], "expected a GPU, whose memory decides"),
        (["--set", "momentom=1"], "Did you mean momentum"),
        (["--set", "hflipp=1"], "Did you mean hflip"),
        (["--average", "1"], "--average: expected 2 or more"),
        (["--freeze", "xyz"], "names begin with backbone"),
        (["--nms", "numpy_gausian"], "Did you mean numpy_gaussian"),
        (["--recipe", "gogle"], "Did you mean google"),
        (["--split", "trian"], "trian"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_step(
    data: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    from click.testing import CliRunner

    from command_line.training import train as command

    given = [
        "--output", str(tmp_path / "out"), "--variant", "d0", "--hparams", TINY_HPARAMS, "--coco", str(data),
        "--image-size", "128", "--val-split", "val", "--no-report", "--epochs", "1",
        *(["--split", "train"] if "--split" not in arguments else []), *arguments,
    ]  # fmt: skip
    done = CliRunner().invoke(command, given)
    assert isinstance(done.exception, InputError), done.output
    assert message in str(done.exception) and len(str(done.exception)) < 600
    assert not (tmp_path / "out" / "last.pth").exists()


@pytest.mark.parametrize(
    ("more", "new"),
    [
        ({"reset_head": "whole"}, ("class_net.",)),
        ({"reset_head": "predict"}, ("class_net.predict.",)),
        ({"hparams": {"num_scales": 2}}, ("box_net.predict.", "class_net.predict.")),
        ({}, ()),
    ],
)
def test_what_of_the_weights_begins_anew(
    data: Path, tmp_path: Path, more: dict[str, object], new: tuple[str, ...]
) -> None:
    from training.recipes import recipe
    from training.running.starting_weights import starting_model

    names = {1: "disc", 2: "square", 3: "triangle"}
    model = tiny_model(torch.float32, label_map=names)
    weights = tmp_path / "three.pth"
    write_weights(weights, dict(model.state_dict()), {"format_version": 1, "config": model.config.to_dict()})
    start = starting_model(TrainOptions(tmp_path, weights=weights, **more), recipe("google"), names)
    before, after = model.state_dict(), start.model.state_dict()
    assert set(start.replaced) == {name for name in after if new and name.startswith(new)}
    assert set(start.kept) | set(start.replaced) == set(after)
    assert all(torch.equal(after[name], before[name]) for name in start.kept)
    for name in start.replaced:
        if name.endswith("conv_dw.weight"):  # google/automl's: fan in 9 C
            assert abs(float(after[name].std()) * (9 * after[name].shape[0]) ** 0.5 - 1) < 0.35
    other = starting_model(TrainOptions(tmp_path, weights=weights), recipe("google"), {**names, 3: "star"})
    assert set(other.replaced) == {name for name in after if name.startswith("class_net.predict.")}


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    from training.recipes import recipe
    from training.running.starting_weights import starting_model

    model = tiny_model(torch.float32)
    weights = tmp_path / "three.pth"
    write_weights(weights, dict(model.state_dict()), {"format_version": 1, "config": model.config.to_dict()})
    how = TrainOptions(tmp_path, weights=weights, hparams={"fpn_num_filters": 16})
    with pytest.raises(InputError, match="expected tensors that fit the model but for the layers that predict"):
        starting_model(how, recipe("google"), {1: "a", 2: "b", 3: "c"})
    with pytest.raises(InputError, match="expected --weights FILE or --variant NAME"):
        starting_model(TrainOptions(tmp_path), recipe("google"), {1: "a"})


def test_check_looks_at_the_data_alone(data: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from command_line.training import train as command

    where = ["--output", str(tmp_path / "out"), "--coco", str(data), "--split", "train", "--val-split", "val"]
    model = ["--variant", "d0", "--hparams", TINY_HPARAMS, "--image-size", "128"]
    done = CliRunner().invoke(command, [*where, *model, "--check"])
    assert done.exit_code == 0 and "12 pictures" in done.output and "3 classes" in done.output
    assert (tmp_path / "out" / "data" / "data.json").is_file() and not (tmp_path / "out" / "last.pth").exists()


def test_hparams_file_is_the_configuration(trained: Path) -> None:
    from effdet_model import get_config
    from effdet_model.hparams import parse_hparams

    config = create_model(weights=trained / "last.pth").config
    again = get_config("d0", **parse_hparams(str(trained / "hparams.yaml")).fields)
    assert again.replace(norm_kwargs=config.norm_kwargs, backbone_args=config.backbone_args) == config


def test_weights_without_statistics_are_warned_of(tmp_path: Path) -> None:
    from training.recipes import recipe
    from training.running.starting_weights import starting_model

    names = {1: "disc", 2: "square", 3: "triangle"}
    model = tiny_model(torch.float32, label_map=names)
    weights, metadata = tmp_path / "lite.pth", {"format_version": 1, "config": model.config.to_dict()}
    options = TrainOptions(tmp_path, weights=weights)

    def told(**fields: object) -> str:
        return " ".join(starting_model(options, recipe("google").replace(**fields), names).notes)

    write_weights(weights, dict(model.state_dict()), {**metadata, "source": {"dialect": "tflite"}})
    assert f"Warning: {weights} was made from a TFLite file" in told()
    assert "Warning" in told(freeze="backbone", freeze_statistics=True) and "Warning" in told(freeze=".*bn")
    assert "Warning" not in told(freeze=".*bn", freeze_statistics=True)
    write_weights(weights, dict(model.state_dict()), {**metadata, "source": {"dialect": "tf1"}})
    assert "Warning" not in told()
