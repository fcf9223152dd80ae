"""Where and with what a check ran."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from porting.version import TOOL, tool_version


def environment(reference_versions: Mapping[str, str]) -> dict[str, Any]:
    """Versions, processor and threads, as names to text or numbers."""
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        TOOL: tool_version(),
        "torch": torch.__version__,
        **{package: _version(package) for package in ("timm", "numpy")},
        **{f"reference_{name}": text for name, text in reference_versions.items()},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_flags": " ".join(cpu_flags()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    return found


def cpu_name() -> str:
    """The processor's model name, or what the platform says of it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """The vector instructions that change rounding (SSE, AVX, FMA, AMX, ...); empty where unknown."""
    flags = (_cpu_info("flags") or _cpu_info("Features") or "").split()
    return [flag for flag in flags if flag.startswith(("sse", "avx", "fma", "f16c", "amx", "asimd", "sve"))]


def _cpu_info(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), None)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
