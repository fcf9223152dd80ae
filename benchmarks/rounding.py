"""How far PyTorch's float32 is from TensorFlow's float64, over how far TensorFlow's own float32 is.

    python -m benchmarks.rounding [--variants d0 lite0 ...] [--image-sizes 128 256] [--seeds 2] [--checkpoint DIR]

Every layer of right ports of synthetic weights (or of one checkpoint), on drawn pictures and on noise. Prints the
distribution of both ratios, by largest value and by root mean square, with the floors of `verify.diff.comparison`; its
`MULTIPLE` stands above the largest.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from demo.synthetic import write_synthetic_checkpoint
from effdet_model.efficientdet import EfficientDet
from porting.checkpoint.sources import open_source
from porting.convert import convert_source
from verify.diff.comparison import FLOOR_MAX, FLOOR_RMS, MULTIPLE
from verify.diff.inputs import drawn, noise
from verify.diff.layers import InputRun
from verify.diff.options import DiffOptions
from verify.reference.configuration.official import reference_config
from verify.reference.process import ReferenceProcess

Ratios = tuple[float, float, str]
"""By largest value, by root mean square, and where."""


def ratios(
    reference: ReferenceProcess, checkpoint: Path, variant: str, sides: list[int], seeds: int
) -> Iterator[Ratios]:
    """Of every layer on every input."""
    with open_source(checkpoint) as source:
        conversion = convert_source(source, variant)
        model = EfficientDet(conversion.config).eval()
        model.load_state_dict(conversion.state_dict)
        kind = conversion.account.kind
        shapes = {name: info.shape for name, info in source.variables.items()}
        official = reference_config(variant, shapes=shapes)
        reference.open(official, lambda name: source.read(name, kind), "float32", source.backbone_scope, "run")
        for side in sides:
            config = conversion.config.replace(image_size=side)
            for seed in range(seeds):
                for item in (drawn(seed, config), noise(seed, (side, side))):
                    run = InputRun(item, model, reference, DiffOptions(), None)
                    run.execute()
                    for name, found in run.differences.items():
                        yield (
                            found.max_rel / max(found.own_max_rel or 0.0, FLOOR_MAX),
                            found.rms_rel / max(found.own_rms_rel or 0.0, FLOOR_RMS),
                            f"{variant} {side} {item.name} {name}",
                        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["d0", "d1", "lite0", "lite3x", "d0_ap"])
    parser.add_argument("--image-sizes", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, help="of the one variant named, instead of synthetic weights")
    chosen = parser.parse_args()
    found: list[Ratios] = []
    with ReferenceProcess() as reference, tempfile.TemporaryDirectory() as folder:
        for variant in chosen.variants:
            checkpoint = chosen.checkpoint or Path(folder) / variant
            if chosen.checkpoint is None:
                write_synthetic_checkpoint(variant, checkpoint, momentum=False)
            found += ratios(reference, checkpoint, variant, chosen.image_sizes, chosen.seeds)
    for place, name in enumerate(("largest value", "root mean square")):
        values = np.array([item[place] for item in found])
        quantiles = ", ".join(f"{share:g} %: {np.percentile(values, share):.2f}" for share in (50, 90, 99, 99.9))
        where = found[int(values.argmax())][2]
        print(f"{name}: {len(values)} layers; {quantiles}; largest {values.max():.2f} at {where}; allowed {MULTIPLE:g}")


if __name__ == "__main__":
    main()
