"""Foreign locks, colliding transactions, and a stop while the database does not respond."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import asyncpg  # type: ignore[import-untyped]
import pytest

from streamer.store.engine.database import Database
from streamer.store.log.held import Held
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api
from tests.support.databases import OwnCluster, nothing_written, run_sql
from tests.support.queued import Queued
from tests.support.waiting import eventually

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@asynccontextmanager
async def held(url: str, workspace: str) -> AsyncIterator[None]:
    """Hold a workspace's row like a node that stopped within a transaction."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM workspaces WHERE id = $1 FOR UPDATE", workspace)
            yield
    finally:
        await connection.close()


@on_postgresql
async def test_a_locked_workspace_holds_up_no_other(api: Api, database_url: str) -> None:
    """While one workspace is locked, appends and changes in others are stored. Its own follow in order after the release."""
    for workspace in ("locked", "free"):
        (await api.append(workspace)).expect(201)
    async with held(database_url, "locked"):
        waiting = [asyncio.create_task(api.append("locked", action=f"n.{n}")) for n in range(3)]
        mixed = asyncio.create_task(api.append("free"))
        assert (await mixed).expect(201)["seq"] == 2
        for number in range(3, 6):
            assert (await api.append("free")).expect(201)["seq"] == number
        (await api.put("/v1/workspaces/free", {"name": "Free"})).expect(200)
        assert not any(task.done() for task in waiting)
    answers = [answer.expect(201) for answer in await asyncio.gather(*waiting)]
    assert sorted(answer["seq"] for answer in answers) == [2, 3, 4]
    assert (await api.append("locked")).expect(201)["seq"] == 5


@on_postgresql
async def test_a_group_skips_busy_workspaces(queued: Queued, database: Database, database_url: str) -> None:
    """A group stores what it can without waiting. The skipped requests follow later, in order, and create nothing twice."""
    before = Queued(database)
    for workspace in ("busy", "free"):
        before.start(before.append("ann", workspace=workspace))
    await before.run()
    async with held(database_url, "busy"):
        for number in range(3):
            queued.start(queued.append("ann", f"busy{number}", workspace="busy"))
            queued.start(queued.append("ann", f"free{number}", workspace="free"))
            queued.start(queued.append("bob", f"new{number}", workspace="new"))
        await queued.waits(9)
        running = asyncio.create_task(queued.run())
        await eventually(lambda: len(queued.order) == 6)
        assert {name.rstrip("012") for name in queued.order} == {"free", "new"}
        assert queued.metric("append_skipped_total") >= 1
        queued.start(queued.append("ann", "busy3", workspace="busy"))
        await queued.waits(4)
    await running
    await asyncio.gather(*queued.tasks)
    assert queued.order[6:] == [f"busy{number}" for number in range(4)]
    rows = await run_sql(database, "SELECT id, head FROM workspaces WHERE id <> '-system' ORDER BY id")
    assert rows == [("busy", 5), ("free", 4), ("new", 3)]


def test_a_busy_workspace_gets_its_turn() -> None:
    """A workspace that was skipped three times is waited for, one at a time; one that stays locked is only tried."""
    busy = Held()
    assert busy.wait_for(["a", "b", "c"]) == []
    assert busy.wait_for(["a"]) == ["a"], "a group with one workspace has nothing better to do"
    for _ in range(2):
        busy.note(["a", "b", "c"], {"b", "c"})
        assert busy.wait_for(["a", "b", "c"]) == []
    busy.note(["a", "b", "c"], {"b", "c"})
    assert busy.wait_for(["a", "b", "c"]) == ["b"]
    busy.note(["a", "b", "c"], {"c"})
    assert busy.wait_for(["a", "b", "c"]) == ["c"]
    busy.give_up_on(["c"])
    assert busy.wait_for(["a", "b", "c"]) == busy.wait_for(["c"]) == []
    busy.note(["c"], {})
    assert busy.wait_for(["c"]) == ["c"]
    busy.note(["a", "b"], {"a", "b"})
    assert busy.wait_for(["a", "b"]) == ["a"], "if none was free"


@on_postgresql
async def test_nodes_whose_groups_overlap(database_url: str) -> None:
    """Several nodes that append to the same workspaces all make progress; each log is gap-free, each account's order is kept."""
    databases = [Database(database_url) for _ in range(4)]
    nodes = [Queued(database) for database in databases]
    for at, node in enumerate(nodes):
        for number in range(200):
            node.start(node.append(f"{at}", f"{number % 7}.{number}", workspace=f"w{number % 7}"))
    await asyncio.gather(*(node.run() for node in nodes))
    for node in nodes:
        for workspace in range(7):
            own = [name for name in node.order if name.startswith(f"{workspace}.")]
            assert own == [f"{workspace}.{number}" for number in range(workspace, 200, 7)]
    query = "SELECT w.head, count(*), max(e.seq) FROM workspaces w JOIN events e ON e.workspace = w.key GROUP BY w.key"
    rows = await run_sql(databases[0], f"{query} HAVING w.key > 0")
    assert sum(head for head, _, _ in rows) == 800
    assert all(head == count == last for head, count, last in rows)
    for database in databases:
        await database.close()


