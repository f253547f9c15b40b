"""The client repairs its streams, repeats appends safely and reports errors clearly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from streamer.app import Server
from streamer.client import (
    Activity,
    ApiError,
    Client,
    Closed,
    Connected,
    Gap,
    Lost,
    StreamMessage,
    Synced,
    Timing,
    UnexpectedAnswer,
    Unreachable,
)
from streamer.client.backoff import Backoff
from tests.conftest import ADMIN_KEY
from tests.support.databases import sqlite_url
from tests.support.process import free_port
from tests.support.proxy import Proxy, proxy_to
from tests.support.scripted import scripted
from tests.support.waiting import SECONDS, eventually

FAST = Timing(unit=0.001, connect=10_000, silence=15_000)
"""A thousandth of all delays; time limits as in other tests."""
EVENT = {"action": "issue.created", "actor": {"type": "user", "id": "ann"}}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the client never sees it."""
    return sqlite_url(tmp_path)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """Create a client with a direct connection to the server."""
    async with Client(server.url, ADMIN_KEY, timing=FAST) as client:
        yield client


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """Start a proxy in front of the server."""
    async with proxy_to(server.url) as proxy:
        yield proxy


@pytest.fixture
async def shaky(proxy: Proxy) -> AsyncIterator[Client]:
    """Create a client that connects through the proxy."""
    patient = replace(FAST, attempts=1000)  # the number of attempts that the proxy spoils is random
    async with Client(proxy.url, ADMIN_KEY, timing=patient) as client:
        yield client


async def seqs(messages: AsyncIterator[StreamMessage], last: int, into: list[int] | None = None) -> list[int]:
    """Return the seqs of the events up to the one with `last`; `into` receives them at once."""
    found = [] if into is None else into
    async with asyncio.timeout(SECONDS):
        async for message in messages:
            if isinstance(message, Activity):
                found.append(message.seq)
                if message.seq >= last:
                    break
    return found


async def following(message: AsyncIterator[StreamMessage], kind: type[StreamMessage]) -> StreamMessage:
    """Return the next message of a kind."""
    async with asyncio.timeout(SECONDS):
        async for found in message:
            if isinstance(found, kind):
                return found
    raise AssertionError(f"the stream ended without a {kind.__name__}")


# ---- append


async def test_append_returns_what_is_stored(client: Client) -> None:
    """An appended event is returned as an event and a batch as a list, in order and with seqs."""
    one = await client.append("ws", EVENT)
    many = await client.append("ws", [EVENT, EVENT | {"action": "issue.updated"}])
    assert one["seq"] == 1
    assert [(event["seq"], event["action"]) for event in many] == [(2, "issue.created"), (3, "issue.updated")]
    assert await client.event("ws", one["id"]) == one


async def test_a_lost_answer_stores_nothing_twice(proxy: Proxy, shaky: Client) -> None:
    """If the response is lost, the append is repeated with the same Idempotency-Key, so each event is stored once."""
    proxy.cut_after = 20
    appending = asyncio.create_task(shaky.append("ws", [EVENT, EVENT]))
    await eventually(lambda: proxy.connections >= 2)
    proxy.cut_after = None
    assert [event["seq"] for event in await appending] == [1, 2]
    assert [activity.seq async for activity in shaky.history("ws")] == [2, 1]


async def test_an_overloaded_server_is_asked_again() -> None:
    """503 and 429 are retried with the same Idempotency-Key after the wait that the server asks for."""
    keys: list[str] = []
    times: list[float] = []

    async def busy_twice(request: web.Request) -> web.Response:
        keys.append(request.headers["Idempotency-Key"])
        times.append(asyncio.get_running_loop().time())
        if len(keys) < 3:
            error = {"error": {"code": "overloaded", "message": "later", "request_id": "r"}}
            return web.json_response(error, status=503 if len(keys) == 1 else 429, headers={"Retry-After": "40"})
        return web.json_response({"seq": 1}, status=201)

    async with scripted(busy_twice) as url, Client(url, None, timing=FAST) as client:
        assert await client.append("ws", EVENT) == {"seq": 1}
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert all(later - earlier >= 0.04 for earlier, later in pairwise(times))


