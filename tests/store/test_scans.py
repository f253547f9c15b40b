"""Scans, which no index supports, end in time, report their progress, lose nothing and do not block others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

import aiohttp
import asyncpg  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.core.errors import ReadTimeout
from streamer.core.filter import Condition, Either, Filter, canonical
from streamer.core.ports import Order, Page
from streamer.core.position import Position
from streamer.store.engine.database import Database
from streamer.store.log.reader import SqlLog
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api, events
from tests.support.databases import run_sql
from tests.support.raw import RawConnection, request_head
from tests.support.waiting import eventually

WS = "scanned"
OTHER = "other"
EPOCH = "abc"
COSTLY = [text for number in range(15) for text in (f"{'a' * 490}{number:02}", f"{number:02}{'a' * 490}")]
"""Texts that no event contains, and that take long to search in a text of `a`: the first on SQLite, the second on PostgreSQL."""

_WORKSPACE = (
    "INSERT INTO workspaces (id, epoch, head, earliest, last_timestamp, org_id, settings, created_at, created_by) "
    "VALUES ('{ws}', 'abc', {count}, 1, {count} * 1000, 'o', '{{}}', 1, 'ann')"
)
_EVENTS = """
INSERT INTO events (workspace, seq, timestamp, size, id, category, action, actor_type, actor_id, entity_type, entity_id,
                    agent_id, run_id, task_id, search, body)
SELECT w.key, n.i, n.i * 1000, {size}, 'e' || n.i, CASE WHEN n.i % 7 = 0 THEN 'audit' ELSE 'activity' END,
       CASE WHEN n.i % 3 = 0 THEN 'issue.created' ELSE 'issue.updated' END, 'user', 'u' || (n.i % 2),
       'issue', 'i' || (n.i % 5), NULL, NULL, 't' || (n.i % 4), {search}, '{{"seq":' || n.i || '}}'
FROM workspaces w, ({numbers}) n WHERE w.id = '{ws}'
"""


FILL = 50_000


async def fill(database: Database, count: int, length: int = 0, *, ws: str = WS, size: int = 10) -> None:
    """Append events, each with a text of `length` times `a` to search."""
    await run_sql(database, _WORKSPACE.format(ws=ws, count=count))
    for first in range(1, count + 1, FILL):  # in parts, because a statement has a deadline
        last = min(first + FILL - 1, count)
        if database.is_sqlite:
            rows = f"SELECT {first} UNION ALL SELECT i + 1 FROM c WHERE i < {last}"
            numbers, text = (
                f"WITH RECURSIVE c(i) AS ({rows}) SELECT i FROM c",
                f"replace(hex(zeroblob({length // 2})), '0', 'a')",
            )
        else:
            numbers, text = f"SELECT i FROM generate_series({first}, {last}) i", f"repeat('a', {length})"
        search = f"{text} || 'word' || (n.i % 10)"
        await run_sql(database, _EVENTS.format(ws=ws, size=size, search=search, numbers=numbers))


async def metric(api: Api, name: str) -> float:
    """Return a metric's value."""
    lines = (await api.get("/metrics")).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


async def working(database: Database) -> int:
    """Return how many statements PostgreSQL runs for other sessions; 0 on SQLite."""
    if database.is_sqlite:
        return 0
    active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()"
    found: int = (await run_sql(database, active))[0][0]
    return found


# ---- the log


_field = st.sampled_from(["action", "actor_id", "entity_id", "task_id", "category", "q"])
_values = {
    "action": ["issue.created", "issue.updated", "issue."],
    "actor_id": ["u0", "u1", "u2"],
    "entity_id": ["i0", "i1", "i2", "i3", "i4"],
    "task_id": ["t0", "t1", "t2"],
    "category": ["audit", "activity"],
    "q": ["word1", "word2", "aaaa", "word7", "zzz"],
}


@st.composite
def _conditions(draw: st.DrawFn) -> Condition:
    field = draw(_field)
    values = draw(st.frozensets(st.sampled_from(_values[field]), min_size=1, max_size=3))
    ends = draw(st.booleans()) and field == "action"
    return Condition(field, values, ("issue.c",) if ends else (), draw(st.booleans()), ("updated",) if ends else ())


