"""The writer and the log on real databases: behaviour that depends on them."""

import asyncio
import random
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, inspect, text

from streamer.core.errors import IdConflict, IdempotencyConflict, InternalError, StoreUnavailable
from streamer.core.event import Event
from streamer.core.filter import EVERYTHING, parse_filter
from streamer.core.ports import Appended, Committed, Order
from streamer.core.position import Position
from streamer.ingest.intake import Author, Intake, Limits
from streamer.ingest.limits import AppendRate
from streamer.ingest.redact import Redactor
from streamer.ingest.worker import Worker
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.store import migrate as migrations
from streamer.store.engine.database import Database
from streamer.store.log.reader import SqlLog
from streamer.store.log.writer import GroupCommit
from streamer.store.migrate import DatabaseTooNew, migrate
from streamer.store.schema import metadata
from tests.support.api import make_event
from tests.support.databases import run_sql, statements

WS = "store"
ANN = Author("ann", None, may_create_workspace=True, account="ann")


class Store:
    """A writer of its own on the test's database."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.news: list[Committed] = []
        self.now = 1_800_000_000_000_000
        self.writer = GroupCommit(
            self.database,
            self.news.append,
            Metrics(),
            max_waiting_events=10_000,
            max_waiting_bytes=2**26,
            idempotency_seconds=3600,
            clock=lambda: self.now,
        )
        self.intake = Intake(
            self.writer, Metrics(), Limits(2**18, 32, 1000), Redactor(), AppendRate(0, 1), worker=Worker(2**20)
        )

    async def append(self, *batch: dict[str, Any], key: str | None = None) -> Appended:
        """Append a batch in Ann's name."""
        events = [make_event(**event) for event in batch or ({},)]
        return await self.intake.append(WS, events, ANN, batch=True, idempotency_key=key)

    async def run_sql(self, *statements: str) -> None:
        """Change the database without the server."""
        await run_sql(self.database, *statements)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Run a store while the block runs."""
    store = Store(url)
    loops = Loops(Metrics())
    loops.start("writer", store.writer.turn)
    yield store
    await store.writer.close()
    await loops.stop()
    await store.database.close()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """Create a store on the test's database."""
    async with opened(database_url) as made:
        yield made


async def test_one_bad_append_does_not_fail_its_neighbours(store: Store) -> None:
    """If a group's transaction fails, its requests are stored one by one. Only the invalid one fails, and no seq is lost."""
    await store.append()
    if store.database.is_sqlite:
        await store.run_sql(
            "CREATE TRIGGER poison BEFORE INSERT ON events WHEN new.action = 'poison' "
            "BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
        )
    else:
        await store.run_sql(
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF new.action = 'poison' THEN RAISE 'poisoned'; END IF; RETURN new; END $$",
            "CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION poison()",
        )
    appends = [store.append({"action": "poison" if n == 3 else "fine"}) for n in range(8)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(result, InternalError) for result in results] == [n == 3 for n in range(8)]
    seqs = [event.seq for result in results if isinstance(result, Appended) for event in result.events]
    assert seqs == list(range(2, 9))
    told = [frame.seq for news in store.news for frame in news.frames]
    assert told == list(range(1, 9)), "the bus announces each commit once, in order"


async def test_a_commit_that_only_seemed_to_fail_is_not_repeated(store: Store) -> None:
    """If the connection breaks after the commit, the retry finds the stored events and returns them."""
    await store.append()
    transact = store.writer._transact
    failures = ["once"]

    async def break_behind_the_commit(group: Any) -> Any:
        outcomes = await transact(group)
        if failures:
            failures.pop()
            raise StoreUnavailable("the connection broke after COMMIT was sent")
        return outcomes

    store.writer._transact = break_behind_the_commit  # type: ignore[method-assign]
    first, second = await asyncio.gather(store.append({}, {}), store.append())
    assert [event.seq for event in [*first.events, *second.events]] == [2, 3, 4]
    assert [event.seq for event in (await store.append()).events] == [5]


