"""The lifetime of servers and connections: drain, rotation, stalls, expiring credentials, and thousands of short connections."""

import asyncio
import gc
import json
import re
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil
import pytest
from aiohttp import web

from streamer.app import Server, running
from streamer.core.clock import format_timestamp, now_us
from streamer.http.middleware import malformed_response
from streamer.observe.metrics import Metrics
from streamer.observe.watchdog import Watchdog
from streamer.server.connection import Runner
from streamer.server.listening import bind
from streamer.settings import Settings
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer, WallClock
from tests.support.api import Api, events, make_event
from tests.support.databases import nothing_written
from tests.support.process import ServerProcess
from tests.support.raw import RawConnection, request_head
from tests.support.readers import (
    BEGINNING,
    CONNECTED,
    KINDS,
    LONG_POLL,
    Diary,
    Ended,
    Kind,
    Reader,
    Refused,
    seqs_of,
    take,
)
from tests.support.waiting import SECONDS, eventually
from tests.support.websocket import open_socket

WS = "living"

SOON = 8
"""Time limit in seconds, on a busy machine, for what the documentation promises in two seconds."""

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
of_every_connected_kind = pytest.mark.parametrize("kind", CONNECTED, ids=lambda kind: kind.name)


async def started(process: ServerProcess, http: aiohttp.ClientSession) -> Api:
    """Start a server with one event in the workspace."""
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    return api


async def subscribers(api: Api) -> float:
    """Count the server's readers."""
    lines = (await api.get("/metrics")).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("streamer_subscribers{"))


async def refuses_connections(url: str) -> bool:
    """Check that nothing listens on this port."""
    try:
        async with await RawConnection.open(url):
            return False
    except OSError:
        return True


# ---- SIGTERM


async def test_sigterm_drains(make_process: MakeProcess, http: aiohttp.ClientSession, database_url: str) -> None:
    """On SIGTERM, readers are told why and when to reconnect, queued appends are stored and answered, and the exit code is 0."""
    process = make_process(drain_seconds=10)
    api = await started(process, http)
    readers = [await kind.open(api, WS) for kind in CONNECTED]
    for reader in readers:
        await reader.synced()
    async with nothing_written(database_url):
        appends = [asyncio.create_task(api.append(WS, id=f"in-flight-{number}")) for number in range(10)]
        await eventually(lambda: _waiting_for_the_disk(api, 10))
        process.send(signal.SIGTERM)
        for kind, reader in zip(CONNECTED, readers, strict=True):
            ended = await reader.ended()
            assert (ended.reason, ended.reconnect) == ("shutdown", True), kind.name
        await eventually(lambda: refuses_connections(process.url))
    for append in appends:
        (await append).expect(201)
    assert await process.ended() == 0
    assert "Traceback" not in process.log, process.log[-6000:]
    await process.start()
    stored = await api.history(WS)
    assert {event["id"] for event in stored} > {f"in-flight-{number}" for number in range(10)}


async def _waiting_for_the_disk(api: Api, count: int) -> bool:
    lines = (await api.get("/metrics")).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("streamer_append_queue_events")) >= count


@on_sqlite
async def test_an_append_that_is_still_arriving_at_sigterm(
    make_process: MakeProcess, http: aiohttp.ClientSession
) -> None:
    """An append whose body is incomplete at SIGTERM is read to its end, stored and answered."""
    process = make_process(drain_seconds=10)
    api = await started(process, http)
    stream = await api.stream(WS)
    await stream.next("synced")
    body = json.dumps(make_event(id="in-flight")).encode()
    sent: dict[str, str | int] = {
        "Content-Type": "application/json",
        "Content-Length": len(body),
        "Expect": "100-continue",
    }
    async with await RawConnection.open(process.url) as append:
        await append.send(request_head("POST", events(WS), {**api.headers, **sent}))
        assert (await append.answer()).status == 100  # the server waits for the body
        await append.send(body[:10])
        process.send(signal.SIGTERM)
        assert (await stream.next("closed")).json == {"reason": "shutdown", "reconnect": True}
        await append.send(body[10:])
        answer = await append.answer()
        assert (answer.status, answer.json["id"]) == (201, "in-flight")
    stream.close()
    assert await process.ended() == 0


