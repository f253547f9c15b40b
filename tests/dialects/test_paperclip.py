"""Paperclip's API: the responses of its released server, and what its document promises in addition."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy import event as sql

from streamer.app import Server
from tests.conftest import MakeServer
from tests.support.api import Answer, Api, events
from tests.support.raw import RawConnection, request_head
from tests.support.sse import SseReader
from tests.support.tokens import SECRET, join, person
from tests.support.websocket import TEXT, UPGRADE, WsReader, open_socket

WS = "/api/companies/{}/activity"
W = WS.format("w")
KEYS = [
    *("id", "companyId", "actorType", "actorId", "action", "entityType", "entityId", "agentId", "runId"),
    *("responsibleUserId", "details", "createdAt"),
]
RUN_KEYS = {
    *("runId", "runtimeMode", "status", "agentId", "adapterType", "startedAt", "finishedAt", "createdAt"),
    *("invocationSource", "responsibleUserId", "errorCode", "usageJson", "resultJson", "logBytes", "retryOfRunId"),
    *("scheduledRetryAt", "scheduledRetryAttempt", "scheduledRetryReason", "livenessState", "livenessReason"),
    *("continuationAttempt", "lastUsefulActionAt", "nextAction", "wakeCommentIds", "wakeCommentId"),
    *("contextCommentId", "contextIssueId", "execution", "environment", "environmentLease", "retryExhaustedReason"),
}
FOREIGN = {"error": "Cannot access activity for another company"}
NO_ISSUE = {"error": "Issue not found"}
NO_ROUTE = {"error": "API route not found"}
NO_BOARD = {"error": "Board access required"}
BODY = {
    "actorType": "user",
    "actorId": "user_board1",
    "action": "manual.intervention",
    "entityType": "agent",
    "entityId": "agent_eng1",
    "details": {"reason": "Agent was stuck, manually reset session"},
}

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens and limits bodies."""
    return await make_server(jwt_secret=SECRET, max_body_bytes=2**19)


def body(**given: object) -> dict[str, object]:
    """Return the document's body with some values replaced."""
    return {**BODY, **given}


async def create(api: Api, company: str = "w", **given: object) -> Any:
    """Append through Paperclip's API; return the row."""
    return (await api.post(WS.format(company), body(**given))).expect(201)


async def rows(api: Api, path: str = W, **params: object) -> Any:
    """Return the rows of a list."""
    return (await api.get(path, **params)).expect(200)


async def all_rows(api: Api, path: str = W, **params: object) -> list[Any]:
    """Return a list, page by page, by the header `Link`."""
    answer = await api.get(path, **params)
    found = list(answer.expect(200))
    while "Link" in answer.headers:
        match = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers["Link"])
        assert match is not None
        assert f"cursor={answer.headers['X-Next-Cursor']}" in match[1]
        answer = await api.get(match[1])
        found += answer.expect(200)
    return found


async def batch(api: Api, count: int, company: str = "w") -> list[Any]:
    """Append events natively, each with its number as `entity.id`."""
    numbered = [{"entity": {"type": "issue", "id": f"i{n}"}} for n in range(count)]
    appended: list[Any] = (await api.append_all(company, numbered)).expect(201)["events"]
    return appended


async def socket(api: Api, company: str = "w", *, headers: Any = None, **params: object) -> WsReader:
    """Open a company's socket with the API's key."""
    return await WsReader.open(
        f"{api.url}/api/companies/{company}/events/ws", params=params, headers={**api.headers, **(headers or {})}
    )


# ---- the event


