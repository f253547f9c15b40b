"""If the database is unavailable, read-only, changed or damaged, requests get 503 with a reason, until it recovers by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from structlog.testing import capture_logs

from streamer.app import running
from streamer.settings import Settings
from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api
from tests.support.databases import Cluster, OwnCluster, fresh_database, run_sql
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

Lines = list[MutableMapping[str, Any]]


class Harmed:
    """A PostgreSQL database of the test's own, and its sessions."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster, self.url = cluster, url
        self.name = urlsplit(url).path.lstrip("/")

    def sql(self, *statements: str) -> None:
        """Run statements from another database."""
        for statement in statements:
            self.cluster.sql(statement.replace("DB", self.name))

    def here(self, *statements: str) -> None:
        """Run statements in the database."""
        for statement in statements:
            self.cluster.sql(statement, self.name)

    def cut(self) -> None:
        """End all sessions."""
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'DB'")


@pytest.fixture
def harmed(postgresql: Cluster) -> Iterator[Harmed]:
    """Create a fresh PostgreSQL database."""
    with fresh_database(postgresql) as url:
        yield Harmed(postgresql, url)


@contextlib.asynccontextmanager
async def serving(url: str, folder: Path, http: aiohttp.ClientSession) -> AsyncIterator[Api]:
    """Run a server on a database."""
    async with running(Settings(data_dir=folder / "data", port=0, admin_key=ADMIN_KEY, database_url=url)) as server:
        yield Api(http, server.url, ADMIN_KEY)


def outages(lines: Lines, use: str) -> list[tuple[str, Any]]:
    """Return the logged outages of one use: each event and its reason or None."""
    return [
        (line["event"], line.get("reason"))
        for line in lines
        if line["event"].startswith("database_outage") and line["use"] == use
    ]


def over(lines: Lines, use: str) -> bool:
    """Check that no outage of one use is in progress."""
    return outages(lines, use)[-1:] in ([], [("database_outage_over", None)])


HARMS = {
    "read only": (
        "read_only",
        lambda db: (db.sql("ALTER DATABASE DB SET default_transaction_read_only = on"), db.cut()),
        lambda db: db.sql("ALTER DATABASE DB RESET default_transaction_read_only"),
    ),
    "renamed": (
        "database_missing",
        lambda db: (
            db.sql("UPDATE pg_database SET datallowconn = false WHERE datname = 'DB'"),
            db.cut(),
            db.sql("ALTER DATABASE DB RENAME TO DB_away"),
        ),
        lambda db: db.sql(
            "ALTER DATABASE DB_away RENAME TO DB", "UPDATE pg_database SET datallowconn = true WHERE datname = 'DB'"
        ),
    ),
    "no connections": (
        "locked",
        lambda db: (db.sql("UPDATE pg_database SET datallowconn = false WHERE datname = 'DB'"), db.cut()),
        lambda db: db.sql("UPDATE pg_database SET datallowconn = true WHERE datname = 'DB'"),
    ),
    "a table is gone": (
        "schema",
        lambda db: db.here("ALTER TABLE workspaces RENAME TO workspaces_away"),
        lambda db: db.here("ALTER TABLE workspaces_away RENAME TO workspaces"),
    ),
    "a column is gone": (
        "schema",
        lambda db: db.here("ALTER TABLE workspaces RENAME COLUMN head TO head_away"),
        lambda db: db.here("ALTER TABLE workspaces RENAME COLUMN head_away TO head"),
    ),
}


