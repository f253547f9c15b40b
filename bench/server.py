"""A server to measure: a process of its own on fresh data, with its CPU time and memory."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

KEY = "sk_bench_0123456789abcdefghij"
EVENT = {
    "action": "issue.updated",
    "actor": {"type": "agent", "id": "agent_eng1", "name": "Bob", "on_behalf_of": "user-123"},
    "entity": {"type": "issue", "id": "issue_abc123", "identifier": "PAP-42", "name": "Fix login bug"},
    "agent_id": "agent_eng1",
    "run_id": "run_9",
    "details": {"status": "in_progress", "_previous": {"status": "todo"}},
}


@dataclass(frozen=True)
class Measured:
    """The server's process and address."""

    port: int
    process: psutil.Process

    def cpu(self) -> float:
        """Return the CPU seconds that the server has used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss(self) -> int:
        """Return the bytes of memory that the server holds."""
        return int(self.process.memory_info().rss)


@contextmanager
def server(database_url: str | None = None) -> Iterator[Measured]:
    """Run a server on 127.0.0.1 while the block runs; SQLite in a temporary folder unless a database is named."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
        environment |= {
            "STREAMER_PORT": str(port),
            "STREAMER_DATA_DIR": folder,
            "STREAMER_ADMIN_KEY": KEY,
            "STREAMER_LOG_LEVEL": "warning",
        }
        if database_url:
            environment["STREAMER_DATABASE_URL"] = database_url
        process = subprocess.Popen(
            [sys.executable, "-m", "streamer", "serve"],
            env=environment,
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(port)
            yield Measured(port, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait()


def _wait(port: int) -> None:
    deadline = time.monotonic() + 15
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie."""
    return values[min(int(len(values) * share), len(values) - 1)]
