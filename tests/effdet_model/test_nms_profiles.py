"""The registry of suppression profiles and what configurations change in it."""

from __future__ import annotations

import pytest

from effdet_model import InputError, get_config
from effdet_model.nms_profiles import DEFAULT_PROFILE, PROFILES, NmsProfile, profile_from_nms_configs, resolve_profile


def test_default_is_the_numpy_code_of_the_published_numbers():
    profile = resolve_profile()
    assert profile is PROFILES[DEFAULT_PROFILE]
    assert (profile.family, profile.method, profile.sigma, profile.score_threshold) == ("numpy", "gaussian", 0.5, 0.001)
    assert (profile.max_candidates, profile.max_output_size) == (5000, 100)


def test_a_configuration_of_today_runs_the_graph_op_on_every_anchors_best_class():
    profile = profile_from_nms_configs(get_config("d0").nms_configs)
    assert (profile.name, profile.max_candidates) == ("graph_gaussian", 0)


@pytest.mark.parametrize(
    "configs, per_class, name",
    [
        ({"method": "gaussian"}, True, "numpy_gaussian"),
        ({"method": None, "pyfunc": True}, True, "numpy_hard"),
        ({"method": "diou", "pyfunc": True}, True, "numpy_diou"),
        ({"method": "hard", "pyfunc": False}, True, "graph_hard"),
        ({"method": "gaussian", "pyfunc": False}, False, "global_gaussian"),
    ],
)
def test_nms_configs_choose_the_official_code(configs, per_class, name):
    assert profile_from_nms_configs(configs, per_class).name == name


def test_given_values_replace_and_empty_ones_do_not():
    changed = resolve_profile(
        "numpy_linear", {"iou_thresh": 0.45, "score_thresh": 0.0, "sigma": None, "max_nms_inputs": 0}
    )
    assert (changed.iou_threshold, changed.score_threshold, changed.max_candidates) == (0.45, 0.001, 0)
    assert resolve_profile("combined", {"max_nms_inputs": 10}).max_candidates is None


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown suppression profile: 'numpy_gausian'. Did you mean numpy_gaussian"):
        resolve_profile("numpy_gausian")
    with pytest.raises(InputError, match="unknown nms_configs.method of the graph code: 'linear'"):
        profile_from_nms_configs({"method": "linear", "pyfunc": False})
    with pytest.raises(InputError, match="unknown method of graph suppression: 'diou'"):
        NmsProfile("mine", "graph", "diou")


def test_impossible_sizes_are_refused():
    with pytest.raises(InputError, match="expected max_output_size >= 1 and max_nms_inputs >= 0, found -1 and 5000"):
        resolve_profile("numpy_hard", {"max_output_size": -1})
    with pytest.raises(InputError, match="a score threshold above 0"):
        resolve_profile("numpy_gaussian", {"score_thresh": -0.5})