async def test_created_as_documented(api: Api) -> None:
    """A row has the released server's 12 keys in order, null for unknown values, and everything else under `event`."""
    row = await create(api)
    assert list(row) == [*KEYS, "event"]
    assert row == body() | {
        "id": row["id"],
        "companyId": "w",
        "agentId": None,
        "runId": None,
        "responsibleUserId": None,
        "createdAt": row["createdAt"],
        "event": row["event"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["createdAt"])
    assert row["event"]["timestamp"][:23] == row["createdAt"][:23]
    assert await rows(api) == [row]


async def test_native_events_lose_nothing(api: Api) -> None:
    """A row contains every value of a native event, under the dialect's names or under `event`."""
    stored = (
        await api.append(
            "w",
            actor={"type": "agent", "id": "a1", "name": "Bob", "role": "engineer", "on_behalf_of": "ann", "ip": "::1"},
            entity={"type": "issue", "id": "i1", "identifier": "PAP-1", "name": "Fix login"},
            agent_id="a1",
            run_id="r1",
            task_id="t1",
            description="Bob did it",
            details={"status": "done", "_previous": {"status": "todo"}},
            occurred_at="2026-11-21T06:22:04Z",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
    ).expect(201)
    (row,) = await rows(api)
    native = {
        **{name: row[name] for name in ("id", "action", "details")},
        **{name: row["event"][name] for name in row["event"]},
        "workspace_id": row["companyId"],
        "agent_id": row["agentId"],
        "run_id": row["runId"],
    }
    assert native == stored
    assert (row["actorType"], row["actorId"], row["responsibleUserId"]) == ("agent", "a1", "ann")
    assert (row["entityType"], row["entityId"]) == ("issue", "i1")
    (await api.append("bare")).expect(201)
    (bare,) = await rows(api, WS.format("bare"))
    assert [name for name in KEYS if bare[name] is None] == [
        *("entityType", "entityId", "agentId", "runId", "responsibleUserId")
    ]
    assert bare["details"] == {}


async def test_body_becomes_an_event(api: Api) -> None:
    """A body becomes a native event. Identifier and title in `details` name the entity, and unknown keys are ignored."""
    sent = body(
        actorType="plugin",
        agentId="no uuid",
        details={"identifier": "PAP-7", "title": "Fix login", "status": "todo"},
        id="mine",
        companyId="theirs",
        runId="r1",
        createdAt="1970-01-01T00:00:00Z",
    )
    row = (await api.post(W, sent)).expect(201)
    (stored,) = await api.history("w")
    assert stored["actor"]["type"], stored["actor"]["id"] == ("plugin", "user_board1")
    assert stored["entity"] == {"type": "agent", "id": "agent_eng1", "identifier": "PAP-7", "name": "Fix login"}
    assert (stored["agent_id"], stored["run_id"]) == ("no uuid", None)
    assert stored["details"] == sent["details"]
    assert row["id"] == stored["id"] != "mine"
    assert row["createdAt"] > "2000"
    odd = await create(api, details={"identifier": 7, "title": ["x"]})
    assert odd["event"]["entity"]["identifier"] is odd["event"]["entity"]["name"] is None
    long = await create(api, details={"identifier": "x" * 513, "title": "a\0b"})
    assert long["event"]["entity"]["identifier"] is long["event"]["entity"]["name"] is None


async def test_details_that_are_not_there(api: Api) -> None:
    """Absent and null details are returned as null, and an empty object as such. Native events default to an empty object."""
    without = {name: value for name, value in BODY.items() if name != "details"}
    for sent, expected in ((without, None), (body(details=None), None), (body(details={}), {})):
        row = (await api.post(W, sent)).expect(201)
        assert row["details"] == expected
        assert (await rows(api, limit=1))[0] == row
        assert (await api.get(f"{events('w')}/{row['id']}")).expect(200)["details"] == expected
    assert (await api.append("w")).expect(201)["details"] == {}
    assert (await api.append("w", details=None)).expect(201)["details"] == {}


async def test_actor_type_by_default(api: Api) -> None:
    """The default actor type is `system`. For a token that can append only as its person, it is `user`."""
    sent = {name: value for name, value in BODY.items() if name != "actorType"}
    assert (await api.post(W, sent)).expect(201)["actorType"] == "system"
    ann = await join(api, "w", "ann", "member")
    assert (await ann.post(W, sent | {"actorId": "ann"})).expect(201)["actorType"] == "user"
    assert (await ann.post(W, sent)).status == 403
    admin = person(api, "bob", grants={"w": ["admin"]})
    assert (await admin.post(W, sent)).expect(201)["actorType"] == "system"


# ---- invalid bodies


def expected(what: str, got: str, *path: str) -> dict[str, Any]:
    """Return zod's issue for another type."""
    message = f"Invalid input: expected {what}, received {got}"
    return {"expected": what, "code": "invalid_type", "path": list(path), "message": message}


def size(name: str, code: str, bound: str, number: int, message: str) -> dict[str, Any]:
    """Return zod's issue for another length."""
    return {"origin": "string", "code": code, bound: number, "inclusive": True, "path": [name], "message": message}


ENUM = {
    "code": "invalid_value",
    "values": ["agent", "user", "system", "plugin"],
    "path": ["actorType"],
    "message": 'Invalid option: expected one of "agent"|"user"|"system"|"plugin"',
}
SMALL = ("too_small", "minimum", 1, "Too small: expected string to have >=1 characters")
BIG = ("too_big", "maximum", 512, "Too big: expected string to have <=512 characters")
REQUIRED = ("actorId", "action", "entityType", "entityId")


WRONG_BODIES: list[tuple[object, list[dict[str, Any]]]] = [
    ({}, [expected("string", "undefined", name) for name in REQUIRED]),
    ([], [expected("object", "array")]),
    ("x", [expected("object", "string")]),
    (body(actorType="robot"), [ENUM]),
    (body(actorType=None), [ENUM]),
    (body(actorType=["user"]), [ENUM]),
    (body(actorId=""), [size("actorId", *SMALL)]),
    (body(action=7), [expected("string", "number", "action")]),
    (body(action=True), [expected("string", "boolean", "action")]),
    (body(entityId=None), [expected("string", "null", "entityId")]),
    (body(entityType="x" * 513), [size("entityType", *BIG)]),
    (body(agentId=""), [size("agentId", *SMALL)]),
    (body(agentId=7.5), [expected("string", "number", "agentId")]),
    (body(details=[]), [expected("record", "array", "details")]),
    (body(details="x"), [expected("record", "string", "details")]),
    (
        {"actorType": "robot", "agentId": 1, "details": 1},
        [
            ENUM,
            *[expected("string", "undefined", name) for name in REQUIRED],
            expected("string", "number", "agentId"),
            expected("record", "number", "details"),
        ],
    ),
]


async def test_bodies_that_cannot_be(api: Api) -> None:
    """An invalid body gets the released server's error byte for byte, and nothing is stored."""
    for sent, issues in WRONG_BODIES:
        answer = await api.post(W, sent)
        assert answer.status == 400
        assert (
            answer.body == json.dumps({"error": "Validation error", "details": issues}, separators=(",", ":")).encode()
        )
    assert (await rows(api)) == []


async def test_no_body(api: Api) -> None:
    """A request without a body gets the error that an object is missing, whatever its media type."""
    for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}):
        answer = await api.post(W, headers=headers)
        assert answer.status == 400
        assert answer.json["details"] == [expected("object", "undefined")]


DEEP: object = {}
for _ in range(40):
    DEEP = {"a": DEEP}


