"""Three nodes as processes on one PostgreSQL and one Redis, writers on all of them, readers of every kind, and the check of each delivery."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.api import Api, events, make_event
from tests.support.databases import OwnCluster
from tests.support.process import ServerProcess
from tests.support.readers import (
    LOST,
    Ended,
    Event,
    Kind,
    LongPollKind,
    Reader,
    Refused,
    SseKind,
    SubscriptionKind,
    WebSocketKind,
)
from tests.support.redis_server import RedisServer
from tests.support.sse import SseReader
from tests.support.waiting import SECONDS, eventually

WS = "faults"
NODES = 3
WRITERS = 6
SILENCE_SECONDS = 5.0
"""When a reader hears nothing for this long, heartbeats included, it reconnects: its node may be frozen."""
REQUEST_SECONDS = 5.0
PAUSE_SECONDS = 0.02

GONE = (*LOST, TimeoutError, OSError)


class HistoryKind:
    """A service that pages through history, oldest first, and polls."""

    name = "history"
    says_gaps = False
    has_connection = False

    async def open(self, api: Api, workspace: str, *, position: str | None = None, **_: Any) -> "HistoryReader":
        """Start to read after a position."""
        return HistoryReader(api, workspace, position)


class HistoryReader:
    """Reads pages by `after`."""

    def __init__(self, api: Api, workspace: str, position: str | None) -> None:
        self._api = api
        self._workspace = workspace
        self.position = position

    async def some(self) -> list[Event]:
        """Return the next page that has events."""
        while True:
            page = (await self._api.get(events(self._workspace), order="asc", after=self.position, limit=50)).expect(
                200
            )
            self.position = page["position"]
            if page["events"]:
                return list(page["events"])
            await asyncio.sleep(0.1)

    def abort(self) -> None:
        """Do nothing."""


class DialectKind:
    """A client of Evershell's stream, which resumes by the event's id."""

    name = "evershell"

    async def open(self, api: Api, workspace: str, *, position: str | None = None, **_: Any) -> "DialectReader":
        """Start to read after an event's id."""
        return DialectReader(await _open_dialect(api, workspace, position), position)


async def _open_dialect(api: Api, workspace: str, last: str | None) -> Any:
    """Open the dialect's stream."""
    headers = {**api.headers, **({"Last-Event-ID": last} if last else {})}
    params = {} if last else {"after": "2000-01-01T00:00:00Z"}
    return await SseReader.open(f"{api.url}/v1/workspaces/{workspace}/activity/stream", headers=headers, params=params)


class DialectReader:
    """Reads the dialect's stream."""

    def __init__(self, stream: Any, position: str | None) -> None:
        self._stream = stream
        self.position = position

    async def some(self) -> list[Event]:
        """Return the next event."""
        while True:
            block = await self._stream.next()
            if block.data is None:
                continue
            found = block.json
            if "event" in found:
                self.position = block.id
                return [{"id": found["id"], "seq": found["event"]["seq"]}]

    def abort(self) -> None:
        """Drop the connection."""
        self._stream.abort()


KINDS: Sequence[Any] = (SseKind(), WebSocketKind(), SubscriptionKind(), LongPollKind(), HistoryKind(), DialectKind())


@dataclass
class Follower:
    """A reader that moves to the next node whenever it loses one, and resumes at its position."""

    kind: Kind
    node: int
    seqs: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    moves: int = 0
    gaps: int = 0


