"""Background loops survive every error, and the watchdog detects what blocks the event loop."""

import asyncio
import gc
import json
import time
import warnings
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from sqlalchemy import exc

from streamer.app import Server
from streamer.core.errors import StoreUnavailable
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.observe.watchdog import OPERATION, Watchdog
from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api
from tests.support.databases import run_sql
from tests.support.waiting import eventually

WS = "loops"
BROKEN = ("workspaces", "credentials", "members")
ALL = {"beat", "evershell", "poll", "purge", "ticker", "watch", "writer"}


@pytest.fixture
async def loops() -> AsyncIterator[Loops]:
    """Create a registry of loops that is stopped at the end."""
    made = Loops(Metrics())
    yield made
    await made.stop()


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("away"),
        OSError(28, "No space left on device"),
        TimeoutError(),
        exc.OperationalError("SELECT 1", {}, Exception("database is locked")),
        exc.ProgrammingError("SELECT 1", {}, Exception("no such table")),
        asyncio.CancelledError(),
        RecursionError(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_loop_goes_on(loops: Loops, error: BaseException) -> None:
    """A loop continues after any exception, including a cancellation that was not meant for it."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise error

    loops.start("test", turn, every=0.001)
    await eventually(lambda: turns > 5)
    assert loops.dead() == []


async def test_a_loop_that_is_stuck_is_dead() -> None:
    """A loop whose iteration does not end is reported. An idle loop is woken to check it, and is not reported."""
    now = 0.0
    loops = Loops(Metrics(), clock=lambda: now)
    work = asyncio.Event()

    async def wait_for_work() -> None:
        work.clear()
        await work.wait()

    loops.start("stuck", lambda: asyncio.Event().wait())
    loops.start("idle", wait_for_work, nudge=work.set)
    assert loops.dead() == []
    now = 1000.0
    assert "stuck" in loops.dead()
    work.set()
    await eventually(lambda: "idle" not in loops.dead())
    assert "stuck" in loops.dead()
    await loops.stop()


async def test_all_loops_are_registered(server: Server, api: Api) -> None:
    """The metrics show the last iteration of each loop of a server."""
    assert set(server.loops.names()) >= ALL
    text = (await api.get("/metrics")).body.decode()
    for name in server.loops.names():
        assert f'streamer_background_last_turn_seconds{{loop="{name}"}}' in text


async def test_a_dead_loop_makes_the_node_unready(server: Server, api: Api) -> None:
    """`/readyz` names a loop that has ended. Readiness for reads does not need the writer."""
    (await api.get("/readyz")).expect(200)
    server.loops._loops["writer"].task.cancel()
    answer = await eventually(lambda: _unready(api))
    assert "writer" in answer["error"]["message"]
    assert answer["error"]["details"]["reason"] == "loops"
    (await api.get("/readyz", **{"for": "reads"})).expect(200)
    server.loops._loops["poll"].task.cancel()
    await eventually(lambda: _unready(api, **{"for": "reads"}))


async def _unready(api: Api, **params: object) -> Any:
    answer = await api.get("/readyz", **params)
    return answer.json if answer.status == 503 else None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has no SQLSTATEs
@pytest.mark.parametrize("state", ["3D000", "28000", "42P01", "25006", "57P03", "40P01", "53100", "XX000", "22012"])
async def test_loops_go_on_through_errors_of_the_database(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database, state: str
) -> None:
    """During database errors of any class, loops fail and continue. Afterwards, readers receive another node's events."""
    followed, other = await make_server(poll_seconds=0.02), await make_server()
    api = Api(http, followed.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    async with await api.stream(WS) as reader:
        assert (await reader.next()).event == "synced"
        await run_sql(
            database,
            "CREATE FUNCTION fail() RETURNS boolean LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = '{state}'; END $$",
            *(f"ALTER TABLE {table} RENAME TO {table}_kept" for table in BROKEN),
            *(f"CREATE VIEW {table} AS SELECT * FROM {table}_kept WHERE fail()" for table in BROKEN),
        )
        await eventually(lambda: {"poll", "watch"} <= _failing(followed.loops))
        assert (await api.append(WS)).status >= 500
        await run_sql(
            database,
            *(f"DROP VIEW {table}" for table in BROKEN),
            *(f"ALTER TABLE {table}_kept RENAME TO {table}" for table in BROKEN),
        )
        await eventually(lambda: not _failing(followed.loops))
        # Only the head poll can detect this event.
        (await api.at(other.url).append(WS, id="after")).expect(201)
        assert [event["id"] for event in await reader.events(1)] == ["after"]
    assert followed.loops.dead() == []


def _failing(loops: Loops) -> set[str]:
    return {loop.name for loop in loops._loops.values() if loop.failing_since is not None}


# ---- the watchdog


async def test_watchdog_counts_cpu_time_of_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    """A step that computes is counted with its CPU time and logged with its operation. A step that only blocks is not."""
    metrics, loop = Metrics(), asyncio.get_running_loop()
    watchdog = Watchdog(metrics)

    async def compute() -> str:
        OPERATION.set("compute")
        await asyncio.sleep(0)
        until = time.thread_time() + 0.15
        while time.thread_time() < until:
            pass
        return "done"

    async def block() -> None:
        time.sleep(0.15)  # noqa: ASYNC251 - it holds the loop without computing

    watchdog.watch(loop)
    try:
        await asyncio.create_task(block())
        assert _stalls(metrics) == (0, 0)
        assert await asyncio.create_task(compute()) == "done"
    finally:
        watchdog.unwatch(loop)
    count, seconds = _stalls(metrics)
    assert count == 1
    assert 0.1 < seconds < 0.2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "loop_stalled" in line]
    assert json.loads(line)["operation"] == "compute"


async def test_watched_tasks_are_as_they_were(metrics: Metrics) -> None:
    """A watched task receives sent values and exceptions, can be cancelled, and keeps its name for debuggers."""
    watchdog = Watchdog(metrics)
    seen: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def times_out() -> int:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)
        except TimeoutError:
            return 7
        return 0

    task = asyncio.Task(watchdog.timed(waits()))
    assert "waits" in repr(task)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]
    early = asyncio.Task(watchdog.timed(waits()))
    early.cancel()  # before its first step: the coroutine must be closed, or Python warns that it was never awaited
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await asyncio.wait([early])
        gc.collect()
    assert await asyncio.Task(watchdog.timed(times_out())) == 7

    async def raises() -> None:
        raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        await asyncio.Task(watchdog.timed(raises()))


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics with a registry of their own."""
    return Metrics()


def _stalls(metrics: Metrics) -> tuple[float, float]:
    value = metrics.registry.get_sample_value
    return value("streamer_loop_stall_seconds_count") or 0, value("streamer_loop_stall_seconds_sum") or 0
