"""The code itself: lint and types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_ruff(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_types(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