class Installation:
    """Three nodes under load."""

    def __init__(
        self, folder: Path, cluster: OwnCluster, redis: RedisServer, http: aiohttp.ClientSession, key: str
    ) -> None:
        self.cluster = cluster
        self.redis = redis
        self.nodes: list[ServerProcess] = []
        self.acknowledged: set[str] = set()
        self.followers: list[Follower] = []
        self._folder = folder
        self._http = http
        self._key = key
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._refused = 0

    def api(self, node: int) -> Api:
        """Return a client of a node."""
        return Api(self._http, self.nodes[node % len(self.nodes)].url, self._key)

    async def start(self, database_url: str, redis_urls: Sequence[str]) -> None:
        """Start the nodes and the load."""
        for number, redis_url in enumerate(redis_urls):
            folder = self._folder / f"node-{number}"
            folder.mkdir()
            variables = {
                "STREAMER_DATABASE_URL": database_url,
                "STREAMER_REDIS_URL": redis_url,
                "STREAMER_ADMIN_KEY": self._key,
                "STREAMER_NODE_NAME": f"node-{number}",
                "STREAMER_HEARTBEAT_SECONDS": "1",
                "STREAMER_DRAIN_SECONDS": "2",
                "STREAMER_LOG_LEVEL": "warning",
            }
            self.nodes.append(ServerProcess(folder, variables))
        await self.nodes[0].start()
        await asyncio.gather(*(node.start() for node in self.nodes[1:]))
        (await self.api(0).append(WS, id="first")).expect(201)
        self.acknowledged.add("first")
        await eventually(self._hear_each_other)
        self.followers = [Follower(kind, node) for kind in KINDS for node in range(NODES)]
        self._tasks = [asyncio.create_task(self._follow(follower)) for follower in self.followers]
        self._writers = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]

    async def _hear_each_other(self) -> bool:
        answers = await asyncio.gather(*(self.api(node).get("/v1/nodes") for node in range(NODES)))
        return all(len(answer.expect(200)["nodes"]) == NODES for answer in answers)

    async def _write(self, number: int) -> None:
        """Append one event after the other. An append without an answer is repeated at the next node, with the same id."""
        node, count = number, 0
        while not self._stopping.is_set():
            count += 1
            event_id = f"{number}-{count}"
            while True:
                try:
                    async with asyncio.timeout(REQUEST_SECONDS):
                        answer = await self.api(node).post(events(WS), make_event(id=event_id))
                except GONE:
                    node += 1
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                if answer.status in {200, 201}:
                    self.acknowledged.add(event_id)
                    break
                assert answer.status == 503, answer.body
                node += 1
                self._refused += 1
                await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _follow(self, follower: Follower) -> None:
        position: str | None = None
        while True:
            reader: Reader | None = None
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    given = {"position": position} if position else {"after": "2000-01-01T00:00:00Z"}
                    if position is None and follower.kind.name in {"history", "evershell"}:
                        given = {}
                    reader = await follower.kind.open(self.api(follower.node), WS, **given)
                while True:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        found = await reader.some()
                    position = reader.position
                    follower.seqs += [event["seq"] for event in found]
                    follower.ids += [event["id"] for event in found]
            except (*GONE, Ended, Refused, AssertionError):
                follower.node += 1
                follower.moves += 1
                await asyncio.sleep(PAUSE_SECONDS)
            finally:
                if reader is not None:
                    with contextlib.suppress(Exception):
                        reader.abort()

    async def progress(self, count: int = 60) -> float:
        """Wait until so many further appends are acknowledged and every reader has one of them; return the seconds it took."""
        started = time.monotonic()
        wanted = len(self.acknowledged) + count
        await eventually(lambda: len(self.acknowledged) >= wanted, timeout=2 * SECONDS)
        await eventually(
            lambda: all(len(each.seqs) >= wanted - WRITERS for each in self.followers), timeout=2 * SECONDS
        )
        return time.monotonic() - started

    async def check(self) -> None:
        """Stop the writers, let the readers finish, and compare each delivery with the log."""
        self._stopping.set()
        await asyncio.wait_for(asyncio.gather(*self._writers), 2 * SECONDS)
        log = await eventually(self._log, timeout=2 * SECONDS)
        ids = [event["id"] for event in log]
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1)), "the log has a gap"
        assert len(set(ids)) == len(ids), "an event is stored twice"
        assert self.acknowledged <= set(ids), f"lost: {sorted(self.acknowledged - set(ids))[:10]}"
        for follower in self.followers:
            await eventually(partial(_has, follower, len(ids)), timeout=2 * SECONDS)
            name = f"{follower.kind.name} from node {follower.node}"
            assert follower.seqs == list(range(1, len(ids) + 1)), f"{name}: {_first_wrong(follower.seqs)}"
            assert follower.ids == ids, name

    async def _log(self) -> list[Event]:
        for node in range(NODES):
            with contextlib.suppress(*GONE, AssertionError):
                return await self.api(node).history(WS, order="asc", limit=500)
        return []

    async def stop(self) -> None:
        """End everything."""
        for task in (*self._writers, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._writers, *self._tasks, return_exceptions=True)
        for node in self.nodes:
            node.clean()


def _has(follower: Follower, count: int) -> bool:
    return len(follower.seqs) >= count


def _first_wrong(seqs: Sequence[int]) -> str:
    for place, seq in enumerate(seqs):
        if seq != place + 1:
            return f"{seq} instead of {place + 1}, after {list(seqs[max(place - 3, 0) : place])}"
    return "it ends early"


@contextlib.asynccontextmanager
async def installation(
    folder: Path,
    cluster: OwnCluster,
    redis: RedisServer,
    key: str,
    *,
    redis_urls: Sequence[str] = (),
    database_url: str | None = None,
) -> AsyncIterator[Installation]:
    """Run an installation under load while the block runs."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        made = Installation(folder, cluster, redis, http, key)
        try:
            await made.start(database_url or cluster.url("streamer"), redis_urls or [redis.url] * NODES)
            yield made
        finally:
            await made.stop()
