"""The writer and the log against real databases: what only they can show."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from streamer.core.errors import IdConflict, InternalError, StoreUnavailable
from streamer.core.ports import Appended, Committed
from streamer.ingest.intake import Author, Intake, Limits
from streamer.observe.metrics import Metrics
from streamer.store import migrate as migrations
from streamer.store.database import Database
from streamer.store.migrate import DatabaseTooNew, migrate
from streamer.store.schema import metadata
from streamer.store.writer import GroupCommit
from tests.support.api import make_event

WS = "store"
ANN = Author("ann", None, may_create_workspace=True)


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
        self.intake = Intake(self.writer, Metrics(), Limits(2**18, 32, 1000))

    async def append(self, *batch: dict[str, Any], key: str | None = None) -> Appended:
        """Append a batch in Ann's name."""
        events = [make_event(**event) for event in batch or ({},)]
        return await self.intake.append(WS, events, ANN, batch=True, idempotency_key=key)

    async def run_sql(self, *statements: str) -> None:
        """Change the database behind the server's back."""
        async with self.database.write() as connection:
            for statement in statements:
                await connection.execute(text(statement))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Run a store while the block runs."""
    store = Store(url)
    running = asyncio.create_task(store.writer.run())
    yield store
    await store.writer.close()
    await running
    await store.database.close()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store on the test's database."""
    async with opened(database_url) as made:
        yield made


async def test_one_bad_append_does_not_fail_its_neighbours(store: Store) -> None:
    """A group whose transaction fails is stored request by request; the bad one fails alone, and no number is lost."""
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
    assert told == list(range(1, 9)), "the bus is told of each commit once, in order"


async def test_a_commit_that_only_seemed_to_fail_is_not_repeated(store: Store) -> None:
    """When the connection breaks behind the commit, the retry finds the events stored and answers with them."""
    await store.append()
    transact = store.writer._transact
    failures = ["once"]

    async def break_behind_the_commit(group: Any, *, retried: bool) -> Any:
        outcomes = await transact(group, retried=retried)
        if failures:
            failures.pop()
            raise StoreUnavailable("the connection broke after COMMIT was sent")
        return outcomes

    store.writer._transact = break_behind_the_commit  # type: ignore[method-assign]
    first, second = await asyncio.gather(store.append({}, {}), store.append())
    assert [event.seq for event in [*first.events, *second.events]] == [2, 3, 4]
    assert [event.seq for event in (await store.append()).events] == [5]


async def test_a_clock_that_jumps_back_does_not_take_the_log_along(tmp_path: Path) -> None:
    """Timestamps strictly increase whatever the clock says: within a batch, and after a jump of an hour."""
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
    assert times[-1].endswith(b".000003Z"), "a jump back goes on by microseconds"


async def _all(store: Store) -> list[Any]:
    from streamer.core.filter import EVERYTHING  # noqa: PLC0415
    from streamer.store.log import SqlLog  # noqa: PLC0415

    page = await SqlLog(store.database).page(WS, selection=EVERYTHING, order="asc", limit=100)
    return list(page.events)


async def test_the_database_gives_the_time_on_postgresql(postgresql_url: str) -> None:
    """A node whose clock is an hour ahead cannot run ahead in the log."""
    async with opened(postgresql_url) as ahead, opened(postgresql_url) as right:
        ahead.now += 10**17
        (first,) = (await ahead.append()).events
        (second,) = (await right.append()).events
    stamps = [event.body.split(b'"timestamp":"')[1][:4] for event in (first, second)]
    assert stamps[0] == stamps[1]
    assert int(stamps[0]) < 4000


async def test_ids_and_idempotency_within_one_group(store: Store) -> None:
    """Requests that meet in one group see each other: the same id or key is stored once."""
    await store.append()
    results = await asyncio.gather(*(store.append({"id": "same"}) for _ in range(10)))
    assert {event.seq for result in results for event in result.events} == {2}
    assert [result.created for result in results].count(True) == 1
    keyed = await asyncio.gather(*(store.append({}, {}, key="k") for _ in range(10)))
    assert {tuple(event.seq for event in result.events) for result in keyed} == {(3, 4)}
    conflict = await asyncio.gather(store.append({"id": "same", "action": "other"}), return_exceptions=True)
    assert isinstance(conflict[0], IdConflict)


async def test_a_full_disk_is_said_and_nothing_is_half_stored(tmp_path: Path) -> None:
    """SQLite says that it is full: the append is refused whole, reads go on, and with room again appends do, too."""
    url = f"sqlite:///{tmp_path / 'full.db'}"
    database = Database(url)
    await migrate(database)
    await database.close()
    async with opened(url) as store:
        await store.append()
        async with store.database.write() as connection:
            pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
            await connection.execute(text(f"PRAGMA max_page_count = {pages + 4}"))
        big = {"details": {"blob": "x" * 30_000}}
        with pytest.raises(StoreUnavailable):
            await store.append(big, big)
        assert len(await _all(store)) == 1
        async with store.database.write() as connection:
            await connection.execute(text("PRAGMA max_page_count = 1000000"))
        assert [event.seq for event in (await store.append(big, big)).events] == [2, 3]


async def test_a_locked_file_is_an_outage_that_ends(tmp_path: Path) -> None:
    """While another process holds SQLite's write lock, appends wait; when it lets go, they are stored."""
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
        assert len(await _all(store)) == 1, "readers are not held up"
        other.execute("ROLLBACK")
        assert [event.seq for event in (await waiting).events] == [2]
    other.close()


# ---- migrations


def test_the_newest_migration_is_known() -> None:
    """The constant that spares alembic's import is the newest script's revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.HEAD


async def test_migrations_make_the_tables_of_the_schema(database_url: str) -> None:
    """Tables, columns, indexes and keys are the same, made by the migrations or from the schema."""
    database = Database(database_url)
    async with database.write() as connection:
        migrated = await connection.run_sync(_shape)
        for table in reversed(metadata.sorted_tables):
            await connection.run_sync(table.drop)
        await connection.run_sync(metadata.create_all)
        created = await connection.run_sync(_shape)
    await database.close()
    assert migrated == created


def _shape(connection: Connection) -> dict[str, Any]:
    seen = inspect(connection)
    return {
        table: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in seen.get_columns(table)],
            sorted((index["name"] or "", index["column_names"], index["unique"]) for index in seen.get_indexes(table)),
            seen.get_pk_constraint(table)["constrained_columns"],
            sorted(str(key["column_names"]) for key in seen.get_unique_constraints(table)),
        )
        for table in seen.get_table_names()
        if table != "alembic_version"
    }


async def test_any_number_of_nodes_may_migrate_at_once(database_url: str) -> None:
    """Of several that start together on an empty database one migrates; the others wait and go on."""
    database = Database(database_url)
    async with database.write() as connection:
        for table in (*reversed(metadata.sorted_tables),):
            await connection.run_sync(table.drop)
        await connection.execute(text("DROP TABLE alembic_version"))
    await database.close()
    nodes = [Database(database_url) for _ in range(5)]
    assert sorted(await asyncio.gather(*(migrate(node) for node in nodes))) == [False] * 4 + [True]
    for node in nodes:
        await node.close()


async def test_a_database_of_a_newer_version_is_left_alone(store: Store) -> None:
    """A server that does not know the database's migration refuses to start on it."""
    await store.run_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseTooNew):
        await migrate(store.database)