async def test_a_group_takes_few_round_trips_while_it_holds_its_locks(postgresql_url: str) -> None:
    """On PostgreSQL, a group is looked up and stored with one statement for each kind of look-up and one for all changes."""
    async with opened(postgresql_url) as store:

        async def append(workspace: str, number: int) -> None:
            category = "audit" if number % 2 else "activity"
            event = make_event(id=f"e{number}", category=category, entity={"type": "issue", "id": f"i{number}"})
            await store.intake.append(workspace, [event], ANN, batch=False, idempotency_key=f"k{number}")

        for start in (0, 10):
            with statements() as seen:
                await asyncio.gather(*(append(f"w{number % 5}", number) for number in range(start, start + 10)))
        (lock, _), *found, (stored, _) = seen
    assert "FOR NO KEY UPDATE SKIP LOCKED" in lock
    assert [statement.split()[0] for statement, _ in found] == ["SELECT"] * 3, "idempotency keys, ids and entities"
    for table in ("workspaces", "events", "entities", "audit_counts", "idempotency"):
        assert table in stored


async def test_a_clock_that_jumps_back_does_not_take_the_log_along(tmp_path: Path) -> None:
    """Timestamps strictly increase whatever the clock shows: within a batch, and after a jump of an hour."""
    url = f"sqlite:///{tmp_path / 'clock.db'}"
    database = Database(url)
    await migrate(database)
    await database.close()
    async with opened(url) as store:
        await store.append({}, {})
        store.now -= 3_600_000_000
        await store.append({}, {})
        times = [event.body.split(b'"timestamp":"')[1][:27] for event in (await _all(store))]
    assert times == sorted(set(times))
    assert times[-1].endswith(b".000003Z"), "after a jump back, timestamps grow by microseconds"


async def _all(store: Store) -> list[Event]:
    page = await SqlLog(store.database).page(WS, selection=EVERYTHING, order="asc", limit=100, max_bytes=2**20)
    return list(page.events)


async def test_the_database_gives_the_time_on_postgresql(postgresql_url: str) -> None:
    """A node whose clock is an hour ahead does not put future timestamps into the log."""
    async with opened(postgresql_url) as ahead, opened(postgresql_url) as right:
        ahead.now += 10**17
        (first,) = (await ahead.append()).events
        (second,) = (await right.append()).events
    stamps = [event.body.split(b'"timestamp":"')[1][:4] for event in (first, second)]
    assert stamps[0] == stamps[1]
    assert int(stamps[0]) < 4000


async def test_ids_and_idempotency_within_one_group(store: Store) -> None:
    """Requests in one group see each other: the same id or key is stored once."""
    await store.append()
    results = await asyncio.gather(*(store.append({"id": "same"}) for _ in range(10)))
    assert {event.seq for result in results for event in result.events} == {2}
    assert [result.created for result in results].count(True) == 1
    keyed = await asyncio.gather(*(store.append({}, {}, key="k") for _ in range(10)))
    assert {tuple(event.seq for event in result.events) for result in keyed} == {(3, 4)}
    conflict = await asyncio.gather(store.append({"id": "same", "action": "other"}), return_exceptions=True)
    assert isinstance(conflict[0], IdConflict)


async def test_a_full_disk_is_said_and_nothing_is_half_stored(tmp_path: Path) -> None:
    """If SQLite's disk is full, the append is refused completely and reads work. When there is room again, appends work."""
    url = f"sqlite:///{tmp_path / 'full.db'}"
    database = Database(url)
    await migrate(database)
    await database.close()
    async with opened(url) as store:
        await store.append()
        pages = await store.database.read(lambda sql: sql.execute(text("PRAGMA page_count")).scalar_one())
        await store.run_sql(f"PRAGMA max_page_count = {pages + 4}")
        big = {"details": {"blob": "x" * 30_000}}
        with pytest.raises(StoreUnavailable):
            await store.append(big, big)
        assert len(await _all(store)) == 1
        await store.run_sql("PRAGMA max_page_count = 1000000")
        assert [event.seq for event in (await store.append(big, big)).events] == [2, 3]


