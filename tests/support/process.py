"""The server as a process of its own, that can be killed and started again on the same data."""

import json
import os
import random
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.forked import COMMAND
from tests.support.run_dir import forget_pid, note_pid
from tests.support.tools import ROOT
from tests.support.waiting import eventually


class ServerProcess:
    """One server: an address and its data stay the same over any number of starts."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = folder / f"server-{self.port}.log"
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")},
            "PYTHONPATH": str(ROOT),
            "STREAMER_HOST": "127.0.0.1",
            "STREAMER_PORT": str(self.port),
            "STREAMER_DATA_DIR": str(folder / "data"),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the running process."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """Return what the server has written, over all its starts."""
        return self.log_file.read_text()

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log that are JSON, decoded. A line that is being written is not there yet."""
        lines = self.log.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    async def start(self, redirect: str = "") -> None:
        """Start the server and wait until it is ready; `redirect` is a shell's, such as `2>/dev/full`."""
        self.spawn(redirect)
        async with aiohttp.ClientSession() as session:
            try:
                await eventually(lambda: self._is_ready(session))
            except AssertionError:
                raise AssertionError(f"the server is not ready:\n{self.log}") from None

    def spawn(self, redirect: str = "") -> None:
        """Start the server without waiting."""
        assert self._process is None, "started already"
        command = [*COMMAND, "serve"]
        if redirect:
            command = ["sh", "-c", f'exec "$@" {redirect}', "sh", *command]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        note_pid(self._process.pid)

    def send(self, signal_number: signal.Signals) -> None:
        """Send the running server a signal."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal_number)

    def kill(self) -> None:
        """End the server at once, as a power cut would: `kill -9`."""
        self.send(signal.SIGKILL)
        self._gone()

    async def stop(self) -> int:
        """Ask the server to end, as a service manager does. Returns its exit code."""
        self.send(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait until the server has ended. Returns its exit code."""
        process = self._process
        assert process is not None, "not started"
        await eventually(lambda: process.poll() is not None)
        self._gone()
        return process.returncode

    def clean(self) -> None:
        """Kill the server if it runs."""
        if self._process is not None:
            self._process.kill()
            self._gone()

    def _gone(self) -> None:
        assert self._process is not None
        self._process.wait()
        forget_pid(self._process.pid)
        self._process = None

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the server has ended:\n{self.log}")
        try:
            async with session.get(f"{self.url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


def free_port() -> int:
    """Return a port that nobody uses, of those that the system does not give to outgoing connections by itself.

    So it stays free for a server that is down for a while.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
