"""The peer praisonai: the released `praisonai-platform`, whose activity is appended by making issues and read by offset.

It has no call that appends an activity. Making an issue is the nearest: it stores the issue and its activity.
"""

import os
import shutil
import sqlite3
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from bench.crowd import Metrics
from bench.http_client import HttpClient
from bench.load import Load
from bench.sandbox import BenchError, Sandbox, environment
from bench.targets import free_port, serve
from bench.usage import Usage

PACKAGES = ("praisonai-platform==0.1.9", "greenlet", "bcrypt==4.0.1")
"""Greenlet is missing from its requirements, and newer versions of bcrypt do not work with it."""
INSTALL_SECONDS = 600
PAGE = 50


class PraisonAI:
    """`python -m praisonai_platform` on a SQLite file, with one user and one workspace."""

    name = "praisonai"
    ordered = False

    def __init__(self, sandbox: Sandbox) -> None:
        python = require_installed()
        self.port = free_port()
        self._file = sandbox.folder / f"praisonai-{self.port}.db"
        variables = {
            "DATABASE_URL": f"sqlite+aiosqlite:///{self._file}",
            "PLATFORM_JWT_SECRET": uuid.uuid4().hex * 2,
        }
        command = [str(python), "-m", "praisonai_platform", "--port", str(self.port)]
        pid = serve(sandbox, self.name, command, {**_own_environment(), **variables}, (self.port, "/health"))
        self.usage = Usage([pid])
        person = {"email": "bench@example.com", "password": uuid.uuid4().hex, "name": "Bench"}
        with HttpClient(self.port, "") as client:
            registered = client.request("/api/v1/auth/register", method="POST", body=orjson.dumps(person))
        token = orjson.loads(registered)["token"]
        self.head = f"Authorization: Bearer {token}\r\n"
        with HttpClient(self.port, self.head) as client:
            made = client.request("/api/v1/workspaces/", method="POST", body=b'{"name":"bench"}')
        self._workspace = orjson.loads(made)["id"]

    def publishing(self, pattern: str) -> dict[str, str]:  # noqa: ARG002 - it has issues, not events
        """Return what the publishers send."""
        return {
            "path": f"/api/v1/workspaces/{self._workspace}/issues/",
            "head": f"Host: bench\r\n{self.head}Content-Type: application/json\r\n",
            "body": '{"title":"Fix login bug","description":"n=%(n)d due=%(due)d","status":"in_progress"}',
        }

    def stored(self) -> int:
        """Return how many activities it has on its disk."""
        with sqlite3.connect(f"file:{self._file}?mode=ro", uri=True) as database:
            count: int = database.execute("SELECT count(*) FROM activity_logs").fetchone()[0]
        database.close()
        return count

    def fill(self, load: Load) -> Metrics:
        """Fill the log through its database: through its API it would take a quarter of an hour for 100,000 activities."""
        began = datetime.now(UTC).replace(tzinfo=None)
        with sqlite3.connect(self._file) as database:
            database.executemany(
                "INSERT INTO activity_logs VALUES (?, ?, 'issue', ?, 'issue.created', 'member', ?, NULL, ?, ?)",
                (
                    (
                        str(uuid.uuid4()),
                        self._workspace,
                        str(uuid.uuid4()),
                        f"user-{number % 37}",
                        f'{{"title": "Fix login bug", "identifier": "ISS-{number}"}}',
                        str(began + timedelta(milliseconds=number)),
                    )
                    for number in range(load.events)
                ),
            )
        database.close()
        return {}

    def questions(self, load: Load) -> dict[str, list[str]]:
        """Return what is asked for each kind of page."""
        return {
            "newest": [self.page(PAGE, 0)],
            "next": [self.page(PAGE, PAGE)],
            "middle": [self.page(PAGE, load.events // 2)],
            "deepest": [self.page(PAGE, load.events - PAGE)],
        }

    def page(self, limit: int, offset: int) -> str:
        """Return what asks for a page."""
        return f"/api/v1/workspaces/{self._workspace}/activity?limit={limit}&offset={offset}"


def folder() -> Path:
    """Return the folder that the packages are installed into."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "streamer-bench" / PACKAGES[0].replace("==", "-")


def is_installed() -> bool:
    """Return whether the packages are installed completely."""
    return (folder() / "complete").exists()


def require_installed() -> Path:
    """Return the Python that has the packages. Raises BenchError if they are not installed."""
    if not is_installed():
        raise BenchError("praisonai-platform is not installed", "Install it: ./run bench install-peer praisonai")
    return _python()


def install(sandbox: Sandbox) -> None:
    """Install the packages into a virtual environment of their own. Raises BenchError if that fails."""
    shutil.rmtree(folder(), ignore_errors=True)
    pip = [str(_python()), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *PACKAGES]
    for command in ([sys.executable, "-m", "venv", str(folder())], pip):
        _run(sandbox, command)
    (folder() / "complete").touch()


def _python() -> Path:
    return folder() / "bin" / "python"


def _run(sandbox: Sandbox, command: list[str]) -> None:
    """Run a step of the installation to its end. Raises BenchError if it fails."""
    process = sandbox.start(command, _own_environment(), "install.log")
    sandbox.until(lambda: process.poll() is not None, "installing praisonai-platform", INSTALL_SECONDS, 0.1)
    if process.returncode:
        hint = f"It needs a package index: pip install {' '.join(PACKAGES)}"
        raise BenchError(f"praisonai-platform could not be installed:\n{sandbox.log('install.log')}", hint)


def _own_environment() -> dict[str, str]:
    """Return an environment in which our own packages are not found."""
    return {name: value for name, value in environment().items() if name != "PYTHONPATH"}
