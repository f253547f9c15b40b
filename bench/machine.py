"""Where a measurement was made."""

import os
import platform
import sqlite3
from pathlib import Path

import streamer


def machine() -> dict[str, str | int]:
    """Return what numbers depend on: versions, processor, cores."""
    return {
        "streamer": streamer.__version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
