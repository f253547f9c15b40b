"""The examples of docs/client.md run as printed, and the page is complete."""

import asyncio
from pathlib import Path

import pytest

import streamer.client
from streamer.app import Server
from streamer.client import Client, PlatformClient
from tests.conftest import ADMIN_KEY
from tests.support import programs
from tests.support.api import Api
from tests.support.databases import sqlite_url
from tests.support.snippets import snippets
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS

PROGRAMS = snippets("client.md")
ANN = {"type": "user", "id": "ann", "name": "Ann"}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because a program never sees it."""
    return sqlite_url(tmp_path)


@pytest.fixture
def variables(server: Server) -> dict[str, str]:
    """Return the environment variables that the programs read."""
    return {"STREAMER_URL": server.url, "STREAMER_KEY": ADMIN_KEY}


async def following(process: asyncio.subprocess.Process, lines: int) -> list[str]:
    """Return the next lines that a program prints."""
    assert process.stdout
    async with asyncio.timeout(SECONDS):
        return [(await process.stdout.readline()).decode().rstrip("\n") for _ in range(lines)]


def test_every_program_is_run() -> None:
    """Every program on the page is run below."""
    assert set(PROGRAMS) == {"append.py", "sync.py", "quick_start.py", "poll.py"}


def test_everything_is_named() -> None:
    """The page names all calls, messages and errors of the clients."""
    page = (ROOT / "docs" / "client.md").read_text()
    helpers = {"ActivityFilters", "Event", "Filters", "Page", "StreamMessage", "host_of", "seq_of"}
    calls = {name for kind in (Client, PlatformClient) for name in vars(kind) if not name.startswith("_")}
    assert [name for name in {*streamer.client.__all__} - helpers | calls if f"`{name}" not in page] == []


async def test_append(variables: dict[str, str], tmp_path: Path) -> None:
    """An event and a batch are stored, the history is filtered, and an invalid event names its field."""
    ended = await programs.run(PROGRAMS["append.py"], tmp_path, variables)
    assert (ended.code, ended.err) == (0, "")
    assert ended.lines == [
        "1 Ann created issue PAP-42",
        "2 issue.updated",
        "1 issue.created",
        "400 validation_error {'colour': 'unknown field; free data goes into `details`'}",
    ]


async def test_sync(variables: dict[str, str], api: Api, tmp_path: Path) -> None:
    """The page is printed oldest first, and the stream continues after it."""
    for number in range(3):
        (await api.append("my", action="issue.created", actor=ANN, description=f"n{number}")).expect(201)
    async with programs.started(PROGRAMS["sync.py"], tmp_path, variables) as process:
        assert await following(process, 3) == ["1 n0", "2 n1", "3 n2"]
        (await api.append("my", action="issue.created", actor=ANN, description="live")).expect(201)
        assert await following(process, 2) == ["4 live", ""]
        assert await process.wait() == 0


async def test_quick_start(variables: dict[str, str], api: Api, tmp_path: Path) -> None:
    """The first sample prints who did what, newest first."""
    issue = {"type": "issue", "id": "i1", "identifier": "PAP-42"}
    for action in ("issue.created", "issue.assigned"):
        (await api.append("my", action=action, actor=ANN, entity=issue)).expect(201)
    ended = await programs.run(PROGRAMS["quick_start.py"], tmp_path, variables)
    assert (ended.code, ended.err) == (0, "")
    assert [line.partition("] ")[2] or line for line in ended.lines] == [
        "Ann",
        "  assigned issue: Ann assigned issue PAP-42",
        "Ann",
        "  created issue: Ann created issue PAP-42",
        "1 updates of issues",
    ]


async def test_poll(variables: dict[str, str], api: Api, tmp_path: Path) -> None:
    """The loop starts with the newest ten events, oldest first, and prints every later event once."""
    for number in range(12):
        (await api.append("my", action="issue.created", actor=ANN, description=f"n{number}")).expect(201)
    program = PROGRAMS["poll.py"].replace("sleep(5)", "sleep(0.05)")
    async with programs.started(program, tmp_path, variables) as process:
        assert await following(process, 10) == [f"New activity: n{number}" for number in range(2, 12)]
        for number in range(12, 37):
            (await api.append("my", action="issue.created", actor=ANN, description=f"n{number}")).expect(201)
        assert await following(process, 25) == [f"New activity: n{number}" for number in range(12, 37)]
