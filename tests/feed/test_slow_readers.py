"""Slow readers among many: they use limited memory, delay nobody, and resume exactly."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api
from tests.support.crowd import Crowd, Member
from tests.support.readers import SSE, WEBSOCKET, Kind, seqs_of
from tests.support.waiting import eventually

WS = "crowd"
QUICK, SLOW = 1980, 20
"""Number of readers, of which one in a hundred is slow."""
SHARE = 20
"""A fast reader reads everything. A slow one reads a twentieth: 10 KB/s of about 200 KB/s."""
BATCH, BATCHES = 100, 30
"""The number of events per batch, for a fifth of a second each, and the number of batches."""
KIB = 1024
IDLE_KIB = {"sse": 8, "websocket": 32}
"""Upper limit for an idle reader. An SSE stream is a socket and a position (4 KiB); a WebSocket has a task and a parser, too."""

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def peak_rss(pid: int) -> int:
    """Return a process's peak memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no VmHWM")


def forget_peak(pid: int) -> None:
    """Reset the peak."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@on_sqlite
@pytest.mark.parametrize("kind", [SSE, WEBSOCKET], ids=lambda kind: kind.name)
async def test_memory_for_a_reader_is_bounded(
    make_process: MakeProcess, http: aiohttp.ClientSession, kind: Kind, record_property: Callable[[str, object], None]
) -> None:
    """With 20 of 2,000 readers slow, memory per reader is limited, fast ones get all events, and slow ones can catch up."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    server = psutil.Process(process.pid)
    before = server.memory_info().rss
    async with Crowd(api, WS, kind.name) as crowd:
        quick = await crowd.join(QUICK)
        slow = await crowd.join(SLOW, receive_buffer=4 * KIB)
        for member in slow:
            member.pause()
        idle = server.memory_info().rss
        forget_peak(process.pid)
        total, produced = 1, 0
        for _ in range(BATCHES):
            events = (
                await api.append_all(WS, [{"details": {"text": random.randbytes(60).hex()}} for _ in range(BATCH)])
            ).expect(201)["events"]
            total += BATCH
            await eventually(lambda total=total: _have_all(quick, total))  # type: ignore[misc,arg-type]
            produced = max(member.bytes for member in quick)
            for member in slow:
                member.take_until(produced // SHARE)
            assert len(events) == BATCH
        peak = peak_rss(process.pid)
        assert all(member.events < total // 4 for member in slow), "slow readers are slow"
        assert await _catch_ups(api) >= SLOW, "the server detected them"
        for_idle, for_all = (idle - before) / (QUICK + SLOW), (peak - before) / (QUICK + SLOW)
        record_property("KiB for an idle reader", round(for_idle / KIB, 1))
        record_property("KiB for a reader at the peak", round(for_all / KIB, 1))
        print(f"{kind.name}: {for_idle / KIB:.1f} KiB idle, {for_all / KIB:.1f} KiB at the peak for each reader")  # noqa: T201
        assert for_idle < IDLE_KIB[kind.name] * KIB
        assert for_all < (IDLE_KIB[kind.name] + 8) * KIB
        # Some disconnect and resume elsewhere, others keep reading here. Both receive everything.
        vanishing, staying = slow[: SLOW // 2], slow[SLOW // 2 :]
        for member in vanishing:
            member.leave()
            assert member.position
            reader = await kind.open(api, WS, position=member.position)
            assert await seqs_of(reader, total - 1 - member.events) == list(range(member.events + 2, total + 1))
            reader.close()
        for member in staying:
            member.take_until(None)
        await eventually(lambda: _have_all(staying, total))
        assert all(member.is_in_order for member in crowd.members)
        (await api.append(WS)).expect(201)
        await eventually(lambda: _have_all([*quick, *staying], total + 1))


def _have_all(members: Sequence[Member], total: int) -> bool:
    return all(member.events >= total - 1 for member in members)


async def _catch_ups(api: Api) -> float:
    lines = (await api.get("/metrics")).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("streamer_catch_ups_total"))


@on_sqlite
async def test_what_a_reader_holds_that_takes_nothing(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """50 readers that read nothing of 20 MB: the server keeps neither the events nor copies, and all get them in the end."""
    process = make_process(ring_bytes=128 * KIB)
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    batch = [{"details": {"text": "x" * 8000}}] * 50

    async def load() -> None:
        for _ in range(50):
            (await api.append_all(WS, batch)).expect(201)

    await load()  # so that the memory of database and interpreter is allocated before
    readers = [await SSE.open(api, WS, receive_buffer=4 * KIB) for _ in range(50)]
    for reader in readers:
        await reader.synced()
    before = psutil.Process(process.pid).memory_info().rss
    forget_peak(process.pid)
    await load()
    assert await _catch_ups(api) >= 50
    for_each = (peak_rss(process.pid) - before) / 50
    print(f"{for_each / KIB:.0f} KiB for each reader that takes nothing")  # noqa: T201
    assert for_each < 700 * KIB  # 256 KiB read from the log, and as much in the connection's buffer
    for reader in readers[::10]:
        assert await seqs_of(reader, 2500) == list(range(2501, 5001))
    for reader in readers:
        reader.abort()


@on_sqlite
async def test_a_burst_larger_than_the_ring_for_many(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """When a batch exceeds the ring, all readers share its replay from the log. Nobody is disconnected, and all receive it."""
    process = make_process(ring_bytes=16 * KIB)
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    async with Crowd(api, WS, SSE.name) as crowd:
        members = await crowd.join(2000)
        for round_ in range(1, 3):
            (await api.append_all(WS, [{}] * 100)).expect(201)
            await eventually(lambda total=100 * round_: _have_all(members, total + 1))  # type: ignore[misc,arg-type]
        assert all(member.is_in_order for member in members)
