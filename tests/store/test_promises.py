"""The promises of the README's first screen, each with a test that is named after it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import Connection, text, update
from sqlalchemy.util import await_only

from streamer.app import running
from streamer.core.errors import StreamerError
from streamer.ingest.intake import Author, Intake, Limits
from streamer.ingest.limits import AppendRate
from streamer.ingest.redact import Redactor
from streamer.ingest.worker import Worker
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.settings import Settings
from streamer.store.engine.database import Database
from streamer.store.log.rows import Update, arrays
from streamer.store.log.writer import GroupCommit
from streamer.store.schema import workspaces
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api, events, make_event
from tests.support.readers import BEGINNING
from tests.support.sse import StreamEnded
from tests.support.waiting import eventually

WORKSPACE = "promises"
WRITERS, EACH = 16, 10
"""Number of concurrent writers, and of events for each."""
ENOUGH = 1000
"""A reader that has seen this many of the writers' 160 events is in a loop, which can happen without the lock."""


# ---- durable


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
async def test_durable_after_kill_9(make_process: MakeProcess, http: aiohttp.ClientSession, kills: int) -> None:
    """After `kill -9` at any time under load, every acknowledged event is stored and seq has no gap."""
    server = make_process()
    api = Api(http, server.url, ADMIN_KEY)
    acknowledged: dict[str, int] = {}
    await server.start()
    for _ in range(kills):
        enough = len(acknowledged) + random.randrange(20, 400)
        load = [asyncio.create_task(_append_until_cut(api, acknowledged, size)) for size in (1, 1, 1, 1, 7, 50)]
        await eventually(lambda enough=enough: len(acknowledged) >= enough)  # type: ignore[misc]
        server.kill()
        await asyncio.gather(*load)
        await server.start()
        stored = await api.history(WORKSPACE, order="asc", limit=1000)
        assert [event["seq"] for event in stored] == list(range(1, len(stored) + 1))
        seqs = {event["id"]: event["seq"] for event in stored}
        assert {event_id: seqs.get(event_id) for event_id in acknowledged} == acknowledged
    assert len(acknowledged) > kills * 20


async def _append_until_cut(api: Api, acknowledged: dict[str, int], size: int) -> None:
    while True:
        try:
            answer = await api.append_all(WORKSPACE, [{}] * size)
        except aiohttp.ClientError:
            return
        acknowledged |= {event["id"]: event["seq"] for event in answer.expect(201)["events"]}


# ---- ordered, never skipped


@dataclass
class Account:
    """What 16 writers wrote and what the readers received."""

    stored: set[str] = field(default_factory=set)
    failed: int = 0
    read: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def wrong(self) -> dict[str, str]:
        """Return the errors by reader; an empty result means success."""
        found = {"writers": f"{self.failed} appends failed"} if self.failed else {}
        for reader, seen in self.read.items():
            ids = [event["id"] for event in seen]
            seqs = [event["seq"] for event in seen]
            times = [event["timestamp"] for event in seen]
            if self.stored - set(ids):
                found[reader] = f"missed {len(self.stored - set(ids))} of {len(self.stored)}"
            elif len(ids) != len(set(ids)):
                found[reader] = "saw events twice"
            elif seqs != list(range(1, len(seqs) + 1)):
                found[reader] = "seq has gaps or is out of order"
            elif times != sorted(set(times)):
                found[reader] = "timestamps do not strictly increase"
        return found


Mutate = Callable[[Database, GroupCommit], None]


async def _sixteen_writers(url: str, api: Api, *, mutate: Mutate = lambda *_: None, streams: bool = True) -> Account:
    """Let 16 writers, each like a node of its own, append with slow transactions while readers of each kind follow."""
    account = Account()
    (await api.put(f"/v1/workspaces/{WORKSPACE}")).expect(201)
    async with AsyncExitStack() as stack:
        intakes = [await stack.enter_async_context(_node(url, mutate)) for _ in range(WRITERS)]
        await _slow_down(url)
        done = asyncio.Event()
        readers = {
            "cursor": _read_by_position(api, account, done),
            "after": _read_by_timestamp(api, account, done),
        }
        if streams:
            readers["stream"] = _read_stream(api, account, done)
        reading = [asyncio.create_task(reader) for reader in readers.values()]
        await asyncio.gather(*(_write(intake, account, count=EACH) for intake in intakes))
        done.set()
        for name, seen in zip(readers, await asyncio.gather(*reading), strict=True):
            account.read[name] = seen
    return account


