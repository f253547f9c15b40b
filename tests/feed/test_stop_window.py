"""A stop takes at most one drain window, whatever clients do, and no request gets two responses."""

import asyncio
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from sqlalchemy import Connection

from streamer.core.errors import StoreUnavailable
from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api
from tests.support.raw import request_head
from tests.support.waiting import SECONDS

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
WINDOW_SECONDS = 3


@on_sqlite
async def test_a_client_that_takes_no_answer_holds_no_stop(
    make_process: MakeProcess, http: aiohttp.ClientSession
) -> None:
    """A large page that the client does not read is aborted at the end of the window, without a second wait."""
    process = make_process(drain_seconds=WINDOW_SECONDS)
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    for _ in range(10):
        (await api.append_all("w", [{"description": "d" * 7000}] * 100)).expect(201)
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", urlsplit(process.url).port))
        await loop.sock_sendall(client, request_head("GET", "/v1/workspaces/w/events?limit=1000", api.headers))
        assert await asyncio.wait_for(loop.sock_recv(client, 100), SECONDS), "the response has started"
        started = time.monotonic()
        assert await process.stop() == 0
    assert time.monotonic() - started < 1.7 * WINDOW_SECONDS
    assert "Traceback" not in process.log, process.log[-6000:]


async def test_giving_up_as_a_transaction_ends(database: Database) -> None:
    """A waiting caller gets one result, even if its transaction has just ended, and nothing fails in the event loop."""
    loop, begun, goes_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    failures: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))

    def work(_: Connection) -> int:
        loop.call_soon_threadsafe(begun.set)
        if database.is_sqlite:
            goes_on.wait(SECONDS)
        return 7

    def give_up_at_the_end() -> None:
        if task.done():  # no caller has its result yet: that takes one more iteration of the loop
            database.give_up()
        else:
            loop.call_soon(give_up_at_the_end)

    before = asyncio.all_tasks()
    reading = asyncio.create_task(database.read(work))
    await begun.wait()
    (task,) = asyncio.all_tasks() - before - {reading}
    loop.call_soon(give_up_at_the_end)
    goes_on.set()
    with pytest.raises(StoreUnavailable):
        await reading
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert failures == []
