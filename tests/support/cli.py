"""The command line as users have it: a process, with pipes or with a terminal."""

import asyncio
import contextlib
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.run_dir import forget_pid, note_pid
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS


@dataclass(frozen=True)
class Ended:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Return what it printed, by lines."""
        return self.out.splitlines()


class Cli:
    """Runs commands in a folder, with some variables."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._folder = folder
        self.variables = dict(variables)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "xterm", **self.variables}

    async def __call__(self, *arguments: object, stdin: bytes = b"") -> Ended:
        """Run a command to its end."""
        async with self.started(*arguments) as process:
            async with asyncio.timeout(SECONDS):
                out, err = await process.communicate(stdin)
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Ended(process.returncode, out.decode(), err.decode())

    @contextlib.asynccontextmanager
    async def started(self, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start a command with pipes; at the end it is killed if it still runs."""
        process = await asyncio.create_subprocess_exec(
            *self._command(arguments),
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with _ended(process):
            yield process

    @contextlib.asynccontextmanager
    async def on_terminal(self, *arguments: object) -> AsyncIterator["Terminal"]:
        """Start a command on a terminal of its own."""
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *self._command(arguments),
            cwd=self._folder,
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        terminal = Terminal(process, ours)
        try:
            async with _ended(process):
                yield terminal
        finally:
            terminal.close()

    def _command(self, arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "streamer", *map(str, arguments)]


class Terminal:
    """What a command shows on its terminal."""

    def __init__(self, process: asyncio.subprocess.Process, descriptor: int) -> None:
        self.process = process
        self.shown = ""
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def close(self) -> None:
        """Take the terminal away."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 2**16)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self.shown += data.decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def _ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    note_pid(process.pid)
    try:
        yield
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
        forget_pid(process.pid)
        # The pipes' transports close with the process; wait for that, or they warn when they are collected.
        transport = process._transport  # type: ignore[attr-defined]
        transport.close()
