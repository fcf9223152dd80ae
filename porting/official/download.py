"""From a URL to a checked file in the cache.

What is first downloaded is recorded with its SHA-256 in the cache's lock file; whatever differs later, on the
server or on this disk, is an error and never a checkpoint.
"""

from __future__ import annotations

import gzip
import os
import shutil
import time
import urllib.parse
import urllib.request
import zlib
from pathlib import Path

from effdet_model.errors import InputError
from porting.files import file_sha256, locked, make_folder, sync_folder
from porting.official.cache import (
    Record,
    Records,
    cache_folder,
    cached_path,
    part_path,
    public_url,
    record_key,
)
from porting.official.catalog import OFFICIAL_PREFIX, CatalogEntry
from porting.official.http import Progress, Retry, download, forget, has_file, is_http

_GCS = "https://storage.googleapis.com/"
_MAX_UNPACKED = 16 << 30


def fetch(
    source: str | CatalogEntry,
    *,
    mirror: str | None = None,
    offline: bool = False,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    refresh: bool = False,
    retry: Retry | None = None,
) -> Path:
    """The local file of a released checkpoint or URL: from the cache, else downloaded into it.

    Args:
        source: an entry of the catalog, or a URL (https, http, gs, file). A file:// URL is used where it
        lies.
        mirror: a URL (https, http, file) or folder that replaces
            https://storage.googleapis.com/cloud-tpu-checkpoints/efficientdet and keeps the paths below it,
            e.g. MIRROR/coco2/efficientdet-d0.tar.gz. Other URLs are not affected.
        offline: use no network; what is not in the cache (or on a local mirror) is an error.
        cache: the cache folder; by default EFFDET_PORT_CACHE, else the platform's.
        progress: called with (bytes there, bytes of the whole file or None).
        refresh: download again and compare with the record, although the cache has the file.
        retry: how often and how long to try.

    Raises:
        InputError: not there, not complete, not a checkpoint, or not the file that was first used.
    """
    url = source.url if isinstance(source, CatalogEntry) else _normal_url(source)
    location = _location(url, mirror)
    if urllib.parse.urlsplit(url).scheme == "file":
        return _local_file(url)
    if not is_http(location) and not location.startswith("file:"):
        raise InputError(
            f"{public_url(url)}: expected a URL with https, http, gs or file, found "
            f"{urllib.parse.urlsplit(location).scheme or 'none'}; check the address."
        )
    target, records, key = cached_path(url, cache), Records(cache_folder(cache)), record_key(url)
    if target.is_file() and not refresh:
        return _checked(target, records, key)
    if offline and is_http(location):
        raise InputError(
            f"{public_url(url)}: expected it in the cache ({target}) because of --offline, found nothing; "
            "run once without --offline, or name a local copy with --checkpoint or --mirror."
        )
    make_folder(target.parent, "cache", "name another with EFFDET_PORT_CACHE")
    with locked(target.with_name(f"{target.name}.lock")):
        if target.is_file() and not refresh:
            return _checked(target, records, key)
        _obtain(location, target, records, key, progress, retry)
    return target


def offered(entry: CatalogEntry, mirror: str) -> bool:
    """Whether a mirror has a released checkpoint; asks a server for the head alone.

    Raises:
        InputError: the server does not answer, or with neither yes nor no.
    """
    location = _location(entry.url, mirror)
    return has_file(location) if is_http(location) else Path(_path_of(location)).is_file()


def _obtain(
    location: str, target: Path, records: Records, key: str, progress: Progress | None, retry: Retry | None
) -> None:
    part = part_path(target)
    etag = None
    if is_http(location):
        etag = download(location, part, progress=progress, retry=retry).etag
    else:
        shutil.copyfile(_local_file(location), part)
    record = records.get(key)
    sha256, size = file_sha256(part), part.stat().st_size
    try:
        if record is None:
            _check_content(part, target.name, location)
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            record = records.add(key, Record(sha256, size, public_url(location), now, etag))
        if record.sha256 != sha256:
            raise _differs(
                f"the file at {public_url(location)} is not the one first used", record, sha256, size,
                f"if the change is right, remove the entry of {key} from {records.path} and the file "
                f"{target}, and run again",
            )
    except InputError:
        forget(part)
        raise
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    sync_folder(target.parent)
    forget(part)


