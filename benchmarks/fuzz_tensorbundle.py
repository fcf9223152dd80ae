"""Damage a small checkpoint in many ways and count what the reader says: `python -m benchmarks.fuzz_tensorbundle`.

Every case must end in an `InputError` or in tensors that are bit by bit the written ones. Cases whose checksums were
made right again ("resealed") may also read as other tensors, but must never end in any other error.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effdet_model.errors import InputError
from porting.checkpoint.sstable import read_table
from porting.checkpoint.tensorbundle import TensorBundle
from porting.checkpoint.write_tensorbundle import table_bytes, write_checkpoint


@dataclass
class Counts:
    """`tried` = `detected` + `harmless` + `changed` + `crashed`; only resealed cases may change a tensor."""

    tried: int = 0
    detected: int = 0
    harmless: int = 0
    changed: int = 0
    crashed: int = 0
    slowest_s: float = 0.0


def sample_tensors() -> list[tuple[str, np.ndarray]]:
    """A few tensors of several dtypes, one of them text and one empty."""
    random_state = np.random.RandomState(0)
    return [
        ("class_net/class-predict/bias", random_state.randn(6).astype(np.float32)),
        ("class_net/class-predict/pointwise_kernel", random_state.randn(1, 1, 2, 6).astype(np.float32)),
        ("empty", np.zeros((0, 3), np.float64)),
        ("global_step", np.array(300, np.int64)),
        ("half", random_state.randn(3).astype(np.float16)),
        ("text", np.array([b"one", b"", b"three"], object)),
    ]


def packed_block(block: bytes) -> bytes:
    """A block as Google's own Snappy packs it."""
    import cramjam

    return bytes(cramjam.snappy.compress_raw(block))


def fuzz(folder: Path, resealed: int = 2000, seed: int = 0) -> dict[str, Counts]:
    """Run all cases in `folder`: every cut, every flipped bit, random blocks, resealed index entries."""
    prefix = folder / "model"
    tensors = sample_tensors()
    write_checkpoint(prefix, tensors)
    paths = {
        "index": folder / "model.index",
        "data": folder / "model.data-00000-of-00001",
    }
    originals = {what: path.read_bytes() for what, path in paths.items()}
    entries = dict(read_table(originals["index"], "sample"))
    packed = table_bytes(entries, snappy=packed_block)
    chance = random.Random(seed)
    plans: list[tuple[str, str, Iterator[bytes]]] = [
        ("index cut at every byte", "index", _cuts(originals["index"])),
        ("data cut at every byte", "data", _cuts(originals["data"])),
        ("index, every bit flipped", "index", _flips(originals["index"])),
        ("compressed index, every bit flipped", "index", _flips(packed)),
        ("data, every bit flipped", "data", _flips(originals["data"])),
        ("index, random bytes written over", "index", _overwritten(originals["index"], chance, 500)),
        ("index entries changed and resealed", "index", _resealed(entries, chance, resealed)),
    ]
    results = {}
    for title, what, cases in plans:
        results[title] = Counts()
        for content in cases:
            paths[what].unlink()  # writing over a file makes some file systems flush it
            paths[what].write_bytes(content)
            _try(prefix, tensors, results[title])
        paths[what].write_bytes(originals[what])
    return results


def _try(prefix: Path, tensors: list[tuple[str, np.ndarray]], counts: Counts) -> None:
    counts.tried += 1
    start = time.monotonic()
    try:
        with TensorBundle(prefix) as bundle:
            read = {name: bundle.read(name) for name in bundle.entries}
            same = len(read) == len(tensors) and all(
                name in read and _same(array, read[name]) for name, array in tensors
            )
        if same:
            counts.harmless += 1
        else:
            counts.changed += 1
    except InputError:
        counts.detected += 1
    except Exception:
        counts.crashed += 1
    counts.slowest_s = max(counts.slowest_s, time.monotonic() - start)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()


def _cuts(content: bytes) -> Iterator[bytes]:
    return (content[:length] for length in range(len(content)))


def _flips(content: bytes) -> Iterator[bytes]:
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            yield bytes(changed)


def _overwritten(content: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        changed = bytearray(content)
        start = chance.randrange(len(content))
        length = min(chance.choice((1, 2, 4, 16, 64)), len(content) - start)
        noise = chance.randbytes(length)
        changed[start : start + length] = noise if noise != content[start : start + length] else bytes(length)
        yield bytes(changed)


def _resealed(entries: dict[bytes, bytes], chance: random.Random, count: int) -> Iterator[bytes]:
    """Tables with right checksums whose entries have wrong bytes, extreme numbers or cut values."""
    extremes = (b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x80" * 30, b"\xff" * 12, b"\x00")
    for _ in range(count):
        changed = dict(entries)
        key = chance.choice(list(changed))
        value = bytearray(changed.pop(key))
        for _ in range(chance.choice((1, 1, 2, 5))):
            start = chance.randrange(len(value) + 1)
            what = chance.randrange(4)
            if what == 0:
                value[start : start + 1] = chance.randbytes(1)
            elif what == 1:
                value[start : start + 1] = chance.choice(extremes)
            elif what == 2:
                del value[start:]
            else:
                value[start:start] = value[:start]
        if chance.random() < 0.1:
            key = chance.randbytes(chance.randrange(6))
        changed[key] = bytes(value)
        block_bytes = chance.choice((1, 64, 4096))
        yield table_bytes(changed, block_bytes, snappy=packed_block if chance.random() < 0.3 else None)


def main() -> int:
    """Print the table of cases; 1 when any case was missed or crashed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--resealed", type=int, default=20_000, help="cases with repaired checksums")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = fuzz(Path(folder), arguments.resealed, arguments.seed)
    print(f"{'cases':<40}{'tried':>8}{'detected':>10}{'harmless':>10}{'changed':>9}{'crashed':>9}{'slowest':>10}")
    for title, counts in results.items():
        print(
            f"{title:<40}{counts.tried:>8}{counts.detected:>10}{counts.harmless:>10}{counts.changed:>9}"
            f"{counts.crashed:>9}{counts.slowest_s:>9.3f}s"
        )
    return int(any(missed(title, counts) for title, counts in results.items()))


def missed(title: str, counts: Counts) -> bool:
    """Whether a row has a case that must not be: a crash, or a tensor changed unseen."""
    return counts.crashed > 0 or (counts.changed > 0 and "resealed" not in title)


if __name__ == "__main__":
    raise SystemExit(main())
