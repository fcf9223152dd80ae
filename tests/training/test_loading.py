"""Batches: the same pictures in the same order, whoever loads them and wherever one begins."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet_model.errors import InputError
from effdet_model.preprocessing import preprocess
from tests.training.data_cases import drawn, small_config, write_coco
from training.augmentation.settings import AugmentationSettings
from training.data import Batch, DataSource, TrainingLoader, open_dataset

SETTINGS = AugmentationSettings()


def loader(folder: Path, count: int = 7, **options: object) -> TrainingLoader:
    values = {"batch_size": 2, "seed": 3, **options}
    return TrainingLoader(drawn(folder, count), small_config(), SETTINGS, **values)  # type: ignore[arg-type]


def same(first: Batch, other: Batch) -> bool:
    one_of, other_of = ([batch.images, *batch.boxes, *batch.classes] for batch in (first, other))
    tensors = zip(one_of, other_of, strict=True)
    return all(torch.equal(one, two) for one, two in tensors) and first.image_ids == other.image_ids


def test_an_epoch_has_every_picture_once_and_another_epoch_another_order(tmp_path: Path) -> None:
    batches = loader(tmp_path)
    epochs = [list(batches.epoch(number)) for number in (0, 1)]
    ids = [[id_ for batch in epoch for id_ in batch.image_ids] for epoch in epochs]
    assert sorted(ids[0]) == sorted(ids[1]) == list(range(1, 8)) and ids[0] != ids[1]
    assert [len(batch.images) for batch in epochs[0]] == [2, 2, 2, 1]
    assert [batch.global_images for batch in epochs[0]] == [2, 2, 2, 1] and batches.steps_per_epoch == 4
    by_id = [
        {id_: image for batch in epoch for id_, image in zip(batch.image_ids, batch.images, strict=True)}
        for epoch in epochs
    ]
    assert not any(torch.equal(by_id[0][id_], by_id[1][id_]) for id_ in ids[0]), "augmented the same in two epochs"


def test_workers_and_a_later_start_change_nothing(tmp_path: Path) -> None:
    batches = loader(tmp_path)
    expected = list(batches.epoch(2))
    state = torch.get_rng_state()
    batches.workers = 2
    found = list(batches.epoch(2))
    assert all(same(one, two) for one, two in zip(expected, found, strict=True))
    batches.workers = 0
    later = list(batches.epoch(2, start=2))
    assert all(same(one, two) for one, two in zip(expected[2:], later, strict=True))
    assert list(batches.epoch(2, start=4)) == []
    assert torch.equal(state, torch.get_rng_state()), "loading drew from the model's random numbers"


def test_another_seed_gives_other_batches(tmp_path: Path) -> None:
    first, other = (next(iter(loader(tmp_path, seed=seed).epoch(0))) for seed in (3, 4))
    assert not same(first, other)


@pytest.mark.parametrize("count", (7, 9, 4))
def test_processes_share_the_batches_of_one(tmp_path: Path, count: int) -> None:
    whole = list(loader(tmp_path, count, batch_size=4).epoch(1))
    parts = [list(loader(tmp_path, count, batch_size=2, world_size=2, rank=rank).epoch(1)) for rank in (0, 1)]
    seen: Counter[int] = Counter()
    for together, *shares in zip(whole, *parts, strict=True):
        sizes = [len(share.images) for share in shares]
        assert max(sizes) - min(sizes) <= 1 and sum(sizes) == len(together.images)
        assert {share.global_images for share in shares} == {len(together.images)}
        for rank, share in enumerate(shares):
            assert torch.equal(share.images, together.images[rank::2])
            seen.update(share.image_ids)
    assert seen == Counter(range(1, count + 1))


def test_drop_last_leaves_whole_batches_and_refuses_none(tmp_path: Path) -> None:
    assert [len(batch.images) for batch in loader(tmp_path, drop_last=True).epoch(0)] == [2, 2, 2]
    with pytest.raises(InputError, match="expected at least 8 pictures for one batch, found 7"):
        loader(tmp_path, drop_last=True, batch_size=8)


def test_without_augmentation_a_picture_is_what_evaluation_makes_of_it(tmp_path: Path) -> None:
    data = drawn(tmp_path)
    batches = TrainingLoader(data, small_config(), AugmentationSettings.none(), batch_size=1, seed=0)
    for batch in batches.epoch(0):
        example = data[batch.image_ids[0] - 1]
        image, scale = preprocess(example.image, small_config())
        assert torch.equal(batch.images[0], image)
        np.testing.assert_allclose(batch.boxes[0] * scale, example.boxes_yxyx, atol=2)
        assert batch.classes[0].tolist() == example.classes.tolist()


def test_pictures_without_boxes_with_one_and_with_many_are_kept(tmp_path: Path) -> None:
    many = [(1, [x % 70, x % 40, 8, 8]) for x in range(150)]
    data = open_dataset(write_coco(tmp_path, [[], [(2, [5, 5, 30, 20])], many]))
    batch = next(iter(TrainingLoader(data, small_config(), AugmentationSettings.none(), batch_size=3, seed=0).epoch(0)))
    counts = dict(zip(batch.image_ids, map(len, batch.boxes), strict=True))
    assert counts == {1: 0, 2: 1, 3: 150}
    assert {tuple(boxes.shape[1:]) for boxes in batch.boxes} == {(4,)}


def test_crowds_are_left_out_ignored_or_trained(tmp_path: Path) -> None:
    data = open_dataset(write_coco(tmp_path, [[(2, [5, 5, 30, 20])]], iscrowd=1))
    found = {}
    for use in ("skip", "ignore", "train"):
        settings = AugmentationSettings.none().replace(crowd=use)
        batch = next(iter(TrainingLoader(data, small_config(), settings, batch_size=1, seed=0).epoch(0)))
        found[use] = batch.classes[0].tolist()
    assert found == {"skip": [], "ignore": [-1], "train": [2]}


@pytest.mark.parametrize("workers", (0, 1))
def test_a_damaged_picture_is_one_clear_error(tmp_path: Path, workers: int) -> None:
    data = open_dataset(write_coco(tmp_path, [[(1, [5, 5, 30, 20])]]))
    (tmp_path / "images" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with pytest.raises(InputError, match=r"1\.png: expected"):
        next(iter(TrainingLoader(data, small_config(), SETTINGS, batch_size=1, seed=0, workers=workers).epoch(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"batch_size": 0}, "batch size: expected a whole number from 1"),
        ({"seed": -1}, "seed: expected"),
        ({"rank": 2, "world_size": 2}, "rank: expected a whole number from 0 to 1, found 2"),
    ),
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loader(tmp_path, **options)


def test_settings_are_read_and_refused() -> None:
    assert AugmentationSettings(fill_color=[1, 2, 3]).fill_color == (1, 2, 3)  # type: ignore[arg-type]
    assert AugmentationSettings(**AugmentationSettings(mosaic=0.5).to_dict()).mosaic == 0.5
    for wrong in ({"hflip": 1.5}, {"style": "keras"}, {"fill_color": 300}, {"jitter_min": 3.0}, {"crowd": "no"}):
        with pytest.raises(InputError, match="augmentation: "):
            AugmentationSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Did you mean jitter_min"):
        AugmentationSettings().replace(jiter_min=1)


def test_the_data_must_be_named_once(tmp_path: Path) -> None:
    for source in (DataSource(), DataSource(coco=tmp_path, images=tmp_path), DataSource(images=tmp_path)):
        with pytest.raises(InputError, match="data: expected --coco"):
            open_dataset(source)