@pytest.mark.parametrize("harm", HARMS)
async def test_what_is_not_one_requests_fault_is_an_outage(
    harmed: Harmed, tmp_path: Path, http: aiohttp.ClientSession, harm: str
) -> None:
    """During any database failure, appends get 503 with the reason. Afterwards, they work without a restart."""
    reason, hurt, heal = HARMS[harm]
    with capture_logs() as lines:
        async with serving(harmed.url, tmp_path, http) as api:
            (await api.append("w")).expect(201)
            async with await api.stream("w") as reader:
                await reader.next("synced")
                await asyncio.to_thread(hurt, harmed)
                await eventually(lambda: true(refused(api, reason)))
                for _ in range(3):
                    assert (await api.append("w")).status == 503
                assert (await api.get("/livez")).status == 200
                if harm == "read only":
                    assert len(await api.history("w")) == 1
                    assert (await api.get("/readyz")).json["error"]["details"] == {"reason": "read_only"}
                    assert (await api.get("/readyz", **{"for": "reads"})).status == 200
                await asyncio.to_thread(heal, harmed)
                again = await eventually(lambda: appended(api))
                assert [event["seq"] for event in await reader.events(1)] == [again["seq"]] == [2]
                await eventually(lambda: over(lines, "reads") and over(lines, "writes"))
                assert (await api.get("/readyz")).status == 200
    # Ending the sessions is a failure, too; and the append may have been refused when its key was looked up.
    for use in ("reads", "writes"):
        said = outages(lines, use)
        assert said.count(("database_outage", reason)) <= 1
        assert len(said) <= len({*said}) + 1, said
    assert any(("database_outage", reason) in outages(lines, use) for use in ("reads", "writes"))


async def test_a_session_on_a_demoted_server_is_replaced(
    own_cluster: OwnCluster, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """If a server becomes read-only under open sessions, appends get 503 `read_only`, and later ones use new sessions."""
    async with serving(own_cluster.url("postgres"), tmp_path, http) as api:
        own_cluster.sql("CREATE TABLE sessions AS SELECT 0 AS seq, 0 AS pid WHERE false")
        own_cluster.sql(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO sessions VALUES (new.seq, pg_backend_pid()); RETURN NULL; END $$"
        )
        own_cluster.sql("CREATE TRIGGER note AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION note()")
        (await api.append("w")).expect(201)
        own_cluster.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        own_cluster.sql("SELECT pg_reload_conf()")
        await eventually(lambda: true(refused(api, "read_only")))
        own_cluster.sql("ALTER SYSTEM RESET default_transaction_read_only")
        own_cluster.sql("SELECT pg_reload_conf()")
        last = (await eventually(lambda: appended(api)))["seq"]
        changed = f"SELECT count(DISTINCT pid) FROM sessions WHERE seq IN ({last - 1}, {last})"
        assert own_cluster.sql(changed) == "2"


async def refused(api: Api, reason: str) -> None:
    """Check that an append is refused for this reason."""
    answer = await api.append("w")
    assert (answer.status, answer.error) == (503, "store_unavailable")
    assert answer.json["error"]["details"] == {"reason": reason}


async def true(coroutine: Any) -> bool:
    """Run a check that raises AssertionError on failure."""
    await coroutine
    return True


async def appended(api: Api) -> Any:
    """Append; return the event, or None during an outage."""
    answer = await api.append("w")
    assert answer.status in {201, 503}, answer.body
    return answer.json if answer.status == 201 else None


SECRET = "fifteen men on the dead man's chest"


async def test_no_event_is_quoted_in_the_log(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    """Database errors may quote a row. No log line and no response does."""
    api = Api(http, (await make_server()).url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    if database.is_sqlite:
        raising = "SELECT RAISE(ABORT, 'fifteen men on the dead man''s chest')"
        await run_sql(database, f"CREATE TRIGGER poison BEFORE INSERT ON events BEGIN {raising}; END")
    else:
        await run_sql(
            database,
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF new.action = 'unique' THEN new.id := (SELECT id FROM events LIMIT 1); RETURN new; END IF; "
            "RAISE EXCEPTION 'bad %', new.body USING DETAIL = new.body, ERRCODE = split_part(new.action, '.', 2); END $$",
            "CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION poison()",
        )
    states = ["P0001", "22000", "25006", "57014", "XX000", "42P01", "28000"]
    with capture_logs() as lines:
        for action in ["unique", *(f"state.{state}" for state in states)]:
            answer = await api.append("w", action=action, details={"song": SECRET})
            content = database.is_sqlite or action in {"unique", "state.P0001", "state.22000"}
            assert (answer.status, answer.error) == ((500, "internal_error") if content else (503, "store_unavailable"))
            assert SECRET not in str(answer.body)
    assert SECRET not in repr(lines)
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    refusals = [line["error"] for line in lines if line["event"] == "append_refused_by_database"]
    if database.is_sqlite:
        assert refusals == ["IntegrityError SQLITE_CONSTRAINT_TRIGGER"] * 8
    else:
        assert refusals[0] == "UniqueViolationError 23505 events_by_id"