async def test_clean_errors(api: Api) -> None:
    """Where the released server fails with 500, or accepts what cannot be stored, the response says what is wrong."""
    malformed = await api.post(W, data=b'{"actorId":')
    assert (malformed.status, malformed.json["error"]) == (400, "Validation error")
    assert malformed.json["details"][0]["path"] == ["body"]
    huge = await api.post(W, data=b'{"actorId":"' + b"x" * 2**19 + b'"}')
    assert (huge.status, list(huge.json)) == (413, ["error"])
    large = await api.post(W, body(details={"x": "y" * 300_000}))
    assert large.status == 413
    assert "262144 are stored" in large.json["error"]
    typed = await api.post(W, data=json.dumps(BODY).encode(), headers={"Content-Type": "text/plain"})
    assert typed.status == 415
    assert "application/json" in typed.json["error"]
    deep = await api.post(W, body(details=DEEP))
    assert (deep.status, deep.json["details"][0]["path"]) == (400, ["details"])
    nul = await api.post(W, body(entityId="a\0b"))
    assert (nul.status, nul.json["details"][0]["path"]) == (400, ["entityId"])
    reserved = await api.post(WS.format("system"), BODY)
    assert (reserved.status, reserved.json["details"][0]["path"]) == (400, ["workspace"])
    odd = await api.post(WS.format("not%20an%20id"), BODY)
    assert (odd.status, odd.json["details"][0]["path"]) == (400, ["workspace"])
    asked = await api.post(f"{W}?agentId=x", BODY)
    assert (asked.status, asked.json["details"][0]["keys"]) == (400, ["agentId"])
    # These are not errors: any text is an id here.
    await create(api, agentId="agent_eng1")
    assert len(await rows(api, agentId="agent_eng1")) == 1
    assert await rows(api, agentId="nobody") == []
    assert await rows(api, WS.format("no-such-company")) == []
    assert await rows(api, WS.format("not%20an%20id")) == []
    assert await rows(api, "/api/heartbeat-runs/no%00run/issues") == []


# ---- lists


async def test_limits(api: Api) -> None:
    """`limit` is parsed and bounded as by the released server. `Link` leads to the remaining rows."""
    await batch(api, 510)
    expected_ = {
        None: 100,
        "2": 2,
        "2.9": 2,
        "1e1": 10,
        "0": 1,
        "-5": 1,
        "": 1,
        "abc": 100,
        "NaN": 100,
        "1_0": 100,
        "Infinity": 100,
        "10000": 500,
        "1e999": 500,
        "500": 500,
        " 7 ": 7,
        "0x10": 100,
    }
    for sent, count in expected_.items():
        answer = await api.get(W, limit=sent)
        assert len(answer.expect(200)) == count, sent
        assert "Link" in answer.headers
    assert [row["entityId"] for row in await rows(api, limit=2)] == ["i509", "i508"]


async def test_pages_lose_nothing(api: Api) -> None:
    """Following `Link` returns each row once, in both orders, with and without a filter, while others append."""
    stored = await batch(api, 23)
    newest = [event["id"] for event in reversed(stored)]
    answer = await api.get(W, limit=5)
    await batch(api, 3)  # after the first page's head, so no page of this list has it
    rest = await all_rows(api, answer.headers["Link"].partition(">")[0][1:])
    assert [row["id"] for row in [*answer.expect(200), *rest]] == newest
    after = await all_rows(api, after=stored[3]["id"], limit=4)
    assert [row["entityId"] for row in after] == [*(f"i{n}" for n in range(4, 23)), "i0", "i1", "i2"]
    found = await all_rows(api, entityType="issue", action="issue.*", entityId="i1", limit=1)
    assert [row["entityId"] for row in found] == ["i1", "i1"]
    ranged = {"from": stored[5]["timestamp"], "to": stored[9]["timestamp"]}
    assert [row["entityId"] for row in await all_rows(api, limit=2, **ranged)] == ["i9", "i8", "i7", "i6", "i5"]


async def test_behind_an_event(api: Api) -> None:
    """`after` and `since` accept an id, a position or a time, and return the oldest first. Ids and positions are exact."""
    stored = await batch(api, 6)
    position = (await api.get(events("w"), limit=1, order="asc", after=stored[1]["timestamp"])).json["position"]
    for name in ("after", "since"):
        for place in (stored[2]["id"], position, stored[2]["timestamp"]):
            assert [row["entityId"] for row in await rows(api, **{name: place})] == ["i3", "i4", "i5"], place
    assert await rows(api, after=stored[5]["id"]) == []
    of_row = {row["id"]: row["createdAt"] for row in await rows(api)}
    # A time in milliseconds may repeat the rows of that millisecond, and leaves none out.
    again = [row["id"] for row in await rows(api, after=of_row[stored[2]["id"]])]
    assert [event["id"] for event in stored[3:]] == again[-3:]
    both = {"from": stored[4]["timestamp"], "to": stored[4]["timestamp"]}
    for place in (stored[1]["id"], stored[1]["timestamp"]):
        assert [row["entityId"] for row in await rows(api, after=place, **both)] == ["i4"]
    assert [row["entityId"] for row in await rows(api, after=stored[4]["id"], **{"from": stored[1]["timestamp"]})] == [
        "i5"
    ]
    assert [row["entityId"] for row in await rows(api, after=stored[1]["id"], offset=2)] == ["i4", "i5"]


