"""No client can block the others: the largest and costliest inputs are sent while other clients are served.

The server's watchdog counts the CPU time of each step of its event loop. The tests assert these counts, because CPU
time does not depend on the load of the machine.
"""

import asyncio
import contextlib
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from streamer.http.dialects import DIALECTS
from streamer.http.native.routes import ROUTES
from streamer.http.operation import Operation
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support import shapes
from tests.support.api import Api, events
from tests.support.crowd import Crowd
from tests.support.waiting import SECONDS, eventually

WS, OTHER = "abused", "quiet"
BODY = 8 * shapes.MIB
"""The default `max_body_bytes`."""
SMALL = 512 * 1024
EVENT = 250_000
"""A little less than the default `max_event_bytes`."""
GROWING, MIDDLE = 180_000, 9_000
"""Event sizes: still allowed after redaction, which can lengthen a text; and small, with fewer than a thousand in a full body."""
QUERY = 15_000
"""A little less than a request line may have."""
SERVED = {"livez", "append", "read", "session"}
"""A little less than a request line can have."""
LIMIT_SECONDS = 0.05
"""The bystanders' requests."""
PACE_SECONDS = 0.005
"""Pause between the requests of a bystander. Without it, bystanders use most of the CPU, and each test takes twice as long."""

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For input that is refused before it reaches the database, and for readers served from memory."""

ALL_ROUTES = [*ROUTES, *(route for dialect in DIALECTS for route in dialect.operations)]
PATHS = {
    "ws": WS,
    "company": WS,
    "id": "x",
    "type": "issue",
    "entity": "x",
    "user": "x",
    "issue": "x",
    "run": "x",
    "file": "x",
}


@dataclass
class Bystanders:
    """A health probe and another tenant that send requests throughout the attack."""

    statuses: list[tuple[str, int]] = field(default_factory=list)

    async def probe(self, api: Api) -> None:
        while True:
            await asyncio.sleep(PACE_SECONDS)
            self.statuses.append(("livez", (await api.get("/livez")).status))

    async def work(self, api: Api) -> None:
        while True:
            await asyncio.sleep(PACE_SECONDS)
            self.statuses.append(("append", (await api.append(OTHER)).status))
            self.statuses.append(("read", (await api.get(events(OTHER), limit=10)).status))
            self.statuses.append(("session", (await api.get("/v1/session")).status))

    def check(self) -> None:
        """Require that none of their requests was refused."""
        assert {status for _, status in self.statuses} <= {200, 201}


class Abused:
    """A server under attack."""

    def __init__(self, api: Api, session: aiohttp.ClientSession) -> None:
        self.api = api
        self._session = session

    async def send(self, method: str, path: str, data: bytes, kind: str = "application/json", **headers: str) -> int:
        """Send a body. Return the status, or 0 if the connection was closed before a response."""
        sent = {**self.api.headers, "Content-Type": kind, **headers}
        try:
            async with self._session.request(
                method, self.api.url + path, data=io.BytesIO(data), headers=sent
            ) as answer:
                if answer.content_type != "text/event-stream":
                    await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return 0

    async def stalls(self) -> tuple[int, int]:
        """Return the number of measured steps, and the number of steps that blocked the loop for too long."""
        text = (await self.api.get("/metrics")).body.decode()
        counts = dict(re.findall(r'^streamer_loop_stall_seconds_bucket\{le="([^"]+)"\} ([0-9]+)', text, re.MULTILINE))
        return int(counts["+Inf"]), int(counts["+Inf"]) - int(counts[str(LIMIT_SECONDS)])


@pytest.fixture
async def abused(make_process: MakeProcess, http: aiohttp.ClientSession) -> AsyncIterator[Abused]:
    """Start a server and bystanders. The bystanders must always be served, and no step may take too long."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS, entity={"type": "issue", "id": "x"})).expect(201)
    (await api.append(OTHER)).expect(201)
    async with _bystanders(api) as bystanders, aiohttp.ClientSession() as session:
        abused = Abused(api, session)
        yield abused
        seen = len(bystanders.statuses)
        await eventually(lambda: {name for name, _ in bystanders.statuses[seen:]} == SERVED)  # still served
        _, too_long = await abused.stalls()
    stalled = [line for line in process.log.splitlines() if "loop_stalled" in line]
    assert (too_long, stalled) == (0, [])


@asynccontextmanager
async def _bystanders(api: Api) -> AsyncIterator[Bystanders]:
    bystanders = Bystanders()
    async with aiohttp.ClientSession() as own:
        mine = Api(own, api.url, ADMIN_KEY)
        tasks = [asyncio.create_task(work(mine)) for work in (bystanders.probe, bystanders.work)]
        try:
            yield bystanders
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended
    bystanders.check()


