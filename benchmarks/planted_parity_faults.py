"""Faults planted into the port, stage by stage: parity must fail for every one and name where it was born.

    python -m benchmarks.planted_parity_faults --checkpoint DIR --images DIR --annotations FILE [--variant d0]
        [--sizes 128,256x192,256,512] [--limit 8] [--nms numpy_gaussian] [--output OUT.json]

At each size the right port is judged first; it must pass. Prints how many times as far as TensorFlow's own float32 the
right port is from the float64 truth: `verify.parity.rounding.MULTIPLE` must lie well above, the faults far above that.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from effdet_model import preprocessing, selection
from effdet_model.weights import read_metadata, read_state_dict
from porting.convert import convert
from porting.weights.files import write_weights
from verify.parity import port, stages
from verify.parity.result import ParityResult
from verify.parity.run import ParityOptions, parity

Planting = Callable[[ParityOptions, Path], Any]
"""A context manager that gives the options to run with."""


@dataclass(frozen=True)
class Fault:
    """One fault: what it does, in words, and the stages that it may be born in."""

    words: str
    born_in: tuple[str, ...]
    planting: Planting


def _weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Planting:
    @contextlib.contextmanager
    def plant(options: ParityOptions, folder: Path) -> Iterator[ParityOptions]:
        state = {name: value.clone() for name, value in read_state_dict(options.weights).items()}
        change(state)
        write_weights(folder / "faulty.pth", state, read_metadata(options.weights) or {})
        yield dataclasses.replace(options, weights=folder / "faulty.pth")

    return plant


def _patched(*patches: Callable[[], Any]) -> Planting:
    @contextlib.contextmanager
    def plant(options: ParityOptions, folder: Path) -> Iterator[ParityOptions]:
        with contextlib.ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch())
            yield options

    return plant


def _after(owner: Any, name: str, change: Callable[[Any], Any]) -> Callable[[], Any]:
    """A patch: the function's result, changed."""
    sound = getattr(owner, name)

    def faulty(*given: Any, **named: Any) -> Any:
        return change(sound(*given, **named))

    return lambda: mock.patch.object(owner, name, faulty)


def _bias(prefix: str, amount: float, one: bool = False) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(state: dict[str, torch.Tensor]) -> None:
        name = next(key for key in state if key.startswith(f"{prefix}.predict") and key.endswith("bias"))
        state[name][: 1 if one else None] += amount

    return change


def _one_kernel_value(state: dict[str, torch.Tensor]) -> None:
    name = next(key for key in state if key.startswith("class_net.predict") and key.endswith("conv_pw.weight"))
    flat = state[name].reshape(-1)
    flat[int(flat.abs().argmax())] *= 1.1


def _shifted(rows: np.ndarray, amount: float) -> np.ndarray:
    moved = rows.copy()
    moved[:, [1, 3]] += amount
    return moved


def _weak_scaled(rows: np.ndarray) -> np.ndarray:
    """The weaker half: far from the size it was trained at, a model has no weak detection at all."""
    changed = rows.copy()
    changed[changed[:, 4] <= np.median(changed[:, 4]), 4] *= 0.6
    return changed


def _invented(rows: np.ndarray) -> np.ndarray:
    boxes = np.arange(20, dtype=np.float32)
    new = np.column_stack((boxes, boxes, boxes + 30, boxes + 30, np.full(20, 0.9), np.ones(20))).astype(np.float32)
    return np.concatenate((new, rows))


