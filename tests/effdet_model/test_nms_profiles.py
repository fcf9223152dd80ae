"""The registry of suppression profiles and what configurations change in it."""

from __future__ import annotations

import pytest

from effdet_model import InputError, get_config
from effdet_model.nms_profiles import DEFAULT_PROFILE, PROFILES, NmsProfile, profile_from_config, resolve_profile


def test_default_is_the_numpy_code_of_the_published_numbers():
    profile = resolve_profile()
    assert profile is PROFILES[DEFAULT_PROFILE]
    assert (profile.family, profile.method, profile.sigma, profile.score_threshold) == ("numpy", "gaussian", 0.5, 0.001)
    assert (profile.max_candidates, profile.max_output_size) == (5000, 100)


def config_with(**nms_configs):
    return get_config("d0", nms_configs=nms_configs)


def test_a_configuration_of_today_gives_the_default():
    assert profile_from_config(get_config("d0")) is PROFILES[DEFAULT_PROFILE]
    assert profile_from_config(get_config("d0"), "graph_hard") is PROFILES["graph_hard"]


@pytest.mark.parametrize(
    "method, name",
    [("hard", "numpy_hard"), (None, "numpy_hard"), ("linear", "numpy_linear"), ("diou", "numpy_diou")],
)
def test_the_method_of_the_config_takes_effect(method, name):
    """Without a method google/automl runs hard suppression."""
    assert profile_from_config(config_with(method=method)).name == name
    assert profile_from_config(get_config("d0"), nms_configs={"method": method}).name == name


def test_what_the_config_sets_counts_and_what_the_caller_sets_replaces_it():
    config = config_with(method="hard", iou_thresh=0.4, max_output_size=3)
    found = profile_from_config(config)
    assert (found.name, found.iou_threshold, found.max_output_size) == ("numpy_hard", 0.4, 3)
    found = profile_from_config(config, "graph_hard", {"max_output_size": 7})
    assert (found.name, found.iou_threshold, found.max_output_size) == ("graph_hard", 0.4, 7)
    assert profile_from_config(config, nms_configs={"method": "gaussian"}).name == "numpy_gaussian"


def test_a_profile_of_ones_own_holds_without_the_config():
    mine = NmsProfile("mine", "graph", "gaussian", score_threshold=0.1)
    config = config_with(method="hard", max_output_size=3)
    assert profile_from_config(config, mine) is mine
    assert profile_from_config(config, mine, {"max_output_size": 5}).max_output_size == 5


def test_a_name_that_contradicts_the_method_is_refused():
    with pytest.raises(InputError, match="numpy_gaussian, which is gaussian, and nms_configs.method=hard") as error:
        profile_from_config(config_with(method="hard"), "numpy_gaussian")
    assert "numpy_hard, graph_hard, global_hard, combined, torchvision" in str(error.value)
    assert "or set nms_configs.method=gaussian" in str(error.value) and len(str(error.value)) < 600
    assert profile_from_config(config_with(method="hard"), "combined").name == "combined"


def test_only_what_official_code_knows_is_taken():
    with pytest.raises(InputError, match=r"nms_configs.method: expected one of hard, gaussian, linear, diou, or null"):
        profile_from_config(get_config("d0"), nms_configs={"method": "foo"})
    with pytest.raises(InputError, match=r"unknown nms_configs key: 'iou_threshold'\. Did you mean iou_thresh"):
        resolve_profile("numpy_hard", {"iou_threshold": 0.4})


def test_given_values_replace_and_empty_ones_do_not():
    changed = resolve_profile(
        "numpy_linear", {"iou_thresh": 0.45, "score_thresh": 0.0, "sigma": None, "max_nms_inputs": 0}
    )
    assert (changed.iou_threshold, changed.score_threshold, changed.max_candidates) == (0.45, 0.001, 0)
    assert resolve_profile("combined", {"max_nms_inputs": 10}).max_candidates is None


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown suppression profile: 'numpy_gausian'. Did you mean numpy_gaussian"):
        resolve_profile("numpy_gausian")
    with pytest.raises(InputError, match="unknown method of graph suppression: 'diou'"):
        NmsProfile("mine", "graph", "diou")


def test_impossible_sizes_are_refused():
    with pytest.raises(InputError, match="expected max_output_size >= 1 and max_nms_inputs >= 0, found -1 and 5000"):
        resolve_profile("numpy_hard", {"max_output_size": -1})
    with pytest.raises(InputError, match="expected max_output_size >= 1 and max_nms_inputs >= 0, found 0 and 5000"):
        resolve_profile("numpy_hard", {"max_output_size": 0})
    with pytest.raises(InputError, match="a score threshold above 0"):
        resolve_profile("numpy_gaussian", {"score_thresh": -0.5})