async def test_an_id_is_not_a_position(api: Api) -> None:
    """An event whose id resembles a position misleads no reader. The id works if no log has this epoch."""
    stored = await batch(api, 3)
    position = (await api.get(events("w"), limit=1, order="asc", after=stored[0]["timestamp"])).json["position"]
    (await api.append("w", id=position)).expect(201)
    (await api.append("w", id="other.1")).expect(201)
    assert len(await rows(api, after=position)) == 3
    assert await rows(api, after="other.1") == []
    gone = await api.get(W, after="another.1")
    assert gone.status == 410
    assert gone.json["details"]["earliest"] == position.partition(".")[0] + ".0"


async def test_ranges_hold_their_ends(api: Api) -> None:
    """`from` and `to` are inclusive. A `to` in milliseconds includes its whole millisecond, and a date its whole day."""
    stored = await batch(api, 3)
    first, last = (event["timestamp"] for event in (stored[0], stored[-1]))
    assert len(await rows(api, **{"from": first, "to": last})) == 3
    row = (await rows(api, limit=1))[0]
    assert row in await rows(api, to=row["createdAt"])
    assert row in await rows(api, **{"from": row["createdAt"]})
    assert row in await rows(api, **{"from": first[:10], "to": last[:10]})
    assert await rows(api, to="2020-01-01") == []
    assert await rows(api, **{"from": "2199-01-01T00:00:00+02:00"}) == []


async def test_filters(api: Api) -> None:
    """Each filter matches one exact value, `action` several values or a group."""
    await create(api, agentId="a,1", action="issue.created", entityType="issue", entityId="i!1")
    await create(api, actorType="agent", actorId="a2", action="agent.paused")
    await create(api, action="issue.updated", entityType="issue", entityId="i2")
    counts = {
        ("agentId", "a,1"): 1,
        ("agentId", "a"): 0,
        ("entityType", "issue"): 2,
        ("entityId", "i!1"): 1,
        ("entityId", "PAP-1"): 0,
        ("actorType", "agent"): 1,
        ("actorId", "a2"): 1,
        ("actorId", "A2"): 0,
        ("action", "issue.updated"): 1,
        ("action", "issue.created,agent.paused"): 2,
        ("action", "issue.*"): 2,
        ("action", "issue"): 0,
        ("offset", "2"): 1,
        ("offset", "3"): 0,
    }
    for (name, value), count in counts.items():
        assert len(await rows(api, **{name: value})) == count, (name, value)
    assert len(await rows(api, entityType="issue", action="issue.updated", actorId="user_board1")) == 1


WRONG_PARAMETERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"page": 1}, {"code": "unrecognized_keys", "keys": ["page"], "message": 'Unrecognized key: "page"'}),
    ({"a": 1, "b": 2}, {"code": "unrecognized_keys", "keys": ["a", "b"], "message": 'Unrecognized keys: "a", "b"'}),
    ({"entityType": ["a", "b"]}, expected("string", "array", "entityType")),
    ({"limit": ["1", "2"]}, expected("string", "array", "limit")),
    ({"offset": "-1"}, {"path": ["offset"]}),
    ({"offset": "1.5"}, {"path": ["offset"]}),
    ({"offset": "9" * 19}, {"path": ["offset"]}),
    ({"from": "yesterday"}, {"path": ["from"]}),
    ({"to": "2026-13-01"}, {"path": ["to"]}),
    ({"entityId": "x" * 513}, {"path": ["entityId"]}),
    ({"actorId": "a\0b"}, {"path": ["actorId"]}),
    ({"action": "a*b"}, {"path": ["action"]}),
    ({"action": "a\0b"}, {"path": ["action"]}),
    ({"after": "no such event"}, {"path": ["after"]}),
    ({"after": "a", "since": "b"}, {"path": ["since"]}),
    ({"cursor": "c", "after": "a"}, {"path": ["after"]}),
    ({"cursor": "c", "offset": "1"}, {"path": ["offset"]}),
    ({"cursor": "c", "from": "2026-01-01"}, {"path": ["from"]}),
]


async def test_parameters_that_cannot_be(api: Api) -> None:
    """An invalid parameter gets an error in the released server's form and is never ignored."""
    await create(api)
    for params, issue in WRONG_PARAMETERS:
        answer = await api.get(W, **params)
        assert answer.status == 400
        assert answer.json["error"] == "Validation error"
        (found,) = answer.json["details"]
        assert issue.items() <= found.items()


@on_sqlite
async def test_cursors_that_cannot_be(api: Api) -> None:
    """A cursor of another log, or one that this server did not create, is refused."""
    await batch(api, 3)
    await batch(api, 3, "v")
    assert (await api.get(W, cursor="nonsense")).status == 400
    theirs = (await api.get(WS.format("v"), limit=1)).headers["X-Next-Cursor"]
    assert (await api.get(W, cursor=theirs)).status == 410


async def test_what_is_known_already(api: Api) -> None:
    """A response has a weak ETag. With it, an unchanged response is a 304, and a changed one is sent in full."""
    await create(api, action="issue.created", entityType="issue", entityId="i1")
    for path in (W, "/api/issues/i1/activity", "/api/issues/i1/runs", "/api/heartbeat-runs/r1/issues"):
        first = await api.get(path)
        tag = first.headers["ETag"]
        assert re.fullmatch(r'W/"[0-9a-f]+-[A-Za-z0-9+/]{27}"', tag)
        assert first.headers["Cache-Control"] == "no-cache, private"
        for known in (tag, f'"other", {tag}', "*", tag.removeprefix("W/")):
            again = await api.get(path, headers={"If-None-Match": known})
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert (await api.get(path, headers={"If-None-Match": 'W/"other"'})).status == 200
        head = await api.request("HEAD", path)
        assert (head.status, head.body, head.headers["ETag"]) == (200, b"", tag)
    tag = (await api.get(W)).headers["ETag"]
    await create(api)
    assert len((await api.get(W, headers={"If-None-Match": tag})).expect(200)) == 2


