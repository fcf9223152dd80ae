"""What the tests of downloads share: a file, its place, how patiently to ask, what a cache holds."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from porting.official.cache import RECORDS_NAME
from porting.official.catalog import find
from porting.official.http import Retry

PATH = "/coco2/efficientdet-d0.tar.gz"
FAST = Retry(attempts=3, backoff=0.001, timeout=5)
ONCE = Retry(attempts=1, backoff=0.001, timeout=5)
ENTRY = find("d0")


def archive(seed: int, size: int = 200_000) -> bytes:
    """A gzip file of random bytes: what it holds is of no concern to a download."""
    return gzip.compress(random.Random(seed).randbytes(size), mtime=0)


CONTENT = archive(1)
OTHER = archive(2)


def files_in(cache: Path) -> list[str]:
    """What the cache has besides locks and records."""
    names = (str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith(".lock") and name != RECORDS_NAME)


def record(cache: Path) -> dict[str, object]:
    """The one record of the cache's lock file."""
    (only,) = json.loads((cache / RECORDS_NAME).read_text())["files"].items()
    assert only[0] == ENTRY.url
    return only[1]
