"""Weight files without metadata: effdet's releases are known by their hashes, of others it is said what was assumed."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import effdet.config
import pytest
import torch
from effdet import EfficientDet as EffdetModel
from effdet.config import get_efficientdet_config

from effdet_model import InputError, create_model, get_config
from effdet_model.config import ASPECT_RATIO_PAIRS, ASPECT_RATIOS
from effdet_model.errors import InputWarning
from effdet_model.released_weights import RELEASED, named_as_released
from effdet_model.weights import file_sha256

EFFDET_MODELS = effdet.config.model_config.efficientdet_model_param_dict


@pytest.mark.parametrize("name", [name for name, fields in EFFDET_MODELS.items() if fields.get("url")])
def test_every_file_that_effdet_names_has_its_anchors(name: str) -> None:
    theirs = get_efficientdet_config(name)
    found = named_as_released(theirs.url.rsplit("/", 1)[-1])
    assert found is not None and found.variant == name.removeprefix("tf_efficientdet_")
    config = get_config(found.variant, **found.overrides)
    ratios = tuple(tuple(ratio) if isinstance(ratio, (list, tuple)) else ratio for ratio in theirs.aspect_ratios)
    assert config.aspect_ratios == ratios and config.anchor_scale == theirs.anchor_scale
    assert config.num_scales == theirs.num_scales and config.image_size == tuple(theirs.image_size)


def test_the_files_of_the_published_results_are_known() -> None:
    """The table holds the results that rwightman/efficientdet-pytorch published of its files."""
    with open(Path(__file__).with_name("pytorch_results.csv"), newline="") as file:
        names = {row["url"].rsplit("/", 1)[-1] for row in csv.DictReader(file) if row["url"]}
    assert len(names) > 10 and all(named_as_released(name) for name in names)
    assert all(re.fullmatch("[0-9a-f]{8}", digits) for digits in RELEASED)


def test_the_first_lite0_is_another_model() -> None:
    """Trained before the official one; its keys and shapes are those that effdet 0.4.1 makes of its configuration."""
    found = RELEASED["f5f303a9"]
    theirs = get_efficientdet_config("tf_efficientdet_lite0")
    theirs.image_size, theirs.act_type, theirs.fpn_name, theirs.redundant_bias = (512, 512), "relu", None, False
    ours = create_model(found.variant, **found.overrides)
    expected = EffdetModel(theirs, pretrained_backbone=False).state_dict()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {k: v.shape for k, v in expected.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tf_efficientdet_lite0-dfacfc78.pth"
    torch.save(create_model("lite0", image_size=128).state_dict(), path)
    return path


def test_a_released_file_gets_its_authors_anchors(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name: the content is what counts."""
    digits = hashlib.sha256(saved.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(RELEASED, digits, RELEASED["dfacfc78"])
    renamed = tmp_path / "renamed.pth"
    renamed.write_bytes(saved.read_bytes())
    for path in (saved, renamed):
        with warnings.catch_warnings():
            warnings.simplefilter("error", InputWarning)
            assert create_model(weights=path).config.aspect_ratios == ASPECT_RATIO_PAIRS
            own = create_model("lite0", weights=path, aspect_ratios=ASPECT_RATIOS)
            assert own.config.aspect_ratios == ASPECT_RATIOS
        with pytest.raises(InputError, match=f"{path.name} are lite0, you asked for d0; use variant lite0"):
            create_model("d0", weights=path)


def test_the_name_of_a_released_file_is_not_enough(saved: Path) -> None:
    expected = (
        r"dfacfc78.pth have the name of a file that effdet's author released and another content: assumed num_scales "
        r"3, aspect_ratios \[\[1.0, 1.0\], \[1.4, 0.7\], \[0.7, 1.4\]\] and anchor_scale 3, those of that file. If "
    )
    with pytest.warns(InputWarning, match=expected):
        assert create_model(weights=saved).config.aspect_ratios == ASPECT_RATIO_PAIRS


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, ns=(len(content), int(content == b"two")))
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_of_another_file_it_is_said_what_was_assumed(saved: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pth"
    mine.write_bytes(saved.read_bytes())
    expected = (
        r"mine.pth say nothing of their anchors: assumed num_scales 3, aspect_ratios \[1.0, 2.0, 0.5\] and "
        r"anchor_scale 3, those of lite0. If they were trained with others, such as aspect_ratios \[\[1.0, 1.0\], "
        r"\[1.4, 0.7\], \[0.7, 1.4\]\], give them to create_model, or as --hparams FILE.yaml"
    )
    with pytest.warns(InputWarning, match=expected):
        assert create_model("lite0", weights=mine).config.aspect_ratios == ASPECT_RATIOS
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        create_model("lite0", weights=mine, aspect_ratios=ASPECT_RATIO_PAIRS)


@pytest.mark.slow
def test_the_commands_say_it(saved: Path, tmp_path: Path, repository: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), (9, 90, 200)).save(tmp_path / "a.png")
    mine = tmp_path / "mine.pth"
    mine.write_bytes(saved.read_bytes())
    of_that_name = "have the name of a file that effdet's author released and another content"
    for weights, told in ((saved, of_that_name), (mine, "say nothing of their anchors")):
        done = subprocess.run(
            [sys.executable, str(repository / "cli.py"), "detect", str(tmp_path / "a.png"), "--weights", str(weights),
             "--variant", "lite0", "--output", str(tmp_path / f"out-{weights.stem}")],
            capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"note: weights {weights} {told}: assumed num_scales 3, aspect_ratios" in done.stderr
        assert "InputWarning" not in done.stderr