@asynccontextmanager
async def _node(url: str, mutate: Mutate) -> AsyncIterator[Intake]:
    database = Database(url)
    metrics = Metrics()
    writer = GroupCommit(
        database,
        lambda _: None,
        metrics,
        max_waiting_events=1000,
        max_waiting_bytes=2**20,
        idempotency_seconds=60,
    )
    mutate(database, writer)
    loops = Loops(metrics)
    loops.start("writer", writer.turn)
    yield Intake(
        writer,
        metrics,
        Limits(event_bytes=2**18, details_depth=32, batch_events=1000),
        Redactor(),
        AppendRate(0, 1),
        worker=Worker(2**20),
    )
    await writer.close()
    await loops.stop()
    await database.close()


async def _slow_down(url: str) -> None:
    """Make every fifth insert slow, within its transaction."""
    database = Database(url)

    def make_trigger(connection: Connection) -> None:
        if database.is_sqlite:
            count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT count(*) FROM n"
            connection.execute(
                text(f"CREATE TRIGGER slow AFTER INSERT ON events WHEN new.seq % 5 = 0 BEGIN SELECT ({count}); END")
            )
        else:
            connection.execute(
                text(
                    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN IF random() < 0.2 THEN PERFORM pg_sleep(0.05); END IF; RETURN NULL; END $$"
                )
            )
            connection.execute(
                text("CREATE TRIGGER slow AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION slow()")
            )

    await database.write(make_trigger)
    await database.close()


async def _write(intake: Intake, account: Account, *, count: int) -> None:
    author = Author("writer", None, may_create_workspace=False, account="writer")
    for _ in range(count):
        try:
            stored = await intake.append(WORKSPACE, [make_event()], author, batch=False)
        except StreamerError:
            account.failed += 1
        else:
            account.stored |= {event.id for event in stored.events}


async def _read_by_position(api: Api, account: Account, done: asyncio.Event) -> list[dict[str, Any]]:
    """Follow by small pages: by cursor while pages are full, otherwise by position."""
    seen: list[dict[str, Any]] = []
    where: dict[str, object] = {"order": "asc"}
    while True:
        last = done.is_set()
        page = (await api.get(events(WORKSPACE), limit=3, **where)).expect(200)
        seen += page["events"]
        where = {"cursor": page["cursor"]} if "cursor" in page else {"after": page["position"]}
        if (last and not page["events"]) or len(seen) > ENOUGH:
            return seen


async def _read_by_timestamp(api: Api, account: Account, done: asyncio.Event) -> list[dict[str, Any]]:
    """Follow by the timestamp of the last event seen."""
    seen: list[dict[str, Any]] = []
    while True:
        last = done.is_set()
        after = seen[-1]["timestamp"] if seen else "2000-01-01T00:00:00Z"
        page = (await api.get(events(WORKSPACE), limit=3, after=after)).expect(200)
        seen += page["events"]
        if (last and not page["events"]) or len(seen) > ENOUGH:
            return seen


async def _read_stream(api: Api, account: Account, done: asyncio.Event) -> list[dict[str, Any]]:
    """Follow by server-sent events."""
    seen: list[dict[str, Any]] = []
    async with await api.stream(WORKSPACE, after=BEGINNING) as stream:  # the writers have started
        while len(seen) < WRITERS * EACH:
            seen.append((await stream.next("activity")).json)
    return seen


async def test_no_reader_skips_under_slow_writers(database_url: str, api: Api) -> None:
    """With 16 writers and slow transactions, seq has no gap, and no reader misses or repeats an event."""
    account = await _sixteen_writers(database_url, api)
    assert account.wrong() == {}
    assert len(account.stored) == WRITERS * EACH


def _without_row_lock(_: Database, writer: GroupCommit) -> None:
    statements = writer._statements
    unlocked = statements._lock._generate()
    unlocked._for_update_arg = None
    statements._lock = unlocked


def _numbers_before_the_transaction(database: Database, writer: GroupCommit) -> None:
    """Release the lock before the commit, as a plain sequence does."""
    statements = writer._statements
    lock = statements.lock
    advance = (
        update(workspaces)
        .where(workspaces.c.id == WORKSPACE)
        .values(head=workspaces.c.head + 1, last_timestamp=workspaces.c.last_timestamp + 1)
    )

    def early(_: Connection, ids: Sequence[str], wait_for: Collection[str]) -> Any:
        def lock_and_advance(own: Connection) -> Any:
            found = lock(own, ids, wait_for)
            own.execute(advance)
            return found

        return await_only(database.write(lock_and_advance))

    statements.lock = early  # type: ignore[method-assign,assignment]
    statements._heads = _NoUpdate(workspaces, statements._heads.names)
    statements._timeline = _NoUpdate(workspaces, statements._timeline.names)  # the first write