# ---- access


async def test_who_may_do_what(api: Api) -> None:
    """Credentials are checked first, then the board, the company and the input, with the released server's errors."""
    await create(api, action="issue.created", entityType="issue", entityId="i1")
    await create(api, "theirs")
    writes = ["workspace:read", "workspace:write"]
    agent = api.with_key(await api.create_key("w", scopes=writes, actor={"type": "agent", "id": "a1"}))
    reader = api.with_key(await api.create_key("w", scopes=["workspace:read"]))
    writer = api.with_key(await api.create_key("w", scopes=["workspace:write"]))
    viewer = await join(api, "w", "ann", "viewer")
    nobody, wrong, stranger = api.with_key(None), api.with_key("sk_wrong"), person(api, "eve")
    unknown = {"error": "Agent token did not verify; obtain fresh credentials and retry"}
    theirs = WS.format("theirs")
    paths = [W, "/api/issues/i1/activity", "/api/issues/i1/runs", "/api/heartbeat-runs/r1/issues"]
    for path in paths:
        refused = await nobody.get(path)
        assert (refused.status, refused.json) == (401, {"error": "Unauthorized"})
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert await told(wrong.get(path)) == (401, unknown)
    for caller in (agent, reader, viewer):
        assert [row["action"] for row in await rows(caller, entityId="i1")] == ["issue.created"]
        assert await told(caller.post(W, BODY)) == (403, NO_BOARD)
        assert await told(caller.post(W, {})) == (403, NO_BOARD)
        assert await told(caller.get(theirs)) == (403, FOREIGN)
        assert await told(caller.get(WS.format("nowhere"), limit=[1, 2])) == (403, FOREIGN)
    assert await told(agent.post(theirs, BODY)) == (403, NO_BOARD)
    assert await told(reader.post(theirs, BODY)) == (403, FOREIGN)
    assert await told(stranger.get(W)) == (403, FOREIGN)
    assert await told(stranger.get("/api/issues/i1/activity")) == (404, NO_ISSUE)
    assert (await writer.get(W)).status == 403
    (await writer.post(W, BODY)).expect(201)
    assert await told(writer.post(WS.format("new"), BODY)) == (403, FOREIGN)
    assert await told(nobody.post(W, BODY)) == (401, {"error": "Unauthorized"})
    assert (await told(nobody.get(f"{W}?token={reader.key}")))[0] == 401


async def told(answer: Awaitable[Answer]) -> tuple[int, Any]:
    """Return the status and body of a response."""
    done = await answer
    return done.status, done.json


async def test_nobody_claims_another(api: Api) -> None:
    """A caller bound to a person can append as that person only."""
    (await api.append("w")).expect(201)
    ann = await join(api, "w", "ann", "member")
    (await ann.post(W, body(actorId="ann"))).expect(201)
    for claimed in ({"actorId": "bob"}, {"actorType": "agent", "actorId": "ann"}):
        status, said = await told(ann.post(W, body(**claimed)))
        assert status == 403
        assert "cannot claim another actor" in said["error"]


async def test_audit_events(api: Api) -> None:
    """Only callers with audit access see audit events, in the list and on the socket."""
    (await api.append("w")).expect(201)
    reader = api.with_key(await api.create_key("w"))  # the log records this reading
    assert [row["action"] for row in await rows(reader)] == ["issue.created"]
    assert "key.created" in {row["action"] for row in await rows(api)}
    async with await socket(reader, after="2000-01-01T00:00:00Z") as watcher:
        assert (await watcher.next())["payload"]["action"] == "issue.created"


async def test_paths_that_are_not_there(api: Api) -> None:
    """Unknown paths and methods get the released server's errors."""
    for method, path in (("GET", "/api/nothing"), ("PUT", W), ("DELETE", "/api/issues/i1/runs"), ("POST", "/api/")):
        assert await told(api.request(method, path)) == (404, NO_ROUTE), path
    assert await told(api.get("/api/companies/w/events/ws")) == (404, NO_ROUTE)
    assert await told(api.with_key(None).get("/api/companies/w/events/ws")) == (404, NO_ROUTE)


async def test_secrets_go(api: Api) -> None:
    """Secrets are replaced, including Paperclip's own keys. Versions, hosts and model names, which it destroys, are kept."""
    replaced = "***REDACTED***"
    own = "pcp_" + "0123456789abcdef" * 3
    row = await create(
        api,
        details={
            "adapterConfig": {"env": {"OPENAI_API_KEY": "sk-abcdefghijklmnop1234", "PLAIN": "x"}, "model": "us.a.b-x"},
            "text": f"used {own} twice",
            "header": "Authorization: Bearer abcdefghijklmnopqrstuvwx",
            "password": "hunter2",
            "version": "1.2.3",
            "host": "www.example.com",
            "model": "us.anthropic.claude-x",
            "author": "ann",
            "inputTokens": 12,
        },
    )
    details = row["details"]
    assert details["adapterConfig"]["env"]["OPENAI_API_KEY"] == details["password"] == replaced
    assert details["text"] == f"used {replaced} twice"
    assert "abcdefghijklmnop" not in json.dumps(row)
    kept = {"version": "1.2.3", "host": "www.example.com", "model": "us.anthropic.claude-x", "author": "ann"}
    assert kept.items() <= details.items()
    assert details["inputTokens"] == 12
    bare = await create(api, action=f"key {own}", details=None)
    assert (bare["action"], bare["details"]) == (f"key {replaced}", None)
    assert own not in json.dumps(await rows(api))


