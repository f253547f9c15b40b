"""A node of the last version before several nodes were supported, beside one of this version, on one PostgreSQL."""

import asyncio
import io
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import text

from streamer.store.engine.database import Database
from streamer.store.migrate import HEAD
from tests.conftest import ADMIN_KEY, READ_SECONDS
from tests.support.api import Api
from tests.support.databases import Cluster
from tests.support.process import ServerProcess
from tests.support.readers import KINDS, Diary
from tests.support.tools import ROOT, require
from tests.support.waiting import eventually

OLD_REVISION = "54852b33b81c8db295b28c9cf1e738e1a5a42fd3"
OLD_HEAD = "0010"
"""The newest migration of that revision."""
WS = "w"


@pytest.fixture
def old_package(tmp_path: Path) -> Path:
    """Return a folder with the old version's package, from the repository's history."""
    git = [str(require("git")), "-c", f"safe.directory={ROOT}"]
    found = subprocess.run([*git, "cat-file", "-e", OLD_REVISION], cwd=ROOT, check=False, capture_output=True)
    if found.returncode:
        pytest.skip(f"{OLD_REVISION[:7]} is not in this clone, which is shallow or an export: git fetch --unshallow")
    archive = [*git, "archive", OLD_REVISION, "streamer", "static"]
    packed = subprocess.run(archive, cwd=ROOT, check=True, capture_output=True).stdout
    folder = tmp_path / "old"
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def empty_url(postgresql: Cluster) -> Iterator[str]:
    """Create a PostgreSQL database without tables."""
    name = f"test_{uuid.uuid4().hex}"
    postgresql.sql(f"CREATE DATABASE {name} TEMPLATE template0")
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture
def versions(old_package: Path, empty_url: str, tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Prepare a node of the old version and one of this version; the test starts them."""
    given = {"DATABASE_URL": empty_url, "ADMIN_KEY": ADMIN_KEY, "READ_SECONDS": READ_SECONDS}
    variables = {f"STREAMER_{name}": str(value) for name, value in given.items()}
    old = ServerProcess(tmp_path, {**variables, "PYTHONPATH": str(old_package)})
    new = ServerProcess(tmp_path, variables)
    yield old, new
    for process in (old, new):
        process.clean()


async def test_an_update_without_a_pause(
    versions: tuple[ServerProcess, ServerProcess], http: aiohttp.ClientSession, empty_url: str
) -> None:
    """The new node migrates the database while the old one serves. Then both serve, and nothing is lost, doubled or out of order."""
    old, new = versions
    await old.start()
    assert await _migration(empty_url) == OLD_HEAD
    apis = [Api(http, process.url, ADMIN_KEY) for process in versions]
    (await apis[0].append(WS)).expect(201)
    stored, ends = 1, asyncio.Event()

    async def write(api: Api) -> None:
        nonlocal stored
        while not ends.is_set():
            (await api.append(WS)).expect(201)
            stored += 1

    async def more() -> None:
        """Wait until the writers have stored something more."""
        before = stored
        await eventually(lambda: any(map(asyncio.Task.done, tasks)) or stored > before + 50)
        for task in tasks:
            if task.done():
                task.result()

    def read_on(api: Api) -> None:
        for kind in KINDS:
            diaries.append(Diary())
            tasks.append(asyncio.create_task(diaries[-1].keep(kind, api, WS, until=10**9)))

    diaries: list[Diary] = []
    writers = [asyncio.create_task(write(apis[0]))]
    tasks = [*writers]
    read_on(apis[0])
    await more()
    await new.start()
    assert await _migration(empty_url) == HEAD
    await more()
    writers.append(asyncio.create_task(write(apis[1])))
    tasks.append(writers[-1])
    read_on(apis[1])
    await more()

    # Workspaces and keys that one version makes are used by the other one.
    for here, there in (apis, apis[::-1]):
        name = f"made-by-{'old' if here is apis[0] else 'new'}"
        (await here.append(name, entity={"type": "issue", "id": "1"})).expect(201)
        key = await here.create_key(name)
        assert (await there.with_key(key).append(name, entity={"type": "issue", "id": "1"})).expect(201)["seq"] == 3
        assert [event["seq"] for event in await there.history(name, order="asc")] == [1, 2, 3]
        (await there.get(f"/v1/workspaces/{name}/entities/issue/1")).expect(200)

    await more()
    ends.set()
    await asyncio.gather(*writers)
    for diary in diaries:
        await eventually(lambda diary=diary: diary.seqs and diary.seqs[-1] >= stored)  # type: ignore[misc]
        assert diary.seqs == list(range(1, stored + 1))
        assert diary.endings == []
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for process in versions:
        assert await process.stop() == 0
        assert "Traceback" not in process.log, process.log[-6000:]


async def test_an_old_node_does_not_start_any_more(versions: tuple[ServerProcess, ServerProcess]) -> None:
    """After the migration a node of the old version that restarts exits with a message that names both migrations."""
    old, new = versions
    await new.start()
    old.spawn()
    assert await old.ended() == 1
    assert OLD_HEAD in old.log
    assert HEAD in old.log
    assert "start a newer version" in old.log


async def _migration(url: str) -> str:
    database = Database(url)
    try:
        return str(await database.read(lambda sql: sql.execute(text("SELECT * FROM alembic_version")).scalar_one()))
    finally:
        await database.close()