def path_of(route: Operation, filler: str | None = None) -> str:
    """Return a route's path with the workspace and a filler for every other parameter."""
    return re.sub(
        r"\{(\w+)\}", lambda match: PATHS[match[1]] if filler is None or match[1] == "ws" else filler, route.path
    )


def test_paths_are_complete() -> None:
    """Every route can be called by these tests."""
    for route in ALL_ROUTES:
        assert "{" not in path_of(route)


@on_sqlite
async def test_bodies(abused: Abused) -> None:
    """Every route with a body receives the largest allowed body in each shape, with and without a credential."""
    routes = [route for route in ALL_ROUTES if route.method in {"POST", "PUT"}]
    assert len(routes) >= 7
    answered = set()
    for route in routes:
        for _, body in shapes.json_bodies(BODY if route.appends else SMALL):
            answered.add(await abused.send(route.method, path_of(route), body))
        answered.add(await abused.send(route.method, path_of(route), b"[", **{"Content-Encoding": "gzip"}))
        answered.add(
            await abused.send(route.method, path_of(route), shapes.packed(BODY), **{"Content-Encoding": "gzip"})
        )
    anonymous = Abused(abused.api.with_key(None), abused._session)
    for _, body in shapes.json_bodies(SMALL):
        answered.add(await anonymous.send("POST", "/v1/session", body))
    assert answered <= {0, 400, 401, 404, 409, 413, 415, 429}, answered


