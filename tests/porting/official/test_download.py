"""Downloads, from servers that misbehave in each known way: the right file, or a clear error and no file."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import time
from pathlib import Path

import h5py
import pytest

from effdet_model import InputError
from porting.official.cache import RECORDS_NAME, cache_state, part_path
from porting.official.catalog import find
from porting.official.download import fetch
from porting.official.http import CHUNK, OVERLAP, Version
from tests.misbehaving_server import Behaviour, serving
from tests.porting.official.download_cases import CONTENT, ENTRY, FAST, ONCE, OTHER, PATH, files_in, record


def test_download_and_cache(server: Behaviour, cache: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(ENTRY, mirror=server.url, progress=lambda done, total: seen.append((done, total)))
    assert path == cache / PATH[1:] and path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(ENTRY, mirror=server.url) == path
    assert fetch(ENTRY, offline=True) == path, "a cached file needs no network"
    assert [request.path for request in server.requests] == [PATH]
    assert record(cache)["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert record(cache)["size"] == len(CONTENT)
    assert files_in(cache) == [PATH[1:]]


def test_cut_connection_is_resumed_in_the_same_call(server: Behaviour, cache: Path) -> None:
    server.cuts = [70_000, 50_000]
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT
    assert [request.status for request in server.requests] == [200, 206, 206]
    assert [request.headers.get("Range") for request in server.requests] == [
        None, "bytes=70000-", "bytes=120000-",
    ]
    assert server.sent == len(CONTENT), "no byte twice"


def _fetch_once(mirror: str, cache: Path, results: multiprocessing.Queue[str]) -> None:
    try:
        results.put(str(fetch(ENTRY, mirror=mirror, cache=cache, retry=ONCE)))
    except InputError as error:
        results.put(f"error: {error}")


def in_process(mirror: str, cache: Path, count: int = 1) -> list[str]:
    """Run `fetch` in so many new processes at once."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    processes = [
        context.Process(target=_fetch_once, args=(mirror, cache, results)) for _ in range(count)
    ]
    for process in processes:
        process.start()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    return answers


def test_resumed_across_processes(server: Behaviour, cache: Path) -> None:
    server.cuts = [90_000]
    (answer,) = in_process(server.url, cache)
    assert "the connection broke after" in answer or "was closed after" in answer
    assert "90000 bytes are kept, run again to continue from there" in answer
    assert cache_state(ENTRY.url, cache).kind == "partial" and cache_state(ENTRY.url, cache).size == 90_000
    (answer,) = in_process(server.url, cache)
    assert Path(answer).read_bytes() == CONTENT
    assert [request.sent for request in server.requests] == [90_000, len(CONTENT) - 90_000]
    assert server.requests[1].headers["If-Range"] == '"v1"'
    assert files_in(cache) == [PATH[1:]]


def test_resumed_after_a_killed_process(server: Behaviour, cache: Path) -> None:
    """The server sends most of the file and then nothing; the process is killed while it waits."""
    server.cuts, server.stalls = [150_000], [True]
    process = multiprocessing.get_context("spawn").Process(target=fetch, args=(ENTRY,), kwargs={"mirror": server.url})
    process.start()
    assert server.stalled.wait(timeout=60)
    part = part_path(cache / PATH[1:])
    deadline = time.monotonic() + 30
    while (not part.exists() or part.stat().st_size < 150_000 - CHUNK) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join(timeout=30)
    server.go_on.set()
    kept = part.stat().st_size
    assert kept >= 150_000 - CHUNK and not (cache / PATH[1:]).exists()
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT
    assert server.requests[-1].headers["Range"] == f"bytes={kept}-"
    assert server.requests[-1].sent == len(CONTENT) - kept


def test_two_processes_on_one_cache_download_once(server: Behaviour, cache: Path) -> None:
    answers = in_process(server.url, cache, count=2)
    assert [Path(answer).read_bytes() for answer in answers] == [CONTENT, CONTENT]
    assert server.sent == len(CONTENT) and len(server.requests) == 1


