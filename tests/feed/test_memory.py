"""Memory is limited per node: clients that send slowly or read nothing use up only their own share."""

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.app import Server
from streamer.core.budget import ANONYMOUS, KINDS, SMALL, Budget, Hold
from streamer.core.errors import Overloaded
from streamer.http import decompress
from streamer.settings import SettingsError, load
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api, events, make_event
from tests.support.databases import sqlite_url
from tests.support.raw import RawConnection, request_head
from tests.support.waiting import eventually
from tests.support.websocket import CONTINUATION, TEXT, encode_frame, open_socket

MiB = 2**20
WS = "w"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because these tests do not depend on it."""
    return sqlite_url(tmp_path)


# ---- the budget


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(["resize", "force", "become", "release"]), st.integers(0, 30 * SMALL)
        ),
        max_size=60,
    )
)
def test_the_count_is_the_sum_of_what_is_held(steps: list[tuple[int, str, int]]) -> None:
    """After any changes of holds, the sum is right, no share is exceeded unless forced, and in the end everything is free."""
    refused: list[str] = []
    budget = Budget(32 * SMALL, refused.append)
    accounts = [ANONYMOUS, "a", "a", "b", "b", "c"]
    holds = [budget.hold(KINDS[n % 3], account) for n, account in enumerate(accounts)]
    forced = False
    for index, step, size in steps:
        hold, before = holds[index], holds[index].size
        if step == "resize":
            try:
                hold.resize(size)
                assert hold.size == (size if size > SMALL else 0)
            except Overloaded:
                assert hold.size == before
                assert refused.pop()
        elif step == "force":
            hold.resize(size, force=True)
            forced = True
        elif step == "become":
            hold.become(KINDS[size % 3])
            assert hold.size == before
        else:
            hold.release()
        assert sum(budget.used.values()) == sum(each.size for each in holds)
        if not forced:
            for account in set(accounts):
                held = sum(each.size for each, whose in zip(holds, accounts, strict=True) if whose == account)
                assert held <= budget.share(account)
    for hold in holds:
        hold.release()
    assert budget.used == dict.fromkeys(KINDS, 0)
    budget.check(KINDS[0], "a", 16 * SMALL)


def test_one_account_cannot_use_all() -> None:
    """An account may use half of the budget. The last eighth is for small holders; anonymous callers share a small part."""
    budget = Budget(64 * SMALL)
    mine: list[Hold] = [budget.hold(KINDS[0], "a") for _ in range(2)]
    mine[0].resize(32 * SMALL)
    with pytest.raises(Overloaded):
        mine[1].resize(2 * SMALL)
    budget.hold(KINDS[0], ANONYMOUS).resize(4 * SMALL)
    with pytest.raises(Overloaded):
        budget.hold(KINDS[0], ANONYMOUS).resize(2 * SMALL)
    budget.hold(KINDS[0], "b").resize(20 * SMALL)
    with pytest.raises(Overloaded):
        budget.hold(KINDS[0], "b").resize(2 * SMALL)
    with pytest.raises(Overloaded):
        budget.hold(KINDS[0], "c").resize(2 * SMALL)


def test_small_holders_have_a_reserve() -> None:
    """Only accounts that hold little can use the last eighth, and their small requests are never refused."""
    budget = Budget(256 * SMALL)
    budget.hold(KINDS[0], "a").resize(128 * SMALL)
    budget.hold(KINDS[0], "b").resize(96 * SMALL)
    for account in ("a", "b"):
        with pytest.raises(Overloaded):
            budget.check_small(KINDS[0], account)
    for number in range(8):
        budget.hold(KINDS[0], f"c{number}").resize(4 * SMALL)
    with pytest.raises(Overloaded):
        budget.hold(KINDS[0], "d").resize(2 * SMALL)
    budget.check_small(KINDS[0], "d")


async def test_two_accounts_cannot_use_all(
    make_server: MakeServer, http: aiohttp.ClientSession, open_many: AsyncExitStack
) -> None:
    """While two accounts use their whole shares, a third can append small and larger events, over HTTP and over a socket."""
    node = await node_with(make_server, http, memory_bytes=16 * MiB, max_body_bytes=4 * MiB)
    size, held = 4_190_000, 0
    for api in (node.slow, node.other, node.slow, node.other):
        connection = await open_many.enter_async_context(await RawConnection.open(node.server.url))
        await connection.send(node.head(events(WS), size, api) + b" " * (size - 1))
        held += size - 1
        await eventually(lambda held=held: is_settled(node, held))  # type: ignore[misc]
    answer = await node.slow.append(WS, details={"x": "y" * 200_000})
    assert (answer.status, answer.error) == (503, "overloaded")
    third = node.admin.with_key(await node.admin.create_key(WS))
    (await third.append(WS)).expect(201)
    (await third.append(WS, details={"x": "y" * 200_000})).expect(201)
    async with await open_socket(third, WS) as socket_:
        await socket_.send({"type": "publish", "event": make_event(details={"x": "y" * 100_000})})
        assert (await socket_.next("published"))["created"] is True


def test_a_budget_that_cannot_hold_the_largest_body_stops_the_start() -> None:
    """Otherwise, a client would retry such a body indefinitely."""
    with pytest.raises(SettingsError, match="memory_bytes"):
        load({}, {"STREAMER_MAX_BODY_BYTES": str(128 * MiB)})
    with pytest.raises(SettingsError, match="STREAMER_MEMORY_BYTES"):
        load({}, {"STREAMER_MEMORY_BYTES": str(16 * MiB)})


# ---- requests


class Node:
    """A server with a small budget, and two accounts."""

    def __init__(self, server: Server, admin: Api) -> None:
        self.server = server
        self.admin = admin
        self.slow = self.other = admin

    async def used(self, kind: str) -> int:
        """Return how much of the budget is in use."""
        text = (await self.admin.get("/metrics")).body.decode()
        found = re.search(rf'^streamer_memory_bytes{{kind="{kind}"}} (\S+)$', text, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    async def refused(self, kind: str) -> int:
        """Return the number of refusals."""
        text = (await self.admin.get("/metrics")).body.decode()
        found = re.search(rf'^streamer_memory_refused_total{{kind="{kind}"}} (\S+)$', text, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    async def is_free(self, kind: str) -> bool:
        """Check that the budget is unused."""
        return await self.used(kind) == 0

    def head(self, path: str, length: int, api: Api | None = None, **headers: str | int) -> bytes:
        """Return the head of a POST."""
        said = {} if api is None else api.headers
        return request_head(
            "POST", path, {**said, "Content-Type": "application/json", "Content-Length": length, **headers}
        )


async def node_with(make_server: MakeServer, http: aiohttp.ClientSession, **settings: Any) -> Node:
    """Start a server on which one account may hold 2 MiB by default."""
    small = {"memory_bytes": 4 * MiB, "max_body_bytes": MiB, "max_page_bytes": MiB}
    node = Node(server := await make_server(**(small | settings)), Api(http, "", ADMIN_KEY))
    node.admin = node.admin.at(server.url)
    (await node.admin.put(f"/v1/workspaces/{WS}")).expect(201)
    node.slow, node.other = [node.admin.with_key(await node.admin.create_key(WS)) for _ in range(2)]
    return node


@pytest.fixture
async def node(make_server: MakeServer, http: aiohttp.ClientSession) -> Node:
    """Start a node with the default limits."""
    return await node_with(make_server, http)


@pytest.fixture
async def open_many() -> AsyncIterator[AsyncExitStack]:
    """Collect connections, which are closed at the end."""
    async with AsyncExitStack() as stack:
        yield stack


async def connect(url: str, receive_buffer: int = 4096) -> RawConnection:
    """Connect with a small receive window, so that unread data stays on the server."""
    parts = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (parts.hostname, parts.port))
    return RawConnection(*await asyncio.open_connection(sock=connection, limit=2**12))


async def test_bodies_that_stall(node: Node, open_many: AsyncExitStack) -> None:
    """When one account's unfinished bodies fill its share, it gets 503. Others can append, and disconnecting frees the memory."""
    stalled = [await open_many.enter_async_context(await RawConnection.open(node.server.url)) for _ in range(4)]
    for n, connection in enumerate(stalled):
        await connection.send(node.head(events(WS), 800_000, node.slow) + b" " * 600_000)
        if n < 3:
            await eventually(lambda n=n: at_least(node, 600_000 * (n + 1)))  # type: ignore[misc]
    answer = await stalled[3].answer()
    assert (answer.status, answer.error, answer.headers["retry-after"]) == (503, "overloaded", "1")
    # At once, before any of it is read.
    async with await RawConnection.open(node.server.url) as late:
        await late.send(node.head(events(WS), 800_000, node.slow))
        assert (await late.answer()).error == "overloaded"
    assert await node.refused("request") == 2
    (await node.other.append_all(WS, [{"details": {"x": "y" * 100_000}}] * 5)).expect(201)
    for connection in stalled:
        connection.abort()
    await eventually(lambda: node.is_free("request"))
    (await node.slow.append_all(WS, [{"details": {"x": "y" * 100_000}}] * 5)).expect(201)
    await eventually(lambda: node.is_free("response"))


