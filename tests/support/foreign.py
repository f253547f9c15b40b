"""Foreign programs, run to their end or while the test continues. Each has a folder as its home; Python can import this project."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.cli import Ended, ended
from tests.support.tools import ROOT
from tests.support.waiting import eventually

LONGEST_LINE = 2**24


class Running:
    """A running program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.out: list[str] = []
        """The lines printed so far."""
        self.err: list[str] = []
        """The lines of its standard error."""
        self._reading = asyncio.gather(_read(process.stdout, self.out), _read(process.stderr, self.err))

    async def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def said(self, line: str) -> None:
        """Wait until it has printed this line."""
        await eventually(lambda: line in self.out or self._process.returncode is not None)
        assert line in self.out, (line, self.out, self.err)

    async def printed(self, count: int) -> list[str]:
        """Wait until it has printed this many lines, and return them. There must be no more."""
        await eventually(lambda: len(self.out) >= count or self._process.returncode is not None)
        assert len(self.out) == count, (self.out, self.err)
        return self.out

    async def read(self) -> None:
        """Wait for the end of its output."""
        await self._reading


async def _read(pipe: asyncio.StreamReader | None, lines: list[str]) -> None:
    assert pipe is not None
    while line := await pipe.readline():
        lines.append(line.decode().removesuffix("\n"))


async def _start(command: tuple[object, ...], folder: Path, variables: Mapping[str, str]) -> asyncio.subprocess.Process:
    own = {"HOME": str(folder), "TZ": "UTC", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    return await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env={**os.environ, **own, **variables},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
    )


async def run(*command: object, folder: Path, **variables: str) -> Ended:
    """Run a program to its end, with empty standard input; keywords are environment variables."""
    process = await _start(command, folder, variables)
    async with ended(process):
        out, err = await process.communicate(b"")
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def running(*command: object, folder: Path, **variables: str) -> AsyncIterator[Running]:
    """Start a program, and end it after the block; keywords as for `run`."""
    process = await _start(command, folder, variables)
    program = Running(process)
    try:
        async with ended(process):
            yield program
    finally:
        await program.read()
