"""The commands on the README's first screen work with a new server."""

import asyncio
import re
from pathlib import Path

import pytest

from streamer.app import Server
from tests.conftest import ADMIN_KEY
from tests.support.databases import sqlite_url
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because curl never sees it."""
    return sqlite_url(tmp_path)


async def _curl(block: str, server: Server, *, until: str) -> str:
    """Run a block of the README with the server's address and a key until it has printed a text."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", "exec " + block.replace("localhost:8080", server.url)),
        env={"PATH": "/usr/bin:/bin", "STREAMER_KEY": ADMIN_KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(SECONDS):
            return (await process.stdout.readuntil(until.encode())).decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_append_and_follow(server: Server) -> None:
    """The first call appends to a new workspace. The second prints that event and stays open."""
    start, key, append, follow = BLOCKS[:4]
    assert start == "./run\n"
    assert key.startswith("export STREAMER_KEY=")
    assert '"seq":1,' in await _curl(append, server, until="}")
    seen = await _curl(follow, server, until="event: synced\n")
    assert "event: activity\n" in seen
    assert '"action":"issue.created"' in seen
