"""Any input to any interface or parser gets a client error in time, and leaves nothing behind."""

import asyncio
import contextlib
import gc
import json
import re
import struct
from base64 import urlsafe_b64encode
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from streamer.access import keys
from streamer.access.authorize import COOKIE
from streamer.app import Server
from streamer.core.clock import LAST, format_timestamp, parse_timestamp
from streamer.core.errors import InvalidCursor, ValidationError
from streamer.core.filter import CATEGORIES, FILTER_FIELDS, canonical, escape, parse_filter
from streamer.core.filter import Condition as FilterCondition
from streamer.core.position import MAX_SEQ, Position
from streamer.http.dialects import DIALECTS
from streamer.http.models import Bounds, NoParams, Params, names_of, read_query
from streamer.http.native.params import HistoryParams, ListParams, SseParams, StreamParams, WorkspaceListParams
from streamer.http.native.routes import ROUTES
from streamer.http.paging import Cursor, parse_bound
from tests.conftest import ADMIN_KEY, MakeServer
from tests.http.test_openapi import as_the_admin_key_meets_it, examine
from tests.support.api import Api, events
from tests.support.raw import RawConnection, request_head
from tests.support.tokens import SECRET, join, token
from tests.support.waiting import SECONDS, eventually
from tests.support.websocket import CLOSE, TEXT, WsReader, encode_frame, open_socket

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MAX_MESSAGE = 2**16
SOON = 0.05
"""Time to wait for a response that may never come, because the request is incomplete."""
CODES = {1000, 1002, 1007, 1009}
"""Allowed close codes after a client's input (RFC 6455, 7.4.1): normal, protocol error, invalid UTF-8, too long."""


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens and short messages."""
    return await make_server(jwt_secret=SECRET, max_body_bytes=MAX_MESSAGE)


async def examined(case: Callable[[Any], Coroutine[Any, Any, None]], strategy: st.SearchStrategy[Any]) -> None:
    """Let hypothesis call a coroutine function with examples of a strategy, on this event loop."""
    loop = asyncio.get_running_loop()

    @settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(made=strategy)
    def check(made: Any) -> None:
        asyncio.run_coroutine_threadsafe(case(made), loop).result()

    await asyncio.to_thread(check)


async def gauges(api: Api) -> dict[str, float]:
    """Return what the server holds, according to its metrics."""
    text = (await api.get("/metrics")).body.decode()
    names = r"streamer_(?:tasks|feeds|append_queue_events|subscribers\{.*?\})"
    return {name: float(value) for name, value in re.findall(rf"^({names}) (\S+)$", text, re.MULTILINE)}


async def rests(api: Api, before: dict[str, float]) -> None:
    """Wait until the server holds no more than before."""

    async def settled() -> bool:
        now = await gauges(api)
        return all(value <= before.get(name, 0) for name, value in now.items())

    await eventually(settled)


# ---- the OpenAPI document


@pytest.mark.parametrize(
    ("who", "database_url"),
    [("a key", "sqlite"), ("an admin", "postgresql"), ("a viewer", "sqlite")],
    indirect=["database_url"],
)
async def test_documented_answers_only(make_server: MakeServer, http: aiohttp.ClientSession, who: str) -> None:
    """Whatever schemathesis sends as a key or a member, there is no 5xx and every response is documented."""
    server = await make_server(jwt_secret=SECRET)
    await examine_as(server, Api(http, server.url, ADMIN_KEY), who, **{"max-examples": 4, "seed": 1})


@on_sqlite
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("who", ["a key", "an admin", "a viewer"])
async def test_documented_answers_only_for_long(make_server: MakeServer, http: aiohttp.ClientSession, who: str) -> None:
    """The same holds with many more examples."""
    server = await make_server(jwt_secret=SECRET)
    await examine_as(server, Api(http, server.url, ADMIN_KEY), who, **{"max-examples": 200, "seed": 21})


async def examine_as(server: Server, api: Api, who: str, **generation: Any) -> None:
    """Test a server with one principal's credential."""
    (await api.append("w", id="known")).expect(201)
    if who == "a key":
        key = await api.create_key("w", scopes=["workspace:read", "workspace:write", "audit:read"])
    else:
        await join(api, "w", "caller", who.split()[1])
        key = token("caller")
    document = as_the_admin_key_meets_it((await api.get("/openapi.json")).json)
    wrong, statuses = await asyncio.to_thread(examine, server.url, document, key=key, **generation)
    assert wrong == [], f"{len(wrong)} errors, the first:\n" + "\n\n".join(text[:1500] for text in wrong[:5])
    refused = {status for found in statuses.values() for status in found}
    assert {200, 403, 404} <= refused, refused
    assert (await api.get(events("w"))).status == 200


