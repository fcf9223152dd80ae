"""A small data set to train on, drawn from a seed, as COCO lays it out: `python -m demo.drawn_dataset FOLDER`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from demo.drawn_images import draw_dataset

SPLITS = ("train", "val")


def draw_training_set(
    folder: Path, train: int = 200, val: int = 60, seed: int = 0, sizes: tuple[int, int] = (96, 160)
) -> Path:
    """Draw pictures of discs, squares and triangles with COCO annotations; the same for the same seed.

    Args:
        folder: gets train/, val/ and annotations/instances_train.json, annotations/instances_val.json.
        train, val: how many pictures of each.
        sizes: smallest and largest side in pixels.

    Returns:
        `folder`: what `train --coco` takes with the splits "train" and "val".
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for place, (split, count) in enumerate(zip(SPLITS, (train, val), strict=True)):
        drawn = folder / f".{split}"
        annotations = draw_dataset(drawn, count, seed * len(SPLITS) + place, sizes, apart=True)
        shutil.rmtree(folder / split, ignore_errors=True)
        (drawn / "images").rename(folder / split)
        annotations.rename(folder / "annotations" / f"instances_{split}.json")
        drawn.rmdir()
    return folder


def main() -> None:
    """Draw a small training set into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=200, help="pictures to train on")
    parser.add_argument("--val", type=int, default=60, help="other pictures to measure on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw_training_set(arguments.folder, arguments.train, arguments.val, arguments.seed)


if __name__ == "__main__":
    main()
