"""One answer for one file: shapes, the names around them, what the user says, and refusals that name the choice."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from demo.synthetic import write_synthetic_checkpoint
from effdet_model import InputError, create_model, get_config
from effdet_model.fit import Shape
from effdet_model.variants import OFFICIAL_VARIANTS
from mappings.committed import table_for
from porting.checkpoint.sources import open_source
from porting.checkpoint.write_tensorbundle import write_checkpoint
from porting.convert import convert
from porting.inspect.run import inspect_file
from porting.official.obtain import obtain_for_weights
from porting.recognise.files import recognise_source, weight_settings
from porting.recognise.heads import Framework
from porting.recognise.recognise import Evidence, Recognised, recognise
from porting.recognise.surroundings import named_variant
from porting.reverse import to_tensorflow


def shapes_of(variant: str, framework: Framework, **overrides: Any) -> dict[str, Shape]:
    table = table_for(get_config(variant, **overrides))
    if framework == "tensorflow":
        return table.tensorflow_shapes
    return {row.pytorch_key: row.pytorch_shape for row in table.rows}


def answer(shapes: dict[str, Shape], framework: Framework, *names: str, **how: Any) -> Recognised:
    return recognise(Evidence(shapes, framework, "FILE", names), **how)


@pytest.mark.parametrize("framework", ["tensorflow", "pytorch"])
@pytest.mark.parametrize("variant", OFFICIAL_VARIANTS)
def test_every_official_name_is_understood(variant: str, framework: Framework) -> None:
    """As google/automl names archives and folders, and as effdet's author names weights."""
    base, family = variant.removesuffix("_ap").removesuffix("_640"), "coco2"
    family = "advprop" if variant.endswith("_ap") else "coco640" if variant.endswith("_640") else family
    shapes = shapes_of(variant, framework)
    for name in (
        f"/data/{family}/efficientdet-{base}.tar.gz", f"/data/{family}/efficientdet-{base}/model",
        f"/w/tf_efficientdet_{variant}_34-f153e0cf.pth", f"/models/{variant}/model", f"/my/run-{variant}/x.safetensors",
    ):  # fmt: skip
        found = answer(shapes, framework, name)
        assert (found.variant, found.problems) == (variant, ()), name
        assert found.config == get_config(variant) and variant in found.candidates


def test_twins_without_a_name_are_refused_with_all_choices() -> None:
    twins = (["d0", "d0_ap"], ["d2", "d2_ap", "d2_640"], ["d6", "d7", "d6_640"])
    frameworks: tuple[Framework, Framework] = ("tensorflow", "pytorch")
    for choices in twins:
        for framework in frameworks:
            found = answer(shapes_of(choices[0], framework), framework, "/home/me/my_model/model.ckpt-300")
            assert found.config is None and [name for name, _ in found.choices] == choices
            assert f"name it: --variant {' or --variant '.join(choices)}." in found.problems[0]
    with pytest.raises(InputError, match="^FILE: d6, d7, d6_640 have the same shapes and differ in image size and"):
        found.settled()
    assert answer(shapes_of("d1", "pytorch"), "pytorch").problems[0].startswith("d1, d1_ap have the same shapes and d")


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["/x/efficientdet-d7.tar.gz"], "d7"), (["/x/efficientdet-d6.tar.gz"], "d6"), (["/x/d6_640/model"], "d6_640"),
        (["/x/weights.tgz", "efficientdet-d7/model.index"], "d7"), (["/x/coco640/model"], "d6_640"),
        (["/x/efficientdet-d6.tgz", "/train/efficientdet-d7/model.ckpt-1"], None), (["/x/d6_or_d7/model"], None),
        (["/mnt/d6/efficientdet-d7/model"], "d7"), (["/x/d77/model", "/x/ad7/model", "/x/d7y"], None),
        (["https://host/coco640/efficientdet-d6.tar.gz"], "d6_640"), (["/x/d7x/model"], None), ([], None),
        (["/d7/a/b/c/d/model"], None),
    ],
)  # fmt: skip
def test_names_between_d6_d7_and_d6_640(names: list[str], variant: str | None) -> None:
    assert named_variant(["d6", "d7", "d6_640"], names).decided == variant
    assert answer(shapes_of("d6", "tensorflow"), "tensorflow", *names).variant == variant


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("/advprop/efficientdet-d0.tar.gz", "d0_ap"), ("/efficientdet-d0/model", "d0"), ("/d0-adv-prop/model", "d0_ap"),
        ("/my_advprop_run/model", "d0_ap"), ("/best_ap/model", None), ("/best_ap/efficientdet-d0/model", "d0"),
        ("/D0_AP.h5", "d0_ap"), ("/x640/efficientdet-d0", "d0"), ("/runs_640/d0", "d0"),
    ],
)  # fmt: skip
def test_names_between_d0_and_d0_ap(name: str, variant: str | None) -> None:
    assert answer(shapes_of("d0", "tensorflow"), "tensorflow", name).variant == variant


