"""`streamer backup` and `streamer restore` work beside a running server, verify their result and are atomic, on both databases."""

# ruff: noqa: ASYNC240 - a few small files

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api, events
from tests.support.cli import Cli
from tests.support.databases import Cluster, fresh_database, run_sql
from tests.support.tools import find
from tests.support.waiting import eventually

WS = "w"
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def here(tmp_path: Path, database_url: str) -> Cli:
    """Run commands on the test's database, with PostgreSQL's programs on the PATH."""
    programs = find("postgresql")
    path = os.environ["PATH"] if programs is None else f"{programs}:{os.environ['PATH']}"
    return Cli(tmp_path, {"STREAMER_DATABASE_URL": database_url, "PATH": path})


@pytest.fixture
def empty_url(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Create an empty database of the same kind."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'restored.db'}"
        return
    cluster: Cluster = request.getfixturevalue("postgresql")
    with fresh_database(cluster) as url:
        yield url


def file_of(url: str) -> Path:
    """Return the file of an SQLite database."""
    return Path(url.removeprefix("sqlite:///"))


def rows(file: Path, query: str) -> list[Any]:
    """Query an SQLite file."""
    with closing(sqlite3.connect(file)) as opened:
        return opened.execute(query).fetchall()


@asynccontextmanager
async def appending(api: Api) -> AsyncIterator[list[int]]:
    """Append events while the block runs. Yields the list of acknowledged seqs."""
    acknowledged: list[int] = []
    over = asyncio.Event()

    async def go_on() -> None:
        while not over.is_set():
            stored = (await api.append_all(WS, [{"details": {"text": "x" * 500}}] * 5)).expect(201)
            acknowledged.extend(event["seq"] for event in stored["events"])

    working = [asyncio.create_task(go_on()) for _ in range(3)]
    try:
        yield acknowledged
    finally:
        over.set()
        await asyncio.gather(*working)


async def test_a_backup_beside_a_server_that_takes_appends(
    make_process: MakeProcess, http: aiohttp.ClientSession, here: Cli, empty_url: str, tmp_path: Path
) -> None:
    """A backup beside a busy server is complete and can be restored elsewhere; readers of the lost tail receive a gap."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append_all(WS, [{"details": {"text": "x" * 2000}}] * 500)).expect(201)
    (await api.append("other")).expect(201)
    async with appending(api) as acknowledged:
        await eventually(lambda: len(acknowledged) > 20)
        before = max(acknowledged)
        made = await here("backup", "copy")
        during = max(acknowledged)
    assert made.code == 0, made.err
    assert during > before, "the appends continue"
    copy = tmp_path / "copy"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy"]
    checked = await here("backup", "--verify", "copy")
    assert checked.code == 0, checked.err
    assert "2 logs with" in checked.out
    position = (await api.get(events(WS))).expect(200)["position"]
    assert await process.stop() == 0

    there = Cli(tmp_path, here.variables | {"STREAMER_DATABASE_URL": empty_url, "STREAMER_DATA_DIR": "elsewhere"})
    restored = await there("restore", "copy")
    assert restored.code == 0, restored.err
    process = make_process(database_url=empty_url, data_dir=tmp_path / "elsewhere")
    await process.start()
    api = api.at(process.url)
    found = await api.history(WS, order="asc", limit=1000)
    seqs = [event["seq"] for event in found]
    assert seqs == [*range(1, len(seqs) + 1)]
    assert before <= len(seqs)
    assert len(await api.history("other")) == 1
    (await api.append_all(WS, [{}] * 1000)).expect(201)
    assert (await api.get(events(WS), after=position)).error == "position_expired"
    async with await api.stream(WS, last_event_id=position) as reader:
        gap = await reader.next()
        assert (gap.event, gap.json["reason"]) == ("gap", "reset")
        assert [event["seq"] for event in await reader.events(3)] == [1, 2, 3]


async def test_a_database_is_replaced_on_demand_and_kept(
    make_process: MakeProcess, http: aiohttp.ClientSession, here: Cli, database_url: str, tmp_path: Path
) -> None:
    """`restore` refuses a database that is in use or not empty. With --force, it keeps a copy of the replaced database."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append_all(WS, [{}] * 5)).expect(201)
    assert (await here("backup", "copy")).code == 0
    (await api.append_all(WS, [{}] * 5)).expect(201)
    position = (await api.get(events(WS))).expect(200)["position"]
    for arguments in (["restore", "copy", "--force"], ["migrate", "--restored"]):
        refused = await here(*arguments)
        assert refused.code == 1
        assert "in use by" in refused.err
        assert len(refused.err.splitlines()) == 1
    (await api.append(WS)).expect(201)
    process.kill()
    await eventually(lambda: gone(database_url))
    refused = await here("restore", "copy")
    assert (refused.code, "not empty" in refused.err) == (1, True)
    done = await here("restore", "copy", "--force")
    assert done.code == 0, done.err
    (aside,) = [line.split()[-1] for line in done.lines if "kept" in line]
    database = Database(database_url)
    try:
        if database.is_sqlite:
            assert rows(Path(aside), "SELECT max(seq) FROM events") == [(11,)]
            left = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("streamer.db"))
            assert left == ["streamer.db", Path(aside).name, "streamer.db.lock"]
        else:
            assert await run_sql(database, f"SELECT max(seq) FROM {aside}.events") == [(11,)]
    finally:
        await database.close()
    await process.start()
    assert [event["seq"] for event in await api.history(WS, order="asc")] == [1, 2, 3, 4, 5]
    assert (await api.get(events(WS), after=position)).error == "position_expired"
    assert (await api.append(WS)).expect(201)["seq"] == 6
    assert (await api.append("new")).expect(201)["seq"] == 1


async def gone(database_url: str) -> bool:
    """Check whether PostgreSQL has noticed that a server has ended."""
    if database_url.startswith("sqlite"):
        return True
    database = Database(database_url)
    try:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return await run_sql(database, query) == [(0,)]
    finally:
        await database.close()
