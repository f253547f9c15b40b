"""When a table is renamed under a running server, the reason is `schema` at once, and nothing blocks the repair."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
import pytest
from structlog.testing import capture_logs

from streamer.observe.metrics import Metrics
from streamer.store.engine.database import Database
from streamer.store.engine.outages import QUIET_SECONDS
from streamer.store.engine.readiness import Readiness
from streamer.store.schema import metadata
from tests.support.api import Api
from tests.support.databases import run_sql
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

Sql = Callable[[str], object]


@pytest.fixture
def other_program(database_url: str) -> Iterator[Sql]:
    """Run SQL on the SQLite file; a lasting lock is an error."""
    file = Path(database_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(file, isolation_level=None, timeout=1, check_same_thread=False)) as connection:
        yield connection.execute


async def reason(api: Api, path: str = "", **query: str) -> str | None:
    """Return the reason why an append, or a GET of `path`, is refused, or None."""
    answer = await (api.get(path, **query) if path else api.append("w"))
    if answer.status < 300:
        return None
    assert answer.status == 503, answer.body
    return str(answer.json["error"]["details"].get("reason"))


async def works(api: Api, path: str = "", **query: str) -> bool:
    """Check whether an append, or a GET of `path`, succeeds."""
    return await reason(api, path, **query) is None


@on_sqlite
async def test_a_failed_write_leaves_no_lock(api: Api, other_program: Sql) -> None:
    """After a write fails because of the schema, another program can write at once. After the repair, appends work."""
    assert await works(api)
    other_program("ALTER TABLE events RENAME TO ex")
    for _ in range(2):
        assert await reason(api) == "schema"
        other_program("BEGIN IMMEDIATE")
        other_program("ROLLBACK")
    other_program("ALTER TABLE ex RENAME TO events")
    assert await eventually(lambda: works(api))


@pytest.fixture
def sql(database_url: str, request: pytest.FixtureRequest) -> Iterator[Sql]:
    """Run SQL on the database, as a person would."""
    if database_url.startswith("sqlite"):
        yield request.getfixturevalue("other_program")
        return
    cluster, name = request.getfixturevalue("postgresql"), urlsplit(database_url).path.lstrip("/")
    yield lambda statement: cluster.sql(statement, name)


@pytest.mark.parametrize("table", ["events", "workspaces"])
async def test_a_missing_table_means_not_ready(api: Api, sql: Sql, table: str) -> None:
    """While appends fail because of the schema, `/readyz` fails, also for reads, and the log reports one outage with one end."""
    with capture_logs() as lines:
        assert await works(api)
        await asyncio.to_thread(sql, f"ALTER TABLE {table} RENAME TO away")
        assert await reason(api) == "schema"
        await eventually(lambda: is_schema(api, "/readyz"))
        await eventually(lambda: is_schema(api, "/readyz", **{"for": "reads"}))
        clock = asyncio.get_running_loop().time
        until = clock() + 2 * QUIET_SECONDS
        while clock() < until:  # other reads and writes, some of which work, do not end it
            await api.get("/v1/workspaces/w/keys")
            await api.post("/v1/tickets", {"workspace": "w"})
            assert await reason(api, "/readyz") == "schema"
        await asyncio.to_thread(sql, f"ALTER TABLE away RENAME TO {table}")
        assert await eventually(lambda: works(api))
        assert await eventually(lambda: works(api, "/readyz"))
        await eventually(lambda: count(lines, "database_outage_over") == 2)
    assert count(lines, "database_outage") == count(lines, "database_outage_over") == 2  # of reads, and of writes


def count(lines: list[MutableMapping[str, Any]], event: str) -> int:
    """Count the log lines of an event."""
    return sum(line["event"] == event for line in lines)


async def is_schema(api: Api, path: str, **query: str) -> bool:
    """Check whether a GET is refused because of the schema."""
    return await reason(api, path, **query) == "schema"


async def test_a_check_leaves_no_trace(database: Database) -> None:
    """The readiness check for writes changes only its own row."""
    before = await counts(database)
    await Readiness(database, Metrics()).expect(writes=True)
    after = await counts(database)
    assert after == {**before, "idempotency": 1}


async def counts(database: Database) -> dict[str, int]:
    """Return the number of rows of each table."""
    return {table: (await run_sql(database, f"SELECT count(*) FROM {table}"))[0][0] for table in metadata.tables}


@on_postgresql
async def test_a_locked_table_means_not_ready(api: Api, database_url: str) -> None:
    """While `events` is locked on PostgreSQL, neither kind of `/readyz` is 200, and the reason is the lock."""
    assert await works(api)
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        await eventually(lambda: refused(api))
        await eventually(lambda: refused(api, **{"for": "reads"}))
        assert await reason(api, "/readyz") == await reason(api, "/readyz", **{"for": "reads"}) == "locked"
    await connection.close()
    assert await eventually(lambda: works(api, "/readyz"))


async def refused(api: Api, **query: str) -> bool:
    """Check whether `/readyz` is refused."""
    return not await works(api, "/readyz", **query)


@on_sqlite
async def test_the_reason_is_the_lock(api: Api, other_program: Sql) -> None:
    """While another program locks SQLite, every `/readyz` reports the lock, including those that did not wait for it."""
    assert await works(api)
    other_program("BEGIN IMMEDIATE")
    await eventually(lambda: refused(api))
    reasons = [await reason(api, "/readyz") for _ in range(3)]
    other_program("ROLLBACK")
    assert reasons == ["locked"] * 3
    assert await eventually(lambda: works(api, "/readyz"))