def _checked(target: Path, records: Records, key: str) -> Path:
    """The cached file, after comparing it with its record (which is made where there is none)."""
    record = records.get(key)
    sha256, size = file_sha256(target), target.stat().st_size
    if record is None:
        _check_content(target, target.name, str(target))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = records.add(key, Record(sha256, size, str(target), now))
    if record.sha256 != sha256:
        raise _differs(f"{target} was changed or damaged after its first use", record, sha256, size,
                       "delete the file to download it again")
    return target


def _differs(what: str, record: Record, sha256: str, size: int, remedy: str) -> InputError:
    return InputError(
        f"{what}: expected SHA-256 {record.sha256} ({record.size} bytes, from {record.location}, first used "
        f"{record.first_used}), found SHA-256 {sha256} ({size} bytes); {remedy}."
    )


def _check_content(path: Path, name: str, origin: str) -> None:
    """Whether a file of unknown hash is at least a whole file of the kind that its name says."""
    with open(path, "rb") as file:
        start = file.read(512)
    problem = None
    if name.endswith((".tar.gz", ".tgz")):
        problem = _gzip_problem(path) if start[:2] == b"\x1f\x8b" else "no gzip archive"
    elif name.endswith((".h5", ".hdf5")):
        problem = _hdf5_problem(path) if start[:8] == b"\x89HDF\r\n\x1a\n" else "no HDF5 file"
    elif not start or start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        problem = "no checkpoint"
    if problem:
        beginning = f", beginning with {start[:40]!r}" if problem.startswith("no ") else ""
        raise InputError(
            f"{public_url(origin)}: expected a whole {name}, found {problem} ({path.stat().st_size} "
            f"bytes{beginning}); check the address, or try again if the transfer was cut."
        )


def _gzip_problem(path: Path) -> str | None:
    """Read an archive to its end: gzip carries length and CRC-32 of its content."""
    total = 0
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                total += len(chunk)
                if total > _MAX_UNPACKED:
                    return f"an archive that unpacks to more than {_MAX_UNPACKED} bytes"
    except EOFError:
        return "an archive that ends early"
    except (OSError, zlib.error) as error:
        return f"a damaged archive ({error})"
    return None


def _hdf5_problem(path: Path) -> str | None:
    import h5py

    try:
        h5py.File(path, "r").close()
    except OSError as error:
        return f"a damaged HDF5 file ({error})"
    return None


def _normal_url(url: str) -> str:
    return _GCS + url.removeprefix("gs://") if url.startswith("gs://") else url


def _location(url: str, mirror: str | None) -> str:
    if mirror is None or not url.startswith(OFFICIAL_PREFIX + "/"):
        return url
    if "://" not in mirror:
        folder = Path(mirror).expanduser()
        if not folder.is_dir():
            raise InputError(
                f"mirror {mirror}: expected a URL (https, http, file) or a folder, found neither; check it."
            )
        mirror = folder.resolve().as_uri()
    return mirror.rstrip("/") + url.removeprefix(OFFICIAL_PREFIX)


def _local_file(url: str) -> Path:
    parts = urllib.parse.urlsplit(url)
    path = Path(_path_of(url))
    if parts.netloc not in ("", "localhost"):
        raise InputError(
            f"{public_url(url)}: expected a file of this machine (file:///path), found host {parts.netloc}; "
            "write three slashes, or use https."
        )
    if not path.exists():
        raise InputError(
            f"{public_url(url)}: expected a file at {path}, found none; check the path. A mirror must keep "
            "the official paths, e.g. MIRROR/coco2/efficientdet-d0.tar.gz."
        )
    return path


def _path_of(url: str) -> str:
    return urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