# ---- frames

_NESTED = st.sampled_from([b"[" * 100_000, b'{"a":' * 20_000, b"[" * 30_000 + b"]" * 30_000])
_TEXTS = st.one_of(
    st.binary(max_size=40),
    st.binary(min_size=126, max_size=300),
    _NESTED,
    st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b'{"type":"ping"}', b'"\xc3', b"", b"\x03\xe8", b"\x03", b"\x03\xe8\xff"]),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)  # fmt: skip


def frame(
    opcode: int,
    bits: int,
    length: int | None,
    mask: bytes | None,
    payload: bytes,
) -> bytes:
    """Return a frame that may be invalid; `length` is the announced length, None means the actual one."""
    announced = len(payload) if length is None else length
    masked = 0x80 if mask is not None else 0
    if announced < 126:
        head = bytes((bits << 4 | opcode, masked | announced))
    elif announced < 2**16:
        head = bytes((bits << 4 | opcode, masked | 126)) + struct.pack(">H", announced)
    else:
        head = bytes((bits << 4 | opcode, masked | 127)) + struct.pack(">Q", announced)
    key = mask or b""
    return head + key + bytes(byte ^ key[n % 4] for n, byte in enumerate(payload) if key) if key else head + payload


_FRAMES = st.builds(
    frame,
    st.sampled_from([0, 1, 1, 1, 2, 8, 9, 10]) | st.integers(0, 15),
    st.sampled_from([8, 8, 8, 0]) | st.integers(0, 15),
    st.none() | st.none() | st.sampled_from([0, 125, 126, 127, 2**16, 2**31, 2**63 - 1, 2**63, 2**64 - 1]),
    st.just(b"\0\0\0\0") | st.none() | st.binary(min_size=4, max_size=4),
    _TEXTS,
)
_CUT = st.tuples(_FRAMES, st.integers(1, 8)).map(lambda made: made[0][: -made[1]])
_WHOLE = st.sampled_from(
    [(TEXT, b"{}"), (TEXT, b"["), (TEXT, b'{"type":"ping"}'), (CLOSE, b"\x03\xe8"), (CLOSE, b"")]
).map(lambda made: encode_frame(*made))
_CONVERSATIONS = st.lists(_FRAMES | _FRAMES | _CUT | _WHOLE | st.binary(max_size=20), min_size=1, max_size=6)


@on_sqlite
async def test_any_frames(server: Server, api: Api) -> None:
    """Any bytes after the handshake close the socket with a fitting code. Other sockets continue, and nothing is left behind."""
    (await api.append("w")).expect(201)
    ended: set[int | None] = set()
    said: set[str] = set()
    async with await open_socket(api, "w") as other:
        await other.next("synced")
        before = await gauges(api)
        tasks = len(asyncio.all_tasks())

        async def converse(pieces: list[bytes]) -> None:
            async with await open_socket(api, "w") as socket:
                ended.add(await said_at_the_end(socket, pieces, said))
            await other.send({"type": "ping", "ref": "still here"})
            assert (await other.next())["ref"] == "still here"

        await converse([encode_frame(TEXT, b'{"type":"ping"}'), encode_frame(CLOSE, b"\x03\xe8")])
        await converse([encode_frame(TEXT, b"["), encode_frame(TEXT, b"", reserved=4)])
        await examined(converse, _CONVERSATIONS)
        assert {1000, 1002} <= ended
        assert {"synced", "error", "pong"} <= said
        await rests(api, before)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        (await api.append("w", id="heard")).expect(201)
        assert [found["id"] for found in await other.events(1)] == ["heard"]


