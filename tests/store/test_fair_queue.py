"""An account that appends as fast as it can gets only its share of the queues, and the others take their turns."""

import asyncio
import threading
from functools import partial

import aiohttp
import pytest

from streamer.core.errors import Overloaded
from streamer.core.ids import SYSTEM_WORKSPACE
from streamer.ingest.worker import Worker
from streamer.store.log.writer import LOOP_GROUP_EVENTS
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api
from tests.support.databases import nothing_written
from tests.support.queued import Queued
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""The queue is the same for every database."""


@on_sqlite
async def test_one_account_fills_half_of_the_queue(queued: Queued) -> None:
    """Appends above an account's share are refused, by events and by bytes. Those of other accounts are queued and stored."""
    for _ in range(6):
        queued.start(queued.append("busy", count=500))
    await queued.waits(3000)
    with pytest.raises(Overloaded):
        await queued.append("busy", count=500)
    for _ in range(3):
        queued.start(queued.append("large", count=5, size=240_000))
    await queued.waits(3015)
    with pytest.raises(Overloaded):
        await queued.append("large", count=5, size=240_000)
    queued.start(queued.append("calm"))
    queued.start(queued.append("calm", size=100_000))
    await queued.run()
    assert queued.order.count("calm") == 2
    assert sum(len(committed.frames) for committed in queued.news) == 3017


@on_sqlite
async def test_two_accounts_do_not_fill_the_queue(queued: Queued) -> None:
    """Two accounts at their limits leave room in the queue for others."""
    for account in ("a", "b"):
        for _ in range(5):
            queued.start(queued.append(account, count=640))
    await queued.waits(5120)
    await eventually(lambda: sum(task.done() for task in queued.tasks) == 2)
    for task in [task for task in queued.tasks if task.done()]:
        assert isinstance(task.exception(), Overloaded)
        queued.tasks.remove(task)
    for _ in range(50):
        queued.start(queued.append("calm"))
    await queued.run()
    assert queued.order.count("calm") == 50


@on_sqlite
async def test_accounts_take_turns(queued: Queued) -> None:
    """A lone append after another account's long queue is in the first group. Each account's own order is kept."""
    for number in range(3000):
        queued.start(queued.append("busy", f"busy{number}"))
    await queued.waits(3000)
    queued.start(queued.append("calm", workspace="v"))
    await queued.waits(3001)
    await queued.run()
    assert queued.order.index("calm") < LOOP_GROUP_EVENTS
    queued.order.remove("calm")
    assert queued.order == [f"busy{number}" for number in range(3000)]


@on_sqlite
async def test_nothing_overtakes_a_change(queued: Queued) -> None:
    """Appends and changes in the workspaces of a queued change come after it. Those in other workspaces do not wait."""
    for _ in range(4 * LOOP_GROUP_EVENTS // 3):
        queued.start(queued.append("busy", "busy", workspace="v"))
    queued.start(queued.change("busy", "change", "w", SYSTEM_WORKSPACE))
    await queued.waits(4 * LOOP_GROUP_EVENTS // 3 + 1)
    queued.start(queued.append("free", workspace="u"))
    queued.start(queued.append("calm", "append"))
    queued.start(queued.change("other", "second", SYSTEM_WORKSPACE, "x"))
    await queued.waits(4 * LOOP_GROUP_EVENTS // 3 + 4)
    queued.start(queued.append("third", "last", workspace="x"))
    await queued.waits(4 * LOOP_GROUP_EVENTS // 3 + 5)
    await queued.run()
    at = {name: queued.order.index(name) for name in ("free", "change", "append", "second", "last")}
    assert at["free"] < at["change"] < min(at["append"], at["second"])
    assert at["second"] < at["last"]


async def test_one_account_fills_half_of_the_workers_queue() -> None:
    """Large events of one account that wait for the redaction worker leave room for other accounts."""
    worker, go = Worker(1000), threading.Event()
    tasks = [asyncio.create_task(worker.run("busy", 100, partial(go.wait, 10))) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await worker.run("busy", 100, go.is_set)
    calm = asyncio.create_task(worker.run("calm", 300, go.is_set))
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*tasks, calm) == [True] * 6
    worker.close()


@on_sqlite
async def test_a_busy_key_refuses_nobody_else(
    make_server: MakeServer, http: aiohttp.ClientSession, database_url: str
) -> None:
    """While one key's batches fill its share, only that key is refused. Another key's appends are stored."""
    api = Api(http, (await make_server(append_queue_events=2000)).url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    busy, calm = [api.with_key(await api.create_key("w")) for _ in range(2)]
    async with nothing_written(database_url):
        batches = [asyncio.create_task(busy.append_all("w", [{}] * 200)) for _ in range(30)]
        await eventually(lambda: sum(batch.done() for batch in batches) >= 20)
        singles = [asyncio.create_task(calm.append("w")) for _ in range(20)]
        await eventually(lambda: waits(api, 20 + 200 * sum(not batch.done() for batch in batches)))
    for answer in await asyncio.gather(*singles):
        answer.expect(201)
    assert {(answer.status, answer.error) for answer in await asyncio.gather(*batches) if answer.status != 201} == {
        (503, "overloaded")
    }


async def waits(api: Api, count: int) -> bool:
    """Check whether this many events wait to be stored."""
    return f"streamer_append_queue_events {count}.0".encode() in (await api.get("/metrics")).body
