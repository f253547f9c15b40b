"""Several nodes on one PostgreSQL: readers of each node receive the events of all, whatever happens to the bus."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from streamer.settings import SettingsError, load
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually
from tests.support.websocket import open_socket

WS = "w"
NEVER = 60
"""Seconds between polls: what arrives sooner came over the bus."""

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """Start a Redis."""
    server = RedisServer(tmp_path / "redis")
    await server.start()
    yield server
    server.kill()


@pytest.fixture(params=["redis", "postgres"])
def bus(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the settings of a bus."""
    if request.param == "redis":
        return {"redis_url": request.getfixturevalue("redis").url}
    return {"bus": "postgres"}


async def two_nodes(make_server: MakeServer, http: aiohttp.ClientSession, **settings: Any) -> tuple[Api, Api]:
    """Start two nodes that hear each other; return their APIs."""
    servers = [await make_server(node_name=name, **settings) for name in ("one", "two")]
    first, second = [Api(http, server.url, ADMIN_KEY) for server in servers]
    if settings.get("bus") != "none":
        for api in (first, second):
            await eventually(lambda api=api: hears_both(api))  # type: ignore[misc]
    return first, second


async def hears_both(api: Api) -> bool:
    """Return whether a node lists both nodes."""
    found = (await api.get("/v1/nodes")).expect(200)
    return found["bus_state"] == "ok" and sorted(node["name"] for node in found["nodes"]) == ["one", "two"]


async def test_events_cross_the_bus(
    make_server: MakeServer, http: aiohttp.ClientSession, bus: dict[str, Any], database_url: str
) -> None:
    """SSE, WebSocket and long poll on one node receive what another one stored, over the bus."""
    here, there = await two_nodes(make_server, http, poll_seconds=NEVER, **bus)
    (await here.append(WS, id="first")).expect(201)
    start = (await there.get(f"/v1/workspaces/{WS}/events")).expect(200)["position"]
    async with await there.stream(WS) as stream, await open_socket(there, WS) as socket:
        await socket.next("synced")
        waiting = asyncio.create_task(there.get(f"/v1/workspaces/{WS}/events", after=start, wait=30))
        await eventually(lambda: streams_of(there, 3))
        for number in range(5):
            (await here.append(WS, id=f"e{number}")).expect(201)
        assert [event["id"] for event in await stream.events(5)] == [f"e{number}" for number in range(5)]
        assert (await waiting).expect(200)["events"][0]["id"] == "e0"
        ids: list[str] = []
        while len(ids) < 5:
            ids += [event["id"] for event in (await socket.next("events"))["events"]]
        assert ids == [f"e{number}" for number in range(5)]


async def streams_of(api: Api, count: int) -> bool:
    """Return whether a node has that many open subscriptions."""
    return int((await api.get("/v1/nodes")).expect(200)["nodes"][0]["streams"]) == count


async def test_without_a_bus_the_poll_finds_all(
    make_server: MakeServer, http: aiohttp.ClientSession, database_url: str
) -> None:
    """Nodes without a bus find each other's events by the poll."""
    here, there = await two_nodes(make_server, http, bus="none")
    (await here.append(WS)).expect(201)
    async with await there.stream(WS) as stream:
        for number in range(3):
            (await here.append(WS, id=f"e{number}")).expect(201)
            assert [event["id"] for event in await stream.events(1)] == [f"e{number}"]
    assert (await here.get("/readyz")).expect(200) == {"status": "ok", "bus": "none"}


async def test_writers_on_both_nodes(
    make_server: MakeServer, http: aiohttp.ClientSession, bus: dict[str, Any], database_url: str
) -> None:
    """Readers of both nodes receive each event once and in order while both nodes append to one workspace."""
    nodes = await two_nodes(make_server, http, **bus)
    (await nodes[0].append(WS, id="first")).expect(201)
    streams = [await node.stream(WS) for node in nodes]

    async def write(node: Api, name: str) -> None:
        for number in range(100):
            (await node.append(WS, id=f"{name}{number}")).expect(201)

    await asyncio.gather(*(write(node, name) for node, name in zip(nodes, "ab", strict=True)))
    for stream in streams:
        assert [event["seq"] for event in await stream.events(200)] == list(range(2, 202))
        stream.close()


async def test_a_redis_that_dies(
    make_server: MakeServer, http: aiohttp.ClientSession, redis: RedisServer, database_url: str
) -> None:
    """While Redis is away nodes stay ready, appends go on and readers receive all; afterwards the bus is used again."""
    here, there = await two_nodes(make_server, http, redis_url=redis.url)
    (await here.append(WS, id="first")).expect(201)
    async with await there.stream(WS) as stream:
        seq = 1
        for fault in (redis.kill, redis.freeze):
            fault()
            for _ in range(20):
                (await here.append(WS)).expect(201)
            assert [event["seq"] for event in await stream.events(20)] == list(range(seq + 1, seq + 21))
            await eventually(lambda: is_bus(here, "degraded"))
            if fault == redis.kill:
                await redis.start()
            else:
                redis.thaw()
            for node in (here, there):
                await eventually(lambda node=node: is_bus(node, "ok"))  # type: ignore[misc]
            (await here.append(WS)).expect(201)
            seq += 21
            assert [event["seq"] for event in await stream.events(1)] == [seq]


async def is_bus(api: Api, state: str) -> bool:
    """Return whether a node is ready, with this state of its bus."""
    return bool((await api.get("/readyz")).expect(200)["bus"] == state)


async def test_nodes_are_listed(
    make_server: MakeServer, http: aiohttp.ClientSession, redis: RedisServer, database_url: str
) -> None:
    """Admins see all nodes, the answering one first; others do not."""
    here, _ = await two_nodes(make_server, http, redis_url=redis.url)
    found = (await here.get("/v1/nodes")).expect(200)
    assert (found["bus"], found["bus_state"]) == (["redis"], "ok")
    assert [(node["name"], node["is_self"]) for node in found["nodes"]] == [("one", True), ("two", False)]
    assert all(abs(node["clock_skew_seconds"]) < 10 and node["streams"] == 0 for node in found["nodes"])
    (await here.append(WS)).expect(201)
    key = await here.create_key(WS)
    assert (await here.with_key(key).get("/v1/nodes")).status == 403


def test_several_nodes_need_postgresql(database_url: str) -> None:
    """Redis with SQLite is refused with a sentence that names PostgreSQL, and so is a bus without its URL."""
    for variables in ({"STREAMER_REDIS_URL": "redis://h"}, {"STREAMER_BUS": "postgres"}):
        with pytest.raises(SettingsError, match="PostgreSQL"):
            load({}, variables)
    with pytest.raises(SettingsError, match="STREAMER_REDIS_URL"):
        load({}, {"STREAMER_BUS": "redis", "STREAMER_DATABASE_URL": database_url})
    with pytest.raises(SettingsError, match="redis://"):
        load({}, {"STREAMER_REDIS_URL": "http://h", "STREAMER_DATABASE_URL": database_url})
    assert load({}, {"STREAMER_DATABASE_URL": database_url}).carrier == "postgres"
    assert load({}, {"STREAMER_DATABASE_URL": database_url, "STREAMER_REDIS_URL": "redis://h"}).carrier == "redis"
    assert load({}, {"STREAMER_REDIS_URL": "redis://h", "STREAMER_BUS": "none"}).carrier is None
