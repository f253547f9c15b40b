"""A log that cannot be written never blocks: requests are answered, lines are dropped and counted, and SIGTERM works."""

import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api
from tests.support.databases import sqlite_url
from tests.support.process import ServerProcess
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS, eventually

QUEUE = 16 * 1024
DROPPED = "streamer_log_lines_dropped_total"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because logs do not depend on it."""
    return sqlite_url(tmp_path)


@pytest.fixture
def process(make_process: MakeProcess) -> ServerProcess:
    """Start a server with a short log buffer."""
    return make_process(log_queue_bytes=QUEUE, log_format="json", metrics_public=True)


@pytest.fixture
async def calls(http: aiohttp.ClientSession, process: ServerProcess) -> "Calls":
    """Create a client of that server."""
    return Calls(Api(http, process.url, ADMIN_KEY))


class Calls:
    """Send requests that are logged, each with a number in its path."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.count = 0

    async def until_dropped(self) -> int:
        """Send requests until lines are dropped. Return their number."""
        while True:
            for _ in range(25):
                await self.one()
            dropped = await self.dropped()
            if dropped:
                return dropped

    async def one(self) -> None:
        """Send the next request."""
        self.count += 1
        (await self.api.get(f"/v1/workspaces/number-{self.count}")).expect(404)

    async def dropped(self) -> int:
        """Return the number of log lines that the server has dropped."""
        text = (await self.api.get("/metrics")).body.decode()
        return int(float(text.split(f"\n{DROPPED} ")[1].split()[0]))


def numbers(lines: list[str]) -> list[int | str]:
    """Return the numbers of these requests in the log, and the sizes of gaps."""
    found: list[int | str] = []
    for line in lines:
        entry = json.loads(line) if line.startswith("{") else {"event": line}
        if entry["event"] == "log_lines_dropped":
            found.append(f"{entry['lines']} dropped")
        elif "number-" in entry.get("path", ""):
            found.append(int(entry["path"].rpartition("-")[2]))
    return found


async def test_a_full_disk(process: ServerProcess, calls: Calls) -> None:
    """With a full disk, every request is answered and the server stops as usual."""
    await process.start("2>/dev/full")
    await calls.until_dropped()
    assert (await calls.api.get("/livez")).status == 200
    (await calls.api.append("w")).expect(201)
    assert await process.stop() == 0


async def test_a_pipe_whose_reader_stops(process: ServerProcess, calls: Calls, tmp_path: Path) -> None:
    """While a pipe's reader has stopped, lines are dropped. Later, one line stands for them, and the order is kept."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    await process.start(f"2>{pipe}")
    await calls.until_dropped()
    text = b""

    def read() -> bool:
        nonlocal text
        try:
            text += os.read(reader, 2**20)
        except BlockingIOError:
            return False
        return b"log_lines_dropped" in text

    await eventually(read)
    dropped = await calls.dropped()
    await calls.one()
    await eventually(lambda: read() and f"number-{calls.count}".encode() in text)
    found = numbers(text.decode().splitlines())
    kept = len(found) - 2
    assert found == [*range(1, kept + 1), f"{dropped} dropped", calls.count]
    assert kept + dropped >= calls.count - 1
    assert await process.stop() == 0
    os.close(reader)


async def test_a_pipe_that_nobody_reads(process: ServerProcess, calls: Calls, tmp_path: Path) -> None:
    """A closed pipe, which fails for each line, blocks neither requests nor the stop."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    await process.start(f"2>{pipe} >&2")
    os.close(reader)
    await calls.until_dropped()
    assert await process.stop() == 0


async def test_a_paused_terminal(process: ServerProcess, calls: Calls) -> None:
    """A terminal paused with Ctrl-S blocks neither the start nor the stop."""
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)
    await process.start(f">{os.ttyname(theirs)} 2>&1")
    await calls.until_dropped()
    assert await process.stop() == 0
    os.close(ours)
    os.close(theirs)


async def test_the_end_of_the_log_is_written(process: ServerProcess) -> None:
    """The last lines before the process ends are in the file."""
    await process.start()
    assert await process.stop() == 0
    assert process.log.splitlines()[-1].startswith("stopping within 10 s")


def test_whatever_writes_to_stderr(tmp_path: Path) -> None:
    """Libraries' logs, warnings and failures of threads and of the program are logged, too. The exit code is unchanged."""
    program = tmp_path / "program.py"
    program.write_text(
        "import logging, threading, warnings\n"
        "from streamer.observe import logs, output\n"
        f"output.never_block({QUEUE})\n"
        "logs.configure('json', 'info')\n"
        "for _ in range(1000):\n"
        "    logging.getLogger('library').error('x' * 100)\n"
        "warnings.warn('a warning')\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start()\n"
        "thread.join()\n"
        "print(output.dropped_lines() > 0)\n"
        "raise SystemExit(7) if output.dropped_lines() else ValueError('nothing was dropped')\n"
    )
    reader, writer = os.pipe()
    done = subprocess.run(
        [sys.executable, "-P", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=writer,
        check=False,
        timeout=SECONDS,
    )
    os.close(writer)
    os.close(reader)
    assert (done.returncode, done.stdout) == (7, b"True\n")
