"""Images per second on a GPU: the network alone, and from normalised images to detections.

python -m benchmarks.gpu --variants d0 d7x --batches 1 64
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from effdet_model import create_model
from effdet_model.anchors import anchors_from_config
from effdet_model.engines import create_engine
from effdet_model.nms import postprocess

WAYS = {
    "exact": ("exact", False, False),
    "torch": ("torch", False, False),
    "torch, NHWC": ("torch", False, True),
    "torch, amp": ("torch", True, False),
    "torch, amp, NHWC": ("torch", True, True),
}
"""Name -> (engine, mixed precision, channels_last)."""


def seconds(run: Callable[[], object], least: float = 1.0) -> float:
    """Of one call, the fastest; as many calls as fit into so many seconds, three at least."""
    run()
    torch.cuda.synchronize()
    best, began, calls = float("inf"), time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - began < least:
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return best


def measure(variant: str, batch: int, way: str) -> tuple[float, float]:
    """Images per second: (network, network and suppression)."""
    name, amp, channels_last = WAYS[way]
    torch.manual_seed(0)
    model = create_model(variant).cuda()
    engine = create_engine(name, model, channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(batch, 3, *model.config.image_size, device="cuda").to(memory_format=layout)
    anchors = torch.from_numpy(anchors_from_config(model.config)).cuda()

    def network() -> tuple[list[Tensor], list[Tensor]]:
        with torch.autocast("cuda", torch.float16, enabled=amp):
            return engine(images)

    def detections() -> object:
        classes, boxes = ([level.float() for level in part] for part in network())
        return postprocess("graph_hard", classes, boxes, anchors, model.config.num_classes, [1.0] * batch,
                           model.config.image_size)  # fmt: skip

    return batch / seconds(network), batch / seconds(detections)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=["d0", "d7x"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: expected a GPU, found none.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; images per second")
    print(f"{'variant':8} {'batch':>5} {'way':18} {'network':>9} {'with suppression':>17}")
    for variant in arguments.variants:
        for batch in arguments.batches:
            for way in WAYS:
                try:
                    network, whole = measure(variant, batch, way)
                    text = f"{network:9.1f} {whole:17.1f}"
                except torch.cuda.OutOfMemoryError:
                    text = "  out of memory"
                torch.cuda.empty_cache()
                print(f"{variant:8} {batch:5} {way:18} {text}", flush=True)


if __name__ == "__main__":
    main()
