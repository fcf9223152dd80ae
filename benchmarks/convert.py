"""How fast `convert` is, whole process, beside TensorFlow's reader.

    python benchmarks/convert.py [--variant d7x] [--runs 3]

Writes an official-layout checkpoint with moving averages and optimizer slots to a temporary folder (930 MB for
d7x), then runs in turn: the floor script (import torch, timm and tensorflow; `tf.train.load_checkpoint`; every
moving average; torch.save), `convert` with TensorFlow's reader in place of this project's, and `cli.py convert`.
Prints the best wall time, the least processor time and the peak memory of each, and the ratios.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FLOOR = """
import sys, torch, timm, tensorflow as tf
reader = tf.train.load_checkpoint(sys.argv[1])
names = [n for n in reader.get_variable_to_shape_map() if n.endswith("/ExponentialMovingAverage")]
torch.save({n: torch.as_tensor(reader.get_tensor(n)) for n in names}, sys.argv[2])
print(len(names), "tensors")
"""

TENSORFLOW_READER = """
import sys, torch, tensorflow as tf
import porting.checkpoint.sources as sources
from porting.convert import convert

class TensorFlowBundle(sources.TensorBundle):
    def read(self, name):
        if not hasattr(self, "reader"):
            self.reader = tf.train.load_checkpoint(sys.argv[1])
        return self.reader.get_tensor(name)

sources.TensorBundle = TensorFlowBundle
sources.Source.check_unread = lambda self: None
convert(sys.argv[1], sys.argv[2], sys.argv[3])
"""

Cost = tuple[float, float, float]


def measure(command: list[str]) -> Cost:
    """Wall seconds, processor seconds and peak resident memory in GB of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def write_checkpoint(variant: str, folder: Path) -> None:
    """Write the checkpoint in a process of its own, so that its memory is not measured."""
    code = (
        "import sys; from pathlib import Path; from demo.synthetic import write_synthetic_checkpoint; "
        "write_synthetic_checkpoint(sys.argv[1], Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, variant, str(folder)], check=True, cwd=ROOT)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="convert beside a TensorFlow floor")
    parser.add_argument("--variant", default="d7x")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--checkpoint", help="use this checkpoint instead of writing one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = Path(arguments.checkpoint) if arguments.checkpoint else folder / "checkpoint"
        if not arguments.checkpoint:
            write_checkpoint(arguments.variant, checkpoint)
        prefix = str(checkpoint / "model") if checkpoint.is_dir() else str(checkpoint)
        commands = {
            "floor": [sys.executable, "-c", FLOOR, prefix, str(folder / "floor.pth")],
            "TensorFlow's reader": [
                sys.executable,
                "-c",
                TENSORFLOW_READER,
                prefix,
                str(folder / "tf.pth"),
                arguments.variant,
            ],
            "convert": [
                sys.executable,
                "cli.py",
                "convert",
                "--variant",
                arguments.variant,
                "--checkpoint",
                prefix,
                "--output",
                str(folder / "out.pth"),
            ],
        }
        runs: dict[str, list[Cost]] = {key: [] for key in commands}
        for _ in range(arguments.runs):
            for key, command in commands.items():
                runs[key].append(measure(command))
    best = {key: tuple(map(min, zip(*costs, strict=True))) for key, costs in runs.items()}
    for key, (wall, processor, _) in best.items():
        memory = max(cost[2] for cost in runs[key])
        print(f"{key:20} {wall:6.2f} s wall   {processor:6.2f} s processor   peak {memory:.2f} GB")
    for key in ("floor", "TensorFlow's reader"):
        wall, processor = (best["convert"][i] / best[key][i] for i in range(2))
        print(f"convert / {key}: {wall:.2f} wall, {processor:.2f} processor")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