@on_sqlite
async def test_lines(abused: Abused) -> None:
    """NDJSON bodies of each shape are sent: with many lines, empty lines and long lines."""
    answered = set()
    for unit in (b"1\n", b"\n", b"{}\n", b"[]\n", b'{"action":"a.b"}\n', b" \n\r\n"):
        data = unit * (BODY // len(unit))
        answered.add(await abused.send("POST", events(WS), data, "application/x-ndjson"))
    for _, body in shapes.json_bodies(BODY):
        answered.add(await abused.send("POST", events(WS), body + b"\n", "application/x-ndjson"))
    assert answered <= {0, 400, 413}, answered


@on_sqlite
async def test_events(abused: Abused, request: pytest.FixtureRequest) -> None:
    """Valid batches of texts that are costly to redact are sent: of each shape, in large events and in many middle-sized ones."""
    largest = request.config.getoption("slow")
    for one, size in ((EVENT, shapes.MIB), (MIDDLE, shapes.MIB // 2)):
        for name, body in shapes.events(BODY - 50_000 if largest else size, one):
            status = await abused.send("POST", events(WS), body)
            assert status in {201, 400, 413}, (name, status)


async def test_largest_batches(abused: Abused) -> None:
    """Valid batches of the maximum size are accepted: a mix of these shapes, in large events and in many middle-sized ones."""
    for one in (GROWING, MIDDLE):
        assert await abused.send("POST", events(WS), shapes.mixed_events(BODY - 50_000, one)) == 201


async def test_wide_events(abused: Abused) -> None:
    """Single events with very many values, names and secrets are sent, within the limit on values and above it."""
    for count in (15_000, 120_000):
        for name, body in shapes.wide_events(count):
            status = await abused.send("POST", events(WS), body)
            assert status in {201, 400, 413}, (name, status)


async def test_queries(abused: Abused) -> None:
    """Every route receives long queries for each of its parameters, unknown parameters and long paths."""
    answered = set()
    for route in ALL_ROUTES:
        if route.method != "GET" or route.path == "/v1/ws":
            continue
        names = route.query or ("q",)
        for query in shapes.queries(names, QUERY - len(route.path)):
            answered.add(await abused.send("GET", f"{path_of(route)}?{query}", b""))
        if "{" in route.path.replace("{ws}", ""):
            for unit in ("a", "%2F", "cookie:", "%F0%9F%98%80"):
                filler = unit * (QUERY // 3 // len(unit))
                answered.add(await abused.send("GET", path_of(route, filler), b""))
    assert answered <= {0, 200, 400, 401, 404, 409, 410, 422, 429}, answered


@on_sqlite
async def test_messages(abused: Abused) -> None:
    """A WebSocket receives messages of the maximum size in each shape, including invalid and costly ones."""
    url = abused.api.url.replace("http", "ws") + "/v1/ws"
    answered = 0
    for size in (BODY - 1000, SMALL):
        for _, body in shapes.json_bodies(size):
            async with abused._session.ws_connect(url, headers=abused.api.headers, max_msg_size=0) as socket:
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    await socket.send_str(body.decode(errors="replace")[:size])
                    answered += (await socket.receive(SECONDS)).type is aiohttp.WSMsgType.TEXT
    assert answered
    async with abused._session.ws_connect(url, headers=abused.api.headers, max_msg_size=0) as socket:
        for _, body in shapes.wide_events(15_000):
            message = {"type": "publish", "workspace": WS, "event": json.loads(body)}
            await socket.send_str(json.dumps(message))
            assert (await socket.receive(SECONDS)).type is aiohttp.WSMsgType.TEXT
        for one in (GROWING, MIDDLE):
            batch = json.loads(shapes.mixed_events(BODY - 60_000, one))
            message = {"type": "publish", "workspace": WS, "events": batch}
            await socket.send_str(json.dumps(message))
            assert (await socket.receive(SECONDS)).type is aiohttp.WSMsgType.TEXT


@on_sqlite
async def test_searching_subscriptions(abused: Abused) -> None:
    """Hundreds of subscriptions that search long texts do not delay other clients, and each receives its event."""
    needle = "a" * 500
    url = abused.api.url.replace("http", "ws") + "/v1/ws"
    count = 300
    async with abused._session.ws_connect(url, headers=abused.api.headers, max_msg_size=0) as socket:
        for n in range(count):
            texts = [f"{needle}{n}-{m}" for m in range(9)] + [f"end {n} " * 3]
            await socket.send_str(json.dumps({"type": "subscribe", "workspace": WS, "sub": str(n), "q": texts}))
        synced: set[str] = set()
        while len(synced) < count:
            message = json.loads((await socket.receive(SECONDS)).data)
            assert message["type"] == "synced", message
            synced.add(message["sub"])
        text = "a" * 200_000 + " " + " ".join(f"end {n} " * 3 for n in range(count))
        (await abused.api.append(WS, description=text)).expect(201)
        given: set[str] = set()
        while len(given) < count:
            message = json.loads((await socket.receive(60)).data)
            if message["type"] == "events" and message["events"]:
                given.add(message["sub"])


@on_sqlite
async def test_many_readers(abused: Abused, request: pytest.FixtureRequest) -> None:
    """Thousands of streams of one workspace open at once, receive small and large events, and close at once."""
    count = 8_000 if request.config.getoption("slow") else 1_500
    async with Crowd(abused.api, WS, "sse") as crowd:
        members = await crowd.join(count)
        sizes = (100, 8_000, EVENT - 20_000)
        for size in sizes:
            (await abused.api.append(WS, details={"text": "x" * size})).expect(201)
        await eventually(lambda: all(member.events == len(sizes) for member in members))
        assert all(member.is_in_order for member in members)
    await eventually(lambda: _streams(abused.api))


async def _streams(api: Api) -> Any:
    """Check that no stream is open."""
    text = (await api.get("/metrics")).body.decode()
    found = re.search(r'streamer_subscribers\{transport="sse"\} (\S+)', text)
    return found is not None and float(found[1]) == 0


@on_sqlite
async def test_headers_and_packed_bodies(abused: Abused) -> None:
    """A `Content-Type` of the maximum length is sent, and compressed bodies that expand to nothing or to very much."""
    kinds = ("application/json" + ";" * 15_000, "application/json" + "".join(f";a*{n}*=x" for n in range(1_500)))
    for route in ALL_ROUTES:
        if route.method in {"POST", "PUT"}:
            for kind in kinds:
                assert await abused.send(route.method, path_of(route), b"{}", kind) in {400, 415}
    headers = {"Content-Encoding": "deflate"}
    assert await abused.send("POST", events(WS), shapes.empty_blocks(BODY - 1000), **headers) == 400


@on_sqlite
async def test_long_searches(abused: Abused) -> None:
    """Texts and search terms on which a naive search needs excessive time still reach every subscription."""
    url = abused.api.url.replace("http", "ws") + "/v1/ws"
    texts = ["a" * (508 - n // 10) + "bcdefghijk"[n % 10] + "aa" for n in range(99)] + ["end"]
    async with abused._session.ws_connect(url, headers=abused.api.headers, max_msg_size=0) as socket:
        await socket.send_str(json.dumps({"type": "subscribe", "workspace": WS, "sub": "s", "q": texts}))
        assert json.loads((await socket.receive(SECONDS)).data)["type"] == "synced"
        batch = [{"description": "a" * 2_380}] * 49 + [{"description": "a" * 29_000 + " end"}]
        (await abused.api.append_all(WS, batch)).expect(201)
        given: list[str] = []
        while not given:
            message = json.loads((await socket.receive(60)).data)
            given += [event["description"][-3:] for event in message.get("events", [])]
        assert given == ["end"]