async def test_a_wrong_event_is_refused_at_once(proxy: Proxy, shaky: Client) -> None:
    """An invalid event is not retried, and the error names the fields."""
    with pytest.raises(ApiError) as caught:
        await shaky.append("ws", [EVENT, EVENT | {"colour": "red"}])
    assert (caught.value.status, caught.value.code) == (400, "validation_error")
    assert list(caught.value.fields) == ["events[1].colour"]
    assert caught.value.request_id
    assert proxy.connections == 1


async def test_nobody_there_is_unreachable() -> None:
    """If no attempt reaches a server, the error is Unreachable."""
    url = f"http://127.0.0.1:{free_port()}"
    async with Client(url, None, timing=FAST) as client:
        with pytest.raises(Unreachable, match="Connection refused"):
            await client.append("ws", EVENT)


async def test_another_server_is_told_apart() -> None:
    """A response from another server is recognized as foreign."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<h1>It works!</h1>", content_type="text/html")

    async def moved(_request: web.Request) -> web.Response:
        raise web.HTTPMovedPermanently("https://elsewhere.example/")

    async with scripted(page) as url, Client(url, None, timing=FAST) as client:
        with pytest.raises(UnexpectedAnswer):
            await client.append("ws", EVENT)
        with pytest.raises(UnexpectedAnswer):
            await seqs(client.stream("ws"), 1)
    async with scripted(moved) as url, Client(url, None, timing=FAST) as client:
        with pytest.raises(UnexpectedAnswer, match=r"elsewhere\.example"):
            await client.append("ws", EVENT)


def test_what_cannot_be_a_server_or_a_key() -> None:
    """An impossible URL or key is refused before anything is sent."""
    for url in ("localhost:8080", "ftp://host", "http://", "", "http://h:80000", "http://u:hunter2", "http://[::1"):
        with pytest.raises(ValueError, match=r"^not the URL of a server, such as [a-z0-9.:/]+$"):
            Client(url, None)
    for url in ("http://ann:hunter2@host", "http://ann@host", "https://:hunter2@host:8080/path"):
        with pytest.raises(ValueError, match=r"^the URL of a server must not contain a user or a password$"):
            Client(url, None)
    with pytest.raises(ValueError, match="key"):
        Client("http://localhost", "sk_\r\nX-Other: 1")


async def test_without_a_context_manager(server: Server, proxy: Proxy) -> None:
    """Without a context manager, each call opens and closes its own connection. With one, calls share their connections."""
    client = Client(proxy.url, ADMIN_KEY, timing=FAST)
    for _ in range(2):
        await client.append("ws", EVENT)
    async with contextlib.aclosing(client.stream("ws", after="1970-01-01T00:00:00Z")) as stream:
        assert await seqs(stream, 2) == [1, 2]
    assert proxy.connections == 3
    await eventually(lambda: proxy.open == 0)
    async with client:
        await client.append("ws", EVENT)
        await client.append("ws", EVENT)
    assert proxy.connections == 4
    with pytest.raises(RuntimeError, match="closed"):
        await client.append("ws", EVENT)


# ---- history


async def test_history_over_all_pages(client: Client) -> None:
    """All pages are read in either order, with filters. The events are the bytes that the server stores."""
    await client.append("ws", [EVENT | {"details": {"n": n / 7, "t": "é\u2028😀"}} for n in range(25)])
    newest = [activity.seq async for activity in client.history("ws", limit=10)]
    oldest = [activity async for activity in client.history("ws", order="asc", limit=10)]
    assert newest == list(range(25, 0, -1))
    assert [activity.seq for activity in oldest] == list(range(1, 26))
    streamed = client.stream("ws", after=oldest[2].position)
    message = await following(streamed, Activity)
    assert message == oldest[3]
    assert [a async for a in client.history("ws", filters={"action": ["!issue.*"]})] == []


async def test_a_stream_goes_on_behind_a_page(client: Client) -> None:
    """A stream that starts at a page's position neither misses nor repeats an event."""
    await client.append("ws", [EVENT] * 5)
    page = await client.page("ws", limit=3)
    await client.append("ws", [EVENT] * 2)
    assert [activity.seq for activity in page.events] == [5, 4, 3]
    assert await seqs(client.stream("ws", after=page.position), 7) == [6, 7]


# ---- streams


async def test_replay_joins_live(client: Client) -> None:
    """The client yields the history first, then `synced`, then live events."""
    await client.append("ws", [EVENT] * 3)
    stream = client.stream("ws", after="1970-01-01T00:00:00Z")
    assert await seqs(stream, 3) == [1, 2, 3]


