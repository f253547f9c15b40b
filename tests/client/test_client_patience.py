"""Waiting clients: a cancelled wait loses nothing, and a server cannot silently delay a client indefinitely."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from streamer.app import Server
from streamer.client import Activity, Client, PlatformClient, StreamMessage, Timing
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support import programs
from tests.support.api import Api
from tests.support.cli import Cli
from tests.support.databases import sqlite_url
from tests.support.scripted import scripted
from tests.support.waiting import SECONDS

BEGINNING = "1970-01-01T00:00:00Z"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because clients never see it."""
    return sqlite_url(tmp_path)


async def test_waits_that_are_cancelled(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """However often connects and reads are cancelled, each event arrives once and in order. Closing twice is harmless."""
    server = make_process()
    await server.start()
    api = Api(http, server.url, ADMIN_KEY)
    async with Client(server.url, ADMIN_KEY) as client:
        await cancelling(client, api, "one")
    await cancelling(Client(server.url, ADMIN_KEY), api, "two")  # a connection of its own
    await client.__aexit__(None, None, None)


async def cancelling(client: Client, api: Api, workspace: str) -> None:
    """Read a hundred events with a client whose waits are cancelled all the time."""
    dice = random.Random(1)
    (await api.append_all(workspace, [{}] * 50)).expect(201)
    stream = client.stream(workspace, after=BEGINNING)
    found: list[int] = []
    cancelled = 0
    async with asyncio.timeout(SECONDS):
        while len(found) < 100:
            waiting = asyncio.ensure_future(anext(stream))
            for _ in range(dice.randrange(1, 12) if cancelled < 100 else 10**6):
                await asyncio.sleep(0)
                if waiting.done():
                    break
            waiting.cancel()
            try:
                message: StreamMessage = await waiting
            except asyncio.CancelledError:
                cancelled += 1
                continue
            if isinstance(message, Activity):
                found.append(message.seq)
                if message.seq == 50:
                    (await api.append_all(workspace, [{}] * 50)).expect(201)
    assert found == list(range(1, 101))
    assert cancelled
    for _ in range(2):
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_closing_twice(server: Server) -> None:
    """Closing a client a second time does nothing."""
    for client in (Client(server.url, ADMIN_KEY), PlatformClient(server.url, ADMIN_KEY)):
        async with client:
            pass
        await client.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("retry_after", "said"),
    [
        ("86400", True),
        ("9" * 400, True),
        ("a day", True),
        ("1", False),
        ("-5", False),
        ("soon", False),
        ("Wed, 99 Foo 99999 99:99:99 GMT", False),
        ("Mon, 01 Jan 0001 00:00:00 -2359", False),
        ("", False),
    ],
)
async def test_what_a_server_asks_for(retry_after: str, said: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A long requested delay is capped and reported. An invalid delay is ignored."""
    if retry_after == "a day":
        retry_after = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    calls = 0

    async def handler(_request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            return web.Response(status=503, headers={"Retry-After": retry_after})
        return web.json_response({"id": "k", "grants": {}})

    async with scripted(handler) as url, asyncio.timeout(SECONDS):
        client = Client(url, None, timing=Timing(unit=0.001, connect=10_000, silence=15_000))
        assert (await client.session())["id"] == "k"
    assert calls == 2
    assert ("the server asks to wait for" in caplog.text) == said


async def test_the_command_line_says_it(tmp_path: Path) -> None:
    """A command reports on stderr that it must wait, and waits no longer than its option allows."""

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "86400"})

    async with scripted(handler) as url:
        ended = await Cli(tmp_path, {"STREAMER_URL": url, "STREAMER_MAX_WAIT": "0.01"})("whoami")
    assert ended.code == 1
    assert ended.err.count("the server asks to wait for 86400 s; retrying after 0 s\n") == 3


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_no_escape_sequences(cli: Cli, api: Api, variables: dict[str, str]) -> None:
    """Where escape sequences are disabled, no command prints any, even on a terminal."""
    (await api.append("my")).expect(201)
    plain = Cli(cli._folder, cli.variables | variables)
    for command in ("tail my -f --count 1", "keys list my", "whoami"):
        async with plain.on_terminal(*command.split()) as terminal:
            assert await terminal.ended() == 0
        assert terminal.shown
        assert "\x1b" not in terminal.shown


LEFT = """
import asyncio, os
from streamer.client import Client, Synced

async def main():
    async for message in Client(os.environ["STREAMER_URL"], os.environ["STREAMER_KEY"]).stream("w", after="1970-01-01T00:00:00Z"):
        if isinstance(message, Synced):
            raise SystemExit(7)

asyncio.run(main())
"""


async def test_a_program_that_ends_within_a_stream(
    make_process: MakeProcess, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A program that exits while a stream is open prints nothing and keeps its exit code."""
    server = make_process()
    await server.start()
    (await Api(http, server.url, ADMIN_KEY).append("w")).expect(201)
    ended = await programs.run(LEFT, tmp_path, {"STREAMER_URL": server.url, "STREAMER_KEY": ADMIN_KEY})
    assert (ended.code, ended.out, ended.err) == (7, "", "")
