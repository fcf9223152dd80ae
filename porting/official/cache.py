"""The folder of downloaded checkpoints, and the record of what each file was when it was first used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from effdet_model.errors import InputError
from porting.files import atomic_write, locked
from porting.official.catalog import OFFICIAL_PREFIX

CACHE_VARIABLE = "EFFDET_PORT_CACHE"
RECORDS_NAME = "checksums.lock.json"
_SAFE_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Record:
    """What a file was at its first use: SHA-256 in hex, size in bytes, where from and when (UTC)."""

    sha256: str
    size: int
    location: str
    first_used: str
    etag: str | None = None


@dataclass(frozen=True)
class CacheState:
    """How much of a file the cache has: "cached", "partial" or "absent", and how many bytes."""

    kind: str
    path: Path
    size: int = 0


def cache_folder(cache: str | Path | None = None) -> Path:
    """The given folder, else the one that EFFDET_PORT_CACHE names, else the platform's cache folder."""
    named = cache or os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else _platform_folder()


def _platform_folder() -> Path:
    """Where this system's programs keep what they can download again."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local", "effdet-port", "effdet-port", "Cache")
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "effdet-port"
    named = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(named) if os.path.isabs(named) else home / ".cache") / "effdet-port"


def public_url(url: str) -> str:
    """A URL without user name, password, query and fragment: what messages and records may show."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str) -> str:
    """Another's words, such as an exception's, without the user names, passwords and queries of URLs in them."""
    text = re.sub(r"//[^/@\s]*@", "//", text)
    return re.sub(r"\?[^\s'\"?)>]*=[^\s'\")>]*", "?...", text)


def record_key(url: str) -> str:
    """The name of a file in the records: its public URL, with a hash of the query where it has one."""
    query = urllib.parse.urlsplit(url).query
    return public_url(url) + (f"?{_short_hash(query)}" if query else "")


def cached_path(url: str, cache: str | Path | None = None) -> Path:
    """Where the cache keeps the file of a URL.

    Official files keep their path (coco2/efficientdet-d0.tar.gz); others lie under urls/<hash of the URL>/.
    """
    folder = cache_folder(cache)
    parts = public_url(url).removeprefix(OFFICIAL_PREFIX + "/").split("/")
    if record_key(url).startswith(OFFICIAL_PREFIX + "/") and all(map(_SAFE_NAME.fullmatch, parts)):
        return folder.joinpath(*parts)
    name = parts[-1] if _SAFE_NAME.fullmatch(parts[-1]) else "checkpoint"
    return folder / "urls" / _short_hash(url) / name


def part_path(target: Path) -> Path:
    """Where an unfinished download of `target` lies."""
    return target.with_name(target.name + ".part")


def cache_state(url: str, cache: str | Path | None = None) -> CacheState:
    """Whether the cache has the file of a URL. Looks at names and sizes only."""
    target = cached_path(url, cache)
    for kind, path in (("cached", target), ("partial", part_path(target))):
        if path.is_file():
            return CacheState(kind, target, path.stat().st_size)
    return CacheState("absent", target)


class Records:
    """The lock file of a cache folder: a JSON object of `Record`s; safe with several processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS_NAME

    def get(self, key: str) -> Record | None:
        """The record of a file, None before its first use.

        Raises:
            InputError: the lock file is damaged.
        """
        return self._read().get(key)

    def add(self, key: str, record: Record) -> Record:
        """Record a file's first use; a record that another process made meanwhile stays and is returned."""
        with locked(self.path.with_name(f"{self.path.name}.lock")):
            records = self._read()
            kept = records.setdefault(key, record)
            files = {name: dataclasses.asdict(records[name]) for name in sorted(records)}
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps({"format_version": 1, "files": files}, indent=2) + "\n")
        return kept

    def _read(self) -> dict[str, Record]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {key: Record(**values) for key, values in content["files"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{self.path}: expected the recorded hashes of the downloads (JSON), found: {error}; delete "
                "the file to record the hashes of the files beside it anew."
            ) from error


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