async def said_at_the_end(socket: WsReader, pieces: list[bytes], said: set[str]) -> int | None:
    """Send bytes, read the responses, and disconnect if nothing closes the socket. Return the close code, or None."""
    reading = asyncio.create_task(_read_on(socket, said))
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                await socket.send_bytes(piece)
            await asyncio.wait([reading], timeout=SOON)
            socket.finish()
        return await reading


async def _read_on(socket: WsReader, said: set[str]) -> int | None:
    """Read to the end, and record the types of messages."""
    code = None
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            found = await socket.frame()
            assert code is None, "data after the close frame"
            if found.opcode == CLOSE:
                code = struct.unpack(">H", found.payload[:2])[0] if found.payload else 1005
                assert code in CODES, (code, found.payload)
                found.payload[2:].decode()
            elif found.opcode == TEXT:
                message = json.loads(found.payload)
                said.add(message["type"])
                assert message.get("error", {}).get("code") != "internal_error", message
    return code


# ---- heads

_NAMES = st.sampled_from(
    ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "Content-Type", "Content-Encoding",
     "Authorization", "Cookie", "Origin", "Last-Event-ID", "Idempotency-Key", "Sec-WebSocket-Key", "Sec-WebSocket-Version",
     "Sec-Fetch-Site", "Access-Control-Request-Method", "X-Forwarded-For", "Range", "If-None-Match", "TE", "Trailer"]
)  # fmt: skip
_VALUES = st.sampled_from(
    ["", "0", "1", "-1", "99999999999999999999", "0x10", "chunked", "chunked, chunked", "gzip", "br", "identity", "close",
     "keep-alive", "upgrade", "websocket", "h2c", "13", "100-continue", "application/json", "application/x-ndjson", "null",
     "text/html; charset=utf-7", f"Bearer {ADMIN_KEY}", "Bearer x", "Basic x", f"{COOKIE}=x", "http://x", "bytes=0-1", "*", "\t", "é"]
)  # fmt: skip
_LATIN = st.text(st.characters(max_codepoint=255), max_size=20)
_TARGETS = st.sampled_from(
    [
        route.path.format(ws="w", id="known", user="ann", file="index.html", type="issue", entity="i1")
        for route in ROUTES
    ]
    + ["*", "http://x/v1/ws", "//", "/%", "/%00", "/%ff", "/v1/workspaces/w/events?" + "a=1&" * 50, "/../../etc", "x:1"]
)
_METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PRI", "get"])
_BODIES = st.sampled_from([b"", b"{}", b"0\r\n\r\n", b"5\r\nabc", b"ffffffffffffffff\r\n", b"[" * 50_000]) | st.binary(
    max_size=40
)


def head(method: str, target: str, version: str, headers: list[tuple[str, str]], rest: tuple[bytes, bytes]) -> bytes:
    """Return possible requests made of arbitrary texts."""
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in headers)]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1", "replace") + b"".join(rest)


_FORMED = st.builds(
    head,
    _METHODS,
    _TARGETS,
    st.just("HTTP/1.1"),
    st.lists(
        st.tuples(_NAMES, _VALUES) | st.just(("Authorization", f"Bearer {ADMIN_KEY}")),
        max_size=4,
        unique_by=lambda header: header[0],
    ).map(lambda headers: [("Host", "x"), *(header for header in headers if header[0] != "Host")]),
    st.tuples(st.just(b"\r\n"), _BODIES),
)
_ODD = st.builds(
    head,
    _METHODS | _LATIN,
    _TARGETS | _LATIN,
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "", "http/1.1"]),
    st.lists(st.tuples(_NAMES | _LATIN, _VALUES | _LATIN), max_size=8),
    st.tuples(st.sampled_from([b"\r\n", b"\n", b"", b"\r\n\r\n"]), _BODIES),
)
_HEADS = _FORMED | _FORMED | _ODD


