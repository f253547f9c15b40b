"""Appending: events are stored as sent, errors name the wrong fields, and a request is stored once or not at all."""

import asyncio
import gzip
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from streamer.app import Server
from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.support.api import Answer, Api, events, make_event
from tests.support.keys import store_key
from tests.support.raw import RawConnection, request_head
from tests.support.waiting import eventually

W = events("w")
KEYS = [
    *("id", "seq", "workspace_id", "category", "action", "actor", "entity", "agent_id", "run_id", "task_id"),
    *("description", "details", "changes", "occurred_at", "timestamp", "traceparent"),
]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FULL: dict[str, Any] = {
    "id": "evt:1",
    "category": "audit",
    "action": "issue.updated",
    "actor": {
        "type": "agent",
        "id": "agent_eng1",
        "name": "Bob",
        "role": "engineer",
        "on_behalf_of": "user-123",
        "ip": "192.0.2.1",
    },
    "entity": {"type": "issue", "id": "issue_abc123", "identifier": "PAP-42", "name": "Fix login bug"},
    "agent_id": "agent_eng1",
    "run_id": "run_9",
    "task_id": "task 7",
    "description": "Bob moved it",
    "details": {"status": "in_progress", "n": [1, 2.5, None, True, {"deep": "é"}]},
    "changes": {"status": {"from": "todo", "to": "in_progress"}, "owner": {"to": "bob"}},
    "occurred_at": "2026-11-21T06:22:04+01:00",
    "traceparent": TRACE,
}

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests that do not reach the database."""


async def count(api: Api, workspace: str = "w") -> int:
    """Return the number of events in the workspace; 0 also if it does not exist."""
    answer = await api.get(events(workspace), limit=1000)
    return len(answer.json["events"]) if answer.status == 200 else 0


def fields(answer: Answer) -> dict[str, str]:
    """Return the wrong fields that a 400 names."""
    answer.expect(400)
    assert answer.error == "validation_error"
    named = answer.json["error"]["details"]["fields"]
    assert all(isinstance(text, str) and text for text in named.values())
    assert isinstance(named, dict)
    return named


@asynccontextmanager
async def locked_database(url: str) -> AsyncIterator[None]:
    """Hold the database lock that every append needs, as another program would."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.close()
    else:
        engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
        async with engine.connect() as postgresql:
            await postgresql.execute(text("SELECT 1 FROM workspaces FOR UPDATE"))
            yield
        await engine.dispose()


# ---- accepted events


async def test_the_smallest_event(api: Api) -> None:
    """An event with only action and actor is accepted. The 201 response holds the whole stored event with its keys in order."""
    answer = await api.post(W, {"action": "issue.created", "actor": {"type": "user", "id": "ann"}})
    stored = answer.expect(201)
    assert answer.headers["Content-Type"] == "application/json"
    assert list(stored) == KEYS
    assert uuid.UUID(stored["id"]).version == 7
    assert stored | {"id": "", "timestamp": ""} == {
        "id": "",
        "seq": 1,
        "workspace_id": "w",
        "category": "activity",
        "action": "issue.created",
        "actor": {"type": "user", "id": "ann", "name": None, "role": None, "on_behalf_of": None, "ip": None},
        "entity": None,
        "agent_id": None,
        "run_id": None,
        "task_id": None,
        "description": "ann created issue",
        "details": {},
        "changes": None,
        "occurred_at": None,
        "timestamp": "",
        "traceparent": None,
    }
    assert (await api.get(f"{W}/{stored['id']}")).body == answer.body


async def test_every_field_comes_back_as_sent(api: Api) -> None:
    """Every field is stored as the client sent it, and every API serves it unchanged."""
    answer = await api.post(W, FULL)
    stored = answer.expect(201)
    assert {name: stored[name] for name in FULL} == FULL
    assert (await api.get(W, order="asc")).json["events"] == [stored]
    assert (await api.get(f"{W}/evt:1")).body == answer.body
    async with await api.stream("w", after=stored["timestamp"].replace("2026", "2000")) as reader:
        block = await reader.next("activity")
    assert block.data is not None
    assert block.data.encode() == answer.body


