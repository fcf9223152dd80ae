"""Make demo/data: a trained checkpoint of 6.9 MB, twelve pictures and their annotations.

    python -m tests.data.make_demo_checkpoint SHAPES

SHAPES is the folder of the whole: `checkpoint`, an efficientdet-d0 trained by google/automl's code for 6423 steps at
128 x 128 on synthetic pictures of shapes; `images` and `instances.json`, 60 pictures that it has not seen. Every
fifth of them is taken, in the order of their names. `make_demo_truth.py` then writes demo/data/official.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from demo.resources import ANNOTATIONS, ARCHIVE, DATA, IMAGES, VARIANT
from porting.checkpoint.dialects import EMA_SUFFIX
from porting.checkpoint.sources import Source, open_source
from porting.checkpoint.write_tensorbundle import write_checkpoint

EVERY = 5
OFFICIAL_FOLDER = f"efficientdet-{VARIANT}"


def rounded_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 of the same shape, each the nearest value that bfloat16 holds (ties to even); finite values only."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (nearest & np.uint32(0xFFFF0000)).view(np.float32).reshape(np.shape(values))


def averages(source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """The moving average of every variable, rounded, under its name in a training checkpoint; and the step."""
    yield "global_step", np.asarray(6423, np.int64)
    for name in sorted(source.variables):
        yield name + EMA_SUFFIX, rounded_to_bfloat16(source.read(name, "ema"))


def write_archive(files: list[Path], target: Path) -> None:
    """A .tar.gz of `files` in the folder that the official archives have; the same bytes for the same files."""
    with open(target, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for path in sorted(files):
                entry = tarfile.TarInfo(f"{OFFICIAL_FOLDER}/{path.name}")
                entry.size = path.stat().st_size
                with open(path, "rb") as content:
                    archive.addfile(entry, content)


def copy_pictures(shapes: Path) -> None:
    """Every fifth picture and what the annotations say of it."""
    whole = json.loads((shapes / "instances.json").read_text(encoding="utf-8"))
    chosen = sorted(whole["images"], key=lambda image: image["file_name"])[::EVERY]
    ids = {image["id"] for image in chosen}
    IMAGES.mkdir(exist_ok=True)
    for image in chosen:
        shutil.copyfile(shapes / "images" / image["file_name"], IMAGES / image["file_name"])
    found = [annotation for annotation in whole["annotations"] if annotation["image_id"] in ids]
    content = {"info": whole["info"], "images": chosen, "annotations": found, "categories": whole["categories"]}
    ANNOTATIONS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write all of it."""
    shapes = Path(sys.argv[1])
    DATA.mkdir(exist_ok=True)
    copy_pictures(shapes)
    with tempfile.TemporaryDirectory() as folder, open_source(shapes / "checkpoint") as source:
        write_archive(write_checkpoint(Path(folder) / "model", averages(source)), ARCHIVE)
    print(ARCHIVE, ARCHIVE.stat().st_size)


if __name__ == "__main__":
    main()
