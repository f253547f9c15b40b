"""A failover of PostgreSQL to a standby: what survived goes on without a gap, and no position lies about what was lost."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from streamer.core.position import LogHead, Position
from streamer.feed.session import Session
from tests.conftest import ADMIN_KEY
from tests.support import run_dir
from tests.support.api import Api, events
from tests.support.databases import Primary, Standby
from tests.support.process import ServerProcess
from tests.support.readers import SseKind
from tests.support.tools import require
from tests.support.waiting import eventually

WS = "w"


@pytest.fixture
async def primary() -> AsyncIterator[Primary]:
    """Start a PostgreSQL that can have a standby."""
    cluster = Primary(require("postgresql"), run_dir.run_dir() / f"pg-{uuid.uuid4().hex[:8]}")
    await asyncio.to_thread(cluster.start)
    yield cluster
    if (cluster.folder / "data" / "postmaster.pid").exists():
        await asyncio.to_thread(cluster.stop)


@pytest.fixture
async def standby(primary: Primary) -> AsyncIterator[Standby]:
    """Start its standby."""
    primary.sql("CREATE DATABASE streamer")
    made = await asyncio.to_thread(primary.make_standby, run_dir.run_dir() / f"pg-{uuid.uuid4().hex[:8]}")
    yield made
    if (made.folder / "data" / "postmaster.pid").exists():
        await asyncio.to_thread(made.stop)


def node(folder: Path, primary: Primary, standby: Standby, **variables: str) -> ServerProcess:
    """Return a server that knows both."""
    url = f"postgresql://postgres@/streamer?host={primary.folder},{standby.folder}&target_session_attrs=read-write"
    return ServerProcess(folder, {"STREAMER_DATABASE_URL": url, "STREAMER_ADMIN_KEY": ADMIN_KEY, **variables})


async def caught_up(primary: Primary, standby: Standby) -> None:
    """Wait until the standby has all that the primary has."""
    await eventually(
        lambda: standby.sql("SELECT pg_last_wal_replay_lsn()") >= primary.sql("SELECT pg_current_wal_flush_lsn()")
    )


async def fail_over(primary: Primary, standby: Standby) -> None:
    """Crash the primary and promote the standby."""
    await asyncio.to_thread(primary.stop)
    await asyncio.to_thread(standby.promote)


async def append(api: Api, event_id: str) -> None:
    """Append an event, as soon as the database takes it."""

    async def stored() -> bool:
        return (await api.append(WS, id=event_id)).status in {200, 201}

    await eventually(stored)


async def ids(api: Api) -> list[str]:
    """Return the log."""
    return [event["id"] for event in await api.history(WS, order="asc")]


async def test_a_failover_that_loses_the_last_commits(
    tmp_path: Path, primary: Primary, standby: Standby, http: aiohttp.ClientSession
) -> None:
    """The lost events are reported to those that have seen them, and everyone else continues without a gap."""
    server = node(tmp_path, primary, standby)
    await server.start()
    api = Api(http, server.url, ADMIN_KEY)
    try:
        for number in range(1, 6):
            await append(api, f"kept-{number}")
        await caught_up(primary, standby)
        at_three = (await api.get(events(WS), order="asc", limit=3)).expect(200)["position"]
        await asyncio.to_thread(standby.stop)
        for number in range(6, 9):
            await append(api, f"lost-{number}")
        beyond = (await api.get(events(WS))).expect(200)["position"]
        await asyncio.to_thread(primary.stop)
        await asyncio.to_thread(standby.restart)
        await asyncio.to_thread(standby.promote)
        await append(api, "new-6")
        assert await ids(api) == [*(f"kept-{number}" for number in range(1, 6)), "new-6"]
        epoch = (await api.get(events(WS))).expect(200)["position"].partition(".")[0]
        assert epoch != at_three.partition(".")[0]

        survivor = await SseKind().open(api, WS, position=at_three)
        assert [event["id"] for event in await survivor.synced()] == ["kept-4", "kept-5", "new-6"]
        survivor.close()
        told = await SseKind().open(api, WS, position=beyond)
        gap = await told.gap()
        assert (gap["from"], gap["to"], gap["reason"]) == (6, 8, "reset")
        assert [event["id"] for event in await told.synced()] == ["new-6"]
        told.close()
        page = (await api.get(events(WS), order="asc", after=at_three)).expect(200)
        assert [event["id"] for event in page["events"]] == ["kept-4", "kept-5", "new-6"]
        refused = await api.get(events(WS), order="asc", after=beyond)
        assert (refused.status, refused.error) == (410, "position_expired")
    finally:
        server.clean()


async def test_a_reader_during_a_failover(
    tmp_path: Path, primary: Primary, standby: Standby, http: aiohttp.ClientSession
) -> None:
    """A reader that is connected all the time misses nothing that survived, and repeats nothing."""
    server = node(tmp_path, primary, standby)
    await server.start()
    api = Api(http, server.url, ADMIN_KEY)
    try:
        for number in range(3):
            await append(api, f"before-{number}")
        await caught_up(primary, standby)
        found: list[str] = []
        position: str | None = None

        async def follow() -> None:
            nonlocal position
            while True:
                given = {"position": position} if position else {"after": "2000-01-01T00:00:00Z"}
                try:
                    reader = await SseKind().open(api, WS, **given)
                except (AssertionError, OSError):
                    await asyncio.sleep(0.05)
                    continue
                try:
                    while True:
                        found.extend(event["id"] for event in await reader.some())
                        position = reader.position
                except (AssertionError, OSError):
                    await asyncio.sleep(0.05)
                finally:
                    reader.close()

        following = asyncio.create_task(follow())
        await eventually(lambda: len(found) == 3)
        await fail_over(primary, standby)
        for number in range(3):
            await append(api, f"after-{number}")
        await eventually(lambda: len(found) >= 6)
        assert found == [*(f"before-{number}" for number in range(3)), *(f"after-{number}" for number in range(3))]
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    finally:
        server.clean()


async def test_a_lossless_failover_keeps_the_epoch(
    tmp_path: Path, primary: Primary, standby: Standby, http: aiohttp.ClientSession
) -> None:
    """With the setting, logs keep their epochs, so no reader is closed."""
    server = node(tmp_path, primary, standby, STREAMER_DATABASE_FAILOVER="lossless")
    await server.start()
    api = Api(http, server.url, ADMIN_KEY)
    try:
        await append(api, "before")
        await caught_up(primary, standby)
        async with await api.stream(WS) as stream:
            await stream.next("synced")
            before = (await api.get(events(WS))).expect(200)["position"]
            await fail_over(primary, standby)
            await append(api, "after")
            assert [event["id"] for event in await stream.events(1)] == ["after"]
            after = (await api.get(events(WS))).expect(200)["position"]
        assert before.partition(".")[0] == after.partition(".")[0]
    finally:
        server.clean()


@pytest.mark.parametrize(
    ("start", "position", "gaps"),
    [
        (Position("old", 3), 3, []),
        (Position("old", 5), 5, []),
        (Position("old", 8), 5, [(6, 8, "reset")]),
        (Position("older", 3), 0, [(4, None, "reset")]),
        (Position("new", 6), 6, []),
        (Position("new", 9), 7, [(8, 9, "reset")]),
    ],
)
def test_where_readers_resume(start: Position, position: int, gaps: list[tuple[int, int | None, str]]) -> None:
    """Positions up to the fork are valid; beyond it, and in older epochs, readers get a gap."""
    log = LogHead("new", 7, 1, 1, Position("old", 5))
    session = Session(log)
    assert [(gap.first, gap.last, gap.reason) for gap in session.resume(log, start)] == gaps
    assert session.position == position