# ---- issues and runs


async def story(api: Api, company: str = "w", number: int = 1) -> str:
    """Append events of an issue, its run and an agent; return the issue's id."""
    issue = {"type": "issue", "id": f"issue_{company}", "identifier": f"PAP-{number}", "name": "Fix login"}
    bob = {"type": "agent", "id": "a1"}
    run = f"run_{company}"
    told_ = [
        {"action": "agent.created", "entity": {"type": "agent", "id": "a1", "name": "Bob"}},
        {"action": "issue.created", "entity": issue, "details": {"status": "todo", "priority": "high"}},
        {"action": "heartbeat.started", "entity": {"type": "heartbeat_run", "id": run}, "agent_id": "a1"},
        {"action": "issue.checked_out", "actor": bob, "agent_id": "a1", "run_id": run, "entity": issue},
        {"action": "comment.created", "entity": {"type": "comment", "id": "c1"}, "details": {"issueId": issue["id"]}},
        {
            "action": "project.created",
            "entity": {"type": "project", "id": "p1"},
            "details": {"sourceIssueId": issue["id"]},
        },
        {"action": "issue.created", "entity": {"type": "issue", "id": "other"}},
        {"action": "issue.updated", "entity": issue, "details": {"status": "in_progress"}},
        {
            "action": "run.failed",
            "entity": {"type": "run", "id": run},
            "details": {"errorCode": "oom", "source": "timer"},
        },
    ]
    (await api.append_all(company, told_)).expect(201)
    return str(issue["id"])


async def test_activity_of_an_issue(api: Api) -> None:
    """An issue is found by id or identifier, ignoring case. Its activity covers the issue and what belongs to it."""
    issue = await story(api)
    actions = ["issue.updated", "project.created", "comment.created", "issue.checked_out", "issue.created"]
    for reference in (issue, "PAP-1", "pap-1"):
        found = await rows(api, f"/api/issues/{reference}/activity")
        assert [row["action"] for row in found] == actions
        assert list(found[0]) == [*KEYS, "event"]
    paged = await all_rows(api, f"/api/issues/{issue}/activity", limit=2)
    assert [row["action"] for row in paged] == actions
    since = await rows(api, f"/api/issues/{issue}/activity", since=paged[2]["id"])
    assert [row["action"] for row in since] == ["project.created", "issue.updated"]
    for junk in ("nothing", "PAP-2", "%00", "x" * 600, "PAP-1%20x"):
        assert await told(api.get(f"/api/issues/{junk}/activity")) == (404, NO_ISSUE)
        assert await told(api.get(f"/api/issues/{junk}/runs")) == (404, NO_ISSUE)


async def test_a_long_issue(api: Api) -> None:
    """An issue's activity has 500 rows per page, and `Link` leads to the rest."""
    (await api.append_all("w", [{"entity": {"type": "issue", "id": "i"}}] * 501)).expect(201)
    answer = await api.get("/api/issues/i/activity")
    assert len(answer.expect(200)) == 500
    assert len(await all_rows(api, "/api/issues/i/activity")) == 501


async def test_runs_of_an_issue(api: Api) -> None:
    """A run has the released server's 31 keys plus the documented `id` and `agentName`, and null for unknown values."""
    issue = await story(api)
    for reference in (issue, "PAP-1"):
        (run,) = await rows(api, f"/api/issues/{reference}/runs")
        assert set(run) == RUN_KEYS | {"id", "agentName"}
        assert len(RUN_KEYS) == 31
        known = {
            "id": "run_w",
            "runId": "run_w",
            "agentId": "a1",
            "agentName": "Bob",
            "status": "failed",
            "errorCode": "oom",
            "invocationSource": "timer",
        }
        assert known.items() <= run.items()
        times = [run[name] for name in ("createdAt", "startedAt", "finishedAt")]
        assert times == sorted(times)
        assert all(re.fullmatch(r"[0-9T:-]{19}\.\d{3}Z", time) for time in times)
        assert run["execution"] is run["environment"] is run["usageJson"] is None
    assert (await api.get(f"/api/issues/{issue}/runs", offset=1)).status == 400


async def test_many_agents_of_an_issue(api: Api) -> None:
    """The agents' names are read in one query, however many agents there are."""
    agents = [
        {"action": "agent.created", "entity": {"type": "agent", "id": f"a{n}", "name": f"Agent {n}"}} for n in range(60)
    ]
    issue = {"type": "issue", "id": "i1"}
    works = [{"action": "issue.updated", "entity": issue, "run_id": f"r{n}", "agent_id": f"a{n}"} for n in range(61)]
    (await api.append_all("c", agents + works)).expect(201)
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    sql.listen(Engine, "before_cursor_execute", note)
    try:
        runs = await rows(api, "/api/issues/i1/runs")
    finally:
        sql.remove(Engine, "before_cursor_execute", note)
    assert {run["runId"]: run["agentName"] for run in runs} == {
        **{f"r{n}": f"Agent {n}" for n in range(60)},
        "r60": None,
    }
    assert 0 < len(asked) < 20