def test_shapes_win_over_names_and_say_so() -> None:
    found = answer(shapes_of("lite0", "tensorflow"), "tensorflow", "/x/efficientdet-d3/model")
    assert (found.variant, found.notes) == (
        "lite0", ("the names around the file say d3, its shapes lite0; shapes decide",),
    )  # fmt: skip
    found = answer(shapes_of("d0", "tensorflow"), "tensorflow", "/x/efficientdet-d3/model")
    assert found.config is None and found.notes == (
        "the names around the file say d3, its shapes d0 or d0_ap; shapes decide",
    )
    found = answer(shapes_of("d0", "tensorflow"), "tensorflow", "/d3/efficientdet-d0/model")
    assert found.variant == "d0" and "took d0, as the names around the file say" in found.notes[0]


def test_what_the_user_says_wins_over_names() -> None:
    found = answer(shapes_of("d0", "tensorflow"), "tensorflow", "/advprop/efficientdet-d0.tar.gz", variant="d0")
    assert found.variant == "d0" and found.notes == (
        "took d0 as asked, though the names around the file say d0_ap (they differ in preprocessing)",
    )
    found = answer(shapes_of("d0", "tensorflow"), "tensorflow", "/x/efficientdet-d0.tar.gz", variant="d0")
    assert (found.variant, found.notes, found.candidates) == ("d0", (), ("d0", "d0_ap"))
    found = answer(shapes_of("d0", "pytorch", num_classes=7), "pytorch", variant="d1")
    assert found.problems == (
        "this is a d0 or d0_ap checkpoint with 7 classes, you asked for d1; use --variant d0 or --variant d0_ap.",
    )


def test_heads() -> None:
    found = answer(shapes_of("lite0", "pytorch", num_classes=7, num_scales=2), "pytorch")
    assert found.config == get_config("lite0", num_classes=7, num_scales=2)
    assert found.hparams == {"num_classes": 7, "num_scales": 2}
    shapes = shapes_of("lite0", "tensorflow", num_classes=7)
    found = answer(shapes, "tensorflow", overrides={"num_classes": 8})
    assert found.problems[0].startswith("--hparams say num_classes=8, the shape of class-predict says 7")
    odd = {**shapes, "box_net/box-predict/pointwise_kernel": (1, 1, 64, 37), "box_net/box-predict/bias": (37,)}
    assert "found 37 and 63; the heads do not belong together" in answer(odd, "tensorflow").problems[0]


def test_levels_that_no_model_has_make_no_graph() -> None:
    shapes = {**shapes_of("lite0", "tensorflow"), "class_net/class-0-bn-3000000/gamma": (64,)}
    assert answer(shapes, "tensorflow").problems[0].startswith("no variant has exactly these shapes; nearest is lite0")


