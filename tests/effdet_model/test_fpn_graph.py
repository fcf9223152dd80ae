"""Feature network graphs."""

from __future__ import annotations

import pytest
from effdet.config import get_fpn_config

from effdet_model import InputError
from effdet_model.fpn_graph import build_fpn_graph, resample_keys


@pytest.mark.parametrize("levels", [(3, 7), (3, 8), (2, 6), (4, 6)])
@pytest.mark.parametrize("name", ["bifpn_fa", "bifpn_sum", "bifpn_attn", "pan_fa", "pan_sum", "qufpn_fa", "qufpn_sum"])
def test_graphs_are_those_of_effdet(name: str, levels: tuple[int, int]) -> None:
    theirs = get_fpn_config(name, *levels).nodes
    ours = build_fpn_graph(name, *levels)
    assert [(n.feat_level, list(n.inputs_offsets), n.weight_method) for n in ours.nodes] == [
        (n["feat_level"], list(n["inputs_offsets"]), n["weight_method"]) for n in theirs
    ]
    count = levels[1] - levels[0] + 1
    assert ours.output_nodes == tuple(range(len(ours.nodes) - count, len(ours.nodes)))


def test_tensorflow_counts_the_last_row_of_qufpn_from_the_coarsest_level() -> None:
    graph = build_fpn_graph("qufpn", 3, 7)
    assert [node.tf_index for node in graph.nodes[-5:]] == [len(graph.nodes) - 1 - i for i in range(5)]
    assert [node.tf_index for node in graph.nodes[:-5]] == list(range(len(graph.nodes) - 5))
    assert {node.weight_method for node in build_fpn_graph("qufpn", 3, 7, "sum").nodes} == {"sum"}


def test_one_weight_method_holds_for_all_nodes_as_in_tensorflow() -> None:
    nodes = [{"feat_level": level, "inputs_offsets": [0], "weight_method": "attn"} for level in (3, 4)]
    assert [n.weight_method for n in build_fpn_graph(None, 3, 4, None, {"nodes": nodes}).nodes] == ["attn", "attn"]
    given = {"nodes": nodes, "weight_method": "sum"}
    assert [n.weight_method for n in build_fpn_graph(None, 3, 4, None, given).nodes] == ["sum", "sum"]


def test_repeated_inputs_get_keys_of_their_own() -> None:
    assert resample_keys((3, 4, 3)) == ["3", "4", "3_2"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"nodes": []}, "expected a list of nodes"),
        ({"nodes": [{"feat_level": 9, "inputs_offsets": [0]}]}, "node 0: expected feat_level from 3 to 4, found 9"),
        ({"nodes": [{"feat_level": 3, "inputs_offsets": [2]}]}, "node 0: expected inputs_offsets from 0 to 1"),
        ({"nodes": [{"feat_level": 3, "inputs_offsets": [0]}]}, "expected at least one node at every level.* 4"),
        ({"nodes": [{"feat_level": 3, "inputs_offsets": [0], "weight_method": "max"}]}, "unknown weight_method"),
        ({"nodes": [{"feat_level": 3, "offsets": [0]}]}, "unknown key of fpn_config node 0: 'offsets'"),
        ({"node": []}, "unknown fpn_config key: 'node'"),
    ],
)
def test_node_lists_that_make_no_graph(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_fpn_graph(None, 3, 4, None, config)


def test_default_graph_numbers_inputs_as_the_official_list() -> None:
    """google/automl tf2/fpn_configs.py for levels 3 to 7; checkpoints without full names are read by it."""
    offsets = [list(node.inputs_offsets) for node in build_fpn_graph("bifpn", 3, 7).nodes]
    assert offsets == [[3, 4], [2, 5], [1, 6], [0, 7], [1, 7, 8], [2, 6, 9], [3, 5, 10], [4, 11]]
