"""Suppression against plain loops, TensorFlow's ops and the official detections."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from effdet_model import nms
from effdet_model.nms import pick_detections, postprocess, suppress
from effdet_model.nms_profiles import DEFAULT_PROFILE, PROFILES, resolve_profile
from effdet_model.selection import Candidates
from tests.nms_cases import nms_case
from tests.tensorflow_results import GRAPH_PROFILES, NMS_SEEDS, tensorflow_results
from verify.reference.nms_loops import best_picks

EXACT = [name for name in PROFILES if name != "torchvision"]
GOLDEN = [
    *((f"per_class.{method}.top{k}", f"graph_{method}", k) for method in ("gaussian", "hard") for k in (0, 5000)),
    *((f"global.{method}.top{k}", f"global_{method}", k) for method in ("gaussian", "hard") for k in (0, 5000)),
    *((f"numpy.{method}.top5000", f"numpy_{method}", 5000) for method in ("gaussian", "linear", "hard", "diou")),
    ("combined", "combined", None),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_hard_cases_equal_plain_loops(name):
    for seed in range(1000 if name == DEFAULT_PROFILE else 150):
        indices, scores = pick_detections(PROFILES[name], *nms_case(seed))
        expected_indices, expected_scores = best_picks(asdict(PROFILES[name]), *nms_case(seed))
        np.testing.assert_array_equal(indices, expected_indices, err_msg=f"seed {seed}")
        np.testing.assert_array_equal(scores, expected_scores, err_msg=f"seed {seed}")


@pytest.mark.parametrize("name", EXACT)
def test_other_parameters_equal_plain_loops(name):
    changes = {"iou_thresh": 0.2, "score_thresh": 0.05, "sigma": 0.3, "max_output_size": 7}
    profile = resolve_profile(name, changes)
    for seed in range(60):
        indices, scores = pick_detections(profile, *nms_case(seed))
        expected_indices, expected_scores = best_picks(asdict(profile), *nms_case(seed))
        np.testing.assert_array_equal(indices, expected_indices, err_msg=f"seed {seed}")
        np.testing.assert_array_equal(scores, expected_scores, err_msg=f"seed {seed}")
        assert len(indices) <= 7


@pytest.mark.parametrize("name", GRAPH_PROFILES)
def test_graph_profiles_are_tensorflows_op(name):
    """Picks and order are equal; decayed scores within the rounding of TensorFlow's exponential."""
    for seed in NMS_SEEDS:
        boxes, scores, classes = nms_case(seed, degenerate=False)
        indices, final = pick_detections(replace(PROFILES[name], per_class=False), boxes, scores, classes)
        expected = tensorflow_results()[f"{name}.{seed}"]
        np.testing.assert_array_equal(indices, expected[0].astype(np.int64), err_msg=f"seed {seed}")
        np.testing.assert_allclose(final, expected[1], rtol=1e-6)


def test_combined_is_tensorflows_op():
    for seed in NMS_SEEDS:
        boxes, scores, classes = nms_case(seed, degenerate=False)
        indices, final = pick_detections(PROFILES["combined"], boxes, scores, classes)
        expected = tensorflow_results()[f"combined.{seed}"]
        found = np.column_stack((boxes[indices], final, classes[indices] + 1))
        np.testing.assert_array_equal(found, expected, err_msg=f"seed {seed}")


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "d0_128.npz") as outputs:
        levels = [
            [torch.from_numpy(outputs[f"{kind}_{level}"]).permute(2, 0, 1)[None] for level in range(3, 8)]
            for kind in ("class", "box")
        ]
    with np.load(shared / "golden" / "d0_128_detections.npz") as detections:
        return levels, dict(detections)


@pytest.mark.parametrize("key, name, count", GOLDEN)
def test_detections_are_the_official_ones(golden, key, name, count):
    (classes, boxes), detections = golden
    profile = resolve_profile(name, {"max_nms_inputs": count})
    anchors = torch.from_numpy(detections["anchors"])
    (found,) = postprocess(profile, classes, boxes, anchors, 90, [1.7], (128, 128))
    expected = detections[key]
    if key.startswith("numpy"):
        expected = expected[:, [2, 1, 4, 3, 5, 6]]
    np.testing.assert_array_equal(found[:, 5], expected[:, 5])
    np.testing.assert_allclose(found[:, 4], expected[:, 4], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found[:, :4], expected[:, :4], rtol=0, atol=1e-3)


