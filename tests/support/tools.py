"""The programs that some tests need. Without one, its tests are skipped; with CI=true, they fail (see conftest.py)."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from bench.nchan import MODULES as NCHAN

IN_CI = os.environ.get("CI") == "true"
ROOT = Path(__file__).resolve().parents[2]
"""The project's folder."""

TOOLS = (
    "postgresql",
    "chromium",
    "git",
    "node",
    "npm",
    "node_modules",
    "nginx",
    "nchan",
    "curl",
    "openssl",
    "pgbouncer",
    "redis-server",
    "redis-sentinel",
)
"""All tools that tests can require."""

NODE_VERSION = (20, 18, 1)
"""The oldest Node version that runs all Node clients; the same as in tests/node/package.json."""

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@cache
def find(tool: str) -> Path | None:
    """Return the program's path.

    For `postgresql`, return the folder of its programs, which Debian keeps off the PATH; for `node_modules`, npm's
    folder; for `nchan`, nginx's module.
    """
    if tool == "node_modules":
        folder = ROOT / "tests" / "node" / "node_modules"
        return folder if folder.is_dir() else None
    if tool == "nchan":
        return next(filter(Path.exists, NCHAN), None)
    if tool == "postgresql":
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
        initdb = shutil.which("initdb") or (debian[-1] if debian else None)
        return Path(initdb).resolve().parent if initdb else None
    names = _CHROMIUM if tool == "chromium" else (tool,)
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"  # where Debian has nginx, which is on root's PATH only
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found and tool == "node" and _version_of_node(found) < NODE_VERSION:
        return None
    return Path(found) if found else None


def _version_of_node(node: str) -> tuple[int, ...]:
    said = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(map(int, said.strip().removeprefix("v").split(".")))


def require(tool: str) -> Path:
    """Return the program's path, or skip the test."""
    found = find(tool)
    if found is None:
        pytest.skip(f"{tool}: not installed; ./run test --install installs it")
    return found