async def test_null_is_absent(api: Api) -> None:
    """An optional field that is null counts as absent."""
    nothing = dict.fromkeys(name for name in FULL if name not in {"action", "actor"})
    actor = {"type": "user", "id": "ann", "name": None, "role": None, "on_behalf_of": None, "ip": None}
    stored = (await api.post(W, {**nothing, "action": "issue.created", "actor": actor})).expect(201)
    plain = (await api.post(W, make_event())).expect(201)
    own = {"id", "seq", "timestamp"}
    assert {k: v for k, v in stored.items() if k not in own} == {k: v for k, v in plain.items() if k not in own}


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-ndjson", "application/jsonl", "application/ndjson"]
)
async def test_a_batch_keeps_its_order(api: Api, kind: str) -> None:
    """Arrays and NDJSON are stored in order, without gaps, with timestamps that never decrease. A batch may have one item."""
    batch = [make_event(id=f"e{n}", details={"n": n}) for n in range(20)]

    async def send(items: list[dict[str, object]]) -> Any:
        lines = [json.dumps(item).encode() for item in items]
        # NDJSON may contain blank lines and Windows line ends.
        data = b"[" + b",".join(lines) + b"]" if kind == "application/json" else b"\n" + b"\r\n".join(lines) + b"\n\n"
        answer = await api.post(W, data=data, headers={"Content-Type": kind + "; charset=UTF-8"})
        found = answer.expect(201)
        assert list(found) == ["events"]
        return found["events"]

    stored = await send(batch)
    assert [event["seq"] for event in stored] == list(range(1, 21))
    assert [event["id"] for event in stored] == [f"e{n}" for n in range(20)]
    times = [event["timestamp"] for event in stored]
    assert times == sorted(set(times))
    assert (await api.get(W, order="asc")).json["events"] == stored
    assert [event["seq"] for event in await send([make_event()])] == [21]


@on_sqlite
@pytest.mark.parametrize("limit", [None, 7])
async def test_the_largest_batch(make_server: MakeServer, http: aiohttp.ClientSession, limit: int | None) -> None:
    """A batch may hold 1,000 events, or the configured number. A larger batch gets 400, and none of it is stored."""
    server = await make_server(**({} if limit is None else {"max_batch_events": limit}))
    api = Api(http, server.url, ADMIN_KEY)
    most = limit or 1000
    assert "events" in fields(await api.append_all("w", [{}] * (most + 1)))
    assert await count(api) == 0
    (await api.append_all("w", [{}] * most)).expect(201)
    assert (await api.get("/v1/workspaces/w")).json["position"].endswith(f".{most}")


@on_sqlite
async def test_numbers(api: Api) -> None:
    """64-bit integers are exact and larger ones become the nearest double. A number beyond that range gets 400."""
    exact = [0, -1, 2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63), 0.1, 1e300, 1.5]
    stored = (await api.append("w", details={"n": exact})).expect(201)
    assert stored["details"]["n"] == exact
    data = json.dumps(make_event(details={"n": 10**30, "m": -(10**30)})).encode()
    assert (await api.post(W, data=data)).expect(201)["details"] == {"n": 1e30, "m": -1e30}
    for number in (b"1e400", b"-1e400", b"9" * 400, b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b"+1"):
        data = json.dumps(make_event(details={"n": 0})).encode().replace(b'"n": 0', b'"n": ' + number)
        assert list(fields(await api.post(W, data=data))) == ["body"], number


async def test_texts(api: Api) -> None:
    """A free field returns any text that JSON can carry unchanged, including NUL and line separators."""
    for words in (
        "\0",
        "a\0b",
        "\u2028\u2029\x7f\x85",
        "\r\n\t\x1b",
        "🏳️‍🌈 é e\u0301",
        "\ufeff\ufffe\uffff",
        "</script>",
        "\\u0000",
        "",
    ):
        sent = {"details": {words: [words]}, "actor": {"type": "user", "id": "ann", "name": words}}
        stored = (await api.append("w", **sent, entity={"name": words})).expect(201)
        assert stored["details"] == sent["details"]
        assert stored["actor"]["name"] == words
        assert stored["entity"]["name"] == words
        stored = (await api.append("w", description=f"before {words} after")).expect(201)
        assert stored["description"] == f"before {words} after"
        assert (await api.get(f"{W}/{stored['id']}")).json == stored


