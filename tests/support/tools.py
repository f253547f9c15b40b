"""The programs that some tests need. Without one its tests are left out, and with CI=true they fail (see conftest.py)."""

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

IN_CI = os.environ.get("CI") == "true"
ROOT = Path(__file__).resolve().parents[2]
"""The folder of the project."""

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@cache
def find(tool: str) -> Path | None:
    """Return the program's path. `postgresql`: the folder of its programs, also where Debian hides it."""
    if tool == "postgresql":
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
        initdb = shutil.which("initdb") or (debian[-1] if debian else None)
        return Path(initdb).resolve().parent if initdb else None
    names = _CHROMIUM if tool == "chromium" else (tool,)
    found = next(filter(None, map(shutil.which, names)), None)
    return Path(found) if found else None


def require(tool: str) -> Path:
    """Return the program's path, or leave the test out."""
    found = find(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed; ./run test --install installs it")
    return found
