"""Limits of appends per key, streams per node, slow requests and fast sockets."""

import asyncio
import gzip
import json
import math
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.app import Server
from streamer.core.errors import RateLimited
from streamer.ingest.limits import KEPT_BUCKETS, AppendRate
from streamer.settings import SettingsError, load
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Answer, Api, events, make_event
from tests.support.databases import sqlite_url
from tests.support.raw import RawConnection, request_head
from tests.support.readers import CONNECTED, Refused
from tests.support.sse import SseReader
from tests.support.waiting import eventually
from tests.support.websocket import BINARY, CONTINUATION, PING, TEXT, encode_frame, open_socket

WS = "w"
SLOW = 0.001
"""A rate in events per second so low that no token returns during a test."""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on SQLite only, because no limit here depends on the database."""
    return sqlite_url(tmp_path)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


# ---- the buckets


def wait_for(rate: AppendRate, account: str, count: int) -> int | None:
    """Append if allowed; otherwise return the time to wait."""
    try:
        rate.take(account, count)
    except RateLimited as error:
        return error.retry_after
    return None


steps = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from("ab"), st.integers(1, 30)),  # (seconds, account, number of events)
    max_size=60,
)


@given(rate=st.floats(0.001, 1000), burst=st.integers(1, 20), steps=steps)
def test_no_window_holds_more_than_the_burst_and_the_rate(
    rate: float, burst: int, steps: list[tuple[float, str, int]]
) -> None:
    """In any window, an account gets its burst, or its largest batch if larger, plus the rate. Waiting callers get in."""
    clock = Clock()
    limit = AppendRate(rate, burst, clock)
    taken: dict[str, list[tuple[float, int]]] = {"a": [], "b": []}
    for seconds, account, count in steps:
        clock.now += seconds
        wait = wait_for(limit, account, count)
        if wait is not None:
            assert wait >= 1
            assert wait == 1 or wait_at(limit, clock, account, count, wait - 1) is not None, (
                "a shorter wait is not enough"
            )
            clock.now += wait
            assert wait_for(limit, account, count) is None, "the reported wait is enough"
        taken[account].append((clock.now, count))
    for given_out in taken.values():
        for first, (start, _) in enumerate(given_out):
            window = given_out[first:]
            for last, (end, _) in enumerate(window):
                counts = [count for _, count in window[: last + 1]]
                # A negative balance is paid back first, so only the last append of a window can cause one.
                most = burst + rate * (end - start) + max(0, counts[-1] - burst)
                assert sum(counts) <= most + 1e-3


def wait_at(limit: AppendRate, clock: Clock, account: str, count: int, seconds: float) -> int | None:
    """Return how long an account would have to wait if this many seconds had passed."""
    clock.now += seconds - 1e-3
    try:
        limit.check(account, count)
    except RateLimited as error:
        return error.retry_after
    finally:
        clock.now -= seconds - 1e-3
    return None


@given(rate=st.floats(0.001, 1000), burst=st.integers(1, 20), steps=steps)
def test_the_buckets_agree_with_a_plain_count(rate: float, burst: int, steps: list[tuple[float, str, int]]) -> None:
    """The accepted appends and the remainder in the headers match a plain count."""
    clock = Clock()
    limit = AppendRate(rate, burst, clock)
    tokens = dict.fromkeys("ab", float(burst))
    for seconds, account, count in steps:
        clock.now += seconds
        tokens = {each: min(left + seconds * rate, burst) for each, left in tokens.items()}
        missing = min(count, burst) - tokens[account]
        if abs(missing) < 1e-3:
            return  # the difference is rounding
        assert (wait_for(limit, account, count) is None) == (missing < 0)
        if missing < 0:
            tokens[account] -= count
        found = re.fullmatch(r'"append";r=(\d+);t=(\d+)', limit.headers(account)["RateLimit"])
        assert found
        assert int(found[1]) == pytest.approx(max(tokens[account], 0), abs=1.001)
        assert int(found[2]) == pytest.approx((burst - tokens[account]) / rate, abs=1.001)


def test_full_buckets_are_forgotten() -> None:
    """Memory is used only for accounts with a bucket that is not full."""
    clock = Clock()
    limit = AppendRate(10, 10, clock)
    for number in range(20 * KEPT_BUCKETS):
        clock.now += 0.001
        limit.take(f"key_{number}", 1)
    assert len(limit._buckets) <= KEPT_BUCKETS + 1
    busy = [f"key_{number}" for number in range(3 * KEPT_BUCKETS)]
    for account in busy:
        limit.take(account, 10)
    assert all(wait_for(limit, account, 1) == 1 for account in busy), "no bucket in use is dropped"


def test_without_a_rate_there_is_no_limit() -> None:
    """By default there is no limit, no header and no state."""
    settings = load({}, {})
    limit = AppendRate(settings.append_rate, settings.append_burst)
    for _ in range(100):
        limit.take("a", 1_000_000)
    assert limit.headers("a") == {}
    assert not limit._buckets


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("APPEND_RATE", "-1"), ("APPEND_RATE", "nan"), ("APPEND_RATE", "inf"), ("APPEND_RATE", "0.0001"), ("APPEND_RATE", "x"),
        ("APPEND_BURST", "0"), ("MAX_STREAMS", "0"), ("MAX_MESSAGES_PER_SECOND", "0"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_stop_the_start(variable: str, value: str) -> None:
    """An invalid limit is refused by name."""
    with pytest.raises(SettingsError, match=f"^STREAMER_{variable}: "):
        load({}, {f"STREAMER_{variable}": value})


# ---- appending


def left_of(answer: Answer) -> tuple[int, int]:
    """Return the remainder and reset time from a response."""
    found = re.fullmatch(r'"append";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    assert found
    return int(found[1]), int(found[2])


def refused(answer: Answer) -> int:
    """Require that an append exceeded the limit; return the time to wait."""
    assert (answer.status, answer.error) == (429, "rate_limited")
    wait = int(answer.headers["Retry-After"])
    assert wait >= 1
    assert left_of(answer)[1] == wait, "both headers state when tokens return"
    return wait


async def test_no_limit_by_default(api: Api) -> None:
    """Without the setting, nothing is counted and no response has the headers."""
    answer = await api.append(WS)
    assert answer.status == 201
    assert not [name for name in answer.headers if name.lower().startswith("ratelimit")]


async def test_appends_of_a_key_are_bounded(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Each event costs a token, also in a batch. An excess gets 429 and stores nothing. Every response states the remainder."""
    api = Api(http, (await make_server(append_rate=SLOW, append_burst=10)).url, ADMIN_KEY)
    answer = await api.append(WS, id="first")
    answer.expect(201)
    assert answer.headers["RateLimit-Policy"] == f'"append";q=10;w={math.ceil(10 / SLOW)}'
    left, full = left_of(answer)
    assert left == 9
    assert full in {999, 1000}
    again = await api.append(WS, id="first")
    assert (again.status, left_of(again)[0]) == (200, 8)  # these work, too
    batch = await api.append_all(WS, [{}] * 6)
    assert (batch.status, left_of(batch)[0]) == (201, 2)
    wait = refused(await api.append_all(WS, [{}] * 3))
    assert wait in {999, 1000}
    (await api.append_all(WS, [{}] * 2)).expect(201)
    refused(await api.append(WS))
    assert len(await api.history(WS)) == 9
    assert "RateLimit" not in (await api.get(events(WS))).headers, "reading is not limited"


