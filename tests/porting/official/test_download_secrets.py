"""User names, passwords and signatures in URLs go to their server and nowhere else."""

from __future__ import annotations

import base64
import gzip
import json
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from effdet_model import InputError
from porting.official.cache import RECORDS_NAME, without_secrets
from porting.official.download import fetch
from porting.official.http import Retry, _Redirects
from porting.official.obtain import obtain
from tests.misbehaving_server import Behaviour, serving

CONTENT = gzip.compress(random.Random(1).randbytes(200_000), mtime=0)
ONCE = Retry(attempts=1, backoff=0.001, timeout=5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Behaviour]:
    with serving(files={}) as state:
        yield state


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no route to https://me:secret@host/a", "no route to https://host/a"),
        ("Max retries exceeded with url: /a?X-Amz-Signature=secret&b=secret (caused", "with url: /a?... (caused"),
        ("'https://host/a?sig=secret'", "'https://host/a?...'"),
        ("is it there? no=1", "is it there? no=1"),
    ],
)
def test_words_of_others_are_shown_without_secrets(text: str, shown: str) -> None:
    assert shown in without_secrets(text) and "secret" not in without_secrets(text)


def test_a_url_with_secrets_stays_out_of_everything_written_and_shown(
    server: Behaviour, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Records, locks, names, the metadata of a conversion, messages and bars."""
    server.files = {"/my.tar.gz?sig=hidden": CONTENT}
    seen: list[int] = []
    address = server.url.replace("//", "//user:hidden@") + "/my.tar.gz?sig=hidden"
    found = obtain("auto", address, progress=lambda done, total: seen.append(done))
    assert found.path.read_bytes() == CONTENT and seen[-1] == len(CONTENT)
    assert "hidden" not in str(found) and capfd.readouterr() == ("", "")
    for path in cache.rglob("*"):
        assert "hidden" not in str(path) and (path.is_dir() or b"hidden" not in path.read_bytes())
    (record,) = json.loads((cache / RECORDS_NAME).read_text())["files"].values()
    assert record["location"] == server.url + "/my.tar.gz", "what is stored as the source"


def test_user_and_password_go_to_their_own_server_alone(server: Behaviour, cache: Path) -> None:
    with serving(files={"/my.tar.gz": CONTENT}) as other:
        server.statuses, server.extra_headers = [302], {}
        server.location = other.url.replace("127.0.0.1", "localhost") + "/my.tar.gz"
        fetch(server.url.replace("//", "//me:p%40ss@") + "/my.tar.gz", retry=ONCE)
        basic = "Basic " + base64.b64encode(b"me:p@ss").decode()
        assert server.requests[0].headers["Authorization"] == basic
        assert "Authorization" not in other.requests[0].headers


@pytest.mark.parametrize("target", ["http://host/x", "ftp://host/x", "file:///etc/passwd"])
def test_no_redirect_leaves_https(target: str) -> None:
    request = urllib.request.Request("https://host/a.tar.gz?sig=secret")
    with pytest.raises(InputError, match="expected an encrypted download, found a redirect to") as told:
        _Redirects().redirect_request(request, None, 302, "", {}, target + "?sig=secret")
    assert "secret" not in str(told.value)
    assert _Redirects().redirect_request(request, None, 302, "", {}, "https://other/x") is not None
