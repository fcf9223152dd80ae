"""One file over HTTP into a partial file: resumed, retried, complete or an error.

`urllib` does the protocol (TLS, redirects, proxies of the environment); here is what it lacks: a resume
that survives the process, and what to do with servers that do not keep to the protocol.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.client
import io
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError
from porting.crc32c import crc32c
from porting.files import atomic_write, write_all
from porting.official.cache import public_url, without_secrets

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes of the whole file (None where it is not known)."""

CHUNK = 1 << 16
"""Bytes taken at once: the most that a killed process loses."""
OVERLAP = 4096
"""Bytes read again and compared when a server names no version (ETag, Last-Modified) of what it sends."""
MAX_BYTES = 4 << 30
_REFUSALS = {
    401: "it asks for a login", 403: "it refuses access", 404: "it has no such file", 410: "the file is gone",
}
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Retry:
    """How often to try without any new byte; the pause (seconds) begins at `backoff` and doubles."""

    attempts: int = 5
    backoff: float = 0.5
    longest: float = 30.0
    timeout: float = 30.0
    """Seconds to connect, and between two bytes."""


@dataclass(frozen=True)
class Version:
    """What a server said about the file that it is sending."""

    url: str
    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    goog_hash: str | None = None

    @property
    def validator(self) -> str | None:
        """What `If-Range` may carry: a strong ETag, else a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class _TryAgain(Exception):
    """This attempt failed, another may not; `after` is the pause in seconds that the server asks for."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def download(
    url: str, part: Path, *, progress: Progress | None = None, retry: Retry | None = None
) -> Version:
    """Complete the partial file `part` from `url`; what an earlier call or process left is continued.

    Raises:
        InputError: the server has no such file, sends something else, or keeps failing; what came is kept.
    """
    retry = retry or Retry()
    failures, furthest = 0, _size(part)
    while True:
        try:
            version = _attempt(url, part, progress, retry)
            _check_goog_hash(part, version)
            return version
        except _TryAgain as problem:
            if _size(part) > furthest:
                failures, furthest = 0, _size(part)
            failures += 1
            if failures >= retry.attempts:
                raise InputError(
                    f"{public_url(url)}: expected the whole file, found {failures} failures in a row, "
                    f"the last: {problem}; {_size(part)} bytes are kept, run again to continue from "
                    "there."
                ) from problem
            time.sleep(min(max(retry.backoff * 2 ** (failures - 1), problem.after), retry.longest))


def has_file(url: str) -> bool:
    """Whether a server has a file; a server that does not answer HEAD is taken to have it.

    Raises:
        InputError: no answer, or trouble on the server.
    """
    try:
        with _opened(url, {}, Retry(), "HEAD") as response:
            status = response.status
    except _TryAgain as error:
        raise InputError(f"{public_url(url)}: expected an answer, found none ({error}); try again.") from error
    if status in (200, 405, 501):
        return True
    if status in (403, 404, 410):
        return False
    raise InputError(f"{public_url(url)}: expected yes or no, found HTTP status {status}; try again.")


def forget(part: Path) -> None:
    """Remove a partial file and what is known of it."""
    for path in (part, _version_path(part)):
        path.unlink(missing_ok=True)


