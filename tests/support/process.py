"""The server as a separate process, which can be killed and restarted on the same data."""

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
    """A server whose address and data stay the same over any number of starts."""

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
        """Return the server's output over all its starts."""
        return self.log_file.read_text()

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """Return the log's JSON lines, decoded. An incomplete line is left out."""
        lines = self.log.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    async def start(self, redirect: str = "") -> None:
        """Start the server and wait until it is ready; `redirect` is a shell redirection, such as `2>/dev/full`."""
        self.spawn(redirect)
        async with aiohttp.ClientSession() as session:
            try:
                await eventually(lambda: self._is_ready(session))
            except AssertionError:
                raise AssertionError(f"the server is not ready:\n{self.log}") from None

    def spawn(self, redirect: str = "") -> None:
        """Start the server without waiting."""
        assert self._process is None, "already started"
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
        """Kill the server at once with `kill -9`, as a power failure would."""
        self.send(signal.SIGKILL)
        self._gone()

    async def stop(self) -> int:
        """Stop the server as a service manager does. Return its exit code."""
        self.send(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait until the server has exited. Return its exit code."""
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
    """Return an unused port outside of the range of outgoing connections, so that it stays free while a server is down."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