@on_sqlite
async def test_any_head(server: Server, api: Api) -> None:
    """Any bytes in place of a request cause no 5xx and leave no open connection, and the next request is answered."""
    (await api.append("w", id="known")).expect(201)
    before = await gauges(api)
    answered: set[bytes] = set()

    async def send(data: bytes) -> None:
        async with await RawConnection.open(server.url) as connection:
            try:
                await connection.send(data)
                said = await connection.some(SOON)
                connection.finish()
                said += await connection.rest()
            except ConnectionError:  # it was refused before all of it was sent
                return
        statuses = re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)
        assert not [status for status in statuses if status >= b"500"], said
        answered.update(statuses)

    await examined(send, _HEADS)
    assert {b"400", b"401"} <= answered, answered
    await rests(api, before)
    (await api.append("w", id="after")).expect(201)


# ---- texts in requests

_TEXT = st.text(max_size=60) | st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def quoted(text: str) -> str:
    """Return any text, quoted for a URL."""
    return quote(
        text.encode("utf-8", "surrogateescape" if "\udc80" <= max(text, default="") <= "\udcff" else "replace"), safe=""
    )


@on_sqlite
async def test_any_text_in_every_place(server: Server, api: Api) -> None:
    """Any text as a credential, id, header or parameter is a client error or is taken literally."""
    (await api.append("w", id="known")).expect(201)
    before = await gauges(api)
    authorized = dict(api.headers)
    plain = {"Content-Type": "application/json", "Content-Length": 2}

    async def send(made: tuple[str, str]) -> None:
        text, latin = made
        target, line = quoted(text), latin.replace("\r", "").replace("\n", "").replace("\0", "")
        base = events("w")
        wanted: list[tuple[str, str, dict[str, Any], set[int]]] = [
            ("GET", f"{base}/stream?ticket={target}", {}, {401}),
            ("GET", base, {"Authorization": f"Bearer {line}"}, {400, 401}),
            ("GET", base, {"Authorization": f"Bearer eyJ{line}.{line}.{line}"}, {400, 401}),
            ("GET", base, {"Cookie": f"{COOKIE}={line}"}, {400, 401}),
            ("GET", f"{base}?cursor={target}", authorized, {400, 410}),
            ("GET", f"{base}?after={target}&limit=1", authorized, {200, 400, 410}),
            ("GET", f"{base}?before={target}&limit={target}", authorized, {200, 400, 410}),
            ("GET", f"{base}?q={target}&action={target}", authorized, {200, 400}),
            ("GET", f"{base}?{target}={target}", authorized, {200, 400}),
            ("GET", f"{base}/{target}?bogus=1", authorized, {400, 404}),
            ("GET", f"/v1/workspaces/{target}/events?bogus=1", authorized, {400, 404}),
            ("GET", f"/v1/workspaces/w/members/{target}", authorized, {200, 400, 404}),
            ("GET", f"/v1/workspaces/w/entities/{target}/{target}", authorized, {200, 400, 404}),
            ("DELETE", f"/v1/workspaces/w/members/{target}", authorized, {204, 400, 404, 405}),
            ("DELETE", f"/v1/workspaces/w/keys/{target}", authorized, {404, 405}),
            ("GET", f"/v1/workspaces?org_id={target}&after={target}", authorized, {200, 400}),
            ("POST", base, {**authorized, **plain, "Idempotency-Key": line}, {400}),
            ("GET", f"{base}/stream?bogus=1", {**authorized, "Last-Event-ID": line}, {400}),
        ]  # fmt: skip
        for method, path, headers, statuses in wanted:
            async with await RawConnection.open(server.url) as connection:
                await connection.send(request_head(method, path, headers) + (b"{}" if method == "POST" else b""))
                answer = await connection.answer()
            assert answer.status in statuses, (method, path, headers, answer.status, answer.body)

    await examined(send, st.tuples(_TEXT, _LATIN))
    await rests(api, before)