def test_metadata_goes_first() -> None:
    recorded = get_config("d0_ap", num_classes=90)
    evidence = Evidence(shapes_of("d0", "pytorch"), "pytorch", "FILE", ["/x/efficientdet-d0.pth"], recorded=recorded)
    assert recognise(evidence).config == recorded
    assert recognise(evidence, "d0").problems == ("its metadata says d0_ap, you asked for d0; use --variant d0_ap.",)


def archived(prefix: Path, archive: Path, folder: str, state: str = "") -> Path:
    """The checkpoint in an archive, with a file `checkpoint` of one's own."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for file in prefix.parent.glob("model.*"):
            tar.add(file, f"{folder}/{file.name}")
        if state:
            member = tarfile.TarInfo(f"{folder}/checkpoint")
            member.size = len(state)
            tar.addfile(member, io.BytesIO(state.encode()))
    return archive


@pytest.fixture(scope="module")
def d0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_checkpoint("d0", tmp_path_factory.mktemp("plain"), ema=False, momentum=False)


def test_every_command_gives_the_same_answer_for_a_checkpoint(d0: Path, tmp_path: Path) -> None:
    """Archives and folders whose own name says nothing, but what is in them does."""
    cases = {
        archived(d0, tmp_path / "one.tar.gz", "advprop/efficientdet-d0"): "d0_ap",
        archived(d0, tmp_path / "two.tar.gz", "efficientdet-d0"): "d0",
        archived(d0, tmp_path / "three.tar.gz", "x", 'model_checkpoint_path: "/train/d0_ap/model"\n'): "d0_ap",
        archived(d0, tmp_path / "four.tar.gz", "x", 'model_checkpoint_path: "model"\n'): None,
    }
    folder = tmp_path / "run"
    folder.mkdir()
    for file in d0.parent.glob("model.*"):
        shutil.copy(file, folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/me/efficientdet-d0/model"\n')
    cases |= {folder: "d0", folder / "model": "d0", folder / "model.index": "d0"}
    for path, variant in cases.items():
        found = inspect_file(path)
        assert found.variant == variant, path
        if variant is None:
            assert len(found.choices) == 2
            with pytest.raises(InputError) as caught:
                convert(path, tmp_path / "x.pth")
            assert all(f"`{choice}`" in str(caught.value) for choice in found.choices)
            continue
        with open_source(path) as source:
            assert recognise_source(source).variant == variant
        written = convert(path, tmp_path / "x.pth", overwrite=True)
        assert written.conversion.config == get_config(variant)
        assert f"--variant {variant} " in (found.next_command or "")


def test_a_checkpoint_file_about_another_checkpoint_says_nothing(d0: Path, tmp_path: Path) -> None:
    for file in d0.parent.glob("model.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/me/efficientdet-d0/other"\n')
    assert inspect_file(tmp_path / "model").variant is None


def test_a_url_tells_as_a_path_does(d0: Path) -> None:
    with open_source(d0) as source:
        assert recognise_source(source, named=["https://mirror/advprop/efficientdet-d0.tar.gz"]).variant == "d0_ap"
        assert recognise_source(source).variant is None


def bare(path: Path, variant: str, **overrides: Any) -> Path:
    """Weights without metadata."""
    with torch.device("meta"):
        keys = create_model(variant, **overrides).state_dict()
    save_file({key: torch.ones(tensor.shape, dtype=tensor.dtype) for key, tensor in keys.items()}, path)
    return path


def test_every_command_gives_the_same_answer_for_weights(tmp_path: Path) -> None:
    named = bare(tmp_path / "tf_efficientdet_d0_ap.safetensors", "d0", num_classes=5)
    found, settings = inspect_file(named), weight_settings(named)
    assert (found.variant, found.hparams) == ("d0_ap", {"num_classes": 5})
    assert (settings.variant, settings.overrides) == ("d0_ap", {"num_classes": 5})
    assert to_tensorflow(named, tmp_path / "tf").config == get_config("d0_ap", num_classes=5)
    unnamed = bare(tmp_path / "own.safetensors", "d0")
    assert inspect_file(unnamed).choices == [
        f"python cli.py evaluate --variant {name} --weights {unnamed} --coco COCO_FOLDER" for name in ("d0", "d0_ap")
    ]
    for refuse in (weight_settings, lambda path: to_tensorflow(path, tmp_path / "no")):
        with pytest.raises(InputError, match="own.safetensors: d0, d0_ap have the same shapes"):
            refuse(unnamed)
    assert weight_settings(unnamed, "d0_ap").variant == "d0_ap"
    assert weight_settings(unnamed, named=["advprop/efficientdet-d0.tar.gz"]).variant == "d0_ap"
    with pytest.raises(InputError, match="this is a d0 or d0_ap checkpoint with 90 classes, you asked for lite0"):
        weight_settings(unnamed, "lite0")


def official(mirror: Path, family: str, variant: str) -> Path:
    """A made-up release in a mirror's layout; only its file names are the official ones."""
    folder = mirror / family
    folder.mkdir(parents=True)
    prefix = write_synthetic_checkpoint(variant, folder / "made", ema=False, momentum=False)
    return archived(prefix, folder / f"efficientdet-{variant}.tar.gz", f"efficientdet-{variant}")


