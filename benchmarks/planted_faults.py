"""Does the default diff find every fault? Plants them at random, one at a time, and counts those found and named.

    python -m benchmarks.planted_faults [--variant d0] [--faults 60] [--image-size 128] [--seed 0]

Faults: one value of one tensor changed by 10 %, two tensors of one shape exchanged, a kernel turned or flipped, and
every field of the configuration falsified in the metadata beside the weights. A fault counts as found where the diff
fails and names the tensor or the field.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from demo.synthetic import write_synthetic_checkpoint
from porting.checkpoint.sources import open_source
from porting.convert import convert
from verify.diff.result import DiffResult
from verify.diff.run import DiffOptions, diff_model, run_diff
from verify.reference.process import ReferenceProcess

FALSIFIED: Mapping[str, Any] = {
    "act_type": "relu", "min_level": 4, "max_level": 6, "num_scales": 2, "anchor_scale": 4.5,
    "aspect_ratios": ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)),
    "mean_rgb": 126.0, "stddev_rgb": (58.0, 57.0, 57.0), "scale_range": True, "box_class_repeats": 2,
    "fpn_cell_repeats": 2, "fpn_num_filters": 80, "separable_conv": False, "apply_bn_for_resampling": False,
    "conv_after_downsample": True, "conv_bn_act_pattern": True, "fpn_name": "qufpn", "fpn_weight_method": "attn",
    "fpn_config": {"nodes": [{"feat_level": 3, "inputs_offsets": [0, 1, 2, 3, 4]}, *(
        {"feat_level": level, "inputs_offsets": [level - 3, 4 + level - 3]} for level in range(4, 8))]},
    "survival_prob": 0.8, "num_classes": 20, "image_size": (640, 384), "label_map": "voc",
    "nms_configs": {"method": "hard"}, "backbone_name": "efficientnet-b1", "pad_type": "", "redundant_bias": False,
    "norm_kwargs": {"eps": 1e-5, "momentum": 0.01}, "norm_layer": "groupnorm", "head_act_type": "mish",
    "head_bn_level_first": True, "downsample_type": "avg", "upsample_type": "bilinear",
    "backbone_args": {"output_stride": 16}, "backbone_indices": (1, 2, 3, 4),
}  # fmt: skip
"""Every field of the configuration, with a value that is not d0's nor lite0's."""


class Planted(NamedTuple):
    """One fault: its kind, what it is, and the names of which the diff must name all."""

    kind: str
    what: str
    names: tuple[str, ...]


State = dict[str, torch.Tensor]
Plant = Callable[[State, np.random.RandomState], Planted]


def changed_value(state: State, random: np.random.RandomState) -> Planted:
    """One value of one tensor times 1.1; one that is 0 becomes 0.1."""
    key = _any_key(state, random)
    flat = state[key].view(-1)
    place = random.randint(flat.numel())
    flat[place] = flat[place] * 1.1 if flat[place] else 0.1
    return Planted("value", f"{key}, value {place}, by 10 %", (key,))


def swapped_tensors(state: State, random: np.random.RandomState) -> Planted:
    """Two tensors of one shape exchanged."""
    while True:
        key = _any_key(state, random)
        others = [
            other for other in _keys(state)
            if other != key and state[other].shape == state[key].shape and not torch.equal(state[other], state[key])
        ]
        if others:
            break
    other = others[random.randint(len(others))]
    held = state[key].clone()
    state[key].copy_(state[other])
    state[other].copy_(held)
    return Planted("swap", f"{key} and {other} exchanged", (key, other))


def turned_kernel(state: State, random: np.random.RandomState) -> Planted:
    """A kernel with height and width, or input and output channels, exchanged, or flipped."""
    while True:
        key = _any_key(state, random)
        kernel = state[key]
        if kernel.dim() != 4:
            continue
        turns = [kernel.transpose(2, 3), kernel.flip(2, 3)]
        if kernel.shape[0] == kernel.shape[1]:
            turns.append(kernel.transpose(0, 1))
        turned = turns[random.randint(len(turns))].clone()
        if not torch.equal(turned, kernel):
            kernel.copy_(turned)
            return Planted("kernel", f"{key} turned", (key,))


PLANTS: tuple[Plant, ...] = (changed_value, swapped_tensors, turned_kernel)


def tensor_faults(
    checkpoint: Path, weights: Path, variant: str, count: int, options: DiffOptions, seed: int = 0
) -> Iterator[tuple[Planted, DiffResult, bool]]:
    """(fault, result, whether found and named) of so many faults of each kind in the tensors."""
    from effdet_model.factory import create_model

    random = np.random.RandomState(seed)
    model = create_model(variant, weights=weights)
    sound = {key: value.clone() for key, value in model.state_dict().items()}
    with ReferenceProcess() as reference, open_source(checkpoint) as source:
        _expect_sound(diff_model(model, source, reference, options))
        for number in range(count * len(PLANTS)):
            planted = PLANTS[number % len(PLANTS)](model.state_dict(), random)
            result = diff_model(model, source, reference, options)
            told = {item.key for item in result.tensors.differing} if result.tensors else set()
            yield planted, result, not result.passed and set(planted.names) <= told
            model.load_state_dict(sound)


def configuration_faults(
    checkpoint: Path, weights: Path, variant: str, options: DiffOptions
) -> Iterator[tuple[Planted, DiffResult, bool]]:
    """The same for every field of the configuration, falsified in the metadata beside a .pth."""
    copy = weights.with_name("falsified.pth")
    shutil.copyfile(weights, copy)
    for field, value in FALSIFIED.items():
        metadata = json.loads(weights.with_suffix(".json").read_text())
        known = metadata["config"][field]
        merges = field == "nms_configs"
        metadata["config"][field] = {**known, **value} if merges else value
        copy.with_suffix(".json").write_text(json.dumps(metadata))
        result = run_diff(checkpoint, copy, variant, options)
        named = field in {difference.field for difference in result.undeclared}
        yield Planted("configuration", f"{field} = {value}", (field,)), result, named and not result.passed


def _expect_sound(result: DiffResult) -> None:
    if not result.passed:
        raise AssertionError(f"the port without a fault does not pass: {result.verdict}")


def _keys(state: State) -> list[str]:
    return [key for key, value in state.items() if value.is_floating_point()]


def _any_key(state: State, random: np.random.RandomState) -> str:
    keys = _keys(state)
    return keys[random.randint(len(keys))]


def main() -> int:
    """Plant, count, print; 1 where a fault was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="d0")
    parser.add_argument("--faults", type=int, default=60, help="of each kind in the tensors")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    options = DiffOptions(image_size=(chosen.image_size, chosen.image_size))
    tally: dict[str, list[int]] = {}
    shown_by_layers = 0
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_synthetic_checkpoint(chosen.variant, Path(folder) / "checkpoint", momentum=False).parent
        weights = convert(checkpoint, Path(folder) / "weights.pth", chosen.variant).path
        files = (checkpoint, weights, chosen.variant)
        for planted, result, found in itertools.chain(
            tensor_faults(*files, chosen.faults, options, chosen.seed), configuration_faults(*files, options)
        ):
            known = tally.setdefault(planted.kind, [0, 0])
            known[0] += found
            known[1] += 1
            shown_by_layers += planted.kind != "configuration" and not result.same_layers
            if not found:
                print(f"MISSED {planted.kind}: {planted.what}: {result.verdict}", flush=True)
    for kind, (found, count) in tally.items():
        print(f"{kind}: {found} of {count} found and named")
    print(f"of the faults in tensors, layers alone show {shown_by_layers}")
    return int(any(found < count for found, count in tally.values()))


if __name__ == "__main__":
    sys.exit(main())
