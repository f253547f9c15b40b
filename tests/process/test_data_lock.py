"""A data directory or SQLite file is used by one process. A second process names the first and writes nothing."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api, events
from tests.support.cli import Cli
from tests.support.waiting import eventually


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files that a start writes."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in {".key", ".db"}}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_second_process_is_refused(make_process: MakeProcess, tmp_path: Path) -> None:
    """A second process exits with one line that names the first, and the key and database stay unchanged.

    The lock is released when its process ends, even if it is killed.
    """
    server = make_process(database_url=None, admin_key=None)
    await server.start()
    folder, file = tmp_path / "data", tmp_path / "data" / "streamer.db"
    before = contents(folder)
    (tmp_path / "link.db").symlink_to(file)
    key = {"STREAMER_ADMIN_KEY": "another-key-0123456789", "STREAMER_PORT": "0", "STREAMER_DRAIN_SECONDS": "0"}
    elsewhere = key | {"STREAMER_DATA_DIR": str(tmp_path / "other")}
    by_folder = Cli(tmp_path, key | {"STREAMER_DATA_DIR": str(folder)})
    by_file = Cli(tmp_path, elsewhere | {"STREAMER_DATABASE_URL": f"sqlite:///{file}"})
    by_link = Cli(tmp_path, elsewhere | {"STREAMER_DATABASE_URL": "sqlite:///link.db"})
    for cli, command, what in ((by_folder, "serve", folder), (by_file, "rebuild", file), (by_link, "migrate", file)):
        ended = await cli(command)
        assert (ended.code, ended.out) == (1, "")
        refused = f"{what} is in use by process {server.pid}: stop it first; for several processes, use PostgreSQL"
        assert ended.err.endswith(f"Error: {refused}\n")
    assert contents(folder) == before
    server.kill()
    assert (await by_link("migrate")).code == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_restart_waits_for_the_drain(
    make_process: MakeProcess, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A server that starts while another one drains waits for the data, and then serves."""
    old, new = make_process(), make_process()
    await old.start()
    api = Api(http, old.url, ADMIN_KEY)
    (await api.append("w", id="before")).expect(201)
    new.spawn()
    await eventually(lambda: "waiting_for_data" in new.log)
    assert await old.stop() == 0
    after = Api(http, new.url, ADMIN_KEY)
    await eventually(lambda: is_ready(after))
    assert [event["id"] for event in (await after.get(events("w"))).expect(200)["events"]] == ["before"]


async def is_ready(api: Api) -> bool:
    """Return whether a server is ready."""
    with contextlib.suppress(aiohttp.ClientError):
        return (await api.get("/readyz")).status == 200
    return False


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_nodes_share_a_folder(make_process: MakeProcess, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """Nodes on one PostgreSQL database may share a data directory with commands. A server on SQLite may not join them."""
    one, two = make_process(), make_process()
    await asyncio.gather(one.start(), two.start())
    (await Api(http, one.url, ADMIN_KEY).append("w")).expect(201)
    (await Api(http, two.url, ADMIN_KEY).append("w")).expect(201)
    lite = make_process(database_url=None, drain_seconds=0)
    lite.spawn()
    assert await lite.ended() == 1
    assert f"{tmp_path}/data is in use by process " in lite.log
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["streamer.lock"]