def test_complete_part_is_not_sent_again(server: Behaviour, cache: Path) -> None:
    part = part_path(cache / PATH[1:])
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    version = Version(server.url + PATH, len(CONTENT), '"v1"')
    part.with_name(part.name + ".json").write_text(json.dumps(version.__dict__))
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT
    assert [request.status for request in server.requests] == [416] and server.sent == 0


def test_server_that_ignores_range_is_begun_anew(server: Behaviour, cache: Path) -> None:
    server.ranges, server.cuts = False, [70_000]
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT
    assert [request.status for request in server.requests] == [200, 200]


def test_new_etag_midway_gives_the_new_file_whole(server: Behaviour, cache: Path) -> None:
    server.cuts = [70_000]
    with pytest.raises(InputError):
        fetch(ENTRY, mirror=server.url, retry=ONCE)
    server.etag, server.files[PATH] = '"v2"', OTHER
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == OTHER


def test_new_etag_on_a_server_that_ignores_if_range(server: Behaviour, cache: Path) -> None:
    server.cuts, server.honours_if_range = [70_000], False
    with pytest.raises(InputError):
        fetch(ENTRY, mirror=server.url, retry=ONCE)
    server.etag, server.files[PATH] = '"v2"', OTHER
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == OTHER
    assert [request.status for request in server.requests] == [200, 206, 200]


@pytest.mark.parametrize("changed", [False, True])
def test_server_without_etag_has_to_repeat_what_we_have(
    server: Behaviour, cache: Path, changed: bool
) -> None:
    server.cuts, server.etag = [70_000], None
    with pytest.raises(InputError):
        fetch(ENTRY, mirror=server.url, retry=ONCE)
    if changed:
        server.files[PATH] = OTHER
    expected = server.files[PATH]
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == expected
    assert server.requests[1].headers["Range"] == f"bytes={70_000 - OVERLAP}-"
    assert [request.status for request in server.requests] == [200, 206, *([200] if changed else [])]


def test_last_modified_serves_where_there_is_no_etag(server: Behaviour, cache: Path) -> None:
    server.cuts, server.etag, server.last_modified = [70_000], None, "Mon, 27 Jul 2020 00:00:00 GMT"
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT
    assert server.requests[1].headers["If-Range"] == server.last_modified
    assert server.sent == len(CONTENT)


def test_wrong_range_is_not_appended(server: Behaviour, cache: Path) -> None:
    server.cuts, server.wrong_range = [70_000], True
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT
    assert [request.status for request in server.requests] == [200, 206, 200]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(server: Behaviour, cache: Path, status: int) -> None:
    server.statuses = [status, status]
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT
    assert [request.status for request in server.requests] == [status, status, 200]


def test_lasting_trouble_is_told(server: Behaviour, cache: Path) -> None:
    server.statuses = [500] * 9
    with pytest.raises(InputError, match="found 3 failures in a row, the last: HTTP status 500; 0 bytes"):
        fetch(ENTRY, mirror=server.url, retry=FAST)
    assert len(server.requests) == 3 and files_in(cache) == []


@pytest.mark.parametrize(
    ("status", "meaning"), [(401, "a login"), (403, "refuses access"), (404, "no such file"), (410, "gone")]
)
def test_refusals_are_told_at_once(server: Behaviour, cache: Path, status: int, meaning: str) -> None:
    server.statuses = [status] * 9
    with pytest.raises(InputError, match=f"HTTP status {status}: it .*{meaning}|{status}: the file is gone"):
        fetch(ENTRY, mirror=server.url, retry=FAST)
    assert len(server.requests) == 1 and files_in(cache) == []


