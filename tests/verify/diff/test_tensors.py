"""The direct proof of the tensors: pairs are what both networks did, and every value counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from verify.diff.observed import Place, Watch, align, reference_places
from verify.diff.tensors import TensorLedger
from verify.reference.ops import BATCH_NORM, CONVOLUTION, DEPTHWISE, FUSION

NORM = [(BATCH_NORM, role) for role in ("weight", "bias", "mean", "variance")]


class Net(nn.Module):
    """Registered in another order than used."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Parameter(torch.tensor([0.5, 2.0]))
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 3, 1)
        self.first = nn.Conv2d(4, 4, 3, groups=4, bias=False)
        self.spare = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.norm(self.first(x)))
        weights = torch.relu(self.edges)
        return x * weights[0] + x * weights[1]


VARIABLES = ["dw", "gamma", "beta", "mean", "variance", "kernel", "bias", "WSM", "WSM_1"]
USES = [(DEPTHWISE, "weight"), *NORM, (CONVOLUTION, "weight"), (CONVOLUTION, "bias"), *[(FUSION, "edge weight")] * 2]


def watched(net: Net) -> list[Place]:
    watch = Watch(net)
    with torch.inference_mode(), watch:
        net.eval()(torch.randn(1, 4, 5, 5))
    return watch.take()


def arrays(net: Net) -> dict[str, np.ndarray]:
    """The net's values as TensorFlow holds them."""
    state = {key: value.clone().numpy() for key, value in net.state_dict().items()}
    return {
        "dw": state["first.weight"].transpose(2, 3, 0, 1), "kernel": state["last.weight"].transpose(2, 3, 1, 0),
        "bias": state["last.bias"], "gamma": state["norm.weight"], "beta": state["norm.bias"],
        "mean": state["norm.running_mean"], "variance": state["norm.running_var"],
        "WSM": state["edges"][0], "WSM_1": state["edges"][1],
    }  # fmt: skip


def proof_of(net: Net, values: dict[str, np.ndarray], variables: list[str] = VARIABLES):
    ledger = TensorLedger(net.state_dict())
    ledger.note("layer", VARIABLES, USES, watched(net))
    return ledger.proof(values.__getitem__, variables)


def test_tensors_are_paired_by_their_use() -> None:
    seen = [(place.operation, place.role, place.names) for place in watched(Net())]
    assert seen[0] == (DEPTHWISE, "weight", ("first.weight",))
    assert seen[1:5] == [(*use, (f"norm.{key}",)) for use, key in zip(
        NORM, ("weight", "bias", "running_mean", "running_var"), strict=True)]
    assert seen[5:] == [
        (CONVOLUTION, "weight", ("last.weight",)), (CONVOLUTION, "bias", ("last.bias",)),
        (FUSION, "edge weight", ("edges",)),
    ]  # fmt: skip


def test_all_values_are_compared_and_an_unused_tensor_fails() -> None:
    net = Net()
    proof = proof_of(net, arrays(net))
    assert (proof.compared, proof.equal) == (36 + 16 + 12 + 3 + 2 + 2, 36 + 16 + 12 + 3 + 2) and not proof.ok
    (left,) = proof.differing
    assert left.key == "spare" and left.reason == "PyTorch used it nowhere"
    assert set(proof.not_compared) == {"norm.num_batches_tracked"}
    del net.spare
    sound = proof_of(net, arrays(net))
    assert sound.ok and sound.text == "69 of 69 values equal"
    assert not proof_of(net, arrays(net), [*VARIABLES, "more"]).ok


@pytest.mark.parametrize(
    ("variable", "index", "found_at"), [("dw", (0, 2, 1, 0), (1, 0, 0, 2)), ("kernel", (0, 0, 3, 1), (1, 3, 0, 0)),
                                        ("WSM_1", (), (1,)), ("variance", (2,), (2,))],
)  # fmt: skip
def test_one_bit_of_one_value_is_found(variable: str, index: tuple[int, ...], found_at: tuple[int, ...]) -> None:
    net = Net()
    del net.spare
    values = arrays(net)
    changed = np.array(values[variable])
    changed[index] = np.nextafter(changed[index], np.float32(9))
    proof = proof_of(net, {**values, variable: changed})
    assert proof.compared - proof.equal == 1 and not proof.ok
    (difference,) = proof.differing
    assert difference.index == found_at and variable in difference.variable
    assert difference.port != difference.reference and difference.count == 1


def test_a_tensor_that_is_turned_on_its_way_is_not_the_tensor() -> None:
    class Turned(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.first.forward = lambda x: nn.functional.conv2d(  # type: ignore[method-assign]
                x, self.first.weight.transpose(2, 3), groups=4
            )
            return super().forward(x)

    proof = proof_of(Turned(), arrays(Net()))
    assert any("no tensor of its state_dict there" in item.reason for item in proof.differing)


def test_what_only_one_side_uses_is_left_over() -> None:
    reference = list(reference_places(VARIABLES, USES))
    port = [place for place in watched(Net()) if place.operation != BATCH_NORM]
    pairs, alone, port_alone = align(reference, port)
    assert [place.names for place in alone] == [("gamma",), ("beta",), ("mean",), ("variance",)]
    assert not port_alone and len(pairs) == 4 and pairs[-1][0].names == ("WSM", "WSM_1")