async def test_issues_of_a_run(api: Api) -> None:
    """A run's issues have their id under the document's and the released server's name. An unknown run has none."""
    issue = await story(api)
    (found,) = await rows(api, "/api/heartbeat-runs/run_w/issues")
    assert found == {
        "id": issue,
        "issueId": issue,
        "identifier": "PAP-1",
        "title": "Fix login",
        "status": "in_progress",
        "priority": "high",
    }
    assert await rows(api, "/api/heartbeat-runs/nothing/issues") == []


async def test_issues_of_others(api: Api) -> None:
    """A foreign issue or run counts as missing. If several of the caller's companies have one, its id decides."""
    await story(api)
    await story(api, "theirs")
    (await api.append("theirs", run_id="run_w", entity={"type": "issue", "id": "i9"})).expect(201)
    mine = api.with_key(await api.create_key("w"))
    for path in ("/api/issues/issue_theirs/activity", "/api/issues/issue_theirs/runs"):
        assert await told(mine.get(path)) == (404, NO_ISSUE)
    assert await rows(mine, "/api/heartbeat-runs/run_theirs/issues") == []
    assert {row["companyId"] for row in await rows(mine, "/api/issues/PAP-1/activity")} == {"w"}
    assert [row["id"] for row in await rows(mine, "/api/heartbeat-runs/run_w/issues")] == ["issue_w"]
    for path in ("/api/issues/PAP-1/activity", "/api/issues/PAP-1/runs", "/api/heartbeat-runs/run_w/issues"):
        status, said = await told(api.get(path))
        assert (status, list(said)) == (409, ["error"])
    assert len(await rows(api, "/api/issues/issue_theirs/activity")) == 5


async def test_issues_of_which_only_ones_own_may_be_read(api: Api) -> None:
    """A caller limited to its own events sees issues and runs through these events only, and nothing of others' work."""
    await story(api)
    (await api.append("w", actor={"type": "user", "id": "ann"}, entity={"type": "issue", "id": "anns"})).expect(201)
    bound = {"type": "agent", "id": "a1"}
    own = api.with_key(await api.create_key("w", scopes=["workspace:read:own"], actor=bound))
    other = api.with_key(await api.create_key("w", scopes=["workspace:read:own"], actor={"type": "agent", "id": "a2"}))
    assert [row["action"] for row in await rows(own, "/api/issues/PAP-1/activity")] == ["issue.checked_out"]
    behind = (await rows(own, "/api/issues/PAP-1/activity"))[0]["id"]
    assert await rows(own, "/api/issues/PAP-1/activity", after=behind) == []
    outside = {"error": "Activity is outside this actor's authorization boundary"}
    assert await told(own.get("/api/issues/PAP-1/runs")) == (403, outside)
    assert await told(own.get("/api/heartbeat-runs/run_w/issues")) == (403, outside)
    for path in ("/api/issues/anns/activity", "/api/issues/anns/runs"):
        assert await told(own.get(path)) == (404, NO_ISSUE)
    assert await told(other.get("/api/issues/PAP-1/activity")) == (404, NO_ISSUE)
    assert await told(other.get("/api/issues/PAP-1/runs")) == (404, NO_ISSUE)
    assert await rows(other, "/api/heartbeat-runs/run_w/issues") == []


# ---- live events


async def test_live_events(api: Api) -> None:
    """Each event is one message in the released server's form, plus the row's id and other values. Nothing is sent before it."""
    await create(api)
    async with await socket(api) as watcher:
        assert watcher.status == 101
        await watcher.send({"type": "subscribe"})
        await watcher.send_frame(TEXT, b"no JSON")
        await watcher.send_frame(2, b"\0")
        row = await create(api, details={"n": 1})
        message = await watcher.next()
    assert watcher.messages == [message]
    assert list(message) == ["id", "companyId", "type", "createdAt", "payload"]
    payload = {name: value for name, value in row.items() if name not in {"companyId", "createdAt"}}
    assert message == {
        "id": row["event"]["seq"],
        "companyId": "w",
        "type": "activity.logged",
        "createdAt": row["createdAt"],
        "payload": payload,
    }


async def test_heard_by_all_readers(api: Api) -> None:
    """An event created here reaches the readers of every API."""
    (await api.append("w")).expect(201)
    headers = api.headers
    async with (
        await api.stream("w") as sse,
        await open_socket(api, "w") as native,
        await socket(api) as paperclip,
        await SseReader.open(f"{api.url}/v1/workspaces/w/activity/stream", headers=headers) as evershell,
    ):
        await sse.next("synced")
        row = await create(api)
        assert (await sse.next("activity")).json["id"] == row["id"]
        assert (await native.events(1))[0]["id"] == row["id"]
        assert (await paperclip.next())["payload"]["id"] == row["id"]
        while (block := await evershell.next()).data is None or block.json.get("event_type") != BODY["action"]:
            pass
        assert block.json["event"]["seq"] == row["event"]["seq"]
    listed = await rows(api, "/api/v1/workspaces/w/activity")
    assert listed[0]["id"] == row["id"]


async def test_replay(api: Api) -> None:
    """A reader that names its last event receives missed events once, then live events, all through its filter."""
    stored = await batch(api, 5)
    places: dict[str, Callable[[Any], str]] = {"after": lambda e: e["id"], "since": lambda e: e["timestamp"]}
    missed = [event["id"] for event in stored[2:]]
    for name, place in places.items():
        async with await socket(api, **{name: place(stored[1])}) as watcher:
            assert [(await watcher.next())["payload"]["id"] for _ in missed] == missed
            missed.append((await create(api))["id"])
            assert (await watcher.next())["payload"]["id"] == missed[-1]
    position = (await api.get(events("w"), limit=1)).json["position"]
    async with await socket(api, after=position, action="issue.*", actorId="user_board1", agentId="a1") as watcher:
        await create(api, agentId="a1")
        await create(api, action="issue.updated")
        wanted = await create(api, action="issue.updated", agentId="a1")
        assert (await watcher.next())["payload"]["id"] == wanted["id"]
    async with await socket(api, after="2000-01-01T00:00:00Z", entityType="issue", entityId="i3") as watcher:
        assert (await watcher.next())["payload"]["entityId"] == "i3"
    async with await socket(api, after="2000-01-01T00:00:00Z", actorType="user", limit=None) as watcher:
        assert (await watcher.next())["id"] == 1


