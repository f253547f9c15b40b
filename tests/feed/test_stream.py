"""Streams: replay followed by live events over server-sent events, with real sockets and databases."""

import asyncio
import gc
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import streamer
from streamer.app import Server
from streamer.core.ports import Page
from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api, events, make_event
from tests.support.databases import trim
from tests.support.sse import SseReader
from tests.support.waiting import eventually

WS = "stream"
PACKAGE = str(Path(streamer.__file__).parent)
ONE_EVENT = 256 * 1024
"""The maximum size of an event. A read returns at most one event of this size."""
BEGINNING = "2000-01-01T00:00:00Z"


async def seqs_of(reader: SseReader, count: int) -> list[int]:
    """Return the seqs of the next `count` events."""
    return [event["seq"] for event in await reader.events(count)]


# ---- frames


async def test_a_live_stream_begins_with_synced_and_brings_stored_bytes(api: Api) -> None:
    """A live stream starts with `synced` and the position, and then sends each stored event with its position as id."""
    (await api.append(WS)).expect(201)
    async with await api.stream(WS) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        synced = await stream.next()
        assert synced.event == "synced"
        assert synced.json == {"position": synced.id}
        assert synced.retry is not None, "the first real block contains retry"
        stored = await api.append(WS, details={"text": "line one\nline two\r\n\x00 ünïcode"})
        block = await stream.next()
        assert (block.event, block.data) == ("activity", stored.body.decode())
        assert block.id == synced.id.rpartition(".")[0] + f".{stored.json['seq']}"  # type: ignore[union-attr]


async def test_replay_from_position_timestamp_and_beginning(api: Api) -> None:
    """`Last-Event-ID` takes precedence over `after`, which may be a position or a timestamp. An empty value counts as absent."""
    stored = (await api.append_all(WS, [{}] * 5)).expect(201)["events"]
    head = (await api.get(events(WS))).expect(200)["position"]
    second = head.rpartition(".")[0] + ".2"
    for options in (
        {"last_event_id": second},
        {"last_event_id": second, "after": head},
        {"after": second},
        {"after": stored[1]["timestamp"]},
    ):
        async with await api.stream(WS, **options) as stream:
            assert await seqs_of(stream, 3) == [3, 4, 5]
            assert (await stream.next()).event == "synced"
    async with await api.stream(WS, after="", last_event_id="") as stream:
        assert (await stream.next()).event == "synced"


async def test_a_long_replay_joins_live_without_hole_or_double(api: Api) -> None:
    """Events stored during a replay arrive once, after the missed ones."""
    for _ in range(3):
        (await api.append_all(WS, [{"details": {"x": "y" * 500}}] * 500)).expect(201)
    async with await api.stream(WS, after=BEGINNING) as stream:
        blocks = [await stream.next() for _ in range(10)]
        (await api.append_all(WS, [{}] * 100)).expect(201)
        blocks += [await stream.next() for _ in range(1591)]
    assert [block.json["seq"] for block in blocks if block.event == "activity"] == list(range(1, 1601))
    (synced,) = [index for index, block in enumerate(blocks) if block.event == "synced"]
    assert 1500 <= synced <= 1600, "once, after the missed events or the first new ones"


@pytest.mark.parametrize(
    "garbage", ["x", "1", "abc.", ".5", "abc.-1", "abc.1.2", "ABC.1", "abc.99999999999999999999", "é.1"]
)
async def test_garbage_positions_are_refused(api: Api, garbage: str) -> None:
    """An invalid position gets 400 with its name, in the header and in the parameter."""
    (await api.append(WS)).expect(201)
    answer = await api.get(f"{events(WS)}/stream", headers={"Last-Event-ID": garbage})
    assert "Last-Event-ID" in answer.expect(400)["error"]["details"]["fields"]
    answer = await api.get(f"{events(WS)}/stream", after=garbage)
    assert "after" in answer.expect(400)["error"]["details"]["fields"]