# ---- parsers

_QUERIES = st.dictionaries(
    st.sampled_from([*names_of(HistoryParams), "ticket", "org_id", "bogus"]) | st.text(max_size=5),
    st.lists(
        st.text(max_size=30)
        | st.sampled_from(["asc", "desc", "1", "1000", "0", "", "30", "abc.1", "2026-11-21T06:22:04Z", "!a,b", "a\\,b", "issue.*", "\0"])
        | st.from_regex(r"[ad]\.[a-z0-9]{1,4}\.\d{1,20}\.\d{0,3}\.\d{0,3}\.\d{1,3}\.", fullmatch=True).map(
            lambda text: urlsafe_b64encode(text.encode()).decode().rstrip("=")
        ),
        min_size=1,
        max_size=3,
    ),
    max_size=4,
)  # fmt: skip


def wrong_fields(parse: Callable[[], object]) -> set[str]:
    """Return the fields that a parser rejects. Any other exception is a bug."""
    try:
        parse()
    except InvalidCursor:
        return set()
    except ValidationError as error:
        return set(error.fields) or {"an error without a field"}
    return set()


@given(made=_QUERIES, header=st.none() | st.text(max_size=10))
def test_any_query(made: dict[str, list[str]], header: str | None) -> None:
    """Query parsers return a value or name the wrong fields, and raise nothing else."""
    query = URL("/").with_query([(name, value) for name, values in made.items() for value in values]).query
    models: list[type[Params]] = [HistoryParams, StreamParams, SseParams, ListParams, WorkspaceListParams, NoParams]
    models += [model for dialect in DIALECTS for route in dialect.operations if (model := route.params) is not None]
    for model in models:
        found = wrong_fields(partial(read_query, model, query, Bounds(1000, 60)))
        known = {*made, "filter"}
        assert [name for name in found if name not in known and name.partition("[")[0] not in known] == []
    with contextlib.suppress(ValidationError):
        params = read_query(SseParams, {"after": "x.1"}, Bounds(1000, 60))
        assert wrong_fields(lambda: params.start(header)) <= {"Last-Event-ID"}


@given(
    order=st.sampled_from(["asc", "desc"]),
    epoch=st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True),
    numbers=st.tuples(*[st.integers(0, MAX_SEQ)] * 4),
    given_=st.tuples(st.booleans(), st.booleans()),
)
def test_cursors_are_read_as_they_are_written(
    order: Any, epoch: str, numbers: tuple[int, ...], given_: tuple[bool, bool]
) -> None:
    """A cursor is parsed as it is written, and each cursor has one text."""
    seq, floor, ceiling, head = numbers
    cursor = Cursor(order, epoch, seq, floor if given_[0] else None, ceiling if given_[1] else None, head)
    assert Cursor.parse(str(cursor)) == cursor


@given(text=st.text(max_size=60) | st.text("ABCabc019-_=.", max_size=60))
@example(text="=")
@example(text="YS5hLjAuLi4wLg==")
def test_any_cursor(text: str) -> None:
    """An invalid cursor is rejected. A valid cursor is written as it was read."""
    with contextlib.suppress(InvalidCursor):
        assert str(Cursor.parse(text)) == text


@given(text=st.text(max_size=40) | st.from_regex(r"[a-z0-9]{0,33}\.\d{0,20}", fullmatch=True))
def test_any_position(text: str) -> None:
    """A position has exactly one text. All other texts are invalid."""
    try:
        assert str(Position.parse(text)) == text
    except ValueError:
        with contextlib.suppress(ValueError):
            assert isinstance(parse_bound(text), int)


@given(moment=st.integers(0, LAST))
def test_times_are_read_as_they_are_written(moment: int) -> None:
    """A time is the same after it was written and read."""
    assert parse_timestamp(format_timestamp(moment)) == moment
    assert parse_bound(format_timestamp(moment)) == moment


