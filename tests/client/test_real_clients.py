"""The programs of docs/streaming.md receive every event once and in order, however they are disconnected, and then go live."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.support.api import Api
from tests.support.browser import connected
from tests.support.consumers import (
    NEEDS,
    RESUME_BY_THEMSELVES,
    RUNTIMES,
    WORKSPACE,
    Consumer,
    Program,
    Script,
    seq_of,
)
from tests.support.databases import sqlite_url
from tests.support.nginx import Nginx
from tests.support.proxy import Proxy, proxy_to
from tests.support.tools import find, require
from tests.support.waiting import eventually

TEXT = "ünïcode 😀, separators \u2028\u2029\x85\v\f, lines\r\n\n"
"""Texts that may confuse a program that reads lines."""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because a client never sees it."""
    return sqlite_url(tmp_path)


class Group(list[Consumer]):
    """Programs that take each step together."""

    async def start(self, url: str) -> None:
        """Start them."""
        await asyncio.gather(*(consumer.start(url) for consumer in self))

    async def kill(self) -> None:
        """Kill them at any point of their work."""
        await asyncio.gather(*(consumer.kill() for consumer in self))

    async def saw(self, count: int) -> None:
        """Wait until each has received exactly the first `count` events."""
        await asyncio.gather(*(consumer.saw(count) for consumer in self))


@pytest.fixture
async def consumers(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Group]:
    """Prepare the programs that this machine can run."""
    made = Group()
    async with AsyncExitStack() as stack:
        for runtime, names in RUNTIMES.items():
            if not all(map(find, NEEDS[runtime])):
                continue
            if runtime == "chromium":
                browser = await stack.enter_async_context(connected(request.getfixturevalue("browser_url")))
                made += [Script(name, ADMIN_KEY, browser) for name in names]
            else:
                made += [Program(name, ADMIN_KEY, tmp_path / name) for name in names]
        yield made
        await made.kill()


class Load:
    """A writer that appends numbered events and ensures that each is stored, however often the server is down."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.count = 0

    async def append(self, count: int) -> None:
        """Append this many events, one by one."""
        for _ in range(count):
            await eventually(self._store)

    async def is_at(self, count: int) -> None:
        """Wait until this many are stored, while others are still to come."""
        await eventually(lambda: self.count >= count)

    async def _store(self) -> bool:
        event = {"id": f"event-{self.count + 1}", "details": {"text": TEXT, "filler": "x" * 200}}
        try:
            answer = await self._api.append(WORKSPACE, **event)
        except aiohttp.ClientError:
            return False
        assert answer.expect(answer.status // 100 * 100 + answer.status % 2)["details"] == event["details"]
        self.count += 1
        return True


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_all_take_part(runtime: str) -> None:
    """Programs that this machine cannot run are skipped in the tests below. This test reports them, and fails with CI=true."""
    for tool in NEEDS[runtime]:
        require(tool)


async def test_a_connection_that_breaks(consumers: Group, make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A proxy disconnects in the middle of an event, then resets connections under load."""
    server = await make_server()
    load = Load(Api(http, server.url, ADMIN_KEY))
    await load.append(60)
    async with AsyncExitStack() as stack:
        proxies = {consumer: await stack.enter_async_context(proxy_to(server.url)) for consumer in consumers}

        async def begin(consumer: Consumer, proxy: Proxy) -> None:
            proxy.cut_after = random.randrange(2_000, 20_000)
            await consumer.start(proxy.url)
            await eventually(lambda: proxy.cuts)
            consumer.complaints.append(f"cut after {proxy.cut_after} bytes")
            proxy.cut_after = None
            await consumer.saw(60)

        async def reset(consumer: Consumer, proxy: Proxy) -> None:
            await load.is_at(80)
            proxy.reset()
            await consumer.saw(120)
            if consumer.name in RESUME_BY_THEMSELVES:
                assert b"last-event-id: " in proxy.heads[-1].lower()

        await asyncio.gather(*(begin(*pair) for pair in proxies.items()))
        await asyncio.gather(load.append(60), *(reset(*pair) for pair in proxies.items()))
        await consumers.kill()


async def test_a_server_that_dies(consumers: Group, make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """The server is killed under load with `kill -9` and restarted on the same port."""
    server = make_process()
    load = Load(Api(http, server.url, ADMIN_KEY))
    await server.start()
    await load.append(1)
    await consumers.start(server.url)
    await consumers.saw(1)
    appending = asyncio.create_task(load.append(100))
    await load.is_at(40)
    server.kill()
    await server.start()
    await appending
    await consumers.saw(101)
    await load.append(1)
    await consumers.saw(102)


async def test_a_client_that_dies(consumers: Group, make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """The program is killed under load, and another continues exactly after its stored position."""
    server = await make_server()
    load = Load(Api(http, server.url, ADMIN_KEY))
    await load.append(1)
    await consumers.start(server.url)
    await consumers.saw(1)
    appending = asyncio.create_task(load.append(100))
    await load.is_at(40)
    await consumers.kill()
    await appending
    stored: dict[Consumer, int] = {}
    for consumer in consumers:
        await consumer.saw(len(consumer.seen))
        stored[consumer] = seq_of(await consumer.position())
        if isinstance(consumer, Program):  # a page's last write may be lost
            assert stored[consumer] <= len(consumer.seen), f"{consumer} stored {stored[consumer]}"
        consumer.seen.clear()
    await consumers.start(server.url)
    for consumer, seq in stored.items():
        await consumer.saw(101 - seq, first=seq + 1)


async def test_behind_nginx(
    consumers: Group, make_process: MakeProcess, http: aiohttp.ClientSession, nginx: Nginx
) -> None:
    """Behind nginx, configured as in docs/deploy.md, the server dies, nginx responds with 502, and the server returns."""
    server = make_process()
    load = Load(Api(http, server.url, ADMIN_KEY))
    await server.start()
    await nginx.start(server.url)
    await load.append(1)
    for consumer in consumers:
        consumer.trust(nginx.certificate)
    await consumers.start(nginx.url)
    await consumers.saw(1)
    appending = asyncio.create_task(load.append(100))
    await load.is_at(40)
    refused = nginx.log.count(" 502 ")
    server.kill()
    await eventually(lambda: nginx.log.count(" 502 ") >= refused + len(consumers))
    await server.start()
    await appending
    await consumers.saw(101)
    assert "ticket=" not in nginx.logs


async def test_what_the_server_says(consumers: Group, make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """With a position of another log, the program reports the gap and continues. If the workspace is deleted, it exits."""
    server = await make_server()
    api = Api(http, server.url, ADMIN_KEY)
    load = Load(api)
    await load.append(3)
    for consumer in consumers:
        await consumer.remember("another0log.5", server.url)
    await consumers.start(server.url)
    await consumers.saw(3)
    for consumer in consumers:
        assert any("missing" in said for said in consumer.complaints), repr(consumer)
    await load.append(1)
    await consumers.saw(4)
    (await api.delete(f"/v1/workspaces/{WORKSPACE}")).expect(204)
    for consumer in consumers:
        if isinstance(consumer, Program):
            await consumer.ended()