async def test_a_batch_larger_than_the_burst(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A batch larger than the burst is accepted when the bucket is full, and leaves a debt. So the limits do not conflict."""
    api = Api(http, (await make_server(append_rate=SLOW, append_burst=10)).url, ADMIN_KEY)
    batch = await api.append_all(WS, [{}] * 25)
    assert (batch.status, left_of(batch)[0]) == (201, 0)
    assert refused(await api.append(WS)) > 15 / SLOW, "15 events are owed"
    other = Api(http, (await make_server(append_rate=SLOW, append_burst=10)).url, ADMIN_KEY)
    (await other.append_all(WS, [{}] * 3)).expect(201)
    assert 2 / SLOW < refused(await other.append_all(WS, [{}] * 25)) <= 3 / SLOW, "until the bucket is full"


async def test_tokens_come_back(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A refused caller gets in later."""
    api = Api(http, (await make_server(append_rate=20, append_burst=20)).url, ADMIN_KEY)
    (await api.append_all(WS, [{}] * 20)).expect(201)
    assert refused(await api.append_all(WS, [{}] * 15)) == 1

    async def taken() -> bool:
        return (await api.append_all(WS, [{}] * 15)).status == 201

    await eventually(taken)


async def test_what_is_wrong_costs_nothing(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Only storable requests are charged. A refused request reports the remainder, too."""
    api = Api(http, (await make_server(append_rate=SLOW, append_burst=2, max_details_depth=3)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    for wrong in (
        {},
        {"action": 5},
        make_event(id="x y"),
        [make_event(id="same")] * 2,
        make_event(details={"a": {"b": {"c": {}}}}),
    ):
        answer = await api.post(events(WS), wrong)
        assert (answer.status, left_of(answer)[0]) == (400, 1), wrong
    (await api.append(WS)).expect(201)
    refused(await api.append(WS))


async def test_each_account_has_its_own(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Each key has its own bucket, and a session shares its creator's. Unauthenticated callers learn nothing about limits."""
    server = await make_server(append_rate=SLOW, append_burst=5)
    admin = Api(http, server.url, ADMIN_KEY)
    (await admin.append(WS)).expect(201)
    one, two = [admin.with_key(await admin.create_key(WS)) for _ in range(2)]
    (await one.append_all(WS, [{}] * 5)).expect(201)
    refused(await one.append(WS))
    assert left_of(await two.append(WS))[0] == 4
    code = (await server.sign_in_link()).partition("#sign-in=")[2]
    signed_in = await admin.with_key(None).post("/v1/session", {"code": code})
    page = {"Cookie": signed_in.headers["Set-Cookie"].split(";")[0], "Origin": server.url}
    answer = await admin.with_key(None).post(events(WS), make_event(), headers=page)
    assert (answer.status, left_of(answer)[0]) == (201, 1)  # the admin's second append, after two new keys
    unknown = await admin.with_key("sk_nobody").append(WS)
    assert (unknown.status, "RateLimit" in unknown.headers) == (401, False)


async def test_a_flood_is_refused_before_its_body_is_read(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """With an empty bucket, the error is sent before the body arrives, without `100 Continue`."""
    server = await make_server(append_rate=SLOW, append_burst=1)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    for more in ({}, {"Expect": "100-continue"}):
        head = request_head(
            "POST", events(WS), {**api.headers, "Content-Type": "application/json", "Content-Length": 1000, **more}
        )
        async with await RawConnection.open(server.url) as connection:
            await connection.send(head)
            answer = await connection.answer()
            assert (answer.status, answer.error) == (429, "rate_limited")
            assert answer.headers["ratelimit"].startswith('"append";r=0;t=')


async def test_publishing_over_a_socket_has_the_same_limit(
    make_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    """HTTP and sockets share one bucket. On a socket, the error states when to retry, and the socket stays open."""
    api = Api(http, (await make_server(append_rate=SLOW, append_burst=5)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    async with await open_socket(api, WS) as socket:
        await socket.next("synced")
        said = await socket.ask({"type": "publish", "events": [make_event()] * 3}, "published")
        assert said["type"] == "published"
        for events_, more in (([make_event()] * 2, 1), ([make_event()] * 5, 4)):
            error = (await socket.ask({"type": "publish", "events": events_, "ref": "r"}, "published"))["error"]
            assert error["code"] == "rate_limited"
            assert more / SLOW - 60 < error["details"]["retry_after"] <= more / SLOW
        assert (await socket.ask({"type": "publish", "event": make_event()}, "published"))["type"] == "published"
        refused(await api.append(WS))
        error = (await socket.ask({"type": "publish", "event": {"wrong": True}}, "published"))["error"]
        assert error["code"] == "rate_limited", "the body is not read"
        assert (await socket.ask({"type": "ping"}, "pong"))["type"] == "pong"
    assert len(await api.history(WS)) == 5


# ---- streams per node


async def test_streams_of_a_node_are_bounded(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A stream above the node's total gets 503 on every transport. A stream that ends makes room for another."""
    api = Api(http, (await make_server(max_streams=3)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    position = (await api.get(events(WS))).expect(200)["position"]
    keys = [api.with_key(await api.create_key(WS)) for _ in range(4)]
    streams = [await key.stream(WS) for key in keys[:3]]
    for stream in streams:
        await stream.next("synced")
    for answer in (
        await keys[3].get(f"{events(WS)}/stream"),
        await keys[3].get(events(WS), after=position, wait=1),
        await (await open_socket(keys[3], WS)).answer(),
        await (await open_socket(keys[3])).answer(),
    ):
        assert (answer.status, answer.error) == (503, "overloaded")
        assert int({name.lower(): value for name, value in answer.headers.items()}["retry-after"]) >= 1
    (await api.append(WS)).expect(201)  # everything else works
    streams.pop().close()

    async def there_is_room() -> bool:
        streams.append(await keys[3].stream(WS))
        return streams[-1].status == 200

    await eventually(there_is_room)
    for stream in streams:
        stream.close()


async def test_streams_that_are_being_opened_are_bounded(
    make_server: MakeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above STREAMER_MAX_OPENINGS, a stream gets 503 `overloaded` with a random Retry-After; all other requests are served."""
    server = await make_server(max_openings=3)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    follow, waiting, goes_on = server.channels.follow, [], asyncio.Event()

    async def slow_follow(workspace: str) -> Any:
        waiting.append(workspace)
        await goes_on.wait()
        return await follow(workspace)

    monkeypatch.setattr(server.channels, "follow", slow_follow)
    opening = [asyncio.create_task(api.stream("w")) for _ in range(3)]
    await eventually(lambda: len(waiting) == 3)
    asked = set()
    for kind in CONNECTED * 10:
        with pytest.raises(Refused) as refused:
            await kind.open(api, "w")
        assert (refused.value.status, refused.value.code) == (503, "overloaded")
    for _ in range(40):
        answer = await api.get("/v1/workspaces/w/events/stream")
        assert answer.status == 503
        asked.add(int(answer.headers["Retry-After"]))
    assert asked <= set(range(1, 6))
    assert len(asked) > 1
    (await api.append("w")).expect(201)
    (await api.get("/v1/workspaces/w/events")).expect(200)
    opening.pop().cancel()  # its place is free again
    opening.append(asyncio.create_task(eventually(lambda: _opened(api))))
    goes_on.set()
    for stream in await asyncio.gather(*opening):
        assert stream.status == 200
        stream.close()


async def _opened(api: Api) -> SseReader:
    stream = await api.stream("w")
    assert stream.status == 200
    return stream


async def test_subscriptions_of_a_node_are_bounded(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Subscriptions on one socket count as streams; the socket stays open."""
    api = Api(http, (await make_server(max_streams=3)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    async with await open_socket(api) as socket:
        for name in "abc":
            await socket.send({"type": "subscribe", "sub": name, "workspace": WS})
            assert (await socket.next())["type"] == "synced"
        error = (await socket.ask({"type": "subscribe", "sub": "d", "workspace": WS}, "synced"))["error"]
        assert (error["code"], error["details"]["retry_after"] >= 1) == ("overloaded", True)
        await socket.ask({"type": "unsubscribe", "sub": "a"}, "closed")
        assert (await socket.ask({"type": "subscribe", "sub": "d", "workspace": WS}, "synced"))["type"] == "synced"


async def test_sockets_without_a_subscription_count(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A socket counts even without a subscription, so a key cannot have more sockets than streams."""
    server = await make_server(max_streams_per_key=2)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    own = await open_socket(api, WS)
    await own.ask({"type": "unsubscribe", "sub": "default"}, "closed")
    shared = await open_socket(api)
    for answer in (await (await open_socket(api)).answer(), await (await open_socket(api, WS)).answer()):
        assert (answer.status, answer.error) == (429, "rate_limited")
    other = await open_socket(api.with_key(await api.create_key(WS)))
    assert other.status == 101, "each key has its own limit"
    own.close()

    async def there_is_room() -> bool:
        socket = await open_socket(api)
        socket.close()
        return socket.status == 101

    await eventually(there_is_room)
    for socket in (shared, other):
        socket.close()
    await eventually(lambda: not any(server.connections._wheel))
    assert (server.subscribers._places.taken, server.subscribers._places._by_account) == (0, {})


# ---- slow requests


@asynccontextmanager
async def dribbling(connection: RawConnection, data: bytes) -> AsyncIterator[None]:
    """Send bytes in the background, one at a time, indefinitely."""

    async def dribble() -> None:
        while True:
            await connection.send(data)
            await asyncio.sleep(0.02)  # a pace, not a wait: the server must time out meanwhile

    task = asyncio.create_task(dribble())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.exception(), ConnectionError)


async def ended(connection: RawConnection) -> bytes:
    """Read to the end, also if the connection is reset because the server did not read everything."""
    try:
        return await connection.rest()
    except ConnectionError:
        return b""


HANDSHAKE: dict[str, str | int] = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": 13}


@pytest.mark.parametrize("target", ["/livez", "/v1/ws"], ids=["request", "handshake"])
@pytest.mark.parametrize("part", [b"X", b"X: y\r\n"], ids=["bytes", "lines"])
async def test_a_head_that_never_ends(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch, target: str, part: bytes
) -> None:
    """A head that arrives byte by byte or line by line ends with the connection, although it is never idle."""
    monkeypatch.setattr("streamer.server.connection.HEAD_SECONDS", 0.5)
    server = await make_server()
    async with await RawConnection.open(server.url) as connection:
        await connection.send(request_head("GET", target, HANDSHAKE)[:-2])
        async with dribbling(connection, part):
            assert await ended(connection) == b""


async def test_a_later_head_that_never_ends(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kept connection, the time until the next request is limited, and bytes of an incomplete one do not extend it."""
    monkeypatch.setattr("streamer.server.connection.KEPT_SECONDS", 0.5)
    server = await make_server()
    async with await RawConnection.open(server.url) as connection:
        for _ in range(3):
            await connection.send(request_head("GET", "/livez"))
            assert (await connection.answer()).status == 200
        await connection.send(request_head("GET", "/livez")[:-2])
        async with dribbling(connection, b"X"):
            assert await ended(connection) == b""


@pytest.mark.parametrize("part", [b"1\r\n \r\n", b"0"], ids=["chunks", "chunk size"])
async def test_a_chunked_body_that_never_ends(
    make_server: MakeServer, http: aiohttp.ClientSession, part: bytes
) -> None:
    """A chunked body that arrives slowly has the same timeout as any body: 408."""
    api = Api(http, (await make_server(body_timeout=0.3)).url, ADMIN_KEY)
    sent = {**api.headers, "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    async with await RawConnection.open(api.url) as connection:
        await connection.send(request_head("POST", events(WS), sent))
        async with dribbling(connection, part):
            answer = await connection.answer()
            assert (answer.status, answer.error) == (408, "request_timeout")
            assert answer.headers["connection"] == "close"


async def test_a_body_that_nobody_wants(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused request, or one without a body, is answered at once. The wait for its remaining bytes is limited."""
    monkeypatch.setattr("streamer.server.connection.LINGER_SECONDS", 0.3)
    server = await make_server()
    async with await RawConnection.open(server.url) as connection:
        await connection.send(request_head("POST", events(WS), {"Content-Length": 1_000_000}))
        async with dribbling(connection, b" "):
            assert (await connection.answer()).status == 401
            assert await ended(connection) == b""


@pytest.mark.parametrize(
    "lines", [{"X": "y" * 17_000}, {f"X-{n}": "y" for n in range(200)}], ids=["one is long", "they are many"]
)
async def test_headers_are_bounded(server: Server, lines: dict[str, str | int]) -> None:
    """A head that is too large gets 400 with the usual headers and ends the connection."""
    async with await RawConnection.open(server.url) as connection:
        await connection.send(request_head("GET", "/livez", lines))
        answer = await connection.answer()
        assert (answer.status, answer.error) == (400, "validation_error")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert await ended(connection) == b""


# ---- fast and endless sockets


async def test_a_fast_socket_is_read_at_its_pace(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """The server reads at most at the configured rate, whatever the frames. Nothing is lost, refused or reordered."""
    api = Api(http, (await make_server(max_messages_per_second=20)).url, ADMIN_KEY)
    clock = asyncio.get_running_loop().time
    async with await open_socket(api) as socket:
        started = clock()
        pings = b"".join(encode_frame(PING, b"%d" % n) for n in range(20))
        asked = b"".join(encode_frame(TEXT, json.dumps({"type": "ping", "ref": str(n)}).encode()) for n in range(30))
        await socket.send_bytes(pings + asked)
        assert [(await socket.next())["ref"] for _ in range(30)] == [str(n) for n in range(30)]
        assert socket.pongs == [b"%d" % n for n in range(20)]
        # The first 20 at once, then 30 of them at 20 a second: a slow machine takes longer, none takes less.
        assert clock() - started > 1.4


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_message_that_never_ends(make_server: MakeServer, http: aiohttp.ClientSession, opcode: int) -> None:
    """Fragments of a message are counted together. Above the limit the socket closes with 1009 before the message ends."""
    api = Api(http, (await make_server(max_body_bytes=100_000)).url, ADMIN_KEY)
    async with await open_socket(api) as socket:
        await socket.send_frame(opcode, b"x" * 10_000, final=False)
        for _ in range(10):
            await socket.send_frame(CONTINUATION, b"x" * 9_990, final=False)
        assert (await socket.closed())[0] == 1009


async def test_a_frame_that_says_it_is_too_long(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A frame length above the limit closes the socket with 1009 at once, before the data arrives."""
    api = Api(http, (await make_server(max_body_bytes=100_000)).url, ADMIN_KEY)
    async with await open_socket(api) as socket:
        await socket.send_bytes(encode_frame(TEXT, b"x" * 200_000)[:14])
        assert (await socket.closed())[0] == 1009


# ---- refusals are cheap


WIDE = {f"field-{number}": 0 for number in range(50_000)}


async def test_an_error_names_the_first_of_many_fields(server: Server, api: Api) -> None:
    """The error for a body with very many wrong fields is short, for every caller and route."""
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    many = [{f"field-{number}": 0 for number in range(30)} for _ in range(1000)]
    deep = make_event(changes={"a": WIDE})
    for body in (WIDE, make_event(actor=WIDE), make_event(entity=WIDE), deep, [WIDE], many, make_event() | WIDE):
        answer = await api.post(events(WS), body)
        assert answer.status == 400
        assert len(answer.body) < 16 * 1024
        assert len(answer.json["error"]["details"]["fields"]) <= 51
    async with await open_socket(api, WS) as socket:
        for event in (WIDE, make_event(actor=WIDE)):
            said = await socket.ask({"type": "publish", "event": event}, "published")
            assert said["type"] == "error"
            assert len(json.dumps(said)) < 16 * 1024
        for message in (
            {"type": "ping", "more": "x" * 600_000},
            {"type": "subscribe", "sub": "s", "action": "," * 600_000},
        ):
            said = await socket.ask(message, "pong", "synced")
            assert said["error"]["details"]["fields"] == {"message": f"{message['type']} has at most 524288 bytes"}
        await socket.ask({"type": "ping"}, "pong")


async def test_a_body_that_is_no_event_is_small(api: Api) -> None:
    """A body of few values has at most 512 KiB, compressed or not, even where no credential is needed."""
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    key = {"name": "k", "template": "read_only"}
    for method, path, body in (
        ("POST", "/v1/session", {"code": "x"}),
        ("POST", "/v1/tickets", {"workspace": WS}),
        ("PUT", f"/v1/workspaces/{WS}", {}),
        ("PUT", f"/v1/workspaces/{WS}/members/ann", {"role": "viewer"}),
        ("POST", f"/v1/workspaces/{WS}/keys", key),
    ):
        caller = api.with_key(None) if path == "/v1/session" else api
        data = json.dumps({**body, "more": "x" * 600_000}).encode()
        for sent, headers in ((data, {}), (gzip.compress(data), {"Content-Encoding": "gzip"})):
            answer = await caller.request(method, path, data=sent, headers=headers)
            assert (answer.status, answer.error) == (413, "payload_too_large"), path
            assert "524288" in answer.json["error"]["message"]


async def test_the_text_of_a_filter_is_bounded(api: Api) -> None:
    """A filter is refused for its length or number of values before its values are parsed."""
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    for action in ("," * 110_000, ["a"] * 101, ["x" * 512] * 101, "\\\\" * 55_000):
        answer = await api.post("/v1/tickets", {"workspace": WS, "action": action})
        assert set(answer.expect(400)["error"]["details"]["fields"]) == {"filter"}
    longest = ",".join("x" * 39 for _ in range(100)) + "x" * 97  # it is stored: 4096 characters
    (await api.post("/v1/tickets", {"workspace": WS, "action": longest})).expect(201)
    answer = await api.post("/v1/tickets", {"workspace": WS, "action": longest + "x"})
    assert set(answer.expect(400)["error"]["details"]["fields"]) == {"filter"}


async def test_a_packed_body_that_nobody_wants_stays_packed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body of a refused request is dropped without decompression, which is cheap for the sender and costly for the server."""
    unpacked = 0
    make = zlib.decompressobj

    def counted(*given: Any) -> Any:
        nonlocal unpacked
        unpacked += 1
        return make(*given)

    monkeypatch.setattr(zlib, "decompressobj", counted)
    packed = gzip.compress(bytes(64 * 2**20))
    async with await RawConnection.open(server.url) as connection:
        head: dict[str, str | int] = {
            "Content-Encoding": "gzip",
            "Content-Type": "application/json",
            "Content-Length": len(packed),
        }
        await connection.send(request_head("POST", "/nowhere", head))
        assert (await connection.answer()).status == 404
        await connection.send(packed)
        async with await RawConnection.open(server.url) as other:
            await other.send(request_head("GET", "/livez"))
            assert (await other.answer()).status == 200
    assert unpacked == 0


async def test_two_credentials_in_one_request(server: Server) -> None:
    """A request with two `Authorization` headers has no credential, because a proxy may have read the other one."""
    async with await RawConnection.open(server.url) as connection:
        line = f"Authorization: Bearer {ADMIN_KEY}\r\n"
        await connection.send(f"GET /v1/session HTTP/1.1\r\nHost: x\r\n{line}{line}\r\n".encode())
        answer = await connection.answer()
        assert (answer.status, answer.error) == (401, "unauthenticated")


async def test_the_error_that_shows_how_to_send_a_key(api: Api) -> None:
    """The error that shows how to send a key is not redacted."""
    answer = await api.with_key(None).get("/v1/session")
    assert "`Authorization: Bearer <key>`" in answer.json["error"]["message"]