@on_sqlite
async def test_of_a_key_that_is_repeated_the_last_counts(api: Api) -> None:
    """A repeated JSON key is not an error (RFC 8259 leaves it open). The last value counts everywhere."""
    data = b'{"action":1,"action":"a.b","actor":{"type":"x","id":"1","id":"2"},"details":{"k":1,"k":2}}'
    stored = (await api.post(W, data=data)).expect(201)
    assert (stored["action"], stored["actor"]["id"], stored["details"]) == ("a.b", "2", {"k": 2})


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"action": "issue.created"}, "activity"),
        ({"action": "member.added"}, "audit"),
        ({"action": "policy_decision"}, "audit"),
        ({"action": "member.added", "category": "activity"}, "activity"),
        ({"action": "anything at all", "category": "audit"}, "audit"),
    ],
)
@on_sqlite
async def test_the_category_is_derived(api: Api, event: dict[str, str], expected: str) -> None:
    """Without a category, the action determines it. A given category is kept."""
    assert (await api.append("w", **event)).expect(201)["category"] == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"action": "issue.updated", "entity": {"type": "issue", "identifier": "PAP-42"}}, "ann updated issue PAP-42"),
        ({"action": "issue.updated", "entity": {"type": "bug", "id": "1", "name": "Login"}}, "ann updated bug Login"),
        ({"action": "issue.updated", "entity": {"id": "7"}}, "ann updated issue 7"),
        ({"action": "pull_request.review_requested"}, "ann review requested pull request"),
        ({"action": "issue.comment_added", "entity": {"type": "issue", "id": "7"}}, "ann commented on issue 7"),
        ({"action": "deployed"}, "ann deployed"),
        ({"action": "a.b", "actor": {"type": "agent", "id": "x", "name": "Bob"}}, "Bob b a"),
        ({"action": "a.b", "description": "As I say."}, "As I say."),
    ],
)
@on_sqlite
async def test_the_description_is_made(api: Api, event: dict[str, Any], expected: str) -> None:
    """Without a description, one is generated from actor, action and entity. A given description is kept."""
    assert (await api.append("w", **event)).expect(201)["description"] == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            {"details": {"_previous": {"status": "todo", "owner": None}, "status": "done"}},
            {"status": {"from": "todo", "to": "done"}, "owner": {"from": None, "to": None}},
        ),
        ({"details": {"_previous": {"a": 1}, "a": 2}, "changes": {"b": {"from": 3}}}, {"b": {"from": 3}}),
        ({"details": {"_previous": {"a": 1}, "a": 2}, "changes": {}}, {}),
        ({"details": {"_previous": {}}}, None),
        ({"details": {"_previous": "todo"}}, None),
        ({"details": {"_previous": [1]}}, None),
        ({"details": {"status": "done"}}, None),
    ],
)
@on_sqlite
async def test_changes_are_derived(api: Api, event: dict[str, Any], expected: object) -> None:
    """Without changes, they are derived from `details._previous`, which is kept. Given changes are kept."""
    stored = (await api.append("w", **event)).expect(201)
    assert stored["changes"] == expected
    assert stored["details"] == event["details"]


# ---- refused events

LONG = "x" * 513
NO_WORDS: list[Any] = ["", 5, LONG, "a\0b", []]
WRONG: list[tuple[dict[str, Any], set[str]]] = [
    ({"action": None}, {"action"}),
    *(({"action": value}, {"action"}) for value in NO_WORDS),
    ({"actor": None}, {"actor.type", "actor.id"}),
    ({"actor": {}}, {"actor.type", "actor.id"}),
    ({"actor": {"type": "user"}}, {"actor.id"}),
    ({"actor": {"id": "ann", "type": None}}, {"actor.type"}),
    ({"actor": "ann"}, {"actor"}),
    ({"actor": []}, {"actor"}),
    *(({"actor": {"type": value, "id": "ann"}}, {"actor.type"}) for value in NO_WORDS),
    *(({"actor": {"type": "user", "id": value}}, {"actor.id"}) for value in NO_WORDS),
    *(({"actor": {"type": "user", "id": "ann", "on_behalf_of": value}}, {"actor.on_behalf_of"}) for value in NO_WORDS),
    *(
        ({"actor": {"type": "user", "id": "ann", name: 5}}, {f"actor.{name}"})
        for name in ("name", "role", "ip", "email")
    ),
    ({"entity": "PAP-42"}, {"entity"}),
    ({"entity": []}, {"entity"}),
    *(({"entity": {name: v}}, {f"entity.{name}"}) for name in ("type", "id", "identifier") for v in NO_WORDS),
    *(({"entity": {name: 5}}, {f"entity.{name}"}) for name in ("name", "url")),
    *(({name: value}, {name}) for name in ("agent_id", "run_id", "task_id") for value in NO_WORDS),
    *(
        ({name: 5}, {name})
        for name in ("description", "details", "changes", "category", "id", "occurred_at", "traceparent")
    ),
    *(({name: []}, {name}) for name in ("description", "details", "changes")),
    *(({name: "x"}, {name}) for name in ("details", "changes")),
    ({"changes": {"status": "done"}}, {"changes.status"}),
    ({"changes": {"status": {"from": 1, "to": 2, "by": 3}}}, {"changes.status.by"}),
    *(({"category": value}, {"category"}) for value in ("", "work", "Activity")),
    *(({"id": value}, {"id"}) for value in ("stream", "ws", "stats", "export", ".", "..")),
    *(({"id": value}, {"id"}) for value in ("", "a/b", "a b", "é", "x" * 129, "a\n", "\0")),
    *(({"occurred_at": value}, {"occurred_at"}) for value in ("", "yesterday", "2026-11-21", "2026-11-21T06:22:04")),
    *(
        ({"occurred_at": f"2026-{at}Z"}, {"occurred_at"})
        for at in ("02-30T00:00:00", "01-01T24:00:00", "13-01T00:00:00")
    ),
    *(({"traceparent": value}, {"traceparent"}) for value in ("", "x", TRACE.upper(), TRACE + "\n", TRACE[1:])),
    *(({name: "x"}, {name}) for name in ("foo", "seq", "timestamp", "workspace_id", "metadata", "Action", "")),
    ({"action": 5, "run_id": 5, "foo": 5, "actor": {"id": 5}}, {"action", "run_id", "foo", "actor.id"}),
]