async def test_http_1_0_gets_the_same_without_chunks(api: Api, server: Server) -> None:
    """Over HTTP/1.0, events are not chunked and the stream ends with the connection."""
    (await api.append(WS)).expect(201)
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    path = f"{events(WS)}/stream?after={BEGINNING}"
    writer.write(f"GET {path} HTTP/1.0\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert (await reader.readuntil(b"event: activity\n")).startswith(b"retry: ")
    await server.connections.drain(0)
    rest = await reader.read()
    assert rest.endswith(b'event: closed\ndata: {"reason":"shutdown","reconnect":true}\n\n')
    writer.close()


# ---- filters and heartbeats


async def test_filters_on_replay_and_live(api: Api) -> None:
    """The same filter applies to missed and to live events."""
    batch = [{"action": f"issue.{verb}"} for verb in ("created", "updated")] * 3
    (await api.append_all(WS, batch)).expect(201)
    async with await api.stream(WS, after=BEGINNING, action="issue.updated") as stream:
        assert await seqs_of(stream, 3) == [2, 4, 6]
        assert (await stream.next()).event == "synced"
        (await api.append_all(WS, batch)).expect(201)
        assert await seqs_of(stream, 3) == [8, 10, 12]
    async with await api.stream(WS, actor_id="!ann", q="nothing has this") as stream:
        assert (await stream.next()).event == "synced"


async def test_heartbeat_and_checkpoints(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """An idle stream sends heartbeats. When a filter stops all events, the resume point still advances."""
    server = await make_server(heartbeat_seconds=1)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    async with await api.stream(WS, action="never.happens") as stream:
        synced = await stream.next()
        await eventually(lambda: _has_ping(stream))
        (await api.append_all(WS, [{}] * 4)).expect(201)
        checkpoint = await stream.next()
        assert (checkpoint.event, checkpoint.data) == (None, None)
        assert checkpoint.id == synced.id.replace(".1", ".5")  # type: ignore[union-attr]
        assert b": ping\n\n" not in stream.raw, "a comment ends with one newline"


async def _has_ping(stream: SseReader) -> bool:
    await stream._fill()
    return b": ping\n" in stream.raw


# ---- gaps


async def test_gap_when_events_were_removed(api: Api, database: Database) -> None:
    """When a reader's next events have been removed, it gets a gap with the reason and continues after it."""
    (await api.append_all(WS, [{}] * 10)).expect(201)
    head = (await api.get(events(WS))).expect(200)["position"]
    epoch = head.rpartition(".")[0]
    await trim(database, below=7)
    async with await api.stream(WS, last_event_id=f"{epoch}.2") as stream:
        gap = await stream.next()
        assert gap.event == "gap"
        assert gap.json == {"from": 3, "to": 6, "reason": "retention", "position": f"{epoch}.6"}
        assert gap.id == f"{epoch}.6"
        assert await seqs_of(stream, 4) == [7, 8, 9, 10]
    async with await api.stream(WS, last_event_id=f"{epoch}.6") as stream:
        assert await seqs_of(stream, 1) == [7], "no gap exactly at the edge"
    expired = await api.get(events(WS), after=f"{epoch}.2")
    assert expired.expect(410)["error"]["details"] == {"earliest": f"{epoch}.6", "head": head}


async def test_gap_when_the_position_is_of_another_log(api: Api) -> None:
    """A position of another epoch or after the head is reported as a reset, followed by this log's events or new ones."""
    (await api.append_all(WS, [{}] * 3)).expect(201)
    head = (await api.get(events(WS))).expect(200)["position"]
    epoch = head.rpartition(".")[0]
    async with await api.stream(WS, last_event_id="other.40") as stream:
        gap = await stream.next()
        assert gap.json == {"from": 41, "to": None, "reason": "reset", "position": f"{epoch}.0"}
        assert await seqs_of(stream, 3) == [1, 2, 3]
    async with await api.stream(WS, last_event_id=f"{epoch}.9") as stream:
        assert (await stream.next()).json == {"from": 4, "to": 9, "reason": "reset", "position": head}
        assert (await stream.next()).event == "synced"


async def test_deleting_a_workspace_ends_its_streams_and_its_epoch(api: Api) -> None:
    """When a workspace is deleted, its streams end. A recreated one has another epoch, and an old position is a reset."""
    (await api.append_all(WS, [{}] * 3)).expect(201)
    stream = await api.stream(WS)
    synced = await stream.next()
    (await api.delete(f"/v1/workspaces/{WS}")).expect(204)
    closed = await stream.next("closed")
    assert closed.json == {"reason": "workspace_deleted", "reconnect": False}
    await stream.ended()
    assert (await api.get(f"{events(WS)}/stream")).error == "workspace_not_found"
    (await api.append(WS)).expect(201)
    async with await api.stream(WS, last_event_id=synced.id) as again:
        assert (await again.next("gap")).json["reason"] == "reset"
        assert await seqs_of(again, 1) == [1]


# ---- the lifetime of readers


def descriptors_open() -> int:
    """Count this process's file descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_reader_that_vanishes_leaves_nothing_behind(
    api: Api, server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Hundreds of aborted connections leave no task, descriptor, channel or traceback."""
    (await api.append_all(WS, [{}] * 20)).expect(201)

    async def come_and_go(index: int) -> None:
        stream = await api.stream(WS, **({"after": BEGINNING} if index % 2 else {}))
        await stream.next()
        stream.abort()

    await asyncio.gather(*(come_and_go(i) for i in range(50)))  # opens the database's connections
    await eventually(lambda: not server.channels._channels)
    gc.collect()
    tasks, descriptors = len(asyncio.all_tasks()), descriptors_open()
    for _ in range(6):
        await asyncio.gather(*(come_and_go(i) for i in range(50)))
    await eventually(lambda: not server.channels._channels)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    # The pool of database connections may have grown by a few, but not by one for each of the 300.
    await eventually(lambda: descriptors_open() <= descriptors + 10)
    assert not any(server.connections._wheel)
    assert not server.subscribers._places._by_account
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


async def test_no_task_of_ours_and_no_queue_for_a_reader(api: Api, server: Server) -> None:
    """An idle reader costs the server aiohttp's own handler and nothing else."""
    (await api.append(WS)).expect(201)

    def ours() -> int:
        """Count the tasks that run code of this project."""
        frames = [frame for task in asyncio.all_tasks() for frame in task.get_stack(limit=1)]
        return sum(frame.f_code.co_filename.startswith(PACKAGE) for frame in frames)

    before = ours()
    streams = await asyncio.gather(*(api.stream(WS) for _ in range(50)))
    for stream in streams:
        await stream.next("synced")
    await eventually(lambda: ours() <= before)  # a turn of a loop may have one of its own for a moment
    ((cohort,),) = next(iter(server.subscribers._audiences.values())).cohorts.values()
    assert len(cohort.members) == 50, "equal subscriptions are one cohort"
    (await api.append(WS)).expect(201)
    for stream in streams:
        assert await seqs_of(stream, 1) == [2]
        stream.close()


async def test_a_slow_reader_is_not_dropped_and_slows_nobody(
    make_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    """A reader that reads nothing falls back to the log without delaying others, and later receives everything."""
    server = await make_server(ring_bytes=16 * 1024, write_buffer_bytes=4 * 1024, append_queue_events=100_000)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    slow = await api.stream(WS, receive_buffer=4096)
    await slow.next("synced")
    quick = await api.stream(WS)
    await quick.next("synced")
    total = 0
    blob = {"details": {"blob": "x" * 8000}}

    def fell_back() -> bool:
        return any(
            reader.session.state.name == "CATCH_UP"
            for reader in server.subscribers._audiences[server.channels._channels[WS]].readers
        )

    while not fell_back() or total < 300:  # far more than the ring and the buffers hold
        (await api.append_all(WS, [blob] * 100)).expect(201)
        assert len(await quick.events(100)) == 100
        total += 100
    assert await seqs_of(slow, total) == list(range(2, total + 2))
    (await api.append(WS)).expect(201)
    assert await seqs_of(slow, 1) == [total + 2]
    slow.close()
    quick.close()


async def test_huge_events_are_read_a_few_at_a_time(
    make_server: MakeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 events of 256 KiB arrive once each by replay, gap filling and history, and no read holds many of them."""
    server = await make_server(ring_bytes=16 * 1024, poll_seconds=0.05)
    api = Api(http, server.url, ADMIN_KEY)
    pages: list[int] = []
    fills: list[int] = []
    for name, sizes in (("page", pages), ("frames", fills)):
        monkeypatch.setattr(server.subscribers._log, name, _measured(getattr(server.subscribers._log, name), sizes))
    huge = [{"details": {"blob": "x" * 259_000}}] * 4
    for _ in range(16):
        (await api.append_all(WS, huge)).expect(201)
    assert [event["seq"] for event in await api.history(WS, order="asc", limit=1000)] == list(range(1, 65))
    assert 7 * 2**20 < max(pages) <= 8 * 2**20
    pages.clear()
    async with await api.stream(WS, after=BEGINNING) as stream:
        assert await seqs_of(stream, 64) == list(range(1, 65))
        assert max(pages) <= ONE_EVENT
        await stream.next("synced")
        elsewhere = await make_server()  # this node gets no news of it and finds it in the log
        (await api.at(elsewhere.url).append_all(WS, huge)).expect(201)
        assert await seqs_of(stream, 4) == [65, 66, 67, 68]
        assert max(fills) <= ONE_EVENT, "one at a time, because each exceeds the ring"


def _measured(read: Any, sizes: list[int]) -> Any:
    """Wrap reading of the log and record the bytes of events returned."""

    async def measured(*given: Any, **named: Any) -> Any:
        found = await read(*given, **named)
        bodies = found.events if isinstance(found, Page) else found[1]
        sizes.append(sum(len(event.body) for event in bodies))
        return found

    return measured


async def test_readers_at_one_place_share_what_is_read(
    make_server: MakeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many readers connect at one position, the log is queried once for its head and once for each chunk."""
    server = await make_server()
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append_all(WS, [{}] * 200)).expect(201)
    gate, asked = asyncio.Event(), Counter[str]()
    for name in ("head", "page"):
        monkeypatch.setattr(
            server.subscribers._log, name, _held(getattr(server.subscribers._log, name), name, gate, asked)
        )
    position = (await api.get(f"/v1/workspaces/{WS}")).expect(200)["position"]
    opening = [asyncio.create_task(api.stream(WS, after=position.rpartition(".")[0] + ".1")) for _ in range(60)]
    await eventually(
        lambda: server.subscribers._places._by_account and server.subscribers._places._by_account.total() == 60
    )
    gate.set()
    for stream in await asyncio.gather(*opening):
        assert await seqs_of(stream, 199) == list(range(2, 201))
        stream.close()
    assert asked["head"] == 1
    assert asked["page"] <= 4


def _held(read: Any, name: str, gate: asyncio.Event, asked: Counter[str]) -> Any:
    """Wrap reading of the log: count the calls and wait for a gate."""

    async def held(*given: Any, **named: Any) -> Any:
        asked[name] += 1
        await gate.wait()
        return await read(*given, **named)

    return held


async def test_what_comes_at_once_may_be_more_than_the_ring(
    make_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    """Live readers receive a batch larger than the ring without a read of the log."""
    server = await make_server(ring_bytes=16 * 1024)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    streams = [await api.stream(WS) for _ in range(20)]
    for stream in streams:
        await stream.next("synced")
    (await api.append_all(WS, [{"details": {"blob": "x" * 1000}}] * 50)).expect(201)
    for stream in streams:
        assert await seqs_of(stream, 50) == list(range(2, 52))
        stream.close()
    metrics = (await api.get("/metrics")).body.decode()
    assert "streamer_catch_ups_total 0.0" in metrics


async def test_no_event_has_the_name_of_a_route(api: Api) -> None:
    """A path that has the form of an event's id but is a stream supports its own methods only."""
    (await api.append(WS)).expect(201)
    for name in ("stream", "ws"):
        for method in ("HEAD", "POST", "DELETE"):
            answer = await api.request(method, f"{events(WS)}/{name}")
            assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    assert (await api.get(f"{events(WS)}/stats")).expect(404)["error"]["code"] == "not_found"


async def test_streams_of_one_key_are_bounded(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A stream above the limit gets 429. A stream that ends makes room for another."""
    server = await make_server(max_streams_per_key=2)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    streams = [await api.stream(WS) for _ in range(2)]
    refused = await api.get(f"{events(WS)}/stream")
    assert (refused.status, refused.error) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0
    streams.pop().abort()

    async def there_is_room() -> bool:
        stream = await api.stream(WS)
        streams.append(stream)
        return stream.status == 200

    await eventually(there_is_room)
    for stream in streams:
        stream.close()


async def test_a_stream_ends_with_its_key(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A revoked key's streams are closed at once, an expired key's at the next heartbeat. Other streams continue."""
    server = await make_server(heartbeat_seconds=1)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    made = (await api.post(f"/v1/workspaces/{WS}/keys", {"name": "k", "template": "read_only"})).expect(201)
    stream, other = await api.with_key(made["key"]).stream(WS), await api.stream(WS)
    await stream.next("synced")
    (await api.delete(f"/v1/workspaces/{WS}/keys/{made['id']}")).expect(204)
    assert (await stream.next("closed")).json == {"reason": "credential_revoked", "reconnect": False}
    await stream.ended()
    (await api.append(WS)).expect(201)
    assert await seqs_of(other, 2) == [3, 4]  # the revocation, and the append
    other.close()


async def test_stopping_the_server_says_so(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """When the server stops, streams end with a reason and the advice to reconnect."""
    server = await make_server()
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    stream = await api.stream(WS)
    await stream.next("synced")
    await server.connections.drain(0)
    assert (await stream.next("closed")).json == {"reason": "shutdown", "reconnect": True}
    await stream.ended()


# ---- several nodes


async def test_two_nodes_without_a_bus_hear_of_each_other(
    make_server: MakeServer, http: aiohttp.ClientSession, database_url: str
) -> None:
    """A node polls the log, so another node's event arrives within the polling interval."""
    one, two = [Api(http, (await make_server(poll_seconds=0.05)).url, ADMIN_KEY) for _ in range(2)]
    (await one.append(WS)).expect(201)
    async with await one.stream(WS) as stream:
        await stream.next("synced")
        for round_ in range(5):
            (await two.append_all(WS, [{}] * 3)).expect(201)
            (await one.append(WS)).expect(201)
            assert await seqs_of(stream, 4) == list(range(2 + 4 * round_, 6 + 4 * round_))
    position = (await two.get(events(WS))).expect(200)["position"]
    (await two.append(WS)).expect(201)
    async with await one.stream(WS, last_event_id=position) as stream:
        assert await seqs_of(stream, 1) == [22], "a position ahead of this node is not a reset"


async def test_a_burst_larger_than_the_ring(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Events that do not fit into the ring are read from the log, and none is lost."""
    server = await make_server(ring_bytes=16 * 1024)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    async with await api.stream(WS) as stream, await api.stream(WS, actor_type="user") as filtered:
        await stream.next("synced")
        await filtered.next("synced")
        batch: list[dict[str, Any]] = [make_event(details={"n": n, "x": "y" * 100}) for n in range(1000)]
        (await api.post(events(WS), batch)).expect(201)
        assert await seqs_of(stream, 1000) == list(range(2, 1002))
        assert await seqs_of(filtered, 1000) == list(range(2, 1002))