def _renamed(rows: np.ndarray) -> np.ndarray:
    changed = rows.copy()
    changed[: max(1, len(changed) // 10), 5] += 1
    return changed


def _candidates(change: Callable[..., dict[str, torch.Tensor]]) -> Callable[[list[Any]], list[Any]]:
    return lambda batch: [dataclasses.replace(found, **change(found)) for found in batch]


def _one_pixel(pixels: np.ndarray) -> np.ndarray:
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    return changed


def _pillow_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    planes = [Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC) for plane in image]
    return np.stack([np.asarray(plane) for plane in planes])


def _aligned_corners(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    batch = torch.from_numpy(image)[None]
    return torch.nn.functional.interpolate(batch, size, mode="bilinear", align_corners=True)[0].numpy()


def _both(name: str, change: Callable[[Any], Any]) -> Planting:
    """A function that both the port's side and the stages alone use by name."""
    owners = [owner for owner in (port, stages) if hasattr(owner, name)]
    return _patched(*(_after(owner, name, change) for owner in owners))


def _profile(**changes: Any) -> Planting:
    sound = port.suppress
    return _patched(
        lambda: mock.patch.object(
            port, "suppress", lambda profile, *given: sound(dataclasses.replace(profile, **changes), *given)
        )
    )


DECODING, RESIZING, NETWORK = (stages.DECODING,), (stages.RESIZING,), (stages.NETWORK,)
SELECTION, SUPPRESSION = (stages.SELECTION,), (stages.SUPPRESSION,)
FAULTS = (
    Fault("one value of one pixel off by 1", DECODING, _both("decode_image", _one_pixel)),
    Fault("resize by Pillow, bicubic", RESIZING, _patched(
        lambda: mock.patch.object(preprocessing, "resize_bilinear", _pillow_resize))),
    Fault("resize with aligned corners", RESIZING, _patched(
        lambda: mock.patch.object(preprocessing, "resize_bilinear", _aligned_corners))),
    Fault("mean off by 0.1 of 255", RESIZING, _patched(
        _after(preprocessing, "normalize", lambda image: image + np.float32(0.1 / 57)))),
    Fault("image scale off by 0.1 %", RESIZING, _both("preprocess", lambda pair: (pair[0], pair[1] * 1.001))),
    Fault("class biases off by 0.01", NETWORK, _weights(_bias("class_net", 0.01))),
    Fault("one class bias off by 0.01", NETWORK, _weights(_bias("class_net", 0.01, one=True))),
    Fault("box biases off by 0.001", NETWORK, _weights(_bias("box_net", 0.001))),
    Fault("one value of a kernel off by 10 %", NETWORK, _weights(_one_kernel_value)),
    Fault("boxes shifted by 0.2 pixel when decoded", SELECTION, _patched(
        _after(selection, "decode_boxes", lambda boxes: boxes + np.float32(0.2)))),
    Fault("boxes 1 % larger when decoded", SELECTION, _patched(
        _after(selection, "decode_boxes", lambda boxes: boxes * np.float32(1.01)))),
    Fault("weak candidates' scores times 0.6", SELECTION, _patched(_after(port, "select", _candidates(
        lambda found: {"scores": torch.where(found.scores <= found.scores.median(), 0.6, 1.0) * found.scores})))),
    Fault("ten candidates less", SELECTION, _patched(_after(port, "select", _candidates(
        lambda found: {name: getattr(found, name)[10:] for name in ("boxes_yxyx", "scores", "classes", "anchors")})))),
    Fault("detections shifted by 0.2 pixel", SUPPRESSION, _both("suppress", lambda rows: _shifted(rows, 0.2))),
    Fault("weak detections' scores times 0.6", SUPPRESSION, _both("suppress", _weak_scaled)),
    Fault("20 invented strong boxes per image", SUPPRESSION, _both("suppress", _invented)),
    Fault("the best tenth of another class", SUPPRESSION, _both("suppress", _renamed)),
    Fault("the last detection left out", SUPPRESSION, _both("suppress", lambda rows: rows[:-1])),
    Fault("another IoU threshold and sigma", SUPPRESSION, _profile(iou_threshold=0.45, sigma=0.45)),
)  # fmt: skip


def planted(fault: Fault, options: ParityOptions) -> ParityResult:
    """Parity of a port with one fault."""
    with tempfile.TemporaryDirectory() as folder, fault.planting(options, Path(folder)) as faulty:
        return parity(faulty)


def found(fault: Fault, result: ParityResult) -> bool:
    """Whether parity failed, where the fault is."""
    return result.outcome == "failed" and result.born_in in fault.born_in


def sweep(options: ParityOptions, sizes: Sequence[str]) -> dict[str, Any]:
    """The right port and every fault at every size; prints each."""
    sizes_found: dict[str, Any] = {}
    for size in sizes:
        here = dataclasses.replace(options, image_size=size)
        right = parity(here)
        print(f"{size}: right port, {right.rounding.ratio:.2f} x TensorFlow's own rounding: {right.verdict}")
        outcomes = {}
        for fault in FAULTS:
            result = planted(fault, here)
            outcomes[fault.words] = found(fault, result)
            word = "found" if outcomes[fault.words] else "MISSED"
            print(f"{size}: {word}: {fault.words}: {result.born_in}", flush=True)
        sizes_found[size] = {"right": right.outcome, "ratio": right.rounding.ratio, "found": outcomes}
    return sizes_found


def main() -> int:
    """0 where the right port passes and every fault is found, at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--annotations")
    parser.add_argument("--variant", default="d0")
    parser.add_argument("--sizes", default="128,256x192,256,512")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--nms", default="numpy_gaussian")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "right.pth"
        convert(given.checkpoint, weights, given.variant)
        options = ParityOptions(
            given.checkpoint, weights, images=given.images, annotations=given.annotations, limit=given.limit,
            nms=given.nms, pictures=0,
        )  # fmt: skip
        results = sweep(options, given.sizes.split(","))
    every = [value for size in results.values() for value in size["found"].values()]
    right = all(size["right"] == "passed" for size in results.values())
    print(f"{sum(every)} of {len(every)} faults found; the right port {'passed' if right else 'FAILED'} everywhere")
    if given.output:
        given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if all(every) and right else 1


if __name__ == "__main__":
    raise SystemExit(main())
