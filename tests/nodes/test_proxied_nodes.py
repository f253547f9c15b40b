"""Two nodes as processes on one PostgreSQL, behind nginx with deploy/nginx.conf."""

import asyncio
import re
from collections import defaultdict

import aiohttp
import pytest

from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api, events
from tests.support.nginx import Nginx
from tests.support.process import ServerProcess
from tests.support.readers import CONNECTED, KINDS, LONG_POLL, SSE, WEBSOCKET, Diary, seqs_of
from tests.support.waiting import eventually
from tests.support.websocket import open_socket

WS = "w"

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Nodes:
    """Two nodes and the proxy in front of them."""

    def __init__(self, processes: list[ServerProcess], nginx: Nginx, api: Api) -> None:
        self.processes = processes
        self.nginx = nginx
        self.api = api
        """Calls through the proxy."""

    @property
    def requests(self) -> list[tuple[str, int, list[str]]]:
        """Return the requests that the proxy has logged: path, status, and the nodes that were tried."""
        found = re.findall(r'"\w+ (\S+)" (\d+) \d+ \S+ (.+)$', self.nginx.log, re.MULTILINE)
        return [(path, int(status), tried.split(", ")) for path, status, tried in found]

    async def serving(self, workspace: str) -> ServerProcess:
        """Return the node that serves a workspace's requests."""
        path = f"{events(workspace)}/{len(self.requests)}"
        await self.api.get(path)
        tried = await eventually(lambda: [tried for asked, _, tried in self.requests if asked == path])
        (node,) = [process for process in self.processes if tried[0][-1] == process.url.removeprefix("http://")]
        return node

    async def workspaces_of_both(self) -> list[str]:
        """Return four workspaces, of which each node serves two."""
        found: dict[ServerProcess, list[str]] = {process: [] for process in self.processes}
        for number in range(100):
            found[await self.serving(f"w{number}")].append(f"w{number}")
        return [name for names in found.values() for name in names[:2]]

    async def used(self, node: ServerProcess) -> None:
        """Wait until the proxy sends requests to a node that has been away."""
        before = len(self.requests)

        async def is_used() -> bool:
            await self.api.get("/livez")
            return any(tried[-1] == node.url.removeprefix("http://") for _, _, tried in self.requests[before:])

        await eventually(is_used)


@pytest.fixture
async def nodes(
    request: pytest.FixtureRequest, make_process: MakeProcess, nginx: Nginx, http: aiohttp.ClientSession
) -> Nodes:
    """Start the nodes, with a workspace, and the proxy. The parameter has settings."""
    settings = getattr(request, "param", {})
    processes = [make_process(node_name=name, **settings) for name in ("one", "two")]
    for process in processes:
        await process.start()
    await nginx.start_before_nodes([process.url for process in processes])
    api = Api(http, nginx.url, ADMIN_KEY)
    (await api.append(WS, id="first")).expect(201)
    return Nodes(processes, nginx, api)


async def test_streams_are_not_buffered(nodes: Nodes) -> None:
    """Each event arrives over SSE, WebSocket and long poll before the next one is appended."""
    api = nodes.api
    readers = [await kind.open(api, WS) for kind in CONNECTED]
    for reader in readers:
        await reader.synced()
    poller = await LONG_POLL.open(api, WS)
    for seq in range(2, 7):
        polled = asyncio.create_task(seqs_of(poller, 1))
        (await api.append(WS)).expect(201)
        for reader in readers:
            assert await seqs_of(reader, 1) == [seq]
        assert await polled == [seq]
    for reader in readers:
        reader.close()


async def test_a_workspace_has_one_node(nodes: Nodes) -> None:
    """Appends, reads and streams of a workspace reach one node, those of many workspaces both; requests without one do, too."""
    api, names = nodes.api, [f"w{number}" for number in range(16)]
    for name in names:
        for _ in range(3):
            (await api.append(name)).expect(201)
        (await api.get(events(name))).expect(200)
        (await api.get(f"/api/companies/{name}/activity")).expect(200)
        (await api.stream(name)).abort()
        (await open_socket(api, name)).abort()
    for _ in range(32):
        (await api.get("/v1/workspaces", limit=1)).expect(200)

    def seen() -> dict[str, list[list[str]]]:
        by_workspace = defaultdict(list)
        for path, _, tried in nodes.requests:
            by_workspace[next((part for part in path.split("/") if part in names), path)].append(tried)
        return by_workspace

    await eventually(lambda: all(len(seen()[name]) == 7 for name in names) and len(seen()["/v1/workspaces"]) == 32)
    found = {name: {node for tried in seen()[name] for node in tried} for name in [*names, "/v1/workspaces"]}
    assert all(len(found[name]) == 1 for name in names), found
    assert len(set.union(*(found[name] for name in names))) == 2
    assert len(found["/v1/workspaces"]) == 2


