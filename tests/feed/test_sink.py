"""Closing a connection whose peer is slow."""

import asyncio
from typing import Any, cast

import pytest

from streamer.core.unread import Unread
from streamer.transports.sink import SocketSink
from tests.support.waiting import SECONDS


async def test_a_slow_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the peer reads the last bytes in time, the connection ends normally, and the timer that would abort it does nothing."""
    monkeypatch.setattr("streamer.transports.sink.GRACE_SECONDS", 2)
    loop = asyncio.get_running_loop()
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    timer: list[float] = []

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = cast("asyncio.Transport", writer.transport)
        sink = SocketSink(transport, writer.drain, unread=Unread(2**30).hold("a"), high_water=2**16, stall_seconds=1)
        sink.write(b"x" * 2**23)
        assert transport.get_write_buffer_size()
        sink.finish(b"bye")
        timer.append(loop.time() + 2)
        transport.close()

    async with asyncio.timeout(SECONDS), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert (await reader.read()).endswith(b"xbye")
        writer.close()
        fired = asyncio.Event()
        loop.call_at(timer[0] + 0.1, fired.set)
        await fired.wait()
    assert problems == []
