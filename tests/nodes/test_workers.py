"""Several server processes on one machine: they share a port, are started again when they end, and stop in turn."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api
from tests.support.cli import Cli
from tests.support.process import ServerProcess
from tests.support.sse import SseReader
from tests.support.waiting import eventually

WS = "w"

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def workers_of(process: ServerProcess) -> list[psutil.Process]:
    """Return the workers that run."""
    return [child for child in psutil.Process(process.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


async def both(http: aiohttp.ClientSession, process: ServerProcess) -> list[dict[str, Any]]:
    """Wait until a worker hears the other one; return both as they are listed."""

    async def heard() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:  # a connection of its own, to any of them
            api = Api(session, process.url, ADMIN_KEY)
            found = (await api.get("/v1/nodes")).expect(200)
            return found["nodes"] if len(found["nodes"]) == 2 and found["bus_state"] == "ok" else []

    return await eventually(heard)


async def streams(process: ServerProcess, count: int, **params: object) -> Sequence[SseReader]:
    """Open streams, each on a connection of its own."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    url = f"{process.url}/v1/workspaces/{WS}/events/stream"
    return [await SseReader.open(url, headers=headers, params=params) for _ in range(count)]


@on_postgresql
async def test_workers_share_a_port(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """Readers of all workers receive what any of them stores, and a worker that is killed is started again."""
    process = make_process(workers=2, poll_seconds=60)
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    names = {node["name"][-2:] for node in await both(http, process)}
    assert names == {"-1", "-2"}
    readers = await streams(process, 16)
    await eventually(lambda: are_spread(process, 16))
    seqs = list(range(2, 22))
    for _ in seqs:
        async with aiohttp.ClientSession() as session:
            (await Api(session, process.url, ADMIN_KEY).append(WS)).expect(201)
    for reader in readers:
        assert [event["seq"] for event in await reader.events(20)] == seqs
        reader.close()
    before = workers_of(process)
    before[0].kill()
    await eventually(lambda: len(workers_of(process)) == 2 and before[0] not in workers_of(process))
    await both(http, process)
    assert before[1] in workers_of(process)


async def are_spread(process: ServerProcess, count: int) -> bool:
    """Return whether the workers have that many streams together, and each has some."""
    async with aiohttp.ClientSession() as session:
        nodes = (await Api(session, process.url, ADMIN_KEY).get("/v1/nodes")).expect(200)["nodes"]
    found = [node["streams"] for node in nodes]
    return sum(found) == count and all(found)


@on_postgresql
async def test_they_stop_in_turn(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """SIGTERM stops all workers with the exit code 0, and readers are told to reconnect."""
    process = make_process(workers=3, drain_seconds=3)
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    await eventually(lambda: len(workers_of(process)) == 3)
    workers = workers_of(process)
    readers = await streams(process, 6)
    process.send(signal.SIGTERM)
    for reader in readers:
        assert (await reader.next("closed")).json["reason"] == "shutdown"
        reader.close()
    assert await process.ended() == 0
    assert not any(worker.is_running() for worker in workers)


@on_postgresql
async def test_workers_end_with_the_process_that_started_them(
    make_process: MakeProcess, http: aiohttp.ClientSession
) -> None:
    """If the first process is killed, its workers stop, so that a restart finds the port free."""
    process = make_process(workers=2, drain_seconds=1)
    await process.start()
    await eventually(lambda: len(workers_of(process)) == 2)
    workers = workers_of(process)
    process.kill()
    await eventually(lambda: not any(worker.is_running() for worker in workers))
    await process.start()
    await both(http, process)


@on_postgresql
async def test_a_port_in_use_is_refused(make_process: MakeProcess, tmp_path: Path, database_url: str) -> None:
    """Workers do not join another server on its port, although the kernel would let them."""
    process = make_process(workers=2)
    await process.start()
    variables = {"STREAMER_WORKERS": "2", "STREAMER_PORT": str(process.port), "STREAMER_DATABASE_URL": database_url}
    ended = await Cli(tmp_path, variables)("serve")
    assert ended.code == 1
    assert "Address already in use" in ended.err


async def test_workers_need_postgresql(tmp_path: Path) -> None:
    """Several processes on SQLite are refused with a sentence that names PostgreSQL."""
    ended = await Cli(tmp_path, {})("serve", "--workers", "2")
    assert ended.code == 2
    assert "several processes need PostgreSQL" in ended.err
