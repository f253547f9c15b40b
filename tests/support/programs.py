"""Programs that use the client, each as a separate process in which every warning is an error."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.support.cli import Ended, ended
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS


@contextlib.asynccontextmanager
async def started(text: str, folder: Path, variables: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a program in a folder; kill it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-u", "-W", "error", "-c", text),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with ended(process):
        yield process


async def run(text: str, folder: Path, variables: Mapping[str, str]) -> Ended:
    """Run a program to its end."""
    async with started(text, folder, variables) as process:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