def candidates(boxes, scores, classes):
    count = len(scores)
    columns = (
        np.reshape(boxes, (count, 4)).astype(np.float32),
        np.float32(scores),
        np.int64(classes),
        np.arange(count),
    )
    return Candidates(*(torch.from_numpy(np.asarray(column)) for column in columns))


@pytest.mark.parametrize("name", PROFILES)
def test_nothing_in_nothing_out(name):
    assert suppress(name, candidates([], [], []), image_size=(64, 64)).shape == (0, 6)


@pytest.mark.parametrize("name", PROFILES)
def test_boxes_are_scaled_and_classes_numbered_from_one(name):
    given = candidates([[1, 2, 11, 22], [30, 30, 50, 50]], [0.5, 0.75], [0, 6])
    found = suppress(name, given, image_scale=2.0, image_size=(64, 64))
    np.testing.assert_array_equal(found, np.float32([[60, 60, 100, 100, 0.75, 7], [2, 4, 22, 44, 0.5, 1]]))


@pytest.mark.parametrize("name", ["global_hard", "global_gaussian", "combined"])
def test_some_profiles_clip_to_the_model_input(name):
    given = candidates([[-5, -6, 70, 80]], [0.5], [0])
    assert suppress(name, given, 2.0, (64, 32))[0, :4].tolist() == [0, 0, 128, 64]
    assert suppress("numpy_gaussian", given, 2.0, (64, 32))[0, :4].tolist() == [-10, -12, 140, 160]
    with pytest.raises(TypeError, match="needs image_size"):
        suppress(name, given)


def test_torchvision_clips_to_the_original_image_beforehand():
    given = candidates([[-5, -6, 70, 80]], [0.5], [0])
    assert suppress("torchvision", given, 2.0, (64, 64), original_size=(100, 120))[0, :4].tolist() == [0, 0, 100, 120]


def test_soft_suppression_with_and_without_the_cut():
    """Two boxes that share 9/11: TensorFlow 2.21 decays the second; the op that cuts drops it."""
    given = candidates([[0, 0, 10, 10], [0, 1, 10, 11]], [0.9, 0.8], [0, 0])
    decayed = 0.8 * np.exp(-((9 / 11) ** 2) / 0.5)
    for name in ("graph_gaussian", "graph_gaussian_nocut"):
        np.testing.assert_allclose(suppress(name, given)[:, 4], [0.9, decayed], rtol=1e-6)
    np.testing.assert_allclose(suppress("graph_gaussian_cut", given)[:, 4], [0.9], rtol=1e-6)


