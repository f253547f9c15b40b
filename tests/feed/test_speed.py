"""The feed's performance, measured by the server's counters: no task per stream, shared log reads, and batched events."""

import asyncio

import aiohttp
import pytest

from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api
from tests.support.crowd import Crowd
from tests.support.process import ServerProcess
from tests.support.readers import BEGINNING, SSE, WEBSOCKET, Kind, seqs_of
from tests.support.waiting import eventually

WS = "speed"

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def metric(api: Api, name: str) -> float:
    """Return the sum of a metric's values."""
    lines = (await api.get("/metrics")).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


async def started(process: ServerProcess, http: aiohttp.ClientSession) -> Api:
    """Start a server with one event in its log."""
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    return api


@on_sqlite
async def test_a_stream_has_no_task(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """Five hundred open streams add no task, and leave nothing behind when they close."""
    api = await started(make_process(), http)
    before = await metric(api, "streamer_tasks")
    async with Crowd(api, WS, "sse") as crowd:
        members = await crowd.join(500)
        await eventually(lambda: _are(all(member.is_synced for member in members)))
        assert await metric(api, "streamer_subscribers") == 500
        # Requests in progress have some, and so have connections that are kept alive for the next one.
        assert await metric(api, "streamer_tasks") <= before + 5
        files = await metric(api, "process_open_fds")

    async def gone() -> bool:
        return await metric(api, "streamer_subscribers") == 0

    await eventually(gone)
    assert await metric(api, "process_open_fds") <= files - 500


@on_sqlite
@pytest.mark.parametrize("kind", [SSE, WEBSOCKET], ids=lambda kind: kind.name)
async def test_who_comes_back_together_reads_the_log_once(
    make_process: MakeProcess, http: aiohttp.ClientSession, kind: Kind
) -> None:
    """Forty readers that miss more than the ring holds all receive it, and the log is read once for all of them."""
    api = await started(make_process(ring_bytes=16 * 1024), http)
    readers = [await kind.open(api, WS) for _ in range(40)]
    for reader in readers:
        await reader.synced()
    first = (await api.append(WS)).expect(201)
    for reader in readers:
        assert await seqs_of(reader, 1) == [first["seq"]]
        reader.close()
    for _ in range(4):
        (await api.append_all(WS, [{"details": {"text": "x" * 400}}] * 250)).expect(201)
    before = await metric(api, "streamer_log_reads_total")

    async def come_back(position: str | None) -> None:
        reader = await kind.open(api, WS, position=position)
        assert await seqs_of(reader, 1000) == list(range(first["seq"] + 1, first["seq"] + 1001))
        reader.close()

    await asyncio.gather(*(come_back(reader.position) for reader in readers))
    chunks = await metric(api, "streamer_log_reads_total") - before
    assert chunks >= 4, "several chunks are read"
    await come_back(readers[0].position)
    # A late reader still finds the first chunks in the cache, if not all of them.
    assert await metric(api, "streamer_log_reads_total") - before <= chunks + 2
    assert chunks <= 20, "far fewer reads than one per reader and chunk"


async def _are(condition: bool) -> bool:
    return condition


@on_sqlite
async def test_names_of_subscriptions_cost_no_memory(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """A client that reads the same events through hundreds of subscriptions with different names uses almost no memory."""
    api = await started(make_process(ring_bytes=16 * 1024, max_subscriptions=500), http)
    for _ in range(4):
        (await api.append_all(WS, [{"details": {"text": "x" * 400}}] * 250)).expect(201)
    before = await metric(api, "process_resident_memory_bytes")
    async with http.ws_connect(
        f"{api.url}/v1/ws".replace("http", "ws", 1), headers={"Authorization": f"Bearer {ADMIN_KEY}"}, max_msg_size=0
    ) as socket:
        for number in range(200):
            await socket.send_json({"type": "subscribe", "sub": f"s{number}", "workspace": WS, "after": BEGINNING})
        synced = 0
        while synced < 200:
            synced += (await socket.receive_json())["type"] == "synced"
    grown = await metric(api, "process_resident_memory_bytes") - before
    # Each read 650 KB. A copy for each name would be 130 MB.
    assert grown < 60 * 2**20
