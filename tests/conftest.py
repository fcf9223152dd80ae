"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tflite_files import make_files

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """A folder of official outputs kept outside of the repository; tests that need it skip where it is absent.

    Everything these tests prove is also proven by tests that need only the repository.
    """
    folder = Path(os.environ.get("EFFDET_PORT_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no folder of official outputs at {folder} (set EFFDET_PORT_SHARED)")
    return folder


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TFLite files of a lite0: float32, float16, int8 (see `tests.tflite_files.make_files`); for slow tests."""
    return make_files(tmp_path_factory.mktemp("model"), "lite0", "float32", "float16", "int8")