async def test_a_locked_file_is_an_outage_that_ends(tmp_path: Path) -> None:
    """While another process holds SQLite's write lock, appends wait. When it is released, they are stored."""
    file = tmp_path / "locked.db"
    url = f"sqlite:///{file}"
    database = Database(url)
    await migrate(database)
    await database.close()
    other = sqlite3.connect(file, isolation_level=None)
    async with opened(url) as store:
        await store.append()
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.append())
        assert len(await _all(store)) == 1, "reads do not wait"
        other.execute("ROLLBACK")
        assert [event.seq for event in (await waiting).events] == [2]
    other.close()


# ---- limits in bytes


FILTERS: list[dict[str, list[str]]] = [
    {},
    {"run_id": ["r1"]},
    {"run_id": ["r1,r2"]},
    {"action": ["!a.*"]},
    {"q": ["nothing"]},
]


async def test_pages_bounded_in_bytes_lose_nothing(store: Store) -> None:
    """With any order, start, filter and limits, paging returns each event once, in pages as full as possible."""
    rng = random.Random(5)
    sizes = [0, 0, 10, 500, 3400, 3700, 9000, 40_000]
    await store.append(
        *(
            {"action": f"{rng.choice('ab')}.x", "run_id": f"r{n % 3}", "details": {"é": "ü" * (rng.choice(sizes) // 2)}}
            for n in range(60)
        )
    )
    log = SqlLog(store.database)
    (told,) = store.news
    head = await log.head(WS)
    loop = asyncio.get_running_loop()
    bounds = st.none() | st.integers(0, 60)

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(
        query=st.sampled_from(FILTERS),
        low=bounds,
        high=bounds,
        limit=st.sampled_from([1, 2, 7, 100]),
        max_bytes=st.sampled_from([1, 600, 4096, 10_000, 100_000, 2**30]),
        order=st.sampled_from(["asc", "desc"]),
    )
    def check(  # noqa: PLR0917 - hypothesis names them
        query: dict[str, list[str]], low: int | None, high: int | None, limit: int, max_bytes: int, order: Order
    ) -> None:
        selection = parse_filter(query)
        within = range((low or 0) + 1, 61 if high is None else high)
        expected = [frame for frame in told.frames if frame.seq in within and selection.matches(frame.facets)]
        if order == "desc":
            expected.reverse()
        after, before = (None if seq is None else Position(head.epoch, seq) for seq in (low, high))
        while True:
            reading = log.page(
                WS, selection=selection, order=order, limit=limit, max_bytes=max_bytes, after=after, before=before
            )
            page = asyncio.run_coroutine_threadsafe(reading, loop).result()
            through = accumulate(len(frame.body) for frame in expected[:limit])
            count = max(sum(size <= max_bytes for size in through), 1)
            assert [(e.seq, e.body) for e in page.events] == [(f.seq, f.body) for f in expected[:count]]
            assert page.full == (len(expected) > count or len(page.events) == limit)
            expected = expected[count:]
            if not page.full:
                assert not expected
                assert order == "desc" or page.examined == max(low or 0, 60 if high is None else high - 1)
                return
            assert page.examined == page.events[-1].seq
            at = Position(head.epoch, page.examined)
            after, before = (at, before) if order == "asc" else (after, at)

    await asyncio.to_thread(check)


async def test_no_more_is_read_than_may_be_answered(store: Store) -> None:
    """Reading pages of 64 huge events, filling a gap and looking up events read no more than they return."""
    batches = [
        [{"id": f"e{n}", "details": {"blob": "é" * 130_000}} for n in range(at, at + 16)] for at in (0, 16, 32, 48)
    ]
    for at, batch in enumerate(batches):
        await store.append(*batch, key=f"k{at}")
    log = SqlLog(store.database)
    one, bound = 260_000, 2**20
    for order in ("asc", "desc"):
        with at_most(6 * bound):
            page = await log.page(WS, selection=EVERYTHING, order=order, limit=1000, max_bytes=bound)
        assert (len(page.events), page.full) == (bound // one, True)
        with at_most(6 * bound):
            page = await log.page(WS, selection=EVERYTHING, order=order, limit=1000, max_bytes=1)
        assert len(page.events) == 1, "one event is always returned"
    with at_most(6 * bound):
        _, frames = await log.frames(WS, after=10, limit=1000, max_bytes=bound)
    assert [frame.seq for frame in frames] == [11, 12, 13, 14]
    del page, frames
    with at_most(bound), pytest.raises(IdConflict):
        await store.append(*({"id": f"e{n}"} for n in range(64)))
    with at_most(bound), pytest.raises(IdempotencyConflict):
        await store.append({}, key="k1")
    for options in ({}, {"key": "k1"}):
        again = await store.append(*batches[1], **options)
        assert ([event.seq for event in again.events], again.created) == (list(range(17, 33)), False)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Require that the block never allocates more than this many bytes at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


# ---- migrations


def test_the_newest_migration_is_known() -> None:
    """The constant that saves importing alembic is the newest script's revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.HEAD


async def test_migrations_make_the_tables_of_the_schema(database_url: str) -> None:
    """The migrations create the same tables, columns, indexes and keys as the schema."""
    database = Database(database_url)
    migrated = await database.read(_shape)

    def create_again(connection: Connection) -> None:
        for table in reversed(metadata.sorted_tables):
            table.drop(connection)
        metadata.create_all(connection)

    await database.write(create_again)
    created = await database.read(_shape)
    await database.close()
    assert migrated == created


def _shape(connection: Connection) -> dict[str, Any]:
    seen = inspect(connection)
    return {
        table: (
            _columns(connection, table),
            sorted(
                (index["name"] or "", index["column_names"], index["unique"], _options(index["dialect_options"]))
                for index in seen.get_indexes(table)
            ),
            seen.get_pk_constraint(table)["constrained_columns"],
            sorted(str(key["column_names"]) for key in seen.get_unique_constraints(table)),
        )
        for table in seen.get_table_names()
        if table != "alembic_version"
    }


def _options(given: dict[str, Any]) -> dict[str, str]:
    """Return an index's properties besides its columns: the rows that it covers."""
    return {name: str(value) for name, value in given.items()}


def _columns(connection: Connection, table: str) -> list[tuple[Any, ...]]:
    found = inspect(connection).get_columns(table)
    columns = [(column["name"], str(column["type"]), column["nullable"], column["default"]) for column in found]
    # Their order matters on SQLite only, where columns after a long value are slow to read.
    return columns if connection.dialect.name == "sqlite" else sorted(columns, key=str)


async def _drop_everything(database: Database) -> None:
    def drop(connection: Connection) -> None:
        for table in reversed(metadata.sorted_tables):
            table.drop(connection)
        connection.execute(text("DROP TABLE alembic_version"))

    await database.write(drop)


async def test_events_of_the_first_version_get_their_size(database_url: str) -> None:
    """Migrating a database whose events have no size adds the sizes and changes nothing else, and appends continue."""
    columns = "workspace, seq, timestamp, id, category, action, actor_type, actor_id, entity_id, search, body"
    bodies = {1: '{"a":"é€😀"}', 2: '{"b":"' + "x" * 300_000 + '"}', 5000: "{}", 5001: '{"c":"ß"}', 12_000: '{"d":1}'}
    database = Database(database_url)
    await _drop_everything(database)

    def fill(connection: Connection) -> Sequence[Any]:
        command.upgrade(migrations._config(connection), "0001")
        row = {"id": WS, "epoch": "abc", "head": 12_000, "earliest": 1, "last": 12_000}
        connection.execute(
            text(
                "INSERT INTO workspaces (id, epoch, head, earliest, last_timestamp, org_id, settings, created_at, created_by) "
                "VALUES (:id, :epoch, :head, :earliest, :last, 'o', '{}', 1, 'ann')"
            ),
            row,
        )
        key = connection.execute(text("SELECT key FROM workspaces")).scalar_one()
        rows = [{"key": key, "seq": seq, "id": f"e{seq}", "body": body} for seq, body in bodies.items()]
        values = ":key, :seq, :seq, :id, 'activity', 'a.b', 'user', 'ann', 'i1', '', :body"
        connection.execute(text(f"INSERT INTO events ({columns}) VALUES ({values})"), rows)
        return stored(connection)

    def stored(connection: Connection) -> Sequence[Any]:
        return connection.execute(text(f"SELECT {columns} FROM events ORDER BY seq")).all()

    before = await database.write(fill)
    assert await migrate(database)
    after = await database.read(stored)
    sizes = await database.read(lambda sql: sql.execute(text("SELECT seq, size FROM events ORDER BY seq")).all())
    await database.close()
    assert after == before
    assert [tuple(size) for size in sizes] == [(seq, len(body.encode())) for seq, body in bodies.items()]
    async with opened(database_url) as store:
        assert [event.seq for event in (await store.append()).events] == [12_001]
        assert [event.body.decode() for event in (await _all(store))[:-1]] == list(bodies.values())


async def test_audit_events_are_counted(database_url: str) -> None:
    """The counts of audit events match the log: while it is written, and after the migration of an old log."""

    def counted(connection: Connection) -> list[tuple[Any, ...]]:
        names = "workspace, block, action, events"
        found = connection.execute(text(f"SELECT {names} FROM audit_counts ORDER BY workspace, block, action"))
        return [tuple(row) for row in found]

    def there(connection: Connection) -> list[tuple[Any, ...]]:
        query = "SELECT workspace, seq / 1024, action, count(*) FROM events WHERE category = 'audit' GROUP BY 1, 2, 3"
        return sorted(tuple(row) for row in connection.execute(text(query)))

    def forget(connection: Connection) -> None:
        connection.execute(text("DROP TABLE audit_counts"))
        connection.execute(text("DROP TABLE installation"))
        for column in ("maker", "timeline", "previous_epoch", "fork"):
            connection.execute(text(f"ALTER TABLE workspaces DROP COLUMN {column}"))
        connection.execute(text("ALTER TABLE events DROP COLUMN fingerprint"))
        connection.execute(text("DROP INDEX tickets_by_account"))
        connection.execute(text("ALTER TABLE tickets DROP COLUMN account"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0006'"))

    async with opened(database_url) as store:
        for number in range(6):
            actions = ["policy_decision", "issue.created", "key.created"][number % 3 :]
            for workspace in (WS, "other"):
                batch = [make_event(action=action) for action in actions * 300]
                await store.intake.append(workspace, batch, ANN, batch=True)
        found = await store.database.read(counted)
        assert found == await store.database.read(there)
        assert {block for _, block, _, _ in found} == {0, 1, 2, 3}
        await store.database.write(forget)
        assert await migrate(store.database)
        assert await store.database.read(counted) == found


async def test_any_number_of_nodes_may_migrate_at_once(database_url: str) -> None:
    """Of several nodes that start together on an empty database, one migrates and the others wait."""
    database = Database(database_url)
    await _drop_everything(database)
    await database.close()
    nodes = [Database(database_url) for _ in range(5)]
    assert sorted(await asyncio.gather(*(migrate(node) for node in nodes))) == [False] * 4 + [True]
    for node in nodes:
        await node.close()


async def test_a_database_of_a_newer_version_is_left_alone(store: Store) -> None:
    """A server refuses to start on a database with an unknown migration."""
    await store.run_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseTooNew):
        await migrate(store.database)
