"""A cache of its own and a server for every test of downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.misbehaving_server import Behaviour, serving
from tests.porting.official.download_cases import CONTENT, PATH


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(folder))
    return folder


@pytest.fixture
def server() -> Iterator[Behaviour]:
    with serving(files={PATH: CONTENT}) as state:
        yield state