class _NoUpdate(Update):
    """Changes nothing."""

    def by_column(self, first: int) -> str:
        """Return a query with the same parameters."""
        return f"SELECT 1 FROM unnest({arrays(workspaces, self.names, first)})"


@pytest.mark.parametrize("mutate", [_without_row_lock, _numbers_before_the_transaction])
async def test_the_row_lock_is_what_keeps_readers_from_skipping(
    postgresql_url: str, http: aiohttp.ClientSession, tmp_path: Path, mutate: Mutate
) -> None:
    """The test above fails if the row lock is removed, or released before the commit."""
    settings = Settings(data_dir=tmp_path, port=0, database_url=postgresql_url, admin_key=ADMIN_KEY)
    async with running(settings) as server:
        api = Api(http, server.url, ADMIN_KEY)
        account = await _sixteen_writers(postgresql_url, api, mutate=mutate, streams=False)
    assert account.wrong() != {}


# ---- exact resume


async def test_exact_resume(api: Api) -> None:
    """A stream that is often disconnected while events are appended receives each event once and in order."""
    (await api.append_all(WORKSPACE, [{}] * 50)).expect(201)
    total = 600
    appending = asyncio.create_task(_append_steadily(api, total - 50))
    seqs: list[int] = []
    position: str | None = None
    cuts = 0
    while len(seqs) < total:
        resume: dict[str, Any] = {"last_event_id": position} if position else {"after": "2000-01-01T00:00:00Z"}
        stream = await api.stream(WORKSPACE, **resume)
        for _ in range(random.randrange(1, 60)):
            if len(seqs) == total:
                break
            seqs.append((await stream.next("activity")).json["seq"])
        position = stream.position
        stream.abort()
        cuts += 1
    await appending
    assert seqs == list(range(1, total + 1))
    assert cuts > 5


async def _append_steadily(api: Api, count: int) -> None:
    for start in range(0, count, 5):
        (await api.append_all(WORKSPACE, [{"details": {"n": start + i}} for i in range(5)])).expect(201)


async def test_exact_resume_after_kill_9(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """A stream resumes exactly after its server is killed and restarted."""
    server = make_process()
    api = Api(http, server.url, ADMIN_KEY)
    await server.start()
    (await api.append_all(WORKSPACE, [{}] * 10)).expect(201)
    stream = await api.stream(WORKSPACE, after="2000-01-01T00:00:00Z")
    seqs = [event["seq"] for event in await stream.events(10)]
    server.kill()
    with pytest.raises((StreamEnded, ConnectionResetError, asyncio.IncompleteReadError)):
        await stream.next("activity")
    await server.start()
    (await api.append_all(WORKSPACE, [{}] * 10)).expect(201)
    stream = await api.stream(WORKSPACE, last_event_id=stream.position)
    (await api.append_all(WORKSPACE, [{}] * 10)).expect(201)
    seqs += [event["seq"] for event in await stream.events(20)]
    assert seqs == list(range(1, 31))
    stream.close()


# ---- isolated


async def test_isolated(api: Api) -> None:
    """Without a grant, a workspace gets the same response as a missing one."""
    for workspace in ("mine", "theirs"):
        (await api.append(workspace)).expect(201)
    me = api.with_key(await api.create_key("mine", scopes=["workspace:read", "workspace:write", "audit:read", "admin"]))
    their_event = (await api.get(events("theirs"))).expect(200)["events"][0]["id"]
    paths = ["", "/events", f"/events/{their_event}", "/events/stream", "/keys"]
    for path in paths:
        for workspace in ("theirs", "none-of-this-name"):
            answer = await me.get(f"/v1/workspaces/{workspace}{path}")
            assert (answer.status, answer.error) == (404, "workspace_not_found")
    assert (await me.append("theirs")).error == "workspace_not_found"
    listed = (await me.get("/v1/workspaces")).expect(200)["workspaces"]
    assert [workspace["id"] for workspace in listed] == ["mine"]
    assert {event["workspace_id"] for event in await me.history("mine")} == {"mine"}


def test_accounts_are_strict() -> None:
    """The account that evaluates the writers' test detects missed, repeated, misordered and failed events."""

    def judged(seqs: Sequence[int], stored: int, failed: int = 0) -> dict[str, str]:
        seen = [{"id": str(seq), "seq": seq, "timestamp": seq} for seq in seqs]
        return Account({str(seq) for seq in range(1, stored + 1)}, failed, {"reader": seen}).wrong()

    assert judged([1, 2, 3], 3) == {}
    for seqs, stored, failed in (([1, 3], 3, 0), ([1, 2, 2, 3], 3, 0), ([2, 1, 3], 3, 0), ([1, 2, 3], 3, 1)):
        assert judged(seqs, stored, failed) != {}