@on_sqlite
async def test_each_wrong_field_is_named(api: Api) -> None:
    """Every wrong value gets 400 with the field's path, alone and in a batch, and nothing of the request is stored."""
    for change, expected in WRONG:
        event = make_event(**change)
        named = fields(await api.post(W, event))
        assert {name.replace("body", "") for name in named} == expected, (change, named)
        batch = [make_event(), make_event(), make_event(), event]
        in_batch = {f"events[3].{name}" for name in expected}
        assert set(fields(await api.post(W, batch))) == in_batch, change
        lines = b"\n".join(json.dumps(item).encode() for item in batch)
        answer = await api.post(W, data=lines, headers={"Content-Type": "application/x-ndjson"})
        assert set(fields(answer)) == in_batch, change
    missing = fields(await api.post(W, [{"actor": {"type": "user", "id": "ann"}}, make_event(), {}, 5]))
    assert set(missing) == {"events[0].action", "events[2].action", "events[3]"}
    assert (await api.get(W)).error == "workspace_not_found"  # the first event would have created it


@on_sqlite
async def test_a_wrong_field_in_words(api: Api) -> None:
    """The error explains what is wrong, names the limit or the choices, and says where free data belongs."""
    named = fields(await api.append("w", foo=1, action="", id="stream"))
    assert named["foo"] == "unknown field; free data goes into `details`"
    assert "stream" in named["id"]
    trace = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
    assert fields(await api.append("w", action="", run_id="x" * 513, category="c", traceparent="t", details=[])) == {
        "action": "must not be empty",
        "run_id": "must have at most 512 characters",
        "category": "must be 'activity' or 'audit'",
        "traceparent": f"must have the form {trace}",
        "details": "must be an object",
    }
    (await api.append("w")).expect(201)
    named = fields(await api.post("/v1/workspaces/w/keys", {"name": "", "scopes": ["admin"] * 50, "template": "{x}"}))
    assert named == {
        "name": "must not be empty",
        "scopes": "must have at most 7 items",
        "template": "must be 'full_access', 'submit_observe' or 'read_only'",
    }


NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"[{}",
    b"nul",
    b"{'a': 1}",
    b'{"action":"a.b",}',
    b'{"a":1} {"a":1}',
    b'"\x00"',
    b'{"a":"\n"}',
    b'{"action":"\\ud800"}',
    b'{"action":"\\udc00\\ud800"}',
    b'{"\\udfff":1}',
    b'{"action":"\xff"}',
    b'{"action":"\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"action":"a.b"}',
    '{"action":"a.b"}'.encode("utf-16"),
    b"[" * 90_000,
    b"[" * 90_000 + b"]" * 90_000,
    b'{"a":' * 90_000 + b"1" + b"}" * 90_000,
    b'{"action":"a.b","actor":{"type":"u","id":"1"},"details":' + b'{"a":[' * 40_000 + b"1" + b"]}" * 40_000 + b"}",
]


@on_sqlite
async def test_what_is_not_json(api: Api) -> None:
    """Invalid JSON, excessive nesting and lone surrogates get 400. For NDJSON, the error names the line."""
    for data in NOT_JSON:
        assert list(fields(await api.post(W, data=data))) == ["body"], data[:80]
        if b"\n" in data or not data.strip():
            continue
        good = json.dumps(make_event()).encode()
        answer = await api.post(
            W, data=b"\n".join([good, b"", good, data]), headers={"Content-Type": "application/x-ndjson"}
        )
        assert list(fields(answer)) == ["events[2]"], data[:80]
    for data in (b"null", b"5", b'"x"', b"true", b"1.5"):
        assert list(fields(await api.post(W, data=data))) == ["body"], data
    assert await count(api) == 0


async def test_an_empty_batch_is_refused(api: Api) -> None:
    """A batch without events gets 400, as an array and as NDJSON."""
    assert list(fields(await api.post(W, []))) == ["events"]
    for data in (b"", b"\n", b" \r\n\n"):
        answer = await api.post(W, data=data, headers={"Content-Type": "application/x-ndjson"})
        assert list(fields(answer)) == ["events"], data


async def test_an_id_twice_in_a_batch_is_refused(api: Api) -> None:
    """A repeated id in a batch gets 400 even if the events are equal. The error names the later events."""
    batch = [{"id": "a"}, {"id": "b"}, {"id": "a"}, {}, {"id": "b", "action": "x.y"}]
    assert set(fields(await api.append_all("w", batch))) == {"events[2].id", "events[4].id"}
    assert await count(api) == 0


