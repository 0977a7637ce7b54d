"""The machine that the numbers come from."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

WRITES = 200
WRITE_BYTES = 512
ROOT = Path(__file__).parents[2]


def machine(directory: Path) -> dict[str, Any]:
    """Processors, memory, and how long the disk takes to have a write."""
    took = fsync_ms(directory)
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "load_before": load(),
        "fsync_ms_p50": round(median(took), 3),
        "fsync_ms_max": round(max(took), 3),
    }


def load() -> float:
    """How many processes wanted a processor in the last minute. More than there are: somebody else is measured too."""
    return round(os.getloadavg()[0], 2)


def fsync_ms(directory: Path) -> list[float]:
    """Milliseconds of small writes that are synced, in the directory where the server keeps its streams."""
    path = directory / "fsync"
    took: list[float] = []
    with path.open("wb", buffering=0) as file:
        for _ in range(WRITES):
            started = time.perf_counter()
            file.write(b"x" * WRITE_BYTES)
            os.fsync(file.fileno())
            took.append((time.perf_counter() - started) * 1e3)
    path.unlink()
    return took


def revision() -> str:
    """The commit that is measured, with a plus sign if files differ from it; empty outside a checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}+" if _git("status", "--porcelain", "--", "services", "schemas") else head
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout.strip()
