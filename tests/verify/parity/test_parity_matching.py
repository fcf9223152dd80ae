"""Detections matched one to one, and the agreement AP, on lists made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from verify.evaluation.coco import ImageRecord
from verify.parity.matching import Rows, agree, agreement_ap, match, worst_first

IMAGE = ImageRecord(7, Path("seven.jpg"))


def rows(count: int = 20, seed: int = 0, classes: int = 3) -> Rows:
    random = np.random.default_rng(seed)
    boxes = np.column_stack((random.uniform(0, 100, (count, 2)), random.uniform(5, 60, (count, 2))))
    scores = np.sort(random.uniform(0.01, 0.9, count))[::-1]
    return np.column_stack((boxes, scores, random.integers(1, classes + 1, count))).astype(np.float32)


def test_every_detection_finds_itself_in_any_order() -> None:
    table = rows()
    shuffled = np.random.default_rng(1).permutation(len(table))
    assert {(int(shuffled[b]), a) for a, b in match(table, table[shuffled])} == {(i, i) for i in range(20)}


@pytest.mark.parametrize(
    ("column", "change", "paired"),
    [(0, 0.09, True), (0, 0.11, False), (2, 0.11, False), (4, 9e-5, True), (4, 1.2e-4, False), (5, 1, False)],
)
def test_a_pair_needs_box_score_and_class(column: int, change: float, paired: bool) -> None:
    one = np.array([[10, 10, 20, 20, 0.5, 1]], np.float32)
    other = one.copy()
    other[0, column] += change
    assert bool(match(one, other)) is paired


def test_duplicates_are_paired_once_each_and_the_closest_first() -> None:
    two = np.array([[10, 10, 20, 20, 0.5, 1], [10.05, 10, 20, 20, 0.5, 1]], np.float32)
    assert sorted(match(two, two[:1])) == [(0, 0)]
    assert sorted(match(two, two[::-1])) == [(0, 1), (1, 0)]


def test_agreement_of_an_image_counts_what_is_alone() -> None:
    table = rows(10)
    other = table.copy()
    other[2, 5] = 4
    found = agree(IMAGE, table, other)
    assert (found.matched, found.tensorflow, found.pytorch) == (9, 10, 10)
    assert found.unmatched_tensorflow == (2,) and found.unmatched_pytorch == (2,)
    assert found.disagreement == pytest.approx(2 * float(table[2, 4]))
    good = agree(ImageRecord(8, Path("eight.jpg")), table, table)
    assert [image.image_id for image in worst_first([good, found])] == [7, 8]
    empty = agree(IMAGE, table[:0], table[:0])
    assert (empty.matched, empty.disagreement, empty.box_difference) == (0, 0.0, 0.0)


def test_agreement_ap_is_1_for_equal_lists_with_duplicates_and_tiny_noise() -> None:
    table = rows(60, classes=5)
    table = np.concatenate((table, table[:5]))
    noisy = table.copy()
    noisy[:, :4] += np.random.default_rng(2).uniform(-1e-4, 1e-4, (len(table), 4))
    noisy[:, 4] += np.random.default_rng(3).uniform(-1e-6, 1e-6, len(table))
    found = agreement_ap({1: table, 2: rows(30, 5)}, {1: noisy, 2: rows(30, 5)}, 100, None)
    assert found.ap == pytest.approx(1.0) and found.truths == 95 and found.at_the_edge == 0


def test_agreement_ap_falls_with_shifted_missing_and_renamed_boxes() -> None:
    table = rows(60)
    shifted, renamed = table.copy(), table.copy()
    shifted[:, 0] += 0.1 * shifted[:, 2]
    renamed[::4, 5] = renamed[::4, 5] % 3 + 1
    for other in (shifted, renamed, table[:40], table[:0]):
        assert agreement_ap({1: table}, {1: other}, 100, None).ap < 0.95


def test_what_rounding_puts_in_or_out_of_a_full_list_counts_neither_way() -> None:
    table = rows(20)
    table[19] = (1, 1, 9, 9, table[18, 4], 9)
    other = table.copy()
    other[19] = (50, 50, 9, 9, table[18, 4], 8)
    assert agreement_ap({1: table}, {1: other}, 20, None).ap == pytest.approx(1.0)
    assert agreement_ap({1: table}, {1: other}, 100, None).ap < 0.9, "not at the end of a full list"


def test_boxes_without_area_and_empty_sides() -> None:
    table = rows(5)
    flat = table.copy()
    flat[3, 2] = 0
    assert agreement_ap({1: flat}, {1: flat}, 100, None).ap == pytest.approx(1.0)
    assert agreement_ap({1: table[:0]}, {1: table[:0]}, 100, None).ap == 1.0
    assert agreement_ap({1: table[:0]}, {1: table}, 100, None).ap == 0.0