_filters = st.lists(
    st.one_of(_conditions(), st.lists(_conditions(), min_size=2, max_size=2).map(lambda two: Either(tuple(two)))),
    max_size=3,
).map(canonical)
_never = Condition("q", frozenset(COSTLY[:2]), exclude=True)
"""Matches all events, which takes long to evaluate."""


async def in_time(read: Callable[[], Awaitable[Page]]) -> Page:
    """Read a page; repeat if a busy machine did not find even the log in time."""
    while True:
        try:
            return await read()
        except ReadTimeout:
            continue


async def paged(log: SqlLog, selection: Filter, order: Order, limit: int) -> tuple[list[int], int]:
    """Read page by page with very little time for each; return the seqs and the number of incomplete pages."""
    found: list[int] = []
    cuts = 0
    bounds: dict[str, Any] = {}
    while True:
        page = await in_time(
            partial(log.page, WS, selection=selection, order=order, limit=limit, max_bytes=40, seconds=1e-9, **bounds)
        )
        seqs = [event.seq for event in page.events]
        assert not seqs or page.examined == seqs[-1] or not page.full
        found += seqs
        if not (page.full or page.is_cut):
            return found, cuts
        cuts += page.is_cut
        bounds = {"after" if order == "asc" else "before": Position(EPOCH, page.examined)}


@pytest.fixture
async def slow_log(database_url: str) -> AsyncIterator[tuple[SqlLog, SqlLog]]:
    """Create a log of few long events, which is read within milliseconds and without a deadline."""
    hurried = Database(database_url, read_seconds=5, window_seconds=0.004)
    patient = Database(database_url, read_seconds=60, window_seconds=60)
    await fill(patient, 20, 100_000)
    yield SqlLog(hurried), SqlLog(patient)
    for database in (hurried, patient):
        await database.close()


async def test_pages_in_little_time_hold_the_same(slow_log: tuple[SqlLog, SqlLog]) -> None:
    """In both orders and with any filter, many short reads return exactly what one read returns."""
    hurried, patient = slow_log
    loop, cuts = asyncio.get_running_loop(), 0

    async def same(selection: Filter, order: Order, limit: int) -> None:
        nonlocal cuts
        whole = await patient.page(WS, selection=selection, order=order, limit=1000, max_bytes=2**20)
        assert not whole.is_cut
        found, cut = await paged(hurried, selection.narrowed(Filter((_never,))), order, limit)
        assert found == [event.seq for event in whole.events]
        cuts += cut

    @settings(max_examples=8, suppress_health_check=list(HealthCheck), deadline=None)
    @given(_filters, st.sampled_from(["asc", "desc"]), st.integers(1, 9))
    def run(selection: Filter, order: Order, limit: int) -> None:
        asyncio.run_coroutine_threadsafe(same(selection, order, limit), loop).result()

    await asyncio.to_thread(run)
    assert cuts > 10


async def test_an_offset_in_little_time(slow_log: tuple[SqlLog, SqlLog]) -> None:
    """An offset is counted in parts, too."""
    hurried, patient = slow_log
    for order in ("asc", "desc"):
        for skip in (1, 5, 9, 30):
            selection = Filter((Condition("task_id", frozenset({"t0", "t1"})), _never))
            bounds: dict[str, Any] = {"selection": selection, "order": order, "limit": 3, "max_bytes": 99, "skip": skip}
            whole = await patient.page(WS, **bounds)
            found = await in_time(partial(hurried.page, WS, **bounds, seconds=30))
            assert (found.events, found.full, found.examined) == (whole.events, whole.full, whole.examined)


async def test_no_time_at_all_finds_the_bounds(slow_log: tuple[SqlLog, SqlLog]) -> None:
    """A page without any time examines nothing and reports this."""
    for order, examined in (("asc", 4), ("desc", 20)):
        page = await slow_log[1].page(
            WS,
            selection=Filter(),
            order=order,  # type: ignore[arg-type]
            limit=9,
            max_bytes=99,
            after=Position(EPOCH, 4),
            before=Position(EPOCH, 20),
            seconds=0,
        )
        assert (list(page.events), page.is_cut, page.examined) == ([], True, examined)