async def at_least(node: Node, size: int) -> bool:
    """Check whether bodies hold this many bytes."""
    return await node.used("request") >= size


async def is_settled(node: Node, size: int) -> bool:
    """Check whether bodies hold this many bytes, or the last one was refused."""
    return await node.used("request") >= size or await node.refused("request") > 0


async def test_bodies_of_nobody(
    make_server: MakeServer, http: aiohttp.ClientSession, open_many: AsyncExitStack
) -> None:
    """Callers without a credential share little memory, and cannot prevent a small body from being read."""
    node = await node_with(make_server, http, memory_bytes=16 * MiB)
    for _ in range(2):
        connection = await open_many.enter_async_context(await RawConnection.open(node.server.url))
        await connection.send(node.head("/v1/session", 500_000) + b" " * 400_000)
    await eventually(lambda: at_least(node, 800_000))
    async with await RawConnection.open(node.server.url) as one_more:
        await one_more.send(node.head("/v1/session", 500_000))
        assert (await one_more.answer()).error == "overloaded"
    body = b'{"code": "x"}'
    async with await RawConnection.open(node.server.url) as signing_in:
        await signing_in.send(node.head("/v1/session", len(body)) + body[:5])
        await signing_in.send(body[5:])
        assert (await signing_in.answer()).error == "unauthenticated"