async def test_a_node_is_killed(nodes: Nodes) -> None:
    """When a workspace's node dies, its readers reconnect through the proxy to the other one and resume exactly."""
    api, total = nodes.api, 300
    diaries = {kind.name: (kind, Diary()) for kind in (SSE, WEBSOCKET, LONG_POLL)}
    reading = [asyncio.create_task(diary.keep(kind, api, WS, until=total)) for kind, diary in diaries.values()]
    await eventually(lambda: all(diary.connections for _, diary in diaries.values()))
    node = await nodes.serving(WS)
    for number in range(2, total + 1):
        if number == total // 2:
            node.kill()
        # A client that does not know whether an append was stored repeats it with the same id.
        answer = await api.append(WS, id=f"e{number}")
        while answer.status == 502:
            answer = await api.append(WS, id=f"e{number}")
        assert answer.status in {200, 201}, answer
    await asyncio.gather(*reading)
    for name, (_, diary) in diaries.items():
        assert diary.seqs == list(range(1, total + 1)), name
        assert diary.connections == (1 if name == LONG_POLL.name else 2), name
    assert (await nodes.serving(WS)) is not node
    await node.start()
    await nodes.used(node)
    assert (await nodes.serving(WS)) is node


@pytest.mark.parametrize("nodes", [{"drain_notice_seconds": 1}], indirect=True)
async def test_a_rolling_restart(nodes: Nodes) -> None:
    """Both nodes restart in turn under load: nothing is lost, doubled or out of order, and no request fails.

    A long poll may get the documented 503 `overloaded` with the reason `draining`; it is repeated.
    """
    api, names = nodes.api, await nodes.workspaces_of_both()
    ends, counts = asyncio.Event(), dict.fromkeys(names, 1)

    async def write(name: str) -> None:
        while not ends.is_set():
            (await api.append(name, id=f"e{counts[name]}")).expect(201)
            counts[name] += 1

    async def go_on() -> None:
        """Wait until each writer has stored something more."""
        reached = dict(counts)
        await eventually(
            lambda: any(map(asyncio.Task.done, writing)) or all(counts[name] > reached[name] + 10 for name in names)
        )
        for task in writing:
            if task.done():
                task.result()

    for name in names:
        (await api.append(name, id="first")).expect(201)
    diaries = [(name, kind, Diary()) for name in names for kind in KINDS]
    reading = [asyncio.create_task(diary.keep(kind, api, name, until=10**9)) for name, kind, diary in diaries]
    writing = [asyncio.create_task(write(name)) for name in names]
    await eventually(lambda: all(diary.seqs for _, _, diary in diaries))
    for process in nodes.processes:
        assert await process.stop() == 0
        assert "Traceback" not in process.log
        await go_on()
        await process.start()
        await nodes.used(process)
        await go_on()
    ends.set()
    await asyncio.gather(*writing)
    for name, kind, diary in diaries:
        await eventually(lambda name=name, diary=diary: diary.seqs[-1] >= counts[name])  # type: ignore[misc]
        assert diary.seqs == list(range(1, counts[name] + 1)), (name, kind.name)
        assert set(diary.endings) <= {"shutdown", "overloaded"}, (name, kind.name)
        assert diary.endings.count("shutdown") == (0 if kind is LONG_POLL else len(diary.endings)), (name, kind.name)
        assert diary.endings or kind is LONG_POLL, (name, kind.name)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    # A stream that one node does not open any more is opened by the other one, without the client's help.
    failed = [(path, status) for path, status, _ in nodes.requests if status >= 500]
    assert all(status == 503 and path.endswith("/events") for path, status in failed), failed
