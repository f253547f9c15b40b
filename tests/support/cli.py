"""The command line as users run it: a process with pipes or a terminal."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench import cli as bench
from streamer.cli import main
from streamer.cli.screen import AGENT_VARIABLES
from tests.support.forked import take_terminal
from tests.support.run_dir import forget_pid, note_pid
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its name, prefixed with its group's; groups, too."""
    yield from _commands(main, "")
    yield "bench", bench.command
    yield "bench install-peer", bench.install_peer


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield prefix + name, command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix}{name} ")


@dataclass(frozen=True)
class Ended:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Return the lines that it printed."""
        return self.out.splitlines()

    @property
    def seqs(self) -> list[int]:
        """Return the seqs of the printed events; the command must have succeeded."""
        assert self.code == 0, self.err
        return [json.loads(line)["seq"] for line in self.lines]


async def line_of(stream: asyncio.StreamReader | None) -> Any:
    """Return the next event that a process prints."""
    assert stream is not None
    async with asyncio.timeout(SECONDS):
        line = await stream.readline()
    assert line, "the output has ended"
    return json.loads(line)


async def said(stream: asyncio.StreamReader | None, text: str, times: int = 1) -> str:
    """Return the lines that a process writes, up to the one with this occurrence of `text`."""
    assert stream is not None
    lines = ""
    async with asyncio.timeout(SECONDS):
        while lines.count(text) < times:
            line = await stream.readline()
            assert line, f"the output has ended: {lines}"
            lines += line.decode()
    return lines


class Cli:
    """Runs commands in a folder, with some environment variables."""

    def __init__(self, folder: Path, variables: Mapping[str, str], module: str = "streamer") -> None:
        self._folder = folder
        self._module = module
        self.variables = dict(variables)

    @property
    def _environment(self) -> dict[str, str]:
        here = {name: value for name, value in os.environ.items() if name not in AGENT_VARIABLES}
        return {**here, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "xterm", **self.variables}

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
        """Start a command with pipes; kill it at the end if it still runs."""
        process = await asyncio.create_subprocess_exec(
            *self._command(arguments),
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with ended(process):
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
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(theirs)
        terminal = Terminal(process, ours)
        try:
            async with ended(process):
                yield terminal
        finally:
            terminal.close()

    def _command(self, arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", self._module, *map(str, arguments)]


class Terminal:
    """The terminal of a command."""

    def __init__(self, process: asyncio.subprocess.Process, descriptor: int) -> None:
        self.process = process
        self.shown = ""
        self._descriptor = descriptor
        self._end = asyncio.Event()
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def type(self, keys: str) -> None:
        r"""Press keys: `\x03` is Ctrl-C."""
        os.write(self._descriptor, keys.encode())

    async def ended(self) -> int:
        """Wait until the command has ended and all its output is read. Return its exit code."""
        async with asyncio.timeout(SECONDS):
            code = await self.process.wait()
            await self._end.wait()
        return code

    def close(self) -> None:
        """Close the terminal."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 2**16)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._end.set()
        self.shown += data.decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Ensure that a process has ended and left nothing open."""
    note_pid(process.pid)
    try:
        yield
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
        forget_pid(process.pid)
        # The pipes' transports close with the process. Wait for this, or they warn when they are garbage-collected.
        transport = process._transport  # type: ignore[attr-defined]
        transport.close()
