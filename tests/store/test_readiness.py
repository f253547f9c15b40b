"""`/readyz` fails with a reason while the database cannot be written, and is cheap however often it is requested."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text

from streamer.core.errors import StoreUnavailable
from streamer.observe.metrics import Metrics
from streamer.store.engine.database import Database
from streamer.store.engine.readiness import Readiness
from tests.support.api import Api
from tests.support.databases import nothing_written, run_sql
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def reason(readiness: Readiness, *, writes: bool = True) -> str | None:
    """Return the reason why the node is not ready, or None."""
    try:
        await readiness.expect(writes=writes)
    except StoreUnavailable as error:
        return str(error.details["reason"])
    return None


@asynccontextmanager
async def checked(database: Database) -> AsyncIterator[Readiness]:
    """Run a check without cached results."""
    yield Readiness(database, Metrics())


async def test_what_can_be_asked_for(api: Api) -> None:
    """Without a key, callers may ask for everything or for reads alone. Other values are refused."""
    nobody = api.with_key(None)
    for wanted in ({}, {"for": "all"}, {"for": "reads"}):
        assert (await nobody.get("/readyz", **wanted)).expect(200)["status"] == "ok"
    answer = await nobody.get("/readyz", **{"for": "fun"})
    assert (answer.status, answer.error) == (400, "validation_error")
    assert list(answer.json["error"]["details"]["fields"]) == ["for"]


async def test_a_database_that_cannot_be_written(api: Api, database_url: str) -> None:
    """While nothing can be written, the node is ready for reads only. An idle node detects this by itself, too."""
    (await api.append("w")).expect(201)
    async with nothing_written(database_url):
        if database_url.startswith("postgresql"):
            connection = await asyncpg.connect(database_url)
            await connection.execute("ALTER TABLE idempotency RENAME TO idempotency_away")
            await connection.close()

        async def unready() -> bool:
            answer = await api.get("/readyz")
            return (
                answer.status == 503 and answer.error == "store_unavailable" and answer.json["error"]["details"] != {}
            )

        await eventually(unready)
        assert (await api.get("/readyz", **{"for": "reads"})).status == 200
        assert len(await api.history("w")) == 1
        if database_url.startswith("postgresql"):
            connection = await asyncpg.connect(database_url)
            await connection.execute("ALTER TABLE idempotency_away RENAME TO idempotency")
            await connection.close()

    async def ready() -> bool:
        return (await api.get("/readyz")).status == 200

    await eventually(ready)


@on_sqlite
async def test_a_full_disk_and_a_disk_that_is_read_only(database: Database) -> None:
    """If SQLite reports a full or read-only disk, the node is not ready for this reason until it can write again."""
    async with checked(database) as readiness:
        pages = await database.read(lambda sql: sql.execute(text("PRAGMA page_count")).scalar_one())
        await run_sql(database, f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(StoreUnavailable) as failure:
            await run_sql(database, "CREATE TABLE big AS SELECT zeroblob(1000000) AS zeros")
        assert failure.value.details == {"reason": "disk_full"}
        assert await reason(readiness) == "disk_full"
        assert await reason(readiness, writes=False) is None
        await run_sql(database, "PRAGMA max_page_count = 1000000")
        await eventually(lambda: ready_again(readiness))
    async with checked(database) as readiness:
        await run_sql(database, "PRAGMA query_only = 1")
        assert await eventually(lambda: reason(readiness)) == "read_only"
        # Its connection is not reused.
        await eventually(lambda: ready_again(readiness))


async def ready_again(readiness: Readiness) -> bool:
    """Check whether the node is ready now."""
    return await reason(readiness) is None


@on_sqlite
async def test_a_file_that_was_replaced_is_not_made_again(database: Database, database_url: str) -> None:
    """If the database file is gone, the node is not ready and creates no empty file in its place."""
    file = Path(database_url.removeprefix("sqlite:///"))
    async with checked(database) as readiness:
        assert await reason(readiness) is None
        away = file.rename(file.with_name("away.db"))  # noqa: ASYNC240 - at once
        await eventually(lambda: is_reason(readiness, "file_missing"))
        with pytest.raises(StoreUnavailable):
            await run_sql(database, "DELETE FROM events")
        assert not file.exists()  # noqa: ASYNC240
        away.rename(file)
        await eventually(lambda: ready_again(readiness))


async def is_reason(readiness: Readiness, expected: str) -> bool:
    """Check whether the node is not ready for a reason."""
    return await reason(readiness) == expected


@on_sqlite
async def test_any_number_may_ask(api: Api, database: Database) -> None:
    """However many requests arrive, the database is written at most once a second."""
    await run_sql(
        database,
        "CREATE TABLE probed (workspace integer)",
        "CREATE TRIGGER count AFTER INSERT ON idempotency BEGIN INSERT INTO probed VALUES (new.workspace); END",
    )
    clock = asyncio.get_running_loop().time
    began = clock()
    for _ in range(5):
        await asyncio.gather(*(api.get("/readyz") for _ in range(50)))
    ((count,),) = await run_sql(database, "SELECT count(*) FROM probed")
    assert count <= clock() - began + 1