async def test_a_cut_stream_misses_nothing(proxy: Proxy, shaky: Client, client: Client) -> None:
    """Over many disconnections in mid-stream, each event arrives exactly once and in order."""
    await client.append("ws", EVENT)
    connected: list[bool] = []
    enough = asyncio.Event()

    def notice(notice: Connected | Lost) -> None:
        if isinstance(notice, Connected):
            connected.append(notice.again)

    async def publish() -> None:
        while not enough.is_set():
            await client.append("ws", [EVENT, EVENT])

    stream = shaky.stream("ws", after="1970-01-01T00:00:00Z", notice=notice)
    found: list[int] = []
    reading = asyncio.create_task(seqs(stream, last=10**9, into=found))
    publishing = asyncio.create_task(publish())
    while len(connected) <= 10:
        known = len(connected)
        proxy.cut()
        await eventually(lambda: len(connected) > known)  # noqa: B023 - called before the next round
    enough.set()
    await publishing
    head = (await client.page("ws", limit=1)).events[0].seq
    await eventually(lambda: found[-1] == head)
    reading.cancel()
    assert found == list(range(1, head + 1))
    assert connected == [False] + [True] * (len(connected) - 1)


@pytest.mark.parametrize("cut_after", [400, 1023, 2500])
async def test_a_stream_cut_within_a_block(proxy: Proxy, shaky: Client, client: Client, cut_after: int) -> None:
    """Each event arrives once, even if no connection survives more than a few bytes."""
    await client.append("ws", [EVENT | {"description": "x" * 50} for _ in range(12)])
    proxy.cut_after = cut_after + 600  # the head of the response and one event
    assert await seqs(shaky.stream("ws", after="1970-01-01T00:00:00Z"), 12) == list(range(1, 13))
    assert proxy.connections > 1


async def test_a_restarted_server(proxy: Proxy, shaky: Client, client: Client) -> None:
    """A stream survives a server restart for the configured number of attempts."""
    await client.append("ws", EVENT)
    lost: list[Lost] = []
    stream = shaky.stream("ws", notice=lambda notice: lost.append(notice) if isinstance(notice, Lost) else None)
    async with contextlib.aclosing(stream):
        await following(stream, Synced)
        await proxy.refuse()
        waiting = asyncio.ensure_future(following(stream, Activity))
        await eventually(lambda: len(lost) > 5)
        await client.append("ws", EVENT)
        await proxy.listen()
        activity = await waiting
    assert isinstance(activity, Activity)
    assert activity.seq == 2


async def test_giving_up(proxy: Proxy, shaky: Client, client: Client) -> None:
    """After the maximum number of failed attempts, the stream ends as Unreachable. Successful connections do not count."""
    await client.append("ws", EVENT)
    stream = shaky.stream("ws", attempts=3)
    await following(stream, Synced)
    proxy.cut()
    await following(stream, Synced)
    await proxy.refuse()
    with pytest.raises(Unreachable):
        await following(stream, Activity)


async def test_a_silent_connection_is_dead(proxy: Proxy, client: Client) -> None:
    """If not even a heartbeat arrives, the client disconnects and reconnects."""
    await client.append("ws", EVENT)
    timing = Timing(unit=0.001, connect=10_000, silence=300)
    async with Client(proxy.url, ADMIN_KEY, timing=timing) as impatient:
        stream = impatient.stream("ws")
        await following(stream, Synced)
        proxy.freeze()
        waiting = asyncio.ensure_future(following(stream, Activity))
        await client.append("ws", EVENT)
        await eventually(lambda: proxy.connections >= 2)
        proxy.thaw()
        activity = await waiting
    assert isinstance(activity, Activity)
    assert activity.seq == 2


async def test_another_log_is_a_gap(client: Client) -> None:
    """If the log was recreated, an old position gets a gap, and the new log is read from its start."""
    await client.append("ws", [EVENT] * 3)
    stream = client.stream("ws", after="zzzzzz.7")
    gap = await following(stream, Gap)
    assert isinstance(gap, Gap)
    assert (gap.first, gap.last, gap.reason, gap.count) == (8, None, "reset", None)
    assert await seqs(stream, 3) == [1, 2, 3]


