"""The weights with which a graph's feature network fuses its features.

google/automl's fast attention: input i is multiplied by relu(w_i) / (relu(w_0) + ... + 0.0001). In a TFLite file the
products are constants: one or two for each input, or multiplied into the convolution that makes the input.
"""

from __future__ import annotations

from collections.abc import Sequence

from effdet_model.errors import InputError
from porting.checkpoint.tflite.pyramid import Node, Pyramid

EPSILON = 1e-4
_LARGEST_SUM = 1e4
"""Of raw weights: from there on the epsilon is below float32's rounding."""
_LEAST_SHARE = 1e-6


def fusion_weights(
    pyramid: Pyramid, shares: dict[int, float], label: str
) -> dict[tuple[int, int], tuple[float, ...]]:
    """(cell, node) -> raw weights of its inputs; nothing where the network is a plain sum.

    Args:
        shares: gets, for each convolution's output that a weight was multiplied into, how much of it.

    Raises:
        InputError: weights that no fast attention makes.
    """
    weighted = [node for cell in pyramid.cells for node in cell.nodes if any(edge.factors for edge in node.edges)]
    if not weighted:
        return {}
    found = {}
    for number, cell in enumerate(pyramid.cells):
        for node in cell.nodes:
            weights, own = _weights(node, label)
            found[number, node.number] = tuple(weights)
            for edge, share in zip(node.edges, own, strict=True):
                if not edge.factors and share > 0:
                    if edge.taken in shares:
                        raise _refused(label, "a feature with two weights in it")
                    shares[edge.taken] = share
    return found


def _weights(node: Node, label: str) -> tuple[list[float], list[float]]:
    """Raw weights of a node, and what each input is multiplied by."""
    products = [edge.factors[0] * (edge.factors[1] if len(edge.factors) > 1 else 1.0) if edge.factors else None
                for edge in node.edges]  # fmt: skip
    negative = any(product is not None and product < 0 for product in products)
    if negative or any(len(edge.factors) > 2 for edge in node.edges):
        raise _refused(label, "more than two factors, or one below 0")
    known = [product for product in products if product is not None]
    missing = len(products) - len(known)
    total = _sum_of_raw(node, known, missing)
    target = total / (total + EPSILON)
    rest = (target - sum(known)) / missing if missing else 0.0
    if missing and rest < _LEAST_SHARE:
        if rest < -1e-3:
            raise _refused(label, f"weights that add up to {sum(known):g}")
        rest = 0.0
    if sum(known) > 1 + 1e-3:
        raise _refused(label, f"weights that add up to {sum(known):g}")
    own = [rest if product is None else product for product in products]
    return [share * (total + EPSILON) for share in own], own


def _sum_of_raw(node: Node, known: Sequence[float], missing: int) -> float:
    """The sum of the raw weights: its inverse is the second factor, where there are two; else any that fits."""
    second = [edge.factors[1] for edge in node.edges if len(edge.factors) == 2]
    if second and second[0] > 0:
        return max(1.0 / second[0] - EPSILON, 0.0)
    added = sum(known)
    if missing or added >= 1.0:
        return 1.0 if missing else _LARGEST_SUM
    return min(EPSILON * added / (1.0 - added), _LARGEST_SUM)


def _refused(label: str, found: str) -> InputError:
    return InputError(
        f"{label}: expected fusion weights as fast attention makes them (shares that add up to 1), found {found}; such "
        "a network cannot be recovered."
    )
