"""A small data set to train on, drawn from a seed, as COCO lays it out: `python -m demo.drawn_dataset FOLDER`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

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


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--train", "train_count", default=200, show_default=True, help="Pictures to train on.")
@click.option("--val", "val_count", default=60, show_default=True, help="Other pictures to measure on.")
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, train_count: int, val_count: int, seed: int) -> None:
    """Draw a small training set into FOLDER."""
    draw_training_set(folder, train_count, val_count, seed)
    click.echo(f"{train_count} + {val_count} pictures in {folder}")


if __name__ == "__main__":
    main()