async def test_no_grant_and_no_workspace(server: Server, client: Client) -> None:
    """Permanent errors are not retried."""
    with pytest.raises(ApiError) as missing:
        await seqs(client.stream("nowhere"), 1)
    assert missing.value.status == 404
    async with Client(server.url, "sk_wrong", timing=FAST) as stranger:
        with pytest.raises(ApiError) as denied:
            await seqs(stranger.stream("ws"), 1)
    assert denied.value.status == 401


async def test_a_deleted_workspace_ends_the_stream(server: Server, client: Client) -> None:
    """`closed` without `reconnect` ends the stream."""
    await client.append("ws", EVENT)
    stream = client.stream("ws")
    await following(stream, Synced)
    async with asyncio.timeout(SECONDS):
        await _delete_workspace(server, "ws")
        rest = [message async for message in stream]
    assert rest == [Closed("workspace_deleted", reconnect=False)]


async def _delete_workspace(server: Server, workspace: str) -> None:
    import aiohttp  # noqa: PLC0415 - the one call that the client does not offer

    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        aiohttp.ClientSession() as session,
        session.delete(f"{server.url}/v1/workspaces/{workspace}", headers=headers) as response,
    ):
        assert response.status == 204


async def test_what_the_server_asks_for_is_kept() -> None:
    """A delay is the stream's `retry:` or the error's `Retry-After` plus jitter, and the client sends its resume point."""
    requests: list[tuple[str | None, str | None]] = []
    activity = b'id: e.%d\nevent: activity\ndata: {"seq":%d}\n\n'

    async def answer(request: web.Request) -> web.StreamResponse:
        requests.append((request.headers.get("Last-Event-ID"), request.query.get("after")))
        if len(requests) == 2:
            return web.Response(status=503, text="a proxy", headers={"Retry-After": "90"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if len(requests) == 1:
            await response.write(b"retry: 50000\n" + activity % (1, 1) + activity % (2, 2) + b"id: e.7\n\n")
        else:
            # A repeated event, and a message of a kind that this client does not know.
            await response.write(activity % (7, 7) + b"event: new\ndata: x\n\n" + activity % (8, 8))
        return response

    lost: list[Lost] = []
    async with scripted(answer) as url, Client(url, None, timing=FAST) as client:
        stream = client.stream("ws", after="e.0", notice=lambda n: lost.append(n) if isinstance(n, Lost) else None)
        assert await seqs(stream, 8) == [1, 2, 8]
    assert requests == [(None, "e.0"), ("e.7", None), ("e.7", None)]
    assert [0.05 <= lost[0].delay <= 0.0505, 0.09 <= lost[1].delay <= 0.091] == [True, True]


async def test_a_stream_that_is_closed_to_reconnect() -> None:
    """`closed` with `reconnect` is no failure: the client reconnects after the requested delay, without limit."""
    resumed: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        resumed.append(request.headers.get("Last-Event-ID"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        number = len(resumed)
        await response.write(
            b'id: e.%d\nevent: activity\ndata: {"seq":%d}\n\n' % (number, number)
            + b'retry: %d\nevent: closed\ndata: {"reason":"rotated","reconnect":true}\n\n' % (number * 1000)
        )
        return response

    lost: list[Lost] = []
    async with scripted(answer) as url, Client(url, None, timing=FAST) as client:
        notice = lambda notice: lost.append(notice) if isinstance(notice, Lost) else None  # noqa: E731
        stream = client.stream("ws", after="e.0", attempts=1, notice=notice)
        assert await seqs(stream, 8) == list(range(1, 9))
    assert resumed == [None, *(f"e.{number}" for number in range(1, 8))]
    assert lost == [Lost(Closed("rotated", reconnect=True), number / 1000) for number in range(1, 8)]


@given(st.integers(0, 100), st.floats(0, 100))
def test_the_delays(failures: int, least: float) -> None:
    """A delay is at least what the server asked for, plus jitter up to a ceiling that doubles from 0.5 s to 30 s."""
    backoff = Backoff(Timing())
    for number in range(failures):
        assert 0 <= backoff.delay(0) <= min(30, 0.5 * 2**number)
    assert least <= backoff.delay(least) <= least + min(30, 0.5 * 2**failures)
    backoff.reset()
    assert backoff.delay(0) <= 0.5