@on_sqlite
async def test_closes_are_spread(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """Hundreds of connections are closed one after another with different reconnect times, so clients do not return at once."""
    process = make_process(drain_seconds=10)
    api = await started(process, http)
    streams = await asyncio.gather(*(api.stream(WS) for _ in range(300)))
    sockets = await asyncio.gather(*(open_socket(api, WS) for _ in range(50)))
    for stream in streams:
        await stream.next("synced")
    for each in sockets:
        await each.next("synced")

    async def stream_closes(stream: Any) -> int:
        block = await stream.next("closed")
        assert block.json == {"reason": "shutdown", "reconnect": True}
        await stream.ended()
        assert block.retry is not None
        return int(block.retry)

    async def socket_closes(each: Any) -> None:
        await each.next("closed", reason="shutdown", reconnect=True)
        assert await each.closed() == (4000, "shutdown")

    closing = asyncio.gather(*(stream_closes(stream) for stream in streams), *(socket_closes(each) for each in sockets))
    process.send(signal.SIGTERM)
    retries = [retry for retry in await closing if retry is not None]
    assert await process.ended() == 0
    assert len(set(retries)) > 200
    assert min(retries) >= 500
    assert max(retries) <= 60_000
    assert max(retries) - min(retries) > 1000, "spread over more than a second"
    closed = [  # by the server's log, because this process may have been delayed
        datetime.fromisoformat(line["timestamp"])
        for line in map(orjson.loads, re.findall(r"^{.*}$", process.log, re.MULTILINE))
        if line["event"] == "request" and line["path"].endswith(("/stream", "/ws"))
    ]
    assert len(closed) == 350
    assert max(closed) - min(closed) > timedelta(seconds=0.2), "not all at once"


@on_sqlite
async def test_a_drain_ends_within_its_window(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """With more readers than the usual pace allows, some stalled, all are closed within the window and the exit code is 0."""
    process = make_process(drain_seconds=1, ring_bytes=16 * 1024, write_buffer_bytes=4096)
    api = await started(process, http)
    stuck = [await kind.open(api, WS, after=BEGINNING, receive_buffer=4096) for kind in CONNECTED]
    await fill(api, stuck)
    streams = await asyncio.gather(*(api.stream(WS, action="never.happens") for _ in range(1000)))
    for stream in streams:
        await stream.next("synced")
    process.send(signal.SIGTERM)
    for stream in streams:
        assert (await stream.next("closed")).json == {"reason": "shutdown", "reconnect": True}
        stream.close()
    assert await process.ended() == 0
    assert "Traceback" not in process.log, process.log[-6000:]
    for reader in stuck:
        reader.abort()


@on_sqlite
async def test_a_second_sigterm_ends_at_once(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """A second signal ends the drain."""
    process = make_process(drain_seconds=600, body_timeout=600)
    api = await started(process, http)
    stream = await api.stream(WS)
    await stream.next("synced")
    head = request_head("POST", events(WS), {**api.headers, "Content-Type": "application/json", "Content-Length": 100})
    async with await RawConnection.open(process.url) as append:
        await append.send(head + b"{")
        process.send(signal.SIGTERM)
        await stream.next("closed")
        assert psutil.Process(process.pid).is_running(), "it waits for the append"
        process.send(signal.SIGTERM)
        await process.ended()
    stream.close()


async def fill(api: Api, readers: list[Reader], *, events_each: int = 50) -> int:
    """Append until the server has sent each of these readers, which read nothing, back to the log. Return the number of events."""
    blob = {"details": {"blob": "x" * 8000}}
    while True:
        last = (await api.append_all(WS, [blob] * events_each)).expect(201)["events"][-1]["seq"]
        lines = (await api.get("/metrics")).body.decode().splitlines()
        fallen = sum(float(line.split()[-1]) for line in lines if line.startswith("streamer_catch_ups_total"))
        assert last < 20_000
        if fallen >= len(readers) or last > 3000:
            return int(last)


@on_sqlite
async def test_a_stop_is_announced_first(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """During STREAMER_DRAIN_NOTICE_SECONDS a stopping server is not ready, but serves everything; its responses close their connections."""
    process = make_process(drain_notice_seconds=600)
    api = await started(process, http)
    stream = await api.stream(WS)
    await stream.next("synced")
    assert "Connection" not in (await api.get(events(WS))).headers
    process.send(signal.SIGTERM)

    async def is_not_ready() -> bool:
        return (await api.get("/readyz")).status == 503

    await eventually(is_not_ready)
    for query in ({}, {"for": "reads"}):
        answer = await api.get("/readyz", **query)
        assert (answer.error, answer.json["error"]["details"]) == ("overloaded", {"reason": "draining"})
    (await api.get("/livez")).expect(200)
    answer = await api.append(WS)
    assert (answer.status, answer.headers["Connection"]) == (201, "close")
    assert await stream.events(1)
    readers = [await kind.open(api, WS) for kind in KINDS]
    for reader in readers:
        await reader.synced()
        reader.close()
    stream.close()
    process.send(signal.SIGTERM)
    await process.ended()


@on_sqlite
async def test_a_draining_server_opens_no_streams(
    http: aiohttp.ClientSession, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a server closes its streams it opens none, with 503 `draining`, and serves other requests. It stops listening after that."""
    drained, may_end = asyncio.Event(), asyncio.Event()
    settings = Settings(data_dir=tmp_path / "data", port=0, database_url=database_url, admin_key=ADMIN_KEY)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(settings))
        api = Api(http, server.url, ADMIN_KEY)
        (await api.append(WS)).expect(201)
        drain = server.connections.drain

        async def slow_drain(seconds: float) -> None:
            await drain(seconds)
            drained.set()
            await may_end.wait()

        monkeypatch.setattr(server.connections, "drain", slow_drain)
        stopping = asyncio.create_task(stack.aclose())
        await drained.wait()
        for kind in CONNECTED:
            with pytest.raises(Refused) as refused:
                await kind.open(api, WS)
            assert (refused.value.status, refused.value.details) == (503, {"reason": "draining"}), kind.name
        head = (await api.get(events(WS))).expect(200)["position"]
        answer = await api.get(events(WS), after=head, wait=30)
        assert (answer.status, answer.error, answer.headers["Retry-After"]) == (503, "overloaded", "1")
        (await api.append(WS)).expect(201)
        assert len((await api.get(events(WS), after=head, wait=30)).expect(200)["events"]) == 1
        may_end.set()
        await stopping
    assert await refuses_connections(server.url)


async def test_connections_that_were_not_accepted_yet_are_served() -> None:
    """When a server stops listening, connections that wait in the kernel are served, not reset."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="served")

    application = web.Application()
    application.router.add_get("/", answer)
    runner = Runner(application, Watchdog(Metrics()), malformed_response)
    await runner.setup()
    (listening,) = await bind("127.0.0.1", 0)
    await web.SockSite(runner, listening).start()
    address = listening.getsockname()
    waiting = []
    for _ in range(20):  # without an await: the server does not get to accept them
        client = socket.create_connection(address)
        client.sendall(request_head("GET", "/"))
        waiting.append(client)
    await runner.stop_listening([listening])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    await runner.cleanup()
    for client in waiting:
        with client:
            assert client.recv(10_000).endswith(b"served")


# ---- rotation


async def test_connections_rotate(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Connections end at their maximum age with `rotated`, at different times. Reconnecting clients get each event once."""
    api = Api(http, (await make_server(connection_max_age=0.3, heartbeat_seconds=1)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    until = asyncio.get_running_loop().create_future()
    diaries = {kind.name: (kind, Diary()) for kind in CONNECTED}
    reading = [asyncio.create_task(diary.keep(kind, api, WS, until=10**9)) for kind, diary in diaries.values()]
    last = 1

    def all_rotated() -> bool:
        return all(len(diary.endings) >= 3 for _, diary in diaries.values())

    while not all_rotated():
        assert not any(task.done() for task in reading), [task.result() for task in reading if task.done()]
        last = (await api.append_all(WS, [{}] * 2)).expect(201)["events"][-1]["seq"]
        await asyncio.sleep(0.005)  # waits for the age
    for _, diary in diaries.values():
        await eventually(lambda diary=diary: diary.seqs[-1] == last)  # type: ignore[misc]
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    until.cancel()
    for name, (_, diary) in diaries.items():
        assert diary.seqs == list(range(1, last + 1)), name
        assert set(diary.endings) == {"rotated"}, name


@on_sqlite
async def test_ages_differ(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Connections that opened together end at different times, with different reconnect times."""
    api = Api(http, (await make_server(connection_max_age=1, heartbeat_seconds=1)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    streams = await asyncio.gather(*(api.stream(WS) for _ in range(40)))
    loop = asyncio.get_running_loop()
    ends: list[float] = []

    async def end(stream: Any) -> int:
        block = await stream.next("closed")
        ends.append(loop.time())
        assert block.json == {"reason": "rotated", "reconnect": True}
        await stream.ended()
        assert block.retry is not None
        return int(block.retry)

    retries = await asyncio.gather(*(end(stream) for stream in streams))
    assert max(ends) - min(ends) > 0.2
    assert len(set(retries)) > 20


# ---- stalled readers


@of_every_connected_kind
async def test_a_reader_that_takes_nothing_is_closed(
    make_server: MakeServer, http: aiohttp.ClientSession, kind: Kind
) -> None:
    """A reader that reads nothing is closed as `stalled` and resumes exactly. Slow readers and idle readers stay."""
    server = await make_server(
        stall_seconds=1, ring_bytes=16 * 1024, write_buffer_bytes=4096, append_queue_events=100_000, heartbeat_seconds=1
    )
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    stalled = await kind.open(api, WS, receive_buffer=4096)
    steady = await kind.open(api, WS, receive_buffer=4096)
    idle = await kind.open(api, WS, action="never.happens")
    for reader in (stalled, steady, idle):
        assert await reader.synced() == []
    position = stalled.position
    total = await fill(api, [stalled, steady])
    seen: list[int] = []

    async def stalled_is_gone() -> bool:
        nonlocal total
        if seen and seen[-1] == total:
            total += 1
            (await api.append(WS)).expect(201)
        seen.extend(event["seq"] for event in await steady.some())  # a little at a time
        return await subscribers(api) == 2

    await eventually(stalled_is_gone)
    # From here at once: on a busy machine the slow reader must not wait until the others are read.
    rest = asyncio.create_task(seqs_of(steady, total - 1 - len(seen)))
    seqs: list[int] = []
    ended: Ended | None = None
    while ended is None:
        try:
            seqs += [event["seq"] for event in await stalled.some()]
            position = stalled.position
        except Ended as error:
            ended = error
    stalled.abort()
    assert ended.reason in {"stalled", None}
    assert ended.reconnect
    again = await kind.open(api, WS, position=position)
    seqs += await seqs_of(again, total - 1 - len(seqs))
    assert seqs == list(range(2, total + 1))
    seen += await rest
    assert seen == list(range(2, total + 1))
    (await api.append(WS, action="never.happens")).expect(201)
    for reader in (again, steady, idle):
        assert await seqs_of(reader, 1) == [total + 1]
        reader.close()


@of_every_connected_kind
async def test_a_stalled_reader_is_told_when_it_can_be(
    make_server: MakeServer, http: aiohttp.ClientSession, kind: Kind
) -> None:
    """A reader that was closed as `stalled` finds the reason after the data sent before, if it reads again soon."""
    server = await make_server(stall_seconds=1, ring_bytes=16 * 1024, write_buffer_bytes=4096, heartbeat_seconds=1)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    stalled = await kind.open(api, WS, receive_buffer=4096)
    await stalled.synced()
    await fill(api, [stalled])
    await eventually(lambda: _nobody_reads(api))
    ended = await stalled.ended()
    assert (ended.reason, ended.reconnect) == ("stalled", True)


async def _nobody_reads(api: Api) -> bool:
    return await subscribers(api) == 0


# ---- expired and revoked credentials


def of_each_node(nodes: list[Api]) -> Iterator[tuple[Kind, Api]]:
    """Return every kind of reader on every node."""
    return ((kind, node) for node in nodes for kind in KINDS)


async def all_read(api: Api, nodes: list[Api], **options: Any) -> dict[str, asyncio.Task[Ended]]:
    """Open a reader of every kind on every node and read until it is ended."""
    found = {}
    for number, (kind, node) in enumerate(of_each_node(nodes)):
        reader = await kind.open(node, WS, **options)
        assert await reader.synced() == []
        found[f"{kind.name} on node {number // len(KINDS)}"] = asyncio.create_task(reader.ended())
    await eventually(lambda: _so_many_read(nodes))
    assert api.url
    return found


async def _so_many_read(nodes: list[Api]) -> bool:
    return all([await subscribers(Api(node._session, node.url, ADMIN_KEY)) == len(KINDS) for node in nodes])


async def check_ended(readers: dict[str, asyncio.Task[Ended]], reasons: set[str | None]) -> None:
    """Require that all readers end soon and must not reconnect; a poll gets 401 or 404."""
    async with asyncio.timeout(SOON):
        for name, reader in readers.items():
            ended = await reader
            allowed = {"unauthenticated", "workspace_not_found"} if name.startswith(LONG_POLL.name) else reasons
            assert ended.reason in allowed, name
            assert not ended.reconnect, name


async def two_nodes(make_server: MakeServer, http: aiohttp.ClientSession) -> list[Api]:
    """Start two servers on one database, with one event in the workspace."""
    nodes = [Api(http, (await make_server()).url, ADMIN_KEY) for _ in range(2)]
    (await nodes[0].append(WS)).expect(201)
    return nodes


async def test_revocation_ends_readers_on_all_nodes(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A revoked key's readers of every kind end within seconds on all nodes, even in an idle workspace."""
    nodes = await two_nodes(make_server, http)
    made = (await nodes[0].post(f"/v1/workspaces/{WS}/keys", {"name": "k", "template": "read_only"})).expect(201)
    other = await nodes[1].with_key(await nodes[0].create_key(WS)).stream(WS)
    await other.next("synced")
    other_polls = asyncio.create_task(other.next("activity"))
    readers = {}
    for number, (kind, node) in enumerate(of_each_node([node.with_key(made["key"]) for node in nodes])):
        reader = await kind.open(node, WS)
        assert await reader.synced() == []
        readers[f"{kind.name} {number}"] = asyncio.create_task(reader.ended())
    (await nodes[0].delete(f"/v1/workspaces/{WS}/keys/{made['id']}")).expect(204)
    await check_ended(readers, {"credential_revoked"})
    (await nodes[0].append(WS, id="later")).expect(201)
    assert (await other_polls).json["id"] == "later"
    other.close()


async def test_expiry_ends_readers_on_all_nodes(
    make_server: MakeServer, http: aiohttp.ClientSession, wall_clock: WallClock
) -> None:
    """When a key expires, its readers of every kind end on all nodes."""
    nodes = await two_nodes(make_server, http)
    key = await nodes[0].create_key(WS, expires_at=format_timestamp(now_us() + 30_000_000))
    readers = await all_read(nodes[0], [node.with_key(key) for node in nodes])
    wall_clock.advance(31)
    await check_ended(readers, {"credential_expired"})


async def test_deletion_ends_readers_on_all_nodes(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """When a workspace is deleted, its readers of every kind end on all nodes and must not reconnect."""
    nodes = await two_nodes(make_server, http)
    readers = await all_read(nodes[0], nodes)
    (await nodes[0].delete(f"/v1/workspaces/{WS}")).expect(204)
    await check_ended(readers, {"workspace_deleted"})


async def test_a_workspace_created_again_elsewhere_is_another_log(
    make_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    """If a node missed the deletion and recreation of a workspace, its readers end as deleted or reset and never mix two logs."""
    nodes = await two_nodes(make_server, http)
    readers = {}
    for kind in CONNECTED:
        reader = await kind.open(nodes[1], WS)
        await reader.synced()
        readers[kind.name] = reader
    (await nodes[0].delete(f"/v1/workspaces/{WS}")).expect(204)
    (await nodes[0].append_all(WS, [{}] * 5)).expect(201)
    for name, reader in readers.items():
        ended: Ended | None = None
        while ended is None:
            try:
                raise AssertionError(f"{name} got events of the other log: {await reader.some()}")
            except Ended as error:
                ended = error
        reader.abort()
        assert ended.reason in {"workspace_deleted", "reset"}, name


async def test_sign_out_ends_readers_on_all_nodes(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Signing out ends the session's readers of every kind, in the same tab and on other nodes."""
    servers = [await make_server() for _ in range(2)]
    nodes = [Api(http, server.url, ADMIN_KEY) for server in servers]
    (await nodes[0].append(WS)).expect(201)
    code = (await servers[0].sign_in_link()).partition("#sign-in=")[2]
    nobody = [node.with_key(None) for node in nodes]
    cookie = (await nobody[0].post("/v1/session", {"code": code})).headers["Set-Cookie"].split(";")[0]
    readers = {}
    for number, (kind, node) in enumerate(of_each_node(nobody)):
        reader = await kind.open(node, WS, headers={"Cookie": cookie, "Origin": node.url})
        assert await reader.synced() == []
        readers[f"{kind.name} {number}"] = asyncio.create_task(reader.ended())
    (await nobody[0].delete("/v1/session", headers={"Cookie": cookie, "Origin": nodes[0].url})).expect(204)
    await check_ended(readers, {"signed_out", "credential_revoked"})


async def test_a_socket_publishes_no_longer_than_its_key(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A multiplexed socket without a subscription ends with its key, and nothing is stored through it afterwards."""
    nodes = await two_nodes(make_server, http)
    made = (await nodes[0].post(f"/v1/workspaces/{WS}/keys", {"name": "k", "template": "full_access"})).expect(201)
    sockets = [await open_socket(node.with_key(made["key"])) for node in nodes]
    publish = {"type": "publish", "workspace": WS, "event": make_event()}
    for each in sockets:
        assert (await each.ask(publish, "published"))["type"] == "published"
    (await nodes[0].delete(f"/v1/workspaces/{WS}/keys/{made['id']}")).expect(204)
    async with asyncio.timeout(SOON):
        for each in sockets:
            closed = await each.next("closed")
            assert "sub" not in closed
            assert (closed["reason"], closed["reconnect"]) == ("credential_revoked", False)
            assert await each.closed() == (4501, "credential_revoked")
    assert len(await nodes[0].history(WS, category="activity")) == 3


# ---- short connections


async def test_come_and_go_of_every_kind(
    api: Api, server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Hundreds of readers of every kind that disconnect at any time leave no task, descriptor, channel or traceback."""
    (await api.append_all(WS, [{}] * 20)).expect(201)

    async def come_and_go(number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        reader = await kind.open(api, WS, **({"after": BEGINNING} if number % 3 else {}))
        if number % 3:
            await take(reader, number % 20 + 1)
        elif number % 2:
            await reader.synced()
        reader.abort()

    async def many(count: int) -> None:
        await asyncio.gather(*(come_and_go(number) for number in range(count)))
        await eventually(lambda: not server.channels._channels)

    await many(60)
    gc.collect()
    tasks, descriptors = len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))  # noqa: ASYNC240
    for _ in range(5):
        await many(60)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    await eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 10)
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def churn(port: int, requests: list[bytes], count: int) -> None:
    """Connect, send a request and disconnect repeatedly: every third time before the response, otherwise during it."""
    linger = struct.pack("ii", 1, 0)
    for number in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(requests[number % len(requests)])
            if number % 3:
                assert connection.recv(1024).startswith((b"HTTP/1.1 200", b"HTTP/1.1 101"))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@on_sqlite
async def test_twenty_thousand_come_and_go(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """Twenty thousand short connections of all kinds leave no reader, descriptor or thread, and memory stops growing."""
    total = 20_000
    process = make_process(log_level="warning")
    api = await started(process, http)
    (await api.append_all(WS, [{}] * 10)).expect(201)
    handshake = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    head = (await api.get(events(WS), limit=1)).expect(200)["position"]
    requests = [
        request_head("GET", f"{events(WS)}/stream", dict(api.headers)),
        request_head("GET", f"{events(WS)}/stream?after={BEGINNING}", dict(api.headers)),
        request_head("GET", f"{events(WS)}/ws", {**api.headers, **handshake}),
        request_head("GET", f"{events(WS)}/ws?after={BEGINNING}", {**api.headers, **handshake}),
        request_head("GET", "/v1/ws", {**api.headers, **handshake}),
        request_head("GET", f"{events(WS)}?after={BEGINNING}&wait=30", dict(api.headers)),
    ]
    # Nobody could wait for this response.
    waiting = request_head("GET", f"{events(WS)}?after={head}&wait=30", dict(api.headers))
    server = psutil.Process(process.pid)

    async def come_and_go(count: int) -> tuple[int, int, int]:
        """Open and drop this many connections. Return the server's descriptors, threads and memory."""
        await asyncio.gather(*(asyncio.to_thread(churn, process.port, requests, count // 5) for _ in range(4)))
        for _ in range(count // 5 // 50):
            connections = [await RawConnection.open(process.url) for _ in range(50)]
            for connection in connections:
                await connection.send(waiting)
                connection.abort()
        await eventually(lambda: _nobody_reads(api))
        return server.num_fds(), server.num_threads(), server.memory_info().rss

    before = await come_and_go(total // 4)
    after = await come_and_go(total - total // 4)
    assert after[0] <= before[0] + 8, "descriptors"
    assert after[1] <= before[1], "threads"
    assert after[2] <= before[2] + 6 * 2**20, "memory"
    (await api.append(WS)).expect(201)
    assert await process.stop() == 0
    assert "Traceback" not in process.log, process.log[-6000:]