def test_web_page_by_its_type(server: Behaviour, cache: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(InputError, match=r"expected a checkpoint, found a web page \(text/html\)"):
        fetch(ENTRY, mirror=server.url, retry=FAST)
    assert files_in(cache) == []


def test_web_page_that_says_it_is_an_archive(server: Behaviour, cache: Path) -> None:
    server.files[PATH] = b"<!DOCTYPE html><html>Please log in</html>"
    message = "expected a whole efficientdet-d0.tar.gz, found no gzip archive .*beginning with b'<!DOCTYPE"
    with pytest.raises(InputError, match=message):
        fetch(ENTRY, mirror=server.url, retry=FAST)
    assert files_in(cache) == [] and not (cache / RECORDS_NAME).exists()


def test_short_answer_without_a_length(server: Behaviour, cache: Path) -> None:
    server.sends_length, server.cuts = False, [70_000]
    with pytest.raises(InputError, match="found an archive that ends early"):
        fetch(ENTRY, mirror=server.url, retry=FAST)
    assert files_in(cache) == []
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT


def test_damaged_archive(server: Behaviour, cache: Path) -> None:
    damaged = bytearray(CONTENT)
    damaged[100_000] ^= 1
    server.files[PATH] = bytes(damaged)
    with pytest.raises(InputError, match="found a damaged archive"):
        fetch(ENTRY, mirror=server.url, retry=FAST)
    assert files_in(cache) == []


def test_hash_that_the_storage_names(server: Behaviour, cache: Path) -> None:
    server.extra_headers = {"x-goog-hash": "crc32c=AAAAAA==,md5=AAAAAAAAAAAAAAAAAAAAAA=="}
    with pytest.raises(InputError, match="md5 .* instead of the AAAAAAAAAAAAAAAAAAAAAA=="):
        fetch(ENTRY, mirror=server.url, retry=FAST)
    assert files_in(cache) == []


def test_content_encoding_does_not_unpack_the_archive(server: Behaviour, cache: Path) -> None:
    server.extra_headers = {"Content-Encoding": "gzip"}
    assert fetch(ENTRY, mirror=server.url, retry=FAST).read_bytes() == CONTENT
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_hdf5_files_are_checked(server: Behaviour, cache: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"] = list(range(9999))
    content = (tmp_path / "a.h5").read_bytes()
    entry = find("d0", kind="h5")
    server.files["/coco2/efficientdet-d0.h5"] = content[:-5000]
    with pytest.raises(InputError, match="found a damaged HDF5 file"):
        fetch(entry, mirror=server.url, retry=FAST)
    server.files["/coco2/efficientdet-d0.h5"] = content
    assert fetch(entry, mirror=server.url, retry=FAST).read_bytes() == content


@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_of_misbehaviour_gives_the_right_file_or_an_error(
    server: Behaviour, tmp_path: Path, seed: int
) -> None:
    """Several calls against a server that changes its mind; whatever ends in the cache is one version, whole."""
    draw = random.Random(seed)
    outcomes: set[bytes] = set()
    for _ in range(4):
        server.cuts = [draw.choice([None, 1, 5000, 70_000, 150_000]) for _ in range(draw.randrange(4))]
        server.statuses = [draw.choice([200, 200, 500, 503, 404]) for _ in range(draw.randrange(3))]
        server.ranges, server.honours_if_range = draw.random() < 0.8, draw.random() < 0.7
        server.wrong_range, server.sends_length = draw.random() < 0.1, draw.random() < 0.8
        server.content_type = draw.choice(["application/gzip", "application/gzip", "text/html"])
        if draw.random() < 0.3:
            server.files[PATH] = draw.choice([CONTENT, OTHER])
            server.etag = draw.choice([None, hashlib.md5(server.files[PATH]).hexdigest().join('""')])
        elif draw.random() < 0.2:
            server.etag = None
        try:
            path = fetch(ENTRY, mirror=server.url, cache=tmp_path / "cache", retry=FAST)
        except InputError:
            assert not (tmp_path / "cache" / PATH[1:]).exists() or outcomes
        else:
            outcomes.add(path.read_bytes())
    assert outcomes <= {CONTENT, OTHER} and len(outcomes) <= 1


def test_nobody_answers(cache: Path) -> None:
    with serving() as state:
        url = state.url
    with pytest.raises(InputError, match="found 3 failures in a row, the last: no connection"):
        fetch(ENTRY, mirror=url, retry=FAST)


def test_proxy_of_the_environment(server: Behaviour, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    assert fetch(ENTRY, mirror="http://official.invalid", retry=ONCE).read_bytes() == CONTENT
    assert server.requests[0].path == "http://official.invalid" + PATH
