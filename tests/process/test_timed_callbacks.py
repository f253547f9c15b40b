"""The watchdog also times callbacks outside of tasks: those of the feed, the fan-out and connections."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pytest
from aiohttp import web

from streamer.app import Server
from streamer.http.middleware import malformed_response
from streamer.observe.metrics import Metrics
from streamer.observe.watchdog import Watchdog
from streamer.server.connection import Runner
from tests.support.api import Api
from tests.support.raw import RawConnection, request_head
from tests.support.waiting import eventually

T = TypeVar("T")
P = ParamSpec("P")


class Noting(Watchdog):
    """A watchdog that records what it times."""

    def __init__(self) -> None:
        super().__init__(Metrics())
        self.seen: set[str] = set()

    def call(self, operation: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Call a function, timed."""
        self.seen.add(operation)
        return super().call(operation, function, *args, **named)


async def test_callbacks_of_the_fan_out_are_timed(api: Api, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a flush window and each later part of closing connections are timed."""
    monkeypatch.setattr("streamer.fanout.dependencies.AT_ONCE", 1)
    server.channels._watchdog = server.subscribers._dependencies._watchdog = noting = Noting()
    (await api.append("w")).expect(201)
    streams = [await api.stream("w") for _ in range(3)]
    for stream in streams:
        await stream.next("synced")
    (await api.append("w")).expect(201)
    await eventually(lambda: "end_window" in noting.seen)
    (await api.delete("/v1/workspaces/w")).expect(204)
    for stream in streams:
        await stream.next("closed")
        stream.close()
    assert "close" in noting.seen


async def test_a_connections_callbacks_are_timed() -> None:
    """A connection's start, its end, and the work after its client reads again are timed."""
    noting = Noting()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 2**24)

    application = web.Application()
    application.router.add_get("/", answer)
    runner = Runner(application, noting, malformed_response)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with await RawConnection.open(f"http://127.0.0.1:{runner.addresses[0][1]}") as connection:
        await connection.send(request_head("GET", "/"))
        await connection.answer()
    await eventually(lambda: noting.seen >= {"connect", "receive", "send", "disconnect"})
    await runner.cleanup()