async def test_a_packed_body_stays_packed_until_it_is_there(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed body is decompressed only when it is complete, up to the limit, and the result is counted."""
    unpacked: list[int] = []
    parts = decompress._parts

    def counted(data: bytes, encoding: str) -> Iterator[bytes]:
        for part in parts(data, encoding):
            unpacked.append(len(part))
            yield part

    monkeypatch.setattr(decompress, "_parts", counted)
    packed = gzip.compress(b" " * 40 * MiB)
    async with await RawConnection.open(node.server.url) as connection:
        await connection.send(node.head(events(WS), len(packed), node.slow, **{"Content-Encoding": "gzip"}))
        await connection.send(packed[:-1])
        (await node.other.append(WS)).expect(201)
        assert not unpacked
        assert await node.is_free("request")
        await connection.send(packed[-1:])
        answer = await connection.answer()
        assert (answer.status, answer.error) == (413, "payload_too_large")
    assert MiB - 256 * 1024 <= sum(unpacked) <= MiB + 256 * 1024
    assert await node.is_free("request")


async def test_a_body_that_unpacks_to_more_than_there_is(node: Node, open_many: AsyncExitStack) -> None:
    """Decompressed bytes are counted before they are produced."""
    for _ in range(2):
        connection = await open_many.enter_async_context(await RawConnection.open(node.server.url))
        await connection.send(node.head(events(WS), 1_000_000, node.slow) + b" " * 900_000)
    await eventually(lambda: at_least(node, 1_800_000))
    body = gzip.compress(json.dumps(make_event()).encode().ljust(600_000))
    answer = await node.slow.post(events(WS), data=body, headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.error) == (503, "overloaded")
    (await node.other.post(events(WS), data=body, headers={"Content-Encoding": "gzip"})).expect(201)


# ---- responses


@pytest.fixture
async def full_node(make_server: MakeServer, http: aiohttp.ClientSession) -> Node:
    """Start a node whose pages exceed the kernel's buffers; one account may hold two of them."""
    node = await node_with(
        make_server, http, memory_bytes=32 * MiB, max_body_bytes=8 * MiB, max_page_bytes=8 * MiB, stall_seconds=2
    )
    return await filled(node)


async def filled(node: Node) -> Node:
    """Append the events of a long page."""
    for _ in range(10):
        (await node.admin.append_all(WS, [{"details": {"x": "y" * 250_000}}] * 3)).expect(201)
    return node


async def test_answers_that_are_not_read(full_node: Node) -> None:
    """Unread pages are counted and refused above the share. Others can read, and a client that reads nothing is disconnected."""
    node, page = full_node, events(WS) + "?limit=30"
    async with AsyncExitStack() as stack:
        for n in range(2):
            connection = await stack.enter_async_context(await connect(node.server.url))
            await connection.send(request_head("GET", page, node.slow.headers))
            await eventually(lambda n=n: answers(node, 7_000_000 * (n + 1)))  # type: ignore[misc]
        answer = await node.slow.get(page)
        assert (answer.status, answer.error, answer.headers["Retry-After"]) == (503, "overloaded", "1")
        assert len((await node.other.get(page)).expect(200)["events"]) == 30
        assert await node.refused("response") == 1
        await eventually(lambda: node.is_free("response"))  # they stayed, and were disconnected
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await connection.answer()
    (await node.slow.get(page)).expect(200)


async def answers(node: Node, size: int) -> bool:
    """Check whether responses hold this many bytes."""
    return await node.used("response") >= size


async def test_pipelined_requests_wait_for_their_answers_to_be_read(
    make_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    """While a client does not read its responses, its next request waits. When it reads them, it receives each."""
    node = await node_with(make_server, http, memory_bytes=32 * MiB)
    (await node.admin.append_all(WS, [{"details": {"x": "y" * 250_000}}] * 3)).expect(201)
    count = 20

    async def handled() -> int:
        text = (await node.admin.get("/metrics")).body.decode()
        found = re.search(
            r'^streamer_requests_total{method="GET",route=".*/events",status="200"} (\S+)$', text, re.MULTILINE
        )
        return int(float(found[1])) if found else 0

    seen: list[int] = []

    async def stands_still() -> bool:
        seen.append(await handled())
        return await answers(node, 1) and len(seen) > 10 and len(set(seen[-10:])) == 1

    async with await connect(node.server.url) as connection:
        await connection.send(request_head("GET", events(WS), node.slow.headers) * count)
        await eventually(stands_still)  # the kernel takes the first responses
        before = await handled()
        (await node.other.append(WS)).expect(201)
        assert await handled() == before < count
        for _ in range(count):
            assert len((await connection.answer()).json["events"]) >= 3
    assert await handled() == count


async def test_a_connection_that_is_closed_unread_does_not_linger(
    make_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    """A response that ends its connection is dropped with it if the client reads nothing."""
    node = await node_with(
        make_server, http, stall_seconds=1, memory_bytes=64 * MiB, max_page_bytes=8 * MiB, max_body_bytes=8 * MiB
    )
    await filled(node)
    async with await connect(node.server.url) as connection:
        await connection.send(
            request_head("GET", events(WS) + "?limit=30", {**node.slow.headers, "Connection": "close"})
        )
        await eventually(lambda: answers(node, 7_000_000))
        await eventually(lambda: node.is_free("response"))


# ---- sockets


async def test_messages_that_never_end(node: Node) -> None:
    """Unfinished messages count towards the account. A socket above its share must reconnect, and the others continue."""
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(await open_socket(node.slow, WS)) for _ in range(3)]
        calm = await stack.enter_async_context(await open_socket(node.other, WS))
        for slow in sockets[:2]:
            await slow.send_bytes(encode_frame(TEXT, b" " * 1_000_000)[:900_000])
        await eventually(lambda: messages(node, 1_700_000))
        await sockets[2].send_bytes(encode_frame(TEXT, b" " * 1_000_000)[:900_000])
        assert await sockets[2].closed() == (4007, "overloaded")
        assert sockets[2].messages[-1]["reconnect"] is True
        await calm.send({"type": "publish", "event": make_event(details={"x": "y" * 100_000})})
        assert (await calm.next("published"))["created"] is True
    await eventually(lambda: node.is_free("message"))
    assert await node.refused("message") == 1


async def messages(node: Node, size: int) -> bool:
    """Check whether messages hold this many bytes."""
    return await node.used("message") >= size


async def test_a_message_in_tiny_pieces(node: Node) -> None:
    """Each fragment is counted with its overhead."""
    async with await open_socket(node.slow, WS) as socket_:
        piece = encode_frame(CONTINUATION, b"x", final=False)
        await socket_.send_bytes(encode_frame(TEXT, b'"', final=False) + piece * 35_000)
        assert await socket_.closed() == (4007, "overloaded")
    await eventually(lambda: node.is_free("message"))


async def test_a_message_that_takes_too_long(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A message that is not complete in time closes its socket. Any number of complete ones is accepted."""
    node = await node_with(make_server, http, body_timeout=1)
    async with await open_socket(node.slow, WS) as socket_, await open_socket(node.slow, WS) as busy:
        await socket_.send_frame(TEXT, b'{"type":', final=False)
        closing = asyncio.create_task(socket_.closed())
        while not closing.done():
            assert (await busy.ask({"type": "ping", "ref": "x" * 100}, "pong"))["ref"]
        assert await closing == (4008, "message_timeout")
        assert (await busy.ask({"type": "ping"}, "pong"))["type"] == "pong"


async def test_large_messages_one_after_another(node: Node) -> None:
    """The memory of a message is released after it is handled, so a socket may send any number."""
    async with await open_socket(node.slow, WS) as socket_:
        for n in range(6):
            event = make_event(id=f"e{n}", details={"x": "y" * 200_000})
            text = json.dumps({"type": "publish", "events": [event], "ref": str(n)}).encode().ljust(900_000)
            await socket_.send_bytes(
                encode_frame(TEXT, text[:400_000], final=False) + encode_frame(CONTINUATION, text[400_000:])
            )
            assert (await socket_.next("published"))["ref"] == str(n)
    await eventually(lambda: node.is_free("message"))


# ---- streams


READERS = 24
LONG = 250_000
WRITER = "writer"
LONG_AGO = "2000-01-01T00:00:00Z"


async def test_events_that_streams_do_not_read(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Unread events are counted even if each stream has its own filter. Above the limit, streams wait and miss nothing."""
    node = await node_with(make_server, http)
    most = MiB  # one account's half of the streams' budget
    wanted = [f"long-{n}" for n in range(6)]
    actor = {"type": "user", "id": WRITER}
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(await connect(node.server.url, 2**15)) for _ in range(READERS)]
        for n, connection in enumerate(slow):
            path = f"{events(WS)}/stream?actor_id=reader-{n}&actor_id={WRITER}"
            await connection.send(request_head("GET", path, node.slow.headers))
            await connection.until(b"event: synced")
        async with await node.other.stream(WS) as other:
            for event_id in wanted:
                (await node.admin.append(WS, id=event_id, actor=actor, details={"x": "y" * LONG})).expect(201)
                assert [event["id"] for event in await other.events(1)] == [event_id]
                assert await node.used("stream") <= most
            await eventually(lambda: held_of_streams(node, most // 2))
            (await node.admin.append(WS, id="end", actor=actor)).expect(201)
            texts = await asyncio.gather(*(connection.until(b'"id":"end"') for connection in slow))
        for text in texts:
            assert re.findall(rb'"id":"(long-\d)"', text) == [event_id.encode() for event_id in wanted]
        await eventually(lambda: node.is_free("stream"))


async def test_streams_opened_over_long_events(
    make_server: MakeServer, http: aiohttp.ClientSession, open_many: AsyncExitStack
) -> None:
    """When streams with small buffers replay long events and read nothing, the limit holds, and all tenants append and read."""
    node = await node_with(make_server, http, write_buffer_bytes=4096)
    actor = {"type": "user", "id": WRITER}
    wanted = [f"long-{n}" for n in range(4)]
    for event_id in wanted:
        (await node.admin.append(WS, id=event_id, actor=actor, details={"x": "y" * LONG})).expect(201)
    slow = [await open_many.enter_async_context(await connect(node.server.url, 2**15)) for _ in range(READERS)]
    for n, connection in enumerate(slow):
        path = f"{events(WS)}/stream?actor_id=reader-{n}&actor_id={WRITER}&after={LONG_AGO}"
        await connection.send(request_head("GET", path, node.slow.headers))
    await eventually(lambda: held_of_streams(node, MiB // 2))
    for api in (node.slow, node.other):
        for _ in range(10):
            (await api.append(WS, details={"x": "y" * 200_000}, actor={"type": "user", "id": "else"})).expect(201)
            assert await node.used("stream") <= MiB
    async with await node.other.stream(WS, after=LONG_AGO, actor_id=WRITER) as other:
        assert [event["id"] for event in await other.events(4)] == wanted
    (await node.admin.append(WS, id="end", actor=actor)).expect(201)
    for connection in slow[::2]:
        connection.abort()
    texts = await asyncio.gather(*(connection.until(b'"id":"end"') for connection in slow[1::2]))
    for text in texts:
        assert [each.decode() for each in re.findall(rb'"id":"(long-\d)"', text)] == wanted
    await eventually(lambda: node.is_free("stream"))


async def held_of_streams(node: Node, size: int) -> bool:
    """Check whether streams hold this many bytes."""
    return await node.used("stream") >= size