def test_classes_do_not_touch_each_other_unless_global():
    given = candidates([[0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8], [0, 1])
    assert len(suppress("graph_hard", given)) == 2
    assert len(suppress("global_hard", given, image_size=(64, 64))) == 1


def test_combined_goes_on_where_the_first_candidates_do_not_suffice():
    """More than 5000 pairs of one class, of which the first 5000 are one and the same box."""
    classes = [torch.zeros(1, 1, 80, 80)]
    classes[0][0, 0, 70:, 70:] = -1.0
    boxes, anchors = [torch.zeros(1, 4, 80, 80)], torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(6400, 1)
    for corner in range(60):
        anchors[70 * 80 + 70 + corner % 10 + 80 * (corner // 10)] += 9.0 * (corner + 1)
    found = postprocess("combined", classes, boxes, anchors, 1, [1.0], (1000, 1000))[0]
    assert len(found) == 61 and found[0, 4] == 0.5
    assert len(postprocess("graph_hard", classes, boxes, anchors, 1, [1.0], (1000, 1000))[0]) == 1


TIES = {
    "hard": [([40, 41, 60, 61], 0.75), ([0, 0, 10, 10.25], 0.5)],
    "diou": [([40, 41, 60, 61], 0.75), ([0, 0, 10, 10.25], 0.5)],
    "gaussian": [
        ([40, 40, 60, 60], 0.75), ([0, 0, 10, 10.25], 0.5), ([40, 41, 60, 61], 0.1436214),
        ([0, 1, 10, 11], 0.1162109), ([1, 0, 11, 10], 0.0244545), ([0, 0, 10, 10], 0.0045939),
    ],
    "linear": [
        ([40, 40, 60, 60], 0.75), ([0, 0, 10, 10.25], 0.5), ([0, 1, 10, 11], 0.0729167),
        ([40, 41, 60, 61], 0.0681818), ([1, 0, 11, 10], 0.0135815),
    ],
}  # fmt: skip
"""What google/automl's nms_np.per_class_nms (6a54c87) gives for six boxes with equal scores: box and score."""


@pytest.mark.parametrize("method", TIES)
def test_of_equal_scores_the_official_code_decides_which_comes_first(method):
    boxes = [[0, 0, 10, 10], [0, 0, 10, 10.25], [0, 1, 10, 11], [40, 40, 60, 60], [40, 41, 60, 61], [1, 0, 11, 10]]
    given = np.float32(boxes), np.float32([0.5, 0.5, 0.5, 0.75, 0.75, 0.25]), np.zeros(6, np.int64)
    profile = PROFILES[f"numpy_{method}"]
    for picked, final in (pick_detections(profile, *given), best_picks(asdict(profile), *given)):
        assert [boxes[index] for index in picked] == [box for box, _ in TIES[method]]
        np.testing.assert_allclose(final, [score for _, score in TIES[method]], atol=1e-7)


@pytest.mark.parametrize("method, kept", [("hard", 1), ("diou", 1), ("gaussian", 0), ("linear", 0)])
def test_of_two_equal_boxes_hard_suppression_keeps_the_second(method, kept):
    given = np.float32([[0, 0, 10, 10]] * 2), np.float32([0.5, 0.5]), np.int64([3, 3])
    picked, _ = pick_detections(PROFILES[f"numpy_{method}"], *given)
    assert picked.tolist() == ([kept] if method != "gaussian" else [0, 1])


@pytest.mark.parametrize("name", ["numpy_hard", "numpy_diou"])
def test_ties_of_one_class_follow_numpys_sort(name):
    """More boxes than numpy sorts by insertion, three scores: the order of the same call here."""
    for seed in range(200):
        random = np.random.default_rng(seed)
        corners = random.integers(0, 60, (80, 2))
        boxes = np.hstack((corners, corners + random.integers(5, 30, (80, 2)))).astype(np.float32)
        given = boxes, np.float32(random.choice([0.25, 0.5, 0.75], 80)), np.zeros(80, np.int64)
        picked, _ = pick_detections(PROFILES[name], *given)
        assert picked.tolist() == best_picks(asdict(PROFILES[name]), *given)[0].tolist(), f"seed {seed}"


@pytest.mark.parametrize("method", ["hard", "diou", "gaussian", "linear"])
def test_of_equal_scores_at_the_limit_numpys_sort_of_all_picks_says_which_stay(method):
    """nms_np.per_class_nms lists every class's picks, sorts them by numpy's default sort on float64, and cuts."""
    profile = PROFILES[f"numpy_{method}"]
    every, changed = replace(profile, max_output_size=10**6), 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        count = int(random.integers(30, 300))
        corners = random.integers(0, 60, (count, 2))
        boxes = np.hstack((corners, corners + random.integers(5, 30, (count, 2)))).astype(np.float32)
        scores = np.float32(random.choice([0.25, 0.5, 0.75], count))
        classes = random.integers(0, 20, count)
        listed = []
        for number in range(20):
            (mine,) = np.nonzero(classes == number)
            picked, final = pick_detections(every, boxes[mine], scores[mine], classes[mine], official_ties=False)
            listed += zip(mine[picked].tolist(), final.tolist(), strict=True)
        order = np.argsort(-np.array([score for _, score in listed], np.float64))[:10]
        expected = [listed[place] for place in order]
        cut = replace(profile, max_output_size=10)
        picked, final = pick_detections(cut, boxes, scores, classes)
        assert list(zip(picked.tolist(), final.tolist(), strict=True)) == expected, f"seed {seed}"
        plain = pick_detections(cut, boxes, scores, classes, official_ties=False)[0].tolist()
        changed += plain != picked.tolist()
    assert changed > 20, "the limit lies among equal scores"


@pytest.mark.parametrize("dtype, exact", [(torch.float32, True), (torch.float64, True), (torch.bfloat16, False)])
def test_outputs_of_16_bits_do_not_pay_for_the_order_of_equal_scores(monkeypatch, dtype, exact):
    asked = []
    monkeypatch.setattr(nms, "suppress", lambda *given: asked.append(given[-1]) or np.zeros((0, 6), np.float32))
    outputs = [torch.zeros(1, 3, 2, 2, dtype=dtype)], [torch.zeros(1, 4, 2, 2, dtype=dtype)]
    postprocess("numpy_gaussian", *outputs, torch.zeros(4, 4), 3, [1.0], (16, 16))
    assert asked == [exact]