async def test_the_largest_event(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """An event of 256 KiB as stored is accepted. One byte more gets 413, and nothing of its batch is stored."""
    api = Api(http, (await make_server()).url, ADMIN_KEY)
    answer = await api.append("w", id="a", details={"x": ""})
    empty = len(answer.body) - len("1")  # the digits of seq do not count
    answer.expect(201)
    room = 256 * 1024 - empty
    too_large = await api.append("w", id="b", details={"x": "x" * (room + 1)})
    too_large.expect(413)
    assert too_large.error == "payload_too_large"
    batch = await api.append_all("w", [{"id": "c"}, {"id": "d", "details": {"x": "é" * (room // 2 + 1)}}])
    batch.expect(413)
    assert list(batch.json["error"]["details"]["fields"]) == ["events[1]"]
    assert await count(api) == 1
    stored = (await api.append("w", id="b", details={"x": "x" * room})).expect(201)
    assert len(stored["details"]["x"]) == room
    assert (await api.get(f"{W}/b")).json == stored


def nested(levels: int, *, lists: bool = False) -> Any:
    """Return a value with this many levels of objects (or of arrays within one object)."""
    value: Any = "x"
    for level in range(levels):
        value = [value] if lists and level < levels - 1 else {"a": value}
    return value


@on_sqlite
async def test_the_deepest_details(api: Api) -> None:
    """`details` and `changes` may nest 32 levels; deeper nesting gets 400."""
    for lists in (False, True):
        assert (await api.append("w", details=nested(32, lists=lists))).expect(201)["details"] == nested(
            32, lists=lists
        )
        for levels in (33, 100, 254, 255, 900):
            assert list(fields(await api.append("w", details=nested(levels, lists=lists)))) == ["details"], levels
        (await api.append("w", changes={"a": {"from": nested(30, lists=lists)}})).expect(201)
        assert list(fields(await api.append("w", changes={"a": {"to": nested(31, lists=lists)}}))) == ["changes"]
    wide = {"a": [[{}]] * 500, "b": {str(n): {} for n in range(500)}}
    assert (await api.append("w", details=wide)).expect(201)["details"] == wide
    assert list(fields(await api.append_all("w", [{}, {"details": nested(33)}]))) == ["events[1].details"]


@on_sqlite
async def test_the_largest_body(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A body up to the limit is read. A larger one gets 413, whether its length is announced, chunked or compressed."""
    limit = 64 * 1024
    server = await make_server(max_body_bytes=limit)
    api = Api(http, server.url, ADMIN_KEY)
    data = json.dumps(make_event()).encode()
    (await api.post(W, data=data.ljust(limit))).expect(201)
    assert (await api.post(W, data=data.ljust(limit + 1))).error == "payload_too_large"

    async def chunks(size: int) -> AsyncIterator[bytes]:
        yield data
        for _ in range((size - len(data)) // 1024):
            yield b" " * 1024

    headers = {**api.headers, "Content-Type": "application/json"}
    for size, status in ((limit, 201), (2 * limit, 413)):
        async with http.post(server.url + W, data=chunks(size), headers=headers) as response:
            assert response.status == status
            assert status == 201 or (await response.json())["error"]["code"] == "payload_too_large"
    packed = gzip.compress(data.ljust(100 * limit))
    assert len(packed) < limit
    answer = await api.post(W, data=packed, headers={"Content-Encoding": "gzip"})
    assert answer.error == "payload_too_large"
    assert await count(api) == 2


@on_sqlite
async def test_media_types(api: Api) -> None:
    """Only JSON and NDJSON in UTF-8 are read, plain or gzipped. Other media types get 415, broken compression gets 400."""
    data = json.dumps(make_event()).encode()
    for kind in ("text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml",
                 "application/json; charset=latin-1", "application/json; charset=utf-16", "json", "application/json-seq"):  # fmt: skip
        answer = await api.post(W, data=data, headers={"Content-Type": kind})
        assert (answer.status, answer.error) == (415, "unsupported_media_type"), kind
    for encoding in ("compress", "gzip, gzip", "rot13"):
        answer = await api.post(W, data=data, headers={"Content-Encoding": encoding})
        assert (answer.status, answer.error) == (415, "unsupported_media_type"), encoding
    (await api.post(W, data=gzip.compress(data), headers={"Content-Encoding": "gzip"})).expect(201)
    (await api.post(W, data=data, headers={"Content-Encoding": "identity"})).expect(201)
    assert list(fields(await api.post(W, data=data, headers={"Content-Encoding": "gzip"}))) == ["body"]
    assert await count(api) == 2


@on_sqlite
async def test_parameters_and_reserved_workspaces(api: Api) -> None:
    """An append takes no parameters. Workspace ids have a fixed format, and clients cannot append to `system`."""
    assert list(fields(await api.post(W, make_event(), params={"limit": 5}))) == ["limit"]
    for workspace in ("system", "a%20b", "%00", "%C3%A9", "x" * 129, "a%2Fb"):
        assert list(fields(await api.append(workspace))) == ["workspace"], workspace
    for workspace in ("x" * 128, "A.b_c:d~e@f-9", "0"):
        assert (await api.append(workspace)).expect(201)["workspace_id"] == workspace


# ---- once, or not at all


async def test_a_client_id_is_stored_once(api: Api) -> None:
    """Repeating an id with the same content returns the stored event, byte for byte, with 200. Only new events return 201."""
    first = await api.append("w", id="a", details={"n": 1})
    first.expect(201)
    again = await api.append("w", id="a", details={"n": 1})
    assert (again.status, again.body) == (200, first.body)
    mixed = (await api.append_all("w", [{"id": "b"}, {"id": "a", "details": {"n": 1}}, {"id": "c"}])).expect(201)[
        "events"
    ]
    assert [(event["id"], event["seq"]) for event in mixed] == [("b", 2), ("a", 1), ("c", 3)]
    repeated = await api.append_all("w", [{"id": "c"}, {"id": "b"}])
    assert repeated.status == 200
    assert [event["seq"] for event in repeated.json["events"]] == [3, 2]
    assert (await api.append("w")).expect(201)["seq"] == 4  # nothing between them used a number
    assert (await api.append("other", id="a")).expect(201)["seq"] == 1  # ids are unique per workspace


async def test_a_client_id_with_other_content_is_a_conflict(api: Api) -> None:
    """Repeating an id with different content gets 409 for the whole batch."""
    (await api.append("w", id="a", details={"n": 1})).expect(201)
    for change in ({"details": {"n": 2}}, {"action": "x.y"}, {"run_id": "r"}, {"occurred_at": "2026-11-21T06:22:04Z"}):
        answer = await api.append("w", **{"id": "a", "details": {"n": 1}, **change})
        assert (answer.status, answer.error) == (409, "id_conflict"), change
    answer = await api.append_all("w", [{"id": "b"}, {"id": "a"}, {"id": "c"}])
    assert (answer.status, answer.error) == (409, "id_conflict")
    assert answer.json["error"]["details"]["fields"] == {"events[1].id": "a"}
    assert await count(api) == 1


@pytest.mark.parametrize("by", ["id", "key"])
async def test_of_equal_appends_at_once_one_is_stored(api: Api, by: str) -> None:
    """Of concurrent equal requests, by id or by Idempotency-Key, one gets 201, and all get the same response."""
    batch: list[dict[str, object]] = [{"id": "a"}, {"id": "b"}] if by == "id" else [{}, {}]
    headers = {} if by == "id" else {"Idempotency-Key": "k-1"}
    answers = await asyncio.gather(*(api.append_all("w", batch, headers=headers) for _ in range(25)))
    assert sorted(answer.status for answer in answers) == [200] * 24 + [201]
    assert len({answer.body for answer in answers}) == 1
    assert await count(api) == 2


async def test_of_different_appends_with_one_id_at_once_one_wins(api: Api) -> None:
    """Of concurrent requests with one id and different contents, one is stored and the others get 409."""
    answers = await asyncio.gather(*(api.append("w", id="a", details={"n": n}) for n in range(25)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 24
    winner = next(answer.json for answer in answers if answer.status == 201)
    assert (await api.get(W)).json["events"] == [winner]


async def test_the_idempotency_key(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """An Idempotency-Key with the same content returns the first response on every node; with other content it gets 409."""
    here, there = [Api(http, (await make_server()).url, ADMIN_KEY) for _ in range(2)]
    key = {"Idempotency-Key": 'any:"visible"{text}' + "x" * 200}
    first = await here.post(W, make_event(), headers=key)
    first.expect(201)
    for api in (here, there):
        again = await api.post(W, make_event(), headers=key)
        assert (again.status, again.body) == (200, first.body)
        for other in (make_event(run_id="r"), make_event(id="mine"), [make_event(), make_event()]):
            answer = await api.post(W, other, headers=key)
            assert (answer.status, answer.error) == (409, "idempotency_conflict")
    assert (await here.post(events("v"), make_event(), headers=key)).expect(201)[
        "seq"
    ] == 1  # keys are scoped to a workspace
    batch = await here.append_all("w", [{}, {}], headers={"Idempotency-Key": "k"})
    assert (await there.append_all("w", [{}, {}], headers={"Idempotency-Key": "k"})).body == batch.body
    assert await count(here) == 3


async def test_two_principals_do_not_meet(api: Api) -> None:
    """Idempotency keys are scoped to a principal: another principal's equal key causes no match and no conflict."""
    (await api.put("/v1/workspaces/w")).expect(201)
    callers = [api, *[api.with_key(await api.create_key("w")) for _ in range(2)]]
    header = {"Idempotency-Key": "k"}
    answers = [await caller.post(W, make_event(run_id=str(n % 2)), headers=header) for n, caller in enumerate(callers)]
    assert [answer.status for answer in answers] == [201, 201, 201]
    assert [answer.json["seq"] for answer in answers] == [3, 4, 5]  # after the two events that record the keys


async def test_a_refused_request_leaves_its_idempotency_key_free(api: Api) -> None:
    """A request that stored nothing does not use up its Idempotency-Key. The corrected request succeeds with it."""
    (await api.append("w", id="a")).expect(201)
    header = {"Idempotency-Key": "k"}
    assert (await api.post(W, make_event(foo=1), headers=header)).status == 400
    assert (await api.post(W, make_event(id="a", run_id="r"), headers=header)).status == 409
    assert (await api.post(W, make_event(run_id="r"), headers=header)).expect(201)["seq"] == 2


@on_sqlite
async def test_idempotency_keys_have_a_form(server: Server, api: Api) -> None:
    """An Idempotency-Key has 1 to 255 visible ASCII characters."""
    for value in ("", "x" * 256, "a b", "\xe9", "\xff\xfe"):
        data = json.dumps(make_event()).encode()
        head = request_head(
            "POST",
            W,
            {**api.headers, "Content-Type": "application/json", "Content-Length": len(data), "Idempotency-Key": value},
        )
        async with await RawConnection.open(server.url) as connection:
            await connection.send(head + data)
            answer = await connection.answer()
        assert answer.status == 400, value
        assert list(answer.json["error"]["details"]["fields"]) == ["Idempotency-Key"]
    assert await count(api) == 0


# ---- the actor


async def test_a_bound_key_acts_as_its_actor(api: Api) -> None:
    """A key bound to an actor fills it in, accepts the same actor, and gets 403 for another. Names are free."""
    (await api.put("/v1/workspaces/w")).expect(201)
    bound = api.with_key(await api.create_key("w", actor={"type": "agent", "id": "bob"}))
    for actor in (None, {}, {"type": "agent"}, {"id": "bob"}, {"type": "agent", "id": "bob"}):
        stored = (await bound.post(W, {"action": "a.b", "actor": actor})).expect(201)
        assert (stored["actor"]["type"], stored["actor"]["id"]) == ("agent", "bob")
    named = (await bound.post(W, {"action": "a.b", "actor": {"name": "Bob", "on_behalf_of": "ann"}})).expect(201)
    assert (named["actor"]["id"], named["actor"]["name"], named["actor"]["on_behalf_of"]) == ("bob", "Bob", "ann")
    assert (await bound.post(W, {"action": "a.b"})).expect(201)["actor"]["id"] == "bob"
    for actor in ({"id": "eve"}, {"type": "user"}, {"type": "user", "id": "bob"}, {"type": "agent", "id": "eve"}):
        for body in ({"action": "a.b", "actor": actor}, [{"action": "a.b"}, {"action": "a.b", "actor": actor}]):
            answer = await bound.post(W, body)
            assert (answer.status, answer.error) == (403, "permission_denied")
    assert {event["actor"]["id"] for event in await api.history("w", action="a.b")} == {"bob"}
    assert await count(api) == 8  # including the event that records the key


async def test_the_first_append_makes_the_workspace(api: Api, database: Database) -> None:
    """A principal that may write everywhere creates a workspace by appending to it. A principal of a single workspace does not."""
    (await api.append("w")).expect(201)
    made = (await api.get("/v1/workspaces/w")).expect(200)
    assert made["created_by"] == "admin"
    elsewhere = api.with_key(await api.create_key("w", scopes=["admin"]))
    assert (await elsewhere.append("v")).error == "workspace_not_found"
    # A key may outlive its workspace for a moment. It must not recreate the workspace.
    _, secret = await store_key(database, "gone", ["workspace:write"])
    assert (await api.with_key(secret).append("gone")).error == "workspace_not_found"
    listed = (await api.get("/v1/workspaces")).expect(200)["workspaces"]
    assert [workspace["id"] for workspace in listed] == ["w"]


async def test_many_first_appends_at_once_make_one_workspace(api: Api) -> None:
    """Concurrent first appends create one log without a gap."""
    answers = await asyncio.gather(*(api.append("w") for _ in range(25)))
    assert sorted(answer.expect(201)["seq"] for answer in answers) == list(range(1, 26))


# ---- slow, broken and excessive clients


def append_head(api: Api, length: int, **headers: str) -> bytes:
    """Return the head of an append with a JSON body of this length."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return request_head(
        "POST", W, {**api.headers, "Content-Type": "application/json", "Content-Length": length, **more}
    )


async def test_the_body_is_called_for_only_when_it_is_wanted(server: Server, api: Api) -> None:
    """A client that sends `Expect: 100-continue` is refused before it sends the body if the headers are enough to refuse it."""
    data = json.dumps(make_event()).encode()
    refused = [
        (401, append_head(api.with_key(None), len(data), Expect="100-continue")),
        (401, append_head(api.with_key("sk_wrong"), len(data), Expect="100-continue")),
        (400, append_head(api, len(data), Expect="100-continue").replace(b"/events ", b"/events?limit=1 ")),
        (400, append_head(api, len(data), Expect="100-continue", Idempotency_Key="a b")),
        (415, append_head(api, len(data), Expect="100-continue").replace(b"application/json", b"text/html")),
        (413, append_head(api, 2**40, Expect="100-continue")),
    ]
    for status, head in refused:
        async with await RawConnection.open(server.url) as connection:
            await connection.send(head)
            assert (await connection.answer()).status == status
    async with await RawConnection.open(server.url) as connection:
        await connection.send(append_head(api, len(data), Expect="100-continue"))
        assert (await connection.answer()).status == 100
        await connection.send(data)
        assert (await connection.answer()).status == 201
    assert await count(api) == 1


@on_sqlite
async def test_a_body_that_does_not_come(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A body that does not arrive in time gets 408, however slowly it is sent, and its connection is not reused."""
    server = await make_server(body_timeout=0.2)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    data = json.dumps(make_event()).encode()
    async with await RawConnection.open(server.url) as silent, await RawConnection.open(server.url) as dribbling:
        await silent.send(append_head(api, len(data)) + data[:-1])
        await dribbling.send(append_head(api, 1_000_000))

        async def dribble() -> None:
            while True:
                await dribbling.send(b" ")
                await asyncio.sleep(0.02)  # a pace, not a wait: the server must time out meanwhile

        task = asyncio.create_task(dribble())
        for connection in (silent, dribbling):
            answer = await connection.answer()
            assert (answer.status, answer.error) == (408, "request_timeout")
            assert answer.headers["connection"] == "close"
        task.cancel()
    assert await count(api) == 1


async def test_too_many_at_once(make_server: MakeServer, http: aiohttp.ClientSession, database_url: str) -> None:
    """When the bounded queue is full, appends get 503 at once and store nothing. Queued appends are stored later."""
    server = await make_server(append_queue_events=10, metrics_public=True)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append("w", id="first")).expect(201)
    async with locked_database(database_url):
        appends = [asyncio.create_task(api.append("w", id=f"e{n}")) for n in range(60)]
        # 10 are queued, and one more if the first left the queue before the second arrived.
        await eventually(lambda: sum(append.done() for append in appends) >= 49)
        refused = [append.result() for append in appends if append.done()]
        for answer in refused:
            assert (answer.status, answer.error) == (503, "overloaded")
            assert int(answer.headers["Retry-After"]) > 0
        assert (await api.get(W)).status == 200  # reads still work
        assert f"streamer_appends_refused_total {len(refused)}.0" in (await api.get("/metrics")).body.decode()
        waiting = [append for append in appends if not append.done()]
        assert waiting
    answers = await asyncio.gather(*appends)
    stored = [answer.json for answer in answers if answer.status == 201]
    assert len(stored) == len(waiting)
    found = await api.history("w", order="asc")
    assert [event["seq"] for event in found] == list(range(1, len(stored) + 2))
    assert found[1:] == sorted(stored, key=lambda event: event["seq"])
    (await api.append("w")).expect(201)


async def test_clients_that_leave(make_process: MakeProcess, http: aiohttp.ClientSession, database_url: str) -> None:
    """A client that disconnects before the response or within the body causes no traceback and no partial batch."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append("w")).expect(201)

    def batch(name: str) -> bytes:
        return json.dumps([make_event(id=f"{name}.{n}") for n in range(3)]).encode()

    def left() -> int:
        return [line.get("status") for line in process.log_lines].count(499)

    for number in range(10):
        data = batch(f"half{number}")
        async with await RawConnection.open(process.url) as connection:
            await connection.send(append_head(api, len(data)) + data[: len(data) // 2])
            if number % 2:
                connection.abort()
            else:
                connection.finish()
                await connection.rest()
    await eventually(lambda: left() == 10)
    async with locked_database(database_url):
        connections = []
        for number in range(10):
            data = batch(f"whole{number}")
            connection = await RawConnection.open(process.url)
            await connection.send(append_head(api, len(data)) + data)
            connections.append(connection)
        waiting = asyncio.create_task(api.append("w", id="last"))

        async def queued() -> bool:
            metrics = (await api.get("/metrics")).body.decode()
            return "streamer_append_queue_events 31.0" in metrics

        await eventually(queued)
        for connection in connections:
            connection.abort()
        # The server has noticed: no task waits for these responses any more.
        await eventually(lambda: left() == 20)
    (await waiting).expect(201)
    stored = [event["id"] for event in await api.history("w", order="asc")]
    assert not [event_id for event_id in stored if event_id.startswith("half")]
    whole = [event_id for event_id in stored if event_id.startswith("whole")]
    assert sorted(whole) == sorted(f"{name}.{n}" for name in {i.split(".")[0] for i in whole} for n in range(3))
    assert [event["seq"] for event in await api.history("w", order="asc")] == list(range(1, len(stored) + 1))
    assert await process.stop() == 0
    assert "Traceback" not in process.log
    assert [line for line in process.log_lines if line["level"] == "error"] == []
