"""No input blocks the event loop: the CPU time of each step is limited, for all interfaces of the API."""

import asyncio
import io
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import aiohttp
import pytest

from streamer.client import Client
from streamer.settings import Settings
from tests.conftest import ADMIN_KEY
from tests.support.api import Answer, Api, events
from tests.support.steps import Steps, stepped_server
from tests.support.websocket import TEXT, WsReader

MiB = 2**20
W = events("w")
JSON = "application/json"
LONGEST = 0.05
"""Limit for the CPU seconds of one step, on a machine that runs `_reference` in `REFERENCE_SECONDS`."""
REFERENCE_SECONDS = 0.018
TRIES = 3
HEAD = b'{"action":"tool.used","actor":{"type":"agent","id":"a"}'


def event(rest: bytes = b"") -> bytes:
    """Return an event with more fields."""
    return HEAD + rest + b"}"


def batch(each: bytes, count: int) -> bytes:
    """Return an array of equal events."""
    return b"[" + b",".join([event(each)] * count) + b"]"


def text(content: str, size: int) -> bytes:
    """Return details with a text of about this many bytes."""
    return b',"details":{"text":"' + (content * (size // len(content.encode()))).encode() + b'"}'


PROSE = "Well, this is what happened: the build failed, then it passed, and nobody knows why [1], {2}. "
SECRETS = "password = hunter2x9, token: abc123def; "
KEYS = b",".join(b'"k%d":1' % number for number in range(90_000))

SHAPES: dict[str, tuple[bytes, int]] = {
    "prose": (batch(text(PROSE, 8000), 1000), 201),
    "letters beyond ASCII": (batch(text("Größe: 3 €, 😀 ", 8000), 500), 201),
    "few large events": (batch(text(PROSE, 250_000), 16), 201),
    "secrets": (batch(text(SECRETS, 8000), 3), 201),
    "a large event of secrets": (event(text(SECRETS, 60_000)), 201),
    "many secrets": (event(b',"details":{"a":[' + b",".join([b'"password=a1b2c3d4"'] * 2000) + b"]}"), 201),
    "many keys": (event(b',"details":{%b}' % b",".join(b'"k%d":1' % n for n in range(19_000))), 201),
    "many changes": (event(b',"changes":{%b}' % b",".join(b'"k%d":{"to":1}' % n for n in range(9000))), 201),
    "deep and wide": (event(b',"details":{"a":[%b1]}' % (b"[[[1]]]," * 24_000)), 201),
    "too deep": (event(b',"details":{"a":%b}' % (b"[" * 900 + b"]" * 900)), 400),
    "arrays": (b"[" + b"[]," * 1_000_000 + b"[]]", 413),
    "arrays in details": (event(b',"details":{"a":[%b[]]}' % (b"[]," * 1_000_000)), 413),
    "numbers": (event(b',"details":{"a":[%b1]}' % (b"1," * 1_500_000)), 413),
    "quotes": (b'["' + b'","' * 1_000_000 + b'"]', 413),
    "long numbers": (b"[" + b",".join([b"2." + b"2" * 150 + b"e-308"] * 50_000) + b"]", 400),
    "backslashes": (event(b',"description":"%b"' % (b"\\\\" * 4 * MiB)[: 8 * MiB - 1000]), 413),
    "many texts": (event(b',"details":{"a":[%b]}' % b",".join([b'"%b"' % (b"\\\\" * 120_000)] * 33)), 413),
    "a long text": (event(b',"description":"%b"' % ("é€" * 1_600_000).encode()), 413),
    "a long word": (event(b',"run_id":"%b"' % ("é€" * 1_600_000).encode()), 400),
    "a long time": (event(b',"occurred_at":"%b"' % (b"1" * 8_000_000)), 400),
    "unknown fields": (event(b"," + KEYS), 400),
    "unknown fields of the actor": (b'{"action":"a.b","actor":{%b}}' % KEYS, 400),
    "wrong changes": (event(b',"changes":{%b}' % KEYS), 400),
    "wrong events": (b"[" + b",".join([b'{"x":1,"actor":{"y":1}}'] * 1000) + b"]", 400),
    "white space": (b"\n" * 8 * MiB, 400),
    "nothing closed": (b"[" * 8 * MiB, 413),
}

LINES: dict[str, tuple[bytes, int]] = {
    "prose": (b"\n".join([event(text(PROSE, 8000))] * 300), 201),
    "many values in all": (b"\n".join([event(b',"details":{"a":[%b1]}' % (b"1," * 4000))] * 200), 201),
    "long lines": (
        b"\n".join([event(b',"details":{"a":[%b[]]}' % (b"[]," * 45_000))] * 6),
        201,
    ),
    "a line of arrays": (event() + b"\n[" + b"[]," * 1_000_000 + b"[]]", 413),
    "blank lines": (b"\n" * 8 * MiB, 400),
    "blanks": (b" \r\n" * (8 * MiB // 3), 400),
    "short lines": (b"1\n" * 4 * MiB, 400),
    "wrong lines": (b"\n".join([b"{}"] * 1000), 400),
}

SMALL: dict[str, tuple[str, bytes, int]] = {
    "a sign-in": ("/v1/session", b'{"code":"x",%b}' % KEYS[:500_000].rpartition(b",")[0], 400),
    "a ticket": ("/v1/tickets", b'{"workspace":"w","action":[%b1]}' % (b"1," * 90_000), 400),
    "a ticket's values": ("/v1/tickets", b'{"workspace":"w","action":[%b"a"]}' % (b'"a",' * 90_000), 400),
    "a key": ("/v1/workspaces/w/keys", b'{"name":"x","scopes":[%b1]}' % (b"1," * 90_000), 400),
    "arrays": ("/v1/workspaces/w/keys", b"[" * 500_000, 413),
}

MESSAGES = ("arrays in details", "unknown fields", "wrong changes", "a long word", "backslashes", "many texts")
"""Shapes that a WebSocket refuses, too."""


@pytest.fixture
def stepped(database_url: str, tmp_path: Path) -> Iterator[tuple[str, Steps]]:
    """Start a server whose steps are measured."""
    settings = Settings(data_dir=tmp_path / "data", port=0, database_url=database_url, admin_key=ADMIN_KEY)
    with stepped_server(settings) as (server, steps):
        yield server.url, steps


async def in_short_steps(steps: Steps, act: Callable[[], Awaitable[object]]) -> None:
    """Require that no step takes long while this runs. Retry if it fails, because a busy machine inflates CPU time, too."""
    for _ in range(TRIES):
        steps.forget()
        await act()
        seconds, what = steps.longest
        if seconds <= LONGEST or seconds <= LONGEST * _slowness():
            return
    raise AssertionError(f"{what} took {seconds * 1000:.0f} ms")


def _slowness() -> float:
    """Return how much slower than the reference machine this machine is now."""
    started = time.thread_time()
    _reference()
    return (time.thread_time() - started) / REFERENCE_SECONDS


def _reference() -> None:
    """Run a computation that takes about 10 ms on a fast machine."""
    json.loads("[" + "1," * 300_000 + "1]")


async def post(api: Api, path: str, data: bytes, kind: str = JSON) -> Answer:
    """Send a body; return when the step that sent the response has ended."""
    headers = {**api.headers, "Content-Type": kind}
    async with api._session.post(api.url + path, data=io.BytesIO(data), headers=headers) as response:
        answer = Answer(response.status, response.headers, await response.read())
    (await api.get("/livez")).expect(200)
    return answer


async def expect(api: Api, path: str, data: bytes, kind: str, *, name: str, status: int) -> None:
    """Send a body and check the response's status."""
    answer = await post(api, path, data, kind)
    assert answer.status == status, (name, answer.body[:300])


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "refused"])
async def test_bodies(stepped: tuple[str, Steps], http: aiohttp.ClientSession, *, stored: bool) -> None:
    """Large bodies, valid and invalid, are accepted or refused in short steps."""
    url, steps = stepped
    api = Api(http, url, ADMIN_KEY)
    (await api.put("/v1/workspaces/w")).expect(201)
    for kind, shapes in ((JSON, SHAPES), ("application/x-ndjson", LINES)):
        for name, (data, status) in shapes.items():
            if (status == 201) is stored:
                await in_short_steps(steps, partial(expect, api, W, data, kind, name=name, status=status))


async def test_small_bodies(stepped: tuple[str, Steps], http: aiohttp.ClientSession) -> None:
    """A body with too many values for its kind is refused in short steps, by the native API and by a dialect."""
    url, steps = stepped
    api = Api(http, url, ADMIN_KEY)
    (await api.put("/v1/workspaces/w")).expect(201)
    for name, (path, data, status) in SMALL.items():
        await in_short_steps(steps, partial(expect, api, path, data, JSON, name=name, status=status))
    paperclip = b'{"actorId":"a","action":"a.b","entityType":"issue","entityId":"i","details":{"a":[%b1]}}'
    for numbers, status in ((40_000, 201), (90_000, 201), (1_000_000, 413)):
        body = paperclip % (b"1," * numbers)
        await in_short_steps(
            steps, partial(expect, api, "/api/companies/w/activity", body, JSON, name=str(numbers), status=status)
        )


async def test_messages(stepped: tuple[str, Steps], http: aiohttp.ClientSession) -> None:
    """Large messages on a WebSocket are accepted or refused in short steps, and the socket stays open."""
    url, steps = stepped
    api = Api(http, url, ADMIN_KEY)
    (await api.put("/v1/workspaces/w")).expect(201)
    subscribe, publish = b'{"type":"subscribe","sub":"s","workspace":"w",', b'{"type":"publish","workspace":"w",'
    shapes = [
        (subscribe + KEYS + b"}", "error"),
        (subscribe + b'"action":[%b1]}' % (b"1," * 90_000), "error"),
        (publish + b'"events":%b}' % SHAPES["prose"][0], "published"),
        *((publish + b'"event":%b}' % SHAPES[name][0], "error") for name in MESSAGES),
        (publish + b'"event":%b}' % event(), "published"),
    ]
    async with await WsReader.open(url + "/v1/ws", headers=api.headers) as socket:

        async def ask(data: bytes, kind: str) -> None:
            await socket.send_frame(TEXT, data)
            answer = await socket.next()
            assert answer["type"] == kind, answer
            (await api.get("/livez")).expect(200)

        for data, kind in shapes:
            await in_short_steps(steps, partial(ask, data, kind))


async def test_appends_at_once(stepped: tuple[str, Steps], http: aiohttp.ClientSession) -> None:
    """Merge large batches of small events in one group are stored and read back in short steps."""
    url, steps = stepped
    api = Api(http, url, ADMIN_KEY)
    (await api.put("/v1/workspaces/w")).expect(201)
    each = ',"entity":{"type":"issue","id":"%d"},"run_id":"r%d","id":"%d-%d","details":{"a":1}'
    names = count()

    def bodies() -> list[bytes]:
        return [
            b"[" + b",".join(event((each % (n, n, name, n)).encode()) for n in range(1000)) + b"]"
            for name in islice(names, 4)
        ]

    async def append(bodies: list[bytes], status: int) -> None:
        answers = await asyncio.gather(*(post(api, W, body) for body in bodies))
        assert [answer.status for answer in answers] == [status] * len(bodies)

    stored = bodies()
    await append(stored, 201)
    await in_short_steps(steps, lambda: append(bodies(), 201))
    await in_short_steps(steps, lambda: append(stored, 200))


async def test_what_is_refused_says_why(stepped: tuple[str, Steps], http: aiohttp.ClientSession) -> None:
    """Too many values get 413 with their number and the limit. Commas and brackets within texts do not count."""
    url, _ = stepped
    api = Api(http, url, ADMIN_KEY)
    (await api.put("/v1/workspaces/w")).expect(201)
    values = event(b',"details":{"a":[%b1]}' % (b"1," * 100_000))
    for path in (W, "/api/companies/w/activity"):
        answer = await post(api, path, values)
        assert answer.status == 413
        assert re.search(r"has 1000\d\d JSON values; at most 100000 are taken", answer.body.decode())
    lines = b"\n".join([event(), values])
    refused = await post(api, W, lines, "application/x-ndjson")
    assert refused.json["error"]["details"]["fields"] == {"events[1]": "over 100000 values"}
    for shift in range(8):  # the escapes are split at each position
        content = "x" * shift + '\\",,,,' * 30_000
        answer = await post(api, W, event(b',"details":{"t":%b}' % json.dumps(content).encode()))
        assert answer.status == 201, "commas within a text do not count"
        assert answer.json["details"]["t"] == content


async def test_no_more_than_fifty_fields_are_named(stepped: tuple[str, Steps], http: aiohttp.ClientSession) -> None:
    """If many events are invalid, only the first are named, in JSON and in NDJSON."""
    url, _ = stepped
    api = Api(http, url, ADMIN_KEY)
    for separator, kind in ((b",", JSON), (b"\n", "application/x-ndjson")):
        body = separator.join([event(b',"x":1')] * 1000)
        answer = await post(api, W, b"[%b]" % body if kind == JSON else body, kind)
        fields = answer.json["error"]["details"]["fields"]
        assert list(fields)[:50] == [f"events[{index}].x" for index in range(50)]
        assert fields["and more"].startswith("at least 51 fields")


async def test_our_own_client_sends_more_than_an_array_holds(stepped: tuple[str, Steps]) -> None:
    """A batch of the client may exceed the limit of values in one array."""
    url, _ = stepped
    batch_ = [{"action": "a.b", "actor": {"type": "user", "id": "u"}, "details": {"n": [1] * 2000}}] * 60
    async with Client(url, ADMIN_KEY) as client:
        stored = await client.append("w", batch_, idempotency_key="k")
        assert [event["seq"] for event in stored] == list(range(1, 61))
        assert await client.append("w", batch_, idempotency_key="k") == stored
