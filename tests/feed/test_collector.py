"""The garbage collector's pauses stay short, and connections leave no garbage for it."""

import asyncio
import gc

import aiohttp
import pytest

from streamer.app import Server
from tests.support.api import Api
from tests.support.crowd import Crowd
from tests.support.readers import SSE, WEBSOCKET, Kind
from tests.support.waiting import eventually

WS = "collected"
READERS = 50


@pytest.mark.parametrize("kind", [SSE, WEBSOCKET], ids=lambda kind: kind.name)
async def test_connections_leave_no_cycles(api: Api, server: Server, kind: Kind) -> None:
    """With the collector disabled, an ended connection leaves no objects. Frozen objects are freed, too."""
    (await api.append(WS)).expect(201)

    async def come_and_go() -> None:
        async with Crowd(api, WS, kind.name) as crowd:
            await crowd.join(READERS)
        await eventually(lambda: not server.subscribers._places._by_account)

    await come_and_go()  # objects that are created once
    gc.collect()
    gc.disable()
    try:
        before = _count()
        await come_and_go()
        await eventually(lambda: _count() <= before + READERS / 5)
    finally:
        gc.enable()


async def test_requests_leave_no_cycles(api: Api, http: aiohttp.ClientSession) -> None:
    """Requests leave no cycles, including refused ones and those of clients that disconnect."""

    async def disconnect() -> None:
        with pytest.raises(TimeoutError):
            async with http.get(
                f"{api.url}/v1/workspaces/{WS}/events?wait=30&after=2030-01-01T00:00:00Z",
                headers=api.headers,
                timeout=aiohttp.ClientTimeout(0.05),
            ):
                pass

    async def call() -> None:
        for _ in range(READERS):
            await api.append(WS)
            await api.get(f"/v1/workspaces/{WS}/events", limit="x")
        await asyncio.gather(*(disconnect() for _ in range(READERS)))

    await call()
    gc.collect()
    gc.disable()
    try:
        before = _count()
        await call()
        await eventually(lambda: _count() <= before + READERS / 5)
    finally:
        gc.enable()


def _count() -> int:
    """Count the server's objects that belong to a connection or a request."""
    names = {"Connection", "Reader", "Session", "Request", "WebSocketResponse", "Socket", "SseSink", "WebSocketSink"}
    return sum(type(one).__name__ in names for one in gc.get_objects())
