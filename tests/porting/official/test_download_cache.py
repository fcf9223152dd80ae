"""What lies in the cache, in a folder or in a mirror; what was changed there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from effdet_model import InputError
from porting.official.cache import RECORDS_NAME, cache_folder, cached_path
from porting.official.catalog import find
from porting.official.download import fetch
from tests.misbehaving_server import Behaviour
from tests.porting.official.download_cases import CONTENT, ENTRY, ONCE, OTHER, PATH, files_in, record


def test_changed_remote_file_is_an_error_that_names_both(server: Behaviour, cache: Path) -> None:
    path = fetch(ENTRY, mirror=server.url)
    server.files[PATH], server.etag = OTHER, '"v2"'
    old, new = (hashlib.sha256(content).hexdigest() for content in (CONTENT, OTHER))
    message = f"is not the one first used: expected SHA-256 {old} .* found SHA-256 {new}"
    with pytest.raises(InputError, match=message):
        fetch(ENTRY, mirror=server.url, refresh=True)
    assert path.read_bytes() == CONTENT, "the good file stays"
    path.unlink()
    with pytest.raises(InputError, match=f"expected SHA-256 {old} .* found SHA-256 {new}"):
        fetch(ENTRY, mirror=server.url)
    assert files_in(cache) == []
    server.files[PATH] = CONTENT
    assert fetch(ENTRY, mirror=server.url).read_bytes() == CONTENT


def test_damaged_cache_is_an_error_that_names_both(server: Behaviour, cache: Path) -> None:
    path = fetch(ENTRY, mirror=server.url)
    damaged = bytearray(CONTENT)
    damaged[5] ^= 1
    path.write_bytes(damaged)
    old, new = (hashlib.sha256(content).hexdigest() for content in (CONTENT, damaged))
    message = f"changed or damaged after its first use: expected SHA-256 {old} .*found SHA-256 {new}.*delete"
    with pytest.raises(InputError, match=message):
        fetch(ENTRY, mirror=server.url)


def test_file_put_into_the_cache_by_hand(cache: Path) -> None:
    path = cached_path(ENTRY.url)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-9])
    with pytest.raises(InputError, match="ends early"):
        fetch(ENTRY, offline=True)
    path.write_bytes(CONTENT)
    assert fetch(ENTRY, offline=True) == path
    assert record(cache)["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_damaged_records_are_told(server: Behaviour, cache: Path) -> None:
    fetch(ENTRY, mirror=server.url)
    (cache / RECORDS_NAME).write_text("{")
    with pytest.raises(InputError, match="expected the recorded hashes of the downloads"):
        fetch(ENTRY, mirror=server.url)


def test_offline_without_the_file(cache: Path) -> None:
    with pytest.raises(InputError, match="because of --offline, found nothing"):
        fetch(ENTRY, offline=True)
    assert not cache.exists()


def test_mirror_in_a_folder(cache: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "my mirror"
    (mirror / "coco2").mkdir(parents=True)
    (mirror / PATH[1:]).write_bytes(CONTENT)
    assert fetch(ENTRY, mirror=str(mirror), offline=True).read_bytes() == CONTENT
    with pytest.raises(InputError, match="A mirror must keep the official paths"):
        fetch(find("d1"), mirror=mirror.as_uri())
    with pytest.raises(InputError, match="expected a URL .* or a folder, found neither"):
        fetch(find("d1"), mirror=str(tmp_path / "absent"))


def test_file_url_is_used_where_it_lies(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "my checkpoint.tar.gz"
    path.write_bytes(CONTENT)
    assert fetch(path.as_uri()) == path and not cache.exists()
    with pytest.raises(InputError, match="expected a file at .*absent, found none"):
        fetch((tmp_path / "absent").as_uri())
    with pytest.raises(InputError, match="found host elsewhere"):
        fetch("file://elsewhere/x.tar.gz")


def test_other_urls_and_their_secrets(server: Behaviour, cache: Path) -> None:
    server.files = {"/my.tar.gz?token=secret": CONTENT, "/my.tar.gz?token=other": OTHER}
    first = fetch(server.url + "/my.tar.gz?token=secret")
    assert first.read_bytes() == CONTENT and first.name == "my.tar.gz"
    assert fetch(server.url + "/my.tar.gz?token=other").read_bytes() == OTHER
    assert "secret" not in (cache / RECORDS_NAME).read_text()
    with pytest.raises(InputError) as told:
        fetch(server.url.replace("//", "//user:secret@") + "/none.tar.gz?token=secret", retry=ONCE)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("url", ["ftp://host/x.tar.gz", "efficientdet-d0.tar.gz", "http:///x"])
def test_urls_that_are_none(cache: Path, url: str) -> None:
    with pytest.raises(InputError, match="expected a URL"):
        fetch(url, retry=ONCE)


def test_names_that_leave_the_cache_are_replaced(cache: Path) -> None:
    prefix = ENTRY.url.removesuffix(PATH)
    for url in (f"{prefix}/../../x.tar.gz", f"{prefix}/.hidden", "https://host/a/..", "https://host/"):
        path = cached_path(url)
        assert path.relative_to(cache).parts[0] == "urls" and ".." not in path.parts


def test_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path and cache_folder("x") == Path("x")
    monkeypatch.delenv("EFFDET_PORT_CACHE")
    assert cache_folder().name == "effdet-port"


def test_cache_that_cannot_be_made(server: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder that can be made"):
        fetch(ENTRY, mirror=server.url, cache=tmp_path / "file" / "cache")