_WORD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@st.composite
def _conditions(draw: st.DrawFn) -> tuple[FilterCondition, str]:
    """Return a condition and its text."""
    field = draw(st.sampled_from([name for name in FILTER_FIELDS if name != "q"]))
    values = draw(st.frozensets(st.sampled_from(CATEGORIES) if field == "category" else _WORD, min_size=1, max_size=4))
    prefixes = tuple(sorted(draw(st.frozensets(_WORD, max_size=2)))) if field == "action" else ()
    exclude = draw(st.booleans())
    items = [escape(field, value) for value in sorted(values)] + [f"{escape(field, text)}.*" for text in prefixes]
    text = ",".join(items)
    condition = FilterCondition(field, values, tuple(sorted(f"{prefix}." for prefix in prefixes)), exclude)
    return condition, "!" * exclude + text


@given(made=st.lists(_conditions(), max_size=5, unique_by=lambda made: (made[0].field, made[0].exclude)))
def test_filters_are_read_as_they_are_written(made: list[tuple[FilterCondition, str]]) -> None:
    """A filter consists of the conditions that its text was made of."""
    parameters: dict[str, list[str]] = {}
    for condition, text in made:
        parameters.setdefault(condition.field, []).append(text)
    assert parse_filter(parameters) == canonical(condition for condition, _ in made)


@given(
    parameters=st.dictionaries(st.sampled_from(FILTER_FIELDS), st.lists(st.text(max_size=30), max_size=4), max_size=5)
)
def test_any_filter(parameters: dict[str, list[str]]) -> None:
    """An invalid filter is refused with its field."""
    assert wrong_fields(lambda: parse_filter(parameters)) <= {*parameters, "filter"}


# ---- nothing grows


@on_sqlite
async def test_refused_requests_leave_nothing(server: Server, api: Api) -> None:
    """Thousands of refused requests leave no additional objects, tasks or buffers in the process."""
    (await api.append("w")).expect(201)
    stranger = api.with_key(await api.create_key("w", scopes=["workspace:read"]))
    nobody = api.with_key(None)

    async def refuse(number: int) -> None:
        other = f"w{number}"
        for answer in (
            await api.with_key(f"sk_{number}").get(events(other)),
            await api.with_key(token("ann", seconds=-60, jti=str(number))).get(events(other)),
            await api.with_key(token("ann")[:-2] + str(number)).get(events(other)),
            await nobody.get(f"{events(other)}/stream", ticket=f"stk_{number}"),
            await stranger.get(events(other)),
            await stranger.get(f"{events(other)}/stream"),
            await stranger.get(events("w"), **{f"bogus{number}": "x"}),
            await stranger.get(f"/nothing/{number}"),
            await stranger.post("/v1/tickets", {"workspace": other}),
            await stranger.append("w", id=str(number)),
        ):
            assert 400 <= answer.status < 500

    async def flood(first: int) -> tuple[int, dict[str, float]]:
        for start in range(first, first + 100, 10):
            await asyncio.gather(*(refuse(number) for number in range(start, start + 10)))
        gc.collect()
        return len(gc.get_objects()), await gauges(api)

    await flood(0)
    before, held = await flood(100)
    for round_ in range(2, 5):
        after, _ = await flood(100 * round_)
    assert after - before < 1000, "of three thousand requests"
    await rests(api, held)


@on_sqlite
async def test_what_is_remembered_of_credentials_is_bounded(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded number of look-ups of valid tokens is cached; refused tokens are not cached."""
    monkeypatch.setattr(keys, "CACHE_ENTRIES", 50)
    remembered = server.keyring._cache
    for number in range(200):
        (await api.with_key(token(f"user-{number}")).get("/v1/session")).expect(200)
        assert len(remembered) <= 50
    server.keyring.forget()
    for number in range(20):
        assert (await api.with_key(f"sk_{number}").get("/v1/session")).status == 401
    assert not remembered
