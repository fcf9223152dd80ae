"""Made-up diffs for the tests of reports."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

from verify.diff.result import Cause, Difference, DiffResult, InputResult, LayerResult, TensorProof

HOSTILE = "</script><script>alert(1)</script>|`x`_*[a](b)\"'&amp;.npz"

"""A name that breaks out of whatever does not escape it: script elements, Markdown tables and code, attributes."""


def layer_names(blocks: int = 16, cells: int = 3, repeats: int = 3) -> list[str]:
    names = ["backbone.stem", *(f"backbone.blocks.{i // 3}.{i % 3}" for i in range(blocks))]
    names += [f"fpn.input.level.{level}" for level in range(3, 8)]
    names += [f"fpn.cell.{cell}.fnode.{node}" for cell in range(cells) for node in range(8)]
    for net in ("class_net", "box_net"):
        for level in range(3, 8):
            names += [f"{net}.conv_rep.{repeat}.level.{level}" for repeat in range(repeats)]
            names.append(f"{net}.predict.level.{level}")
    return names


def made_up_diff(
    tolerance: float = 1e-9, errors: Mapping[str, float] | None = None, source: str = "efficientdet-d0.tar.gz",
    cause: Cause | None = None, seed: int = 0, input_name: str = "noise-0",
) -> DiffResult:
    """A diff whose layers have errors around 1e-12, except those given."""
    random = np.random.default_rng(seed)
    layers = []
    for place, name in enumerate(layer_names()):
        error = (errors or {}).get(name, float(10 ** random.uniform(-14, -13) * (1 + place / 5)))
        size = max(2, 128 >> (place // 12))
        largest = float(random.uniform(1, 40))
        value = float(random.normal())
        difference = Difference(
            shape=(1, size, size, 64), max_abs=error * largest, max_rel=error, mean_abs=error * largest / 9,
            mean=float(random.normal()), cosine=1.0 if error < 1e-6 else 0.97, reference_max=largest,
            worst_index=(0, size - 1, 1, 7), reference_value=value, port_value=value + error * largest,
            tolerance=tolerance, note="" if math.isfinite(error) else "port has 3 non-finite values",
        )
        layers.append(LayerResult(name, difference, input_name))
    first = next((layer.name for layer in layers if not layer.ok), None)
    worst = max(layers, key=lambda layer: layer.difference.max_rel)
    item = InputResult(input_name, "noise", "ab" * 32, worst.difference.max_abs, worst.difference.max_rel,
                       worst.name, first)
    return DiffResult(
        variant="d0", config={"fpn_num_filters": 64, "aspect_ratios": [[1.0, 1.0], [1.4, 0.7]], "fpn_name": None},
        source=source, weights="d0.pth", variables="ema", reference="tensorflow", dtype="float64", isolate=False,
        image_size=(512, 512), tolerance=tolerance, layers=tuple(layers), inputs=(item,),
        first_divergent_layer=first, cause=cause,
        environment={
            "python": "3.11.2", "versions": {"torch": "2.4.0", "tensorflow": "2.21.0"}, "cpu": "Some CPU @ 2.60GHz",
            "cpu flags": ["avx2", "avx512f", "fma"], "seeds": [0], "checkpoint sha256": "0123456789abcdef" * 4,
            "weights sha256": "fedcba9876543210" * 4,
        },
        seconds={"reference": 2.512, "port": 1.25, "total": 75.4},
        tensors=TensorProof(3_880_067, 3_880_067, (), {"backbone.bn1.num_batches_tracked": "counts training steps"}),
    )


def failing_diff(**options: object) -> DiffResult:
    """A diff that parts at the second BiFPN cell; one layer has a value that is not finite."""
    names = layer_names()
    start = names.index("fpn.cell.1.fnode.2")
    errors = {name: 2e-3 * (1 + place / 40) for place, name in enumerate(names[start:])}
    errors["class_net.predict.level.3"] = math.inf
    errors["backbone.stem"] = 0.0
    cause = Cause(
        "edge_weights_swapped", "Two BiFPN edge weights of fpn.cell.1.fnode.2 seem to be swapped.",
        ("fpn.cell.1.fnode.2.combine.edge_weights: [0.7, 0.2] in the port, [0.2, 0.7] in the checkpoint",),
        "Read the edge weights in the order of the node's inputs.",
    )
    return made_up_diff(errors=errors, cause=cause, **options)  # type: ignore[arg-type]


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB as a JPEG file."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG")
    return encoded.getvalue()