def test_the_checkpoint_of_weights_is_named_by_their_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path / "cache"))
    mirror = tmp_path / "mirror"
    archive = official(mirror, "coco", "d0")
    weights = convert(archive, tmp_path / "x.pth", "d0", origin={"url": None, "family": "coco"}).path
    for variant in (None, "d0"):
        found, settings = obtain_for_weights(weights, variant, mirror=str(mirror), offline=True)
        assert (found.variant, found.origin["family"], settings.variant) == ("d0", "coco", variant)
        assert found.path.read_bytes() == archive.read_bytes()
    with pytest.raises(InputError, match="its metadata says d0, you asked for d1"):
        obtain_for_weights(weights, "d1", mirror=str(mirror), offline=True)
    own = convert(archive, tmp_path / "own.pth", "d0").path
    with pytest.raises(InputError, match="--checkpoint PATH of what they were made from, found weights made from effi"):
        obtain_for_weights(own, mirror=str(mirror), offline=True)
    assert obtain_for_weights(own, checkpoint=str(archive))[0].path == archive


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("efficientnet-lite0/blocks_0/srelu/srelu_beta", r"act_type srelu, .* \(1 named srelu_beta\); such models"),
        ("srelu_1/srelu_beta", "found act_type srelu, which trains one at every place"),
        ("class_net/class-0-bn-0/gamma", "found min_level 0, where the image itself is the finest level; such models"),
    ],
)
def test_models_that_cannot_be_ported_are_named(extra: str, message: str, tmp_path: Path) -> None:
    shapes = table_for(get_config("lite0")).tensorflow_shapes
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} | {extra: np.zeros((), np.float32)}
    write_checkpoint(tmp_path / "model", sorted(values.items()))
    for variant in ("auto", "lite0"):
        with pytest.raises(InputError, match=message) as caught:
            convert(tmp_path / "model", tmp_path / "x.pth", variant)
        assert len(str(caught.value)) < 600 and not (tmp_path / "x.pth").exists()
    found = inspect_file(tmp_path / "model")
    assert len(found.problems) >= 1 and re.search(message, found.problems[0]) and found.next_command is None


def test_the_one_tensor_that_is_too_much_is_named(tmp_path: Path) -> None:
    state = create_model("lite0").state_dict()
    torch.save({**state, "my.extra": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"nearest is lite0 \(1 left over: my.extra\). Name --variant") as caught:
        weight_settings(tmp_path / "w.pth")
    assert len(str(caught.value)) < 600
    del state["backbone.bn1.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"nearest is lite0 \(1 missing: backbone.bn1.bias\). Name --variant"):
        weight_settings(tmp_path / "w.pth")