@on_postgresql
async def test_postgresql_ends_what_a_stopped_node_left(database: Database) -> None:
    """PostgreSQL ends a writing session that is idle in a transaction or waits too long for a lock."""
    for setting, value in (("idle_in_transaction_session_timeout", "10s"), ("lock_timeout", "1s")):
        assert await run_sql(database, f"SHOW {setting}") == [(value,)]


GATE = (
    "CREATE TABLE gate AS SELECT true AS closed",
    """CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    WHILE EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END $$""",
    "CREATE TRIGGER gate AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate()",
)
"""Makes every append wait in its transaction, holding its locks, until the table is empty."""
SESSIONS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND "


@on_postgresql
async def test_a_frozen_node_gives_its_locks_back(
    make_process: MakeProcess, http: aiohttp.ClientSession, database: Database
) -> None:
    """A node frozen in the middle of a transaction delays its workspace on other nodes, but loses, doubles and refuses nothing after the thaw."""
    frozen, other = make_process(), make_process()
    for process in (frozen, other):
        await process.start()
    first, second = (Api(http, process.url, ADMIN_KEY) for process in (frozen, other))
    (await first.append("w")).expect(201)
    await run_sql(database, *GATE)
    group = [asyncio.create_task(first.append("w", action=f"thawed.n{n}")) for n in range(5)]
    await eventually(lambda: run_sql(database, f"{SESSIONS} wait_event = 'PgSleep'"))
    frozen.send(signal.SIGSTOP)
    await run_sql(database, "DELETE FROM gate")
    await eventually(lambda: run_sql(database, f"{SESSIONS} state = 'idle in transaction'"))
    assert (await second.append("w", action="other.node")).expect(201)["seq"] == 2
    frozen.send(signal.SIGCONT)
    seqs = sorted(answer.expect(201)["seq"] for answer in await asyncio.gather(*group))
    assert seqs == [3, 4, 5, 6, 7]
    stored = await second.history("w", order="asc")
    assert [event["seq"] for event in stored] == [1, 2, *seqs]
    assert sorted(event["action"] for event in stored[2:]) == [f"thawed.n{n}" for n in range(5)]


@on_postgresql
@pytest.mark.parametrize("state", ["40P01", "40001"])
async def test_a_collision_is_tried_again(api: Api, database: Database, state: str) -> None:
    """A group that fails because of a deadlock or serialization failure is retried."""
    (await api.append("w")).expect(201)
    await run_sql(
        database,
        "CREATE SEQUENCE tries",
        f"CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') < 3 THEN "
        f"RAISE EXCEPTION 'collision' USING ERRCODE = '{state}'; END IF; RETURN NULL; END $$",
        "CREATE TRIGGER collide AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION collide()",
    )
    answers = await asyncio.gather(*(api.append("w") for _ in range(5)))
    assert sorted(answer.expect(201)["seq"] for answer in answers) == [2, 3, 4, 5, 6]


async def test_a_stop_while_appends_wait_for_a_lock(
    make_process: MakeProcess, http: aiohttp.ClientSession, database_url: str
) -> None:
    """The drain takes at most its window, and appends that wait for a lock get a response."""
    process = make_process(drain_seconds=3)
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    async with nothing_written(database_url):
        waiting = [asyncio.create_task(api.append("w")) for _ in range(3)]
        await eventually(lambda: queued(api))
        process.send(signal.SIGTERM)
        for answer in await asyncio.gather(*waiting):
            assert (answer.status, answer.error) == (503, "store_unavailable")
        assert await process.ended() == 0


async def queued(api: Api) -> bool:
    """Check whether three events wait to be stored."""
    return b"streamer_append_queue_events 3.0" in (await api.get("/metrics")).body


@on_sqlite
async def test_a_stop_while_postgresql_is_frozen(
    own_cluster: OwnCluster, make_process: MakeProcess, http: aiohttp.ClientSession
) -> None:
    """The drain takes at most its window, even if PostgreSQL does not close its connections."""
    process = make_process(drain_seconds=3, database_url=own_cluster.url("postgres"))
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    own_cluster.freeze()
    asking = asyncio.create_task(api.append("w"))
    await eventually(lambda: unready(api))
    process.send(signal.SIGTERM)
    assert (await asking).status == 503
    assert await process.ended() == 0


async def unready(api: Api) -> bool:
    """Check whether the server reports that it cannot work."""
    return (await api.get("/readyz")).status == 503
