"""Times this project's suppression, the same profile as plain loops and torchvision's hard NMS, side by side.

    python benchmarks/nms.py [--profile NAME] [--images N] [--rounds N] [--threads N] [--weights FILE]

Input are the outputs of the demo's trained d0 (or of a weight file with 90 classes) for the demo's pictures: scores of
random weights are nearly all equal, and where scores are equal numpy's order needs every pick. Everything from the
model's outputs to detections counts: selection of 5000 candidates, box decoding, suppression. The plain ways select
with one top-k over all anchors x classes, as the official code does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.resources import ARCHIVE, IMAGE_SIZE, IMAGES  # noqa: E402
from effdet_model import create_model  # noqa: E402
from effdet_model.anchors import anchors_from_config  # noqa: E402
from effdet_model.decoding import decode_image  # noqa: E402
from effdet_model.nms import postprocess, suppress  # noqa: E402
from effdet_model.nms_profiles import PROFILES, NmsProfile, resolve_profile  # noqa: E402
from effdet_model.preprocessing import preprocess  # noqa: E402
from effdet_model.selection import Candidates, decode_boxes  # noqa: E402
from porting.convert import convert  # noqa: E402
from verify.reference.nms_loops import best_picks  # noqa: E402

Outputs = tuple[list[Tensor], list[Tensor]]


def model_outputs(images: int, weights: str) -> tuple[Outputs, Tensor, tuple[int, int]]:
    """Outputs of a d0 for the demo's pictures, as often as `images` asks for; its anchors and image size."""
    model = create_model(weights=weights)
    paths = sorted(IMAGES.iterdir())
    inputs = [preprocess(decode_image(paths[place % len(paths)]), model.config)[0] for place in range(images)]
    with torch.inference_mode():
        class_outputs, box_outputs = model(torch.stack(inputs))
    anchors = torch.from_numpy(anchors_from_config(model.config))
    return (list(class_outputs), list(box_outputs)), anchors, model.config.image_size


def plain_candidates(outputs: Outputs, anchors: Tensor, image: int, count: int) -> Candidates:
    """One top-k over all anchors x classes of one image."""
    classes, boxes = outputs
    logits = torch.cat([level[image].permute(1, 2, 0).reshape(-1, 90) for level in classes])
    regressions = torch.cat([level[image].permute(1, 2, 0).reshape(-1, 4) for level in boxes])
    values, indices = torch.topk(logits.flatten(), count)
    chosen = indices // 90
    decoded = decode_boxes(regressions[chosen], anchors[chosen])
    return Candidates(decoded, torch.sigmoid(values), indices % 90, chosen)


def plain_loops(profile: NmsProfile, outputs: Outputs, anchors: Tensor) -> list[np.ndarray]:
    """Per-class numpy loops after a plain top-k; rows as `suppress` gives them."""
    results = []
    for image in range(len(outputs[0][0])):
        found = plain_candidates(outputs, anchors, image, 5000)
        boxes, scores, classes = found.boxes_yxyx.numpy(), found.scores.numpy(), found.classes.numpy()
        picked, final = best_picks(asdict(profile), boxes, scores, classes)
        results.append(np.column_stack((boxes[picked], final, classes[picked] + 1)))
    return results


def torchvision_nms(outputs: Outputs, anchors: Tensor) -> list[np.ndarray]:
    """torchvision's batched hard NMS after a plain top-k."""
    images = range(len(outputs[0][0]))
    return [suppress("torchvision", plain_candidates(outputs, anchors, image, 5000)) for image in images]


def best_times(ways: list[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of the fastest round of every way; the ways take turns, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, taken in zip(ways, times, strict=True):
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in times]


def main() -> None:
    """Print one line per way, and per profile how much faster it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", action="append", choices=[n for n in PROFILES if n != "torchvision"])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--weights", help="weight file of a model with 90 classes (default: the demo's)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        own = {"image_size": IMAGE_SIZE}
        weights = arguments.weights or str(convert(ARCHIVE, Path(folder) / "demo.pth", "d0", overrides=own).path)
        outputs, anchors, size = model_outputs(arguments.images, weights)
    scales = [1.0] * arguments.images
    height, width = size
    print(f"{arguments.images} outputs, {height} x {width}, 5000 candidates each; milliseconds for all of them")
    for name in arguments.profile or ["numpy_gaussian"]:
        profile = resolve_profile(name, {"max_nms_inputs": 5000})

        def ours(profile: NmsProfile = profile) -> list[np.ndarray]:
            return postprocess(profile, *outputs, anchors, 90, scales, size)

        def loops(profile: NmsProfile = profile) -> list[np.ndarray]:
            return plain_loops(profile, outputs, anchors)

        def hard_nms() -> list[np.ndarray]:
            return torchvision_nms(outputs, anchors)

        fast, slow, hard = best_times([ours, loops, hard_nms], arguments.rounds)
        agree = sum(
            a.shape == b.shape and np.allclose(a[:, 4], b[:, 4], atol=1e-6)
            for a, b in zip(ours(), loops(), strict=True)
        )
        print(f"{name + ', this project':44}{fast * 1e3:10.1f}")
        print(f"{name + ', per-class loops, plain top-k':44}{slow * 1e3:10.1f}")
        print(f"{'torchvision batched_nms, plain top-k':44}{hard * 1e3:10.1f}")
        print(
            f"{name}: {slow / fast:.1f} times faster than the loops, {hard / fast:.1f} times faster than "
            f"torchvision's hard NMS; the same detections in {agree} of {arguments.images} images"
        )


if __name__ == "__main__":
    main()
