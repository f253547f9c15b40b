"""A real Redis for a test: started, killed, frozen, and started again on the same port."""

import asyncio
import contextlib
import signal
import socket
import subprocess
from pathlib import Path

from tests.support.run_dir import forget_pid, note_pid
from tests.support.tools import require
from tests.support.waiting import eventually


class RedisServer:
    """A redis-server without persistence, on a port of its own."""

    def __init__(self, folder: Path, *options: str, sentinel: bool = False) -> None:
        """Prepare it. A sentinel reads `sentinel.conf` in its folder, and writes to it."""
        self._is_sentinel = sentinel
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def url(self) -> str:
        """Return its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--dir", str(self._folder), "--daemonize", "no"),
            *self._options,
        ]
        if self._is_sentinel:
            options = [str(self._folder / "sentinel.conf"), "--sentinel", "--port", str(self.port)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [str(require("redis-server")), *options], stdout=log, stderr=log, start_new_session=True
            )
        note_pid(self._process.pid)
        await eventually(self._answers)

    async def command(self, *words: str) -> bytes:
        """Send one command; return the first bytes of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            packed = b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words)
            writer.write(b"*%d\r\n%b" % (len(words), packed))
            return await reader.read(65536)
        finally:
            writer.close()

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return (await self.command("PING")).startswith(b"+PONG")
        return False

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            forget_pid(self._process.pid)
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it without closing its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it continue."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