def _attempt(url: str, part: Path, progress: Progress | None, retry: Retry) -> Version:
    known = _read_version(part)
    if known is None or known.url != public_url(url):
        forget(part)
        known = None
    have = _size(part)
    start = have if known and known.validator else max(have - OVERLAP, 0)
    headers = {"Accept-Encoding": "identity", "User-Agent": "effdet-port"}
    if start and known:
        headers["Range"] = f"bytes={start}-"
        if known.validator:
            headers["If-Range"] = known.validator
    with _opened(url, headers, retry) as response:
        if response.status == 416 and known and start:
            return _whole_already(response, part, known)
        _check_status(response, url)
        if response.status == 206:
            version = _continued(response, part, known, start)
        else:
            start, version = 0, _version(response, url, _content_length(response))
        _check_room(version, part, url)
        _write_version(part, version)
        _receive(response, part, start, have, version.size, progress)
    return version


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects as a browser follows them, but none from an encrypted download to another one."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if not is_http(newurl) or (req.full_url.startswith("https:") and not newurl.startswith("https:")):
            raise InputError(
                f"{public_url(req.full_url)}: expected an encrypted download, found a redirect to "
                f"{public_url(newurl)}; name that URL yourself if you trust it."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _opened(url: str, headers: dict[str, str], retry: Retry, method: str = "GET") -> Iterator[Any]:
    """The answer of a server, whatever its status; `read` gives the bytes as they were sent."""
    try:
        request = _request(url, headers, method)
        response: Any = urllib.request.build_opener(_Redirects).open(request, timeout=retry.timeout)
    except urllib.error.HTTPError as error:
        response = error
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise InputError(
                f"{public_url(url)}: expected a trusted certificate, found: {_reason(cause)}; check the address, "
                "or name your certificates in SSL_CERT_FILE."
            ) from error
        if isinstance(cause, (str, http.client.InvalidURL)):
            raise _no_url(url, cause) from error
        raise _TryAgain(f"no connection ({_reason(cause)})") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise _no_url(url, error) from error
    with response:
        yield response


def _request(url: str, headers: dict[str, str], method: str) -> urllib.request.Request:
    """User name and password of a URL go to its own server alone, not where that redirects to."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        raise ValueError("no host in it")
    user, found, host = parts.netloc.rpartition("@")
    path = urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    request = urllib.request.Request(
        urllib.parse.urlunsplit((parts.scheme, host, path, parts.query, "")), headers=headers, method=method
    )
    if found:
        token = base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _no_url(url: str, error: object) -> InputError:
    return InputError(f"{public_url(url)}: expected a URL that can be downloaded, found: {_reason(error)}; check it.")


def _check_status(response: Any, url: str) -> None:
    status = response.status
    if status in _TRANSIENT:
        raise _TryAgain(f"HTTP status {status}", _retry_after(response))
    if status not in (200, 206):
        meaning = _REFUSALS.get(status, f"unexpected ({response.reason})")
        raise InputError(
            f"{public_url(url)}: expected the file, found HTTP status {status}: {meaning}; check the "
            "address. A mirror must keep the official paths, e.g. MIRROR/coco2/efficientdet-d0.tar.gz."
        )
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise InputError(
            f"{public_url(url)}: expected a checkpoint, found a web page ({kind}); check the address, and "
            "whether a login page or proxy answers instead of the server."
        )


def _continued(response: Any, part: Path, known: Version | None, start: int) -> Version:
    """Whether a 206 continues exactly what we have; else begin anew."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if known is None or match is None or int(match[1]) != start:
        forget(part)
        raise _TryAgain(f"an answer to another range ({response.headers.get('Content-Range')})")
    total = None if match[3] == "*" else int(match[3])
    version = _version(response, known.url, total)
    same = all(
        ours is None or theirs is None or ours == theirs
        for ours, theirs in (
            (known.size, version.size),
            (known.etag, version.etag),
            (known.last_modified, version.last_modified),
        )
    )
    if not same:
        forget(part)
        raise _TryAgain("the file on the server changed during the download")
    merged = {k: v if v is not None else getattr(known, k) for k, v in dataclasses.asdict(version).items()}
    return Version(**merged)


def _whole_already(response: Any, part: Path, known: Version) -> Version:
    """A 416 is right where nothing is left to send; else the file became shorter."""
    match = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", "").strip())
    size = int(match[1]) if match else known.size
    if size == _size(part) and known.size in (None, size):
        return dataclasses.replace(known, size=size)
    forget(part)
    raise _TryAgain("the file on the server changed during the download")


def _receive(
    response: Any,
    part: Path,
    start: int,
    have: int,
    size: int | None,
    progress: Progress | None,
) -> None:
    """Append the body at byte `start`; bytes that we have already must come again as they were."""
    with open(part, "r+b" if start else "wb", buffering=0) as file:
        file.seek(start)
        again = file.read(have - start) if start else b""
        file.seek(start)
        done = start
        try:
            while chunk := response.read(CHUNK):
                at = done - start
                if again[at : at + len(chunk)] != chunk[: max(len(again) - at, 0)]:
                    file.close()
                    forget(part)
                    raise _TryAgain("the file on the server changed during the download")
                _write(file, chunk, part)
                done += len(chunk)
                if done > MAX_BYTES:
                    raise InputError(
                        f"{public_url(response.geturl())}: expected at most {MAX_BYTES} bytes, found more; check "
                        "the address."
                    )
                if progress:
                    progress(done, size)
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgain(f"the connection broke after {done} of {size or 'unknown'} bytes") from error
    if size is not None and done != size:
        raise _TryAgain(f"the connection was closed after {done} of {size} bytes")


def _write(file: io.RawIOBase, chunk: bytes, part: Path) -> None:
    try:
        write_all(file, chunk)
    except OSError as error:
        raise InputError(
            f"cannot write {part}: {error.strerror}; free space or name another cache with EFFDET_PORT_CACHE."
        ) from error


def _check_room(version: Version, part: Path, url: str) -> None:
    if version.size is None:
        return
    if version.size > MAX_BYTES:
        raise InputError(
            f"{public_url(url)}: expected at most {MAX_BYTES} bytes, found {version.size}; check the address."
        )
    free = shutil.disk_usage(part.parent).free
    if version.size - _size(part) > free:
        raise InputError(
            f"{part.parent}: expected room for {version.size} bytes, found {free}; free space or name "
            "another cache with EFFDET_PORT_CACHE."
        )


def _check_goog_hash(part: Path, version: Version) -> None:
    """Google Cloud Storage names MD5 and CRC32C of what it stores in the header x-goog-hash."""
    named = dict(re.findall(r"(md5|crc32c)=([A-Za-z0-9+/=]+)", version.goog_hash or ""))
    if not named:
        return
    md5, crc = hashlib.md5(usedforsecurity=False), 0
    with open(part, "rb") as file:
        while chunk := file.read(1 << 20):
            md5.update(chunk)
            crc = crc32c(chunk, crc)
    for name, digest in (("md5", md5.digest()), ("crc32c", crc.to_bytes(4, "big"))):
        found = base64.b64encode(digest).decode()
        if named.get(name, found) != found:
            forget(part)
            raise _TryAgain(f"{name} {found} instead of the {named[name]} that the server names")


def _version(response: Any, url: str, size: int | None) -> Version:
    headers = response.headers
    return Version(
        public_url(url), size, headers.get("ETag"), headers.get("Last-Modified"), headers.get("x-goog-hash")
    )


def _content_length(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "").strip()
    return int(text) if text.isdigit() and "Transfer-Encoding" not in response.headers else None


def _retry_after(response: Any) -> float:
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isdigit() else 0.0


def _version_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_version(part: Path) -> Version | None:
    try:
        return Version(**json.loads(_version_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_version(part: Path, version: Version) -> None:
    with atomic_write(_version_path(part)) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(version)) + "\n")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: object) -> str:
    return without_secrets(str(error).split("\n")[0])[:300]


def is_http(url: str) -> bool:
    """Whether `download` can take this URL."""
    return urllib.parse.urlsplit(url).scheme in ("http", "https")
