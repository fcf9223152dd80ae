"""Suppression in ONNX operators, run by onnxruntime, against the project's own."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from effdet_model.config import EfficientDetConfig
from effdet_model.nms_profiles import PROFILES, NmsProfile
from effdet_model.variants import get_config
from export.graph.onnx_graph import detection_nodes, suppression_model
from export.graph.tensorrt import efficient_nms_profile
from export.outputs import DETECTION_OUTPUTS
from export.proof import expected_detections, paired
from export.runtimes import Run, detections_of, load_file
from tests.export.levels import KINDS, made_up_levels

CONFIG = get_config("d0", image_size=(128, 192), num_classes=7)
UNSTABLE = ("numpy_hard", "numpy_diou", "torchvision")
"""Of equal scores their sort keeps any, so equal logits cannot be compared."""

NUMPYS_ORDER = ("numpy_gaussian", "numpy_linear")
"""Where scores are equal, numpy's unstable sort of all picks decides their order, and which are the last."""


def runner(config: EfficientDetConfig, profile: NmsProfile) -> Run:
    model = suppression_model(config, profile)
    onnx.checker.check_model(model, full_check=True)
    return load_file(model.SerializeToString(), "onnx", config, threads=1)


@pytest.mark.parametrize("every_anchor", [False, True], ids=["5000 pairs", "every anchor"])
@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_gives_the_detections_of_the_project(name: str, every_anchor: bool) -> None:
    profile = PROFILES[name]
    if every_anchor:
        if profile.max_candidates is None:
            pytest.skip("all pairs are its candidates")
        profile = dataclasses.replace(profile, max_candidates=0)
    run = runner(CONFIG, profile)
    for kind in KINDS:
        if name in UNSTABLE and kind not in ("scattered", "weak"):
            continue
        levels = made_up_levels(CONFIG, kind)
        found, expected = detections_of(run(**levels)), expected_detections(CONFIG, profile, levels)
        for image, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            assert len(mine) == len(theirs), (kind, image)
            np.testing.assert_allclose(mine[:, 4], theirs[:, 4], rtol=0, atol=1e-6, err_msg=kind)
            if name in NUMPYS_ORDER:
                last = theirs[-1, 4] + 1e-6 if len(theirs) == profile.max_output_size else 0
                assert all(pair is not None for row, pair in paired(mine, theirs) if row[4] > last), (kind, image)
                continue
            np.testing.assert_array_equal(mine[:, 5], theirs[:, 5], err_msg=kind)
            np.testing.assert_allclose(mine[:, :4], theirs[:, :4], rtol=0, atol=1e-3, err_msg=kind)


def test_images_without_detections_and_the_rows_behind_the_last() -> None:
    profile = PROFILES["graph_gaussian"]
    run = runner(CONFIG, profile)
    outputs = run(**made_up_levels(CONFIG, "one empty"))
    assert outputs["num_detections"].tolist() == [100, 0, 100] and outputs["num_detections"].dtype == np.int64
    assert [outputs[name].shape for name in DETECTION_OUTPUTS[1:]] == [(3, 100, 4), (3, 100), (3, 100)]
    assert not any(outputs[name][1].any() for name in DETECTION_OUTPUTS[1:])
    nothing = run(**made_up_levels(CONFIG, "weak", count=2))
    assert nothing["num_detections"].tolist() == [0, 0] and nothing["detection_boxes"].shape == (2, 100, 4)
    alone = run(**{name: level[:1] for name, level in made_up_levels(CONFIG, "one empty").items()})
    np.testing.assert_array_equal(alone["detection_scores"][0], outputs["detection_scores"][0])


def test_fewer_candidates_than_detections() -> None:
    config = get_config("d0", image_size=(128, 128), num_classes=1, max_level=4)
    for name in ("numpy_gaussian", "graph_hard"):
        profile = dataclasses.replace(PROFILES[name], max_candidates=20, max_output_size=50)
        levels = made_up_levels(config, "scattered", 2)
        found = detections_of(runner(config, profile)(**levels))
        expected = expected_detections(config, profile, levels)
        for mine, theirs in zip(found, expected, strict=True):
            assert 0 < len(theirs) < 50
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-3)


def test_a_wrong_sigma_is_seen() -> None:
    """The comparison fails where the graph says another suppression."""
    profile = PROFILES["numpy_gaussian"]
    levels = made_up_levels(CONFIG, "scattered")
    found = detections_of(runner(CONFIG, dataclasses.replace(profile, sigma=0.45))(**levels))
    expected = expected_detections(CONFIG, profile, levels)
    assert any(np.abs(mine[:, 4] - theirs[:, 4]).max() > 1e-3 for mine, theirs in zip(found, expected, strict=True))


def test_tensorrts_node_has_what_nvidia_documents() -> None:
    config = get_config("d0", image_size=(128, 128), nms_configs={"max_output_size": 30, "iou_thresh": 0.4})
    nodes = detection_nodes(config, "tensorrt")
    (node,) = [node for node in nodes.nodes if node.op_type == "EfficientNMS_TRT"]
    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert given["score_activation"] == 1 and given["box_coding"] == 1 and given["background_class"] == -1
    assert given["max_output_boxes"] == 30 and given["iou_threshold"] == pytest.approx(0.4)
    assert efficient_nms_profile(config).max_output_size == 30
    anchors = next(onnx.numpy_helper.to_array(item) for item in nodes.constants if item.name == node.input[2])
    assert anchors.shape[0] == 1 and anchors.shape[2] == 4 and (anchors[..., 2:] > 0).all()
    np.testing.assert_allclose(anchors[0, 0, :2], [4, 4])  # the first cell's centre, (y, x)