async def test_many_at_once(api: Api) -> None:
    """During a burst, readers with equal and different filters each receive all their events in order."""
    (await api.append("w")).expect(201)
    watchers = [await socket(api, entityType=kind) for kind in ("issue", "issue", "agent", None)]
    await asyncio.gather(
        *(api.append_all("w", [{"entity": {"type": kind, "id": "x"}}] * 40) for kind in ("issue", "agent"))
    )
    for watcher, count in zip(watchers, (40, 40, 40, 80), strict=True):
        seqs = [(await watcher.next())["id"] for _ in range(count)]
        assert seqs == sorted(set(seqs))
        watcher.close()


async def test_gaps_are_said(api: Api) -> None:
    """A reader whose position is not in the log gets one message about it, and continues from the next possible position."""
    stored = await batch(api, 2)
    async with await socket(api, after="nosuchlog.7") as watcher:
        gap = await watcher.next()
        assert (gap["type"], gap["companyId"]) == ("activity.gap", "w")
        assert gap["payload"] == {
            "from": 8,
            "to": None,
            "reason": "reset",
            "position": gap["payload"]["position"],
        }
        assert [(await watcher.next())["payload"]["id"] for _ in range(2)] == [event["id"] for event in stored]


async def test_socket_refusals(api: Api) -> None:
    """A caller that may not follow a company is refused as by the released server: plain text, and the connection ends."""
    await create(api)
    await create(api, "theirs")
    key = await api.create_key("w")
    path = "/api/companies/w/events/ws"
    bearer = {"Authorization": f"Bearer {key}"}
    refused: list[tuple[str, dict[str, str]]] = [
        (path, {}),
        (path, {"Authorization": "Bearer sk_wrong"}),
        (f"{path}?token=sk_wrong", {}),
        (f"{path}?token=", {}),
        (f"{path}?token={key}", bearer),
        (f"{path}?token={person(api, 'ann').key}", {}),
        ("/api/companies/theirs/events/ws", bearer),
        ("/api/companies/nowhere/events/ws", bearer),
        ("/api/companies/nowhere/events/ws", api.headers),
        ("/api/companies/not%20an%20id/events/ws", bearer),
        (f"{path}?token={key}", {"Origin": "https://evil.example"}),
    ]
    for target, headers in refused:
        async with await RawConnection.open(api.url) as connection:
            await connection.send(request_head("GET", target, {**UPGRADE, **headers}))
            answer = await connection.answer()
            assert (answer.status, answer.body) == (403, b"forbidden"), (target, headers)
            assert answer.headers["content-type"].startswith("text/plain")
            assert answer.headers["connection"] == "close"
            assert await connection.rest() == b""
    watcher = await WsReader.open(api.url + path, params={"token": key})
    assert watcher.status == 101
    watcher.close()


@on_sqlite
async def test_socket_parameters(api: Api) -> None:
    """Invalid parameters of the socket get 400 with the parameter's path."""
    await create(api)
    for params, place in (({"after": "x y"}, ["after"]), ({"limit": 1}, []), ({"entityId": ["a", "b"]}, ["entityId"])):
        answer = await (await socket(api, **params)).answer()
        assert answer.status == 400
        assert answer.json["details"][0]["path"] == place


@on_sqlite
async def test_keys_in_urls_can_be_turned_off(make_server: MakeServer, api: Api) -> None:
    """With keys in URLs disabled, the socket accepts none either."""
    await create(api)
    strict = await make_server(keys_in_urls=False)
    key = await api.create_key("w")
    refused = await WsReader.open(f"{strict.url}/api/companies/w/events/ws", params={"token": key})
    assert (await refused.answer()).status == 403
    taken = await socket(api.at(strict.url))
    assert taken.status == 101
    taken.close()


async def test_ends_with_a_close_frame(api: Api) -> None:
    """When the key is revoked, the socket closes with our code and without a message."""
    await create(api)
    listed = (await api.post("/v1/workspaces/w/keys", {"name": "k", "scopes": ["workspace:read"]})).expect(201)
    async with await socket(api.with_key(listed["key"])) as watcher:
        (await api.delete(f"/v1/workspaces/w/keys/{listed['id']}")).expect(204)
        assert await watcher.closed() == (4501, "credential_revoked")
        assert watcher.messages == []


async def test_a_deleted_company(api: Api) -> None:
    """When a company is deleted, its socket closes and its list is empty."""
    await create(api)
    async with await socket(api) as watcher:
        (await api.delete("/v1/workspaces/w")).expect(204)
        assert await watcher.closed() == (4500, "workspace_deleted")
    assert await rows(api) == []


@on_sqlite
async def test_can_be_turned_off(make_server: MakeServer, api: Api) -> None:
    """With the dialect disabled, its paths do not exist."""
    other = await make_server(dialects=("praisonai",))
    answer = await api.at(other.url).get(W)
    assert (answer.status, answer.error) == (404, "not_found")