# ---- the API


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_page_waits_for_its_bounds(api: Api, database: Database, database_url: str) -> None:
    """A page whose first statement is interrupted repeatedly, here by a lock, is answered once the database is free."""
    (await api.append(WS, id="e")).expect(201)
    attempts: set[object] = set()

    async def is_tried_again() -> bool:
        waiting = (
            "SELECT query_start FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        attempts.update(row[0] for row in await run_sql(database, waiting))
        return len(attempts) >= 3

    lock = await asyncpg.connect(database_url)
    try:
        async with lock.transaction():
            await lock.execute("LOCK TABLE workspaces IN ACCESS EXCLUSIVE MODE")
            asked = asyncio.create_task(api.get(events(WS)))
            await eventually(is_tried_again)
    finally:
        await lock.close()
    assert [event["id"] for event in (await asked).expect(200)["events"]] == ["e"]


def costly(**more: object) -> dict[str, Any]:
    """Return the parameters of a long scan that finds nothing."""
    return {"q": COSTLY[:8], **more}


async def follow(api: Api, **params: Any) -> tuple[list[int], int]:
    """Follow cursors, in the body and in `Link`, to the end; return the seqs and the number of incomplete pages."""
    found: list[int] = []
    cuts = 0
    answer = await api.get(events(WS), **params)
    while True:
        page = answer.expect(200)
        found += [event["seq"] for event in page["events"]]
        if "scanned_to" in page:
            cuts += 1
            seq = int(page["scanned_to"].removeprefix(f"{EPOCH}."))
            assert 0 < seq <= 20
            assert "cursor" in page
        if "cursor" not in page:
            assert "Link" not in answer.headers
            return found, cuts
        target = answer.headers["Link"].partition("<")[2].partition(">")[0]
        assert page["cursor"] in target
        answer = await api.get(target)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_ends_in_time_with_a_cursor(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database, order: str
) -> None:
    """A long scan is answered in parts: empty pages with a cursor until something is found, without a loss."""
    await fill(database, 20, 200_000)
    api = Api(http, (await make_server(read_seconds=0.1)).url, ADMIN_KEY)
    found, cuts = await follow(api, order=order, limit=2, q=[*COSTLY[:14], "word7"])
    assert found == sorted((7, 17), reverse=order == "desc")
    assert cuts >= 1
    assert await metric(api, "streamer_scans_cut_total") >= cuts
    assert await metric(api, "streamer_scans") == 0


async def test_waiting_begins_where_the_scan_has_ended(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database
) -> None:
    """A poll with `wait` whose scan ends early returns at once, so that the next one continues."""
    await fill(database, 20, 200_000)
    api = Api(http, (await make_server(read_seconds=0.1)).url, ADMIN_KEY)
    page = (await api.get(events(WS), after=f"{EPOCH}.0", wait=60, **costly())).expect(200)
    assert page["events"] == []
    assert page["scanned_to"] == page["position"]
    assert "cursor" in page


async def test_a_reader_with_a_costly_filter_moves_on(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database
) -> None:
    """A stream that replays events that its filter stops receives checkpoints on the way, and the matching events."""
    await fill(database, 20, 200_000)
    api = Api(http, (await make_server(ring_bytes=16 * 1024)).url, ADMIN_KEY)
    stream = await api.stream(WS, after=f"{EPOCH}.0", q=[*COSTLY[:24], "word7"])
    seen = []
    async with stream:
        while (message := await stream.next()).event != "synced":
            seen.append(message.id)
    assert {f"{EPOCH}.7", f"{EPOCH}.17"} <= set(seen)
    assert len(seen) > 2


async def leave(api: Api, path: str) -> None:
    """Send a request and close the connection at once."""
    async with await RawConnection.open(api.url) as connection:
        await connection.send(request_head("GET", path, api.headers))


@pytest.fixture
async def attacked(make_server: MakeServer, http: aiohttp.ClientSession, database: Database) -> tuple[Api, Api, Api]:
    """Start a server with a log that takes minutes to scan. Return its API for that log's reader, another one and the admin."""
    await fill(database, 400, 250_000)
    api = Api(http, (await make_server(read_seconds=60)).url, ADMIN_KEY)
    (await api.append(OTHER)).expect(201)
    return api.with_key(await api.create_key(WS)), api.with_key(await api.create_key(OTHER)), api


def scan_path() -> str:
    """Return the path of the long request."""
    return f"{events(WS)}?{urlencode({'q': COSTLY}, doseq=True)}"


async def test_a_scan_ends_with_its_client(attacked: tuple[Api, Api, Api], database: Database) -> None:
    """When a client disconnects, its scan is cancelled on the server and in the database."""
    scanner, _, api = attacked
    await leave(scanner, scan_path())
    async with await RawConnection.open(scanner.url) as connection:
        await connection.send(request_head("GET", scan_path(), scanner.headers))
        await eventually(lambda: _is(metric(api, "streamer_scans"), 1))
    await eventually(lambda: _is(metric(api, "streamer_scans"), 0))
    await eventually(lambda: _is(working(database), 0))


async def test_an_attack_by_scans_stops_nobody(attacked: tuple[Api, Api, Api]) -> None:
    """While one key repeatedly starts and cancels scans, other keys append and read, people sign in, and the server is ready."""
    scanner, other, api = attacked
    for _ in range(3):
        for _ in range(4):
            await leave(scanner, scan_path())
        (await other.append(OTHER)).expect(201)
        assert len(await other.history(OTHER, q="ann", actor_id="ann")) > 1
        (await api.get("/readyz")).expect(200)
        (await other.post("/v1/tickets", {"workspace": OTHER})).expect(201)
        await api.create_key(OTHER)
    await eventually(lambda: _is(metric(api, "streamer_scans"), 0))


async def test_scans_of_a_key_are_limited(attacked: tuple[Api, Api, Api]) -> None:
    """A key at its limit of scans gets 429. Its indexed pages and other keys' scans continue."""
    scanner, other, api = attacked
    async with await RawConnection.open(api.url) as first, await RawConnection.open(api.url) as second:
        for connection in (first, second):
            await connection.send(request_head("GET", scan_path(), scanner.headers))
        await eventually(lambda: _is(metric(api, "streamer_scans"), 2))
        refused = await scanner.get(events(WS), q="word1")
        assert (refused.status, refused.error) == (429, "rate_limited")
        assert int(refused.headers["Retry-After"]) > 0
        assert len((await scanner.get(events(WS), entity_id="i1", limit=7)).expect(200)["events"]) == 7
        assert len(await other.history(OTHER, q="ann", actor_id="ann")) == 1
        assert await metric(api, "streamer_scans_refused_total") == 1


async def test_arrays_that_cannot_be_cut_are_refused(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database
) -> None:
    """A dialect's list that would be incomplete gets 503 in the dialect's form, with the time to wait."""
    await fill(database, 60_000)
    api = Api(http, (await make_server(read_seconds=0.1)).url, ADMIN_KEY)
    verbs, prefixes = (",".join(form.format(n) for n in range(99)) for form in ("never{}", "never{}.*"))
    answer = await api.get(f"/api/v1/workspaces/{WS}/activity", actions=verbs)
    assert (answer.status, list(answer.expect(503))) == (503, ["detail"])
    assert int(answer.headers["Retry-After"]) > 0
    answer = await api.get(f"/api/companies/{WS}/activity", action=prefixes)
    assert (answer.status, list(answer.expect(503))) == (503, ["error"])
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_million_events(
    make_server: MakeServer,
    http: aiohttp.ClientSession,
    database: Database,
    record_property: Callable[[str, object], None],
) -> None:
    """A search over a million events for a missing word returns in time, page by page, to the end."""
    await fill(database, 1_000_000, 200)
    api = Api(http, (await make_server(read_seconds=0.5)).url, ADMIN_KEY)
    target: str | None = f"{events(WS)}?q=nowhere"
    loop, seconds = asyncio.get_running_loop(), []
    while target is not None:
        began = loop.time()
        answer = await api.get(target)
        seconds.append(round(loop.time() - began, 2))
        assert answer.expect(200)["events"] == []
        target = answer.headers["Link"].partition("<")[2].partition(">")[0] if "Link" in answer.headers else None
    record_property("seconds", seconds)
    print(f"\n{len(seconds)} answers in {seconds} s")  # noqa: T201 - what is measured
    assert len(seconds) > 1


async def _is(value: Awaitable[float], wanted: float) -> bool:
    return await value == wanted
