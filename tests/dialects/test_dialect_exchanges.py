"""Exchanges recorded with the dialects' released servers are replayed here: status, body and headers must match.

Where this server differs on purpose, the exchange holds its own response. `instead_of` holds the original response and
the reason.
"""

import json
import time
from typing import Any

import aiohttp
import jwt
import pytest

from streamer.app import Server
from tests.conftest import MakeServer
from tests.support.api import Api
from tests.support.exchanges import Count, Envelope, Exchange, play
from tests.support.tokens import SECRET, join


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts users' tokens."""
    return await make_server(jwt_secret=LONG_SECRET)


# ---- PraisonAI

LONG_SECRET = 2 * SECRET
"""Long enough for HS512, too."""
LIST = "/api/v1/workspaces/ws/activity"
OF_ISSUE = "/api/v1/workspaces/ws/issues/{issue}/activity"
MISSING = {"detail": "Missing Authorization header"}
FORM = {"detail": "Invalid Authorization header format. Use: Bearer <token>"}
INVALID = {"detail": "Invalid or expired token"}
FORBIDDEN = {"detail": "Not a member of this workspace or insufficient role"}
NO_CHALLENGE = {"WWW-Authenticate": None}


def _signed(*, key: str = LONG_SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Return the header for a token that may be invalid in any way. A claim that is None is left out."""
    now = int(time.time())
    given = {"sub": "ann", "email": "ann@example.com", "name": "Ann", "iat": now, "exp": now + 3600, **claims}
    payload = json.dumps({name: value for name, value in given.items() if value is not None}).encode()
    return f"Bearer {jwt.PyJWS().encode(payload, key, algorithm)}"


def _now() -> int:
    return int(time.time())


def _as(authorization: str) -> dict[str, str]:
    return {"Authorization": authorization}


def _issue(kind: str, name: str, message: str, value: str, **context: object) -> dict[str, object]:
    """Return one of pydantic's errors about a parameter."""
    found: dict[str, object] = {"type": kind, "loc": ["query", name], "msg": message, "input": value}
    return found | {"ctx": context} if context else found


def _at_least(name: str, bound: int, value: str) -> dict[str, object]:
    message = f"Input should be greater than or equal to {bound}"
    return _issue("greater_than_equal", name, message, value, ge=bound)


def _at_most(name: str, bound: int, value: str) -> dict[str, object]:
    return _issue("less_than_equal", name, f"Input should be less than or equal to {bound}", value, le=bound)


def _no_number(name: str, value: str) -> dict[str, object]:
    message = "Input should be a valid integer, unable to parse string as an integer"
    return _issue("int_parsing", name, message, value)


def _unprocessable(*issues: dict[str, object]) -> dict[str, object]:
    return {"detail": list(issues)}


def _unknown(name: str) -> dict[str, object]:
    return _unprocessable(_issue("extra_forbidden", name, "Extra inputs are not permitted", "1"))


def praisonai_tokens() -> list[Exchange]:
    """Return the table of tokens."""
    good = _signed()
    return [
        Exchange(f"GET {LIST}", 200, sent=_as(good)),
        Exchange(f"GET {LIST}", 200, sent=_as(good.replace("Bearer", "bearer"))),
        Exchange(f"GET {LIST}", 401, MISSING, sent=_as(""), headers=NO_CHALLENGE),
        *(
            Exchange(f"GET {LIST}", 401, FORM, sent=_as(authorization), headers=NO_CHALLENGE)
            for authorization in ("Basic x", "Bearer", "Bearer ")
        ),
        *(
            Exchange(f"GET {LIST}", 401, INVALID, sent=_as(authorization), headers=NO_CHALLENGE)
            for authorization in (
                "Bearer junk",
                _signed(exp=_now() - 60),
                _signed(key=LONG_SECRET[::-1]),
                _signed(algorithm="HS512"),
                _signed(key="", algorithm="none"),
                _signed(iat=_now() + 60),
                _signed(nbf=_now() + 60),
                _signed(aud="somebody"),
                _signed(sub=1),
            )
        ),
        Exchange(
            f"GET {LIST}",
            401,
            INVALID,
            sent=_as(_signed(exp=None)),
            instead_of="200: a token without an expiry is refused",
        ),
        Exchange(
            f"GET {LIST}",
            401,
            INVALID,
            sent=_as(_signed(sub=None)),
            instead_of="500: a token without a subject is refused",
        ),
        Exchange(f"GET {LIST}?token={good.partition(' ')[2]}", 401, MISSING, sent=_as("")),
        Exchange(f"GET {LIST}", 401, MISSING, sent=_as("") | {"Cookie": f"token={good}", "X-API-Key": good}),
    ]


PRAISONAI = [
    Exchange(f"GET {LIST}", 200, Count(6), headers={"Content-Type": "application/json"}),
    Exchange(f"GET {OF_ISSUE}", 200, Count(3)),
    Exchange(f"GET {LIST}?limit=0", 422, _unprocessable(_at_least("limit", 1, "0"))),
    Exchange(f"GET {OF_ISSUE}?limit=0", 422, _unprocessable(_at_least("limit", 1, "0"))),
    Exchange(f"GET {LIST}?limit=201", 422, _unprocessable(_at_most("limit", 200, "201"))),
    Exchange(f"GET {LIST}?offset=-1", 422, _unprocessable(_at_least("offset", 0, "-1"))),
    Exchange(f"GET {LIST}?limit=abc", 422, _unprocessable(_no_number("limit", "abc"))),
    Exchange(f"GET {LIST}?limit=", 422, _unprocessable(_no_number("limit", ""))),
    Exchange(f"GET {LIST}?limit=1.5", 422, _unprocessable(_no_number("limit", "1.5"))),
    Exchange(
        f"GET {LIST}?limit=0&offset=-1", 422, _unprocessable(_at_least("limit", 1, "0"), _at_least("offset", 0, "-1"))
    ),
    Exchange(f"GET {LIST}?limit=1.0", 200, Count(1)),
    Exchange(f"GET {LIST}?limit=%201", 200, Count(1)),
    Exchange(f"GET {LIST}?limit=1&limit=2", 200, Count(2)),
    Exchange(f"GET {LIST}?limit=200", 200, Count(6)),
    Exchange(f"GET {LIST}?limit=2&offset=5", 200, Count(1)),
    Exchange(f"GET {LIST}?offset=6", 200, []),
    Exchange(f"GET {OF_ISSUE}?offset=1000", 200, []),
    Exchange(
        f"GET {LIST}?offset={2**63}", 422, instead_of="500: a number too large for the database is the caller's error"
    ),
    Exchange("GET /api/v1/workspaces/unknown/activity", 403, FORBIDDEN),
    Exchange("GET /api/v1/workspaces/foreign/activity", 403, FORBIDDEN),
    Exchange("GET /api/v1/workspaces/foreign/issues/{issue}/activity", 403, FORBIDDEN),
    Exchange("GET /api/v1/workspaces/ws/issues/unknown/activity", 404, {"detail": "Issue not found"}),
    Exchange("GET /api/v1/workspaces/ws/issues/of-foreign/activity", 404, {"detail": "Issue not found"}),
    Exchange("GET /api/v1/workspaces/ws/issues/deleted/activity", 404, {"detail": "Issue not found"}),
    Exchange("GET /api/v1/workspaces/foreign/activity?limit=0", 403, FORBIDDEN),
    Exchange(f"GET {LIST}?limit=0", 401, MISSING, sent=_as("")),
    *(
        Exchange(
            f"GET {LIST}?{name}=1", 422, _unknown(name), instead_of="200: a parameter without effect would mislead"
        )
        for name in ("foo", "actor", "since")
    ),
    Exchange(f"GET {LIST}/", 307, headers={"Location": LIST}),
    Exchange(f"GET {LIST}/?limit=1&offset=2", 307, headers={"Location": f"{LIST}?limit=1&offset=2"}),
    *(
        Exchange(f"{method} {LIST}", 405, answer, headers={"Allow": "GET"})
        for method, answer in (
            ("HEAD", ...),
            ("POST", {"detail": "Method Not Allowed"}),
            ("OPTIONS", {"detail": "Method Not Allowed"}),
        )
    ),
    Exchange("GET /api/v1/nothing", 404, {"detail": "Not Found"}),
    Exchange("GET /api/v1/webhooks", 404, {"detail": "Not Found"}),
    Exchange(f"GET {LIST}/{{event}}", 200, instead_of="404: the platform's document promises it"),
    Exchange(
        "GET /api/v1/issues/{issue}/activity", 200, Count(3), instead_of="404: the platform's document promises it"
    ),
    Exchange("GET /api/v1/users/me/activity", 200, Count(2), instead_of="404: the platform's document promises it"),
    Exchange(f"GET {LIST}", 200, Count(6), sent={"Accept": "text/event-stream"}),
    Exchange("GET /health", 200, {"status": "ok"}, sent=_as("")),
]
"""The table of activity calls."""

PRAISONAI_FILTERS = [
    Exchange(f"GET {LIST}?actor_id=ann", 200, Count(2)),
    Exchange(f"GET {LIST}?actor_id=nobody", 200, []),
    Exchange(f"GET {LIST}?resource_types=issue", 200, Count(5)),
    Exchange(f"GET {LIST}?resource_types=issue,workspace", 200, Count(6)),
    Exchange(f"GET {LIST}?actions=issue.created", 200, Count(2)),
    Exchange(f"GET {LIST}?actions=created,updated", 200, Count(3)),
    Exchange(f"GET {LIST}?actions=created&actions=member_added", 200, Count(3)),
    Exchange(f"GET {LIST}?include_system=false", 200, Count(4)),
    Exchange(f"GET {LIST}?include_system=true", 200, Count(6)),
    Exchange(f"GET {LIST}?start_date=2020-01-01T00:00:00Z", 200, Count(6)),
    Exchange(f"GET {LIST}?start_date=2100-01-01T00:00:00", 200, []),
    Exchange(f"GET {LIST}?end_date=2020-01-01", 200, []),
    Exchange(f"GET {LIST}?start_date={{time}}&end_date={{time}}", 200, Count(1)),
    Exchange(f"GET {LIST}?after_id={{event}}", 200, Count(5)),
    Exchange(f"GET {LIST}?after_id=", 200, Count(6)),
    Exchange(f"GET {LIST}?after_id=unknown", 410),
    Exchange(f"GET {LIST}?view=platform", 200, Count(6)),
    *(
        Exchange(f"GET {LIST}?{query}", 422)
        for query in (
            "actor_id=",
            "resource_types=,",
            "actions=",
            "start_date=yesterday",
            "end_date=2025-13-01",
            "include_system=perhaps",
            "after_id={event}&offset=1",
            "cursor=junk",
            "view=mine",
            "actor_id=%00",
            "after_id=%00",
        )
    ),
]
"""Documented behaviour that the released server ignores."""


async def test_praisonai(server: Server, api: Api, http: aiohttp.ClientSession) -> None:
    """PraisonAI: the tables of tokens, of activity calls, and of parameters that exist only in its documents."""
    issue = {"type": "issue", "id": "issue-1", "identifier": "ISS-1"}
    other = {"type": "issue", "id": "deleted"}
    (await api.append("foreign", entity={"type": "issue", "id": "of-foreign"})).expect(201)
    events = [
        (await api.append("ws", **event)).expect(201)
        for event in (
            {"action": "issue.created", "entity": issue},
            {"action": "issue.updated", "entity": issue, "actor": {"type": "agent", "id": "bot"}},
            {"action": "issue.assigned", "entity": issue, "actor": {"type": "system", "id": "cron"}},
            {"action": "issue.created", "entity": other},
            {"action": "issue.deleted", "entity": other, "actor": {"type": "system", "id": "cron"}},
        )
    ]
    await join(api, "ws", "ann", "member")
    values = {"issue": "issue-1", "event": events[0]["id"], "time": events[1]["timestamp"]}
    sent = _as(_signed())
    await play(http, server.url, praisonai_tokens(), {}, values)
    await play(http, server.url, PRAISONAI + PRAISONAI_FILTERS, sent, values)


PLATFORM_ACTIVITY = [
    *(("created", resource) for resource in ("issue", "project", "label")),
    *(("updated", resource) for resource in ("issue", "project", "user")),
    *(("deleted", resource) for resource in ("issue", "label", "comment")),
    ("assigned", "issue"),
    *((action, "workspace") for action in ("member_added", "member_removed", "settings_updated")),
    ("role_changed", "workspace_member"),
    *((action, "issue") for action in ("agent_assigned", "agent_completed", "agent_failed")),
    ("agent_created", "agent"),
]
"""The actions in the platform's document, and their resources there."""


async def test_praisonai_platform_activity(api: Api) -> None:
    """PraisonAI: with `view=platform`, each action is found under its documented names of action and resource."""
    (await api.put("/v1/workspaces/ws", {"name": "Before"})).expect(201)
    await join(api, "ws", "ann", "member")
    ann = api.with_key(_signed().removeprefix("Bearer "))
    for role, status in (("viewer", 201), ("member", 200)):
        (await api.put("/v1/workspaces/ws/members/bob", {"role": role})).expect(status)
    (await api.delete("/v1/workspaces/ws/members/bob")).expect(204)
    (await api.put("/v1/workspaces/ws", {"name": "After", "settings": {"color": "red"}})).expect(200)
    for action, resource in PLATFORM_ACTIVITY:
        if action in {"created", "updated", "deleted", "assigned"}:
            await api.append("ws", action=f"{resource}.{action}", entity={"type": resource, "id": f"the-{resource}"})
        elif resource == "issue":
            await api.append("ws", action=f"issue.{action}", entity={"type": "issue", "id": "the-issue"})
    await api.append("ws", action="agent.created", entity={"type": "agent", "id": "the-agent"})
    shown = {
        (entry["action"], entry["resource_type"])
        for entry in (await ann.get(LIST, view="platform", limit=200)).expect(200)
    }
    assert shown >= set(PLATFORM_ACTIVITY)
    for action, resource in PLATFORM_ACTIVITY:
        found = (await ann.get(LIST, view="platform", actions=action, resource_types=resource)).expect(200)
        assert {(entry["action"], entry["resource_type"]) for entry in found} == {(action, resource)}
        assert all(entry["resource_id"] and entry["description"] and entry["actor"]["name"] for entry in found)


# ---- Paperclip

COMPANY = "/api/companies/company_xyz/activity"
FOREIGN = {"error": "Cannot access activity for another company"}
BOARD = {"error": "Board access required"}
UNAUTHORIZED = {"error": "Unauthorized"}
UNVERIFIED = {"error": "Agent token did not verify; obtain fresh credentials and retry"}
NO_ISSUE = {"error": "Issue not found"}
NO_ROUTE = {"error": "API route not found"}
AGENT = _as("Bearer {agent}")
WHOLE = {"actorId": "ann", "action": "manual.intervention", "entityType": "issue", "entityId": "i"}


def _invalid(*issues: dict[str, object]) -> dict[str, object]:
    return {"error": "Validation error", "details": list(issues)}


def _not_a(expected: str, received: str, *path: str) -> dict[str, object]:
    """Return zod's error about a value of another type."""
    message = f"Invalid input: expected {expected}, received {received}"
    return {"expected": expected, "code": "invalid_type", "path": list(path), "message": message}


def _empty(name: str) -> dict[str, object]:
    message = "Too small: expected string to have >=1 characters"
    return {
        "origin": "string",
        "code": "too_small",
        "minimum": 1,
        "inclusive": True,
        "path": [name],
        "message": message,
    }


PAPERCLIP_READS = [
    Exchange(
        f"GET {COMPANY}",
        200,
        Count(100),
        headers={"Content-Type": "application/json"},
        instead_of="application/json; charset=utf-8: JSON has no such parameter (RFC 8259, section 11)",
    ),
    *(
        Exchange(f"GET {COMPANY}?limit={limit}", 200, Count(count))
        for limit, count in {"2": 2, "2.9": 2, "0": 1, "-5": 1, "": 1, "abc": 100, "500": 500, "10000": 500}.items()
    ),
    Exchange(f"GET {COMPANY}?entityType=project", 200, Count(1)),
    Exchange(f"GET {COMPANY}?entityType=issue&entityId=issue_abc123", 200, Count(2)),
    Exchange(f"GET {COMPANY}?entityId=PAP-42", 200, []),
    Exchange(f"GET {COMPANY}?agentId=nobody", 200, []),
    Exchange(f"GET {COMPANY}?agentId=agent_eng1", 200, Count(1), instead_of="500: the document has such ids"),
    Exchange(f"HEAD {COMPANY}", 200, ""),
    Exchange(f"GET {COMPANY}?limit=1", 200, Count(1), sent=AGENT),
    Exchange(
        "GET /api/companies/unknown/activity",
        403,
        FOREIGN,
        instead_of="200 or 500: a caller without access learns nothing",
    ),
    Exchange("GET /api/companies/company_abc/activity", 403, FOREIGN, instead_of="403 with an undocumented text"),
    Exchange("GET /api/companies/company_abc/activity", 403, FOREIGN, sent=AGENT),
    Exchange(f"GET {COMPANY}", 403, FOREIGN, sent=_as(_signed(sub="zoe")), instead_of="403 with a text of its own"),
    Exchange(f"GET {COMPANY}", 200, Count(100), sent=_as(_signed(sub="vera"))),
    Exchange(f"OPTIONS {COMPANY}", 404, NO_ROUTE, instead_of="200: only if the settings allow other origins"),
    Exchange("GET /api/companies/company_abc/activity?limit=abc", 403, FOREIGN),
    *(
        Exchange(f"GET /api/issues/{ref}/activity", 200, Count(2))
        for ref in ("issue_abc123", "PAP-42", "pap-42", "%20pap-42")
    ),
    *(
        Exchange(f"GET /api/issues/{ref}/activity", 404, NO_ISSUE)
        for ref in ("unknown", "PAP-43", "ABC-1", "issue_of_abc", "%00", "PAP-42x")
    ),
    Exchange("GET /api/issues/PAP-42/runs", 200, Count(1)),
    Exchange("GET /api/issues/PAP-43/runs", 404, NO_ISSUE),
    Exchange("GET /api/heartbeat-runs/run_1/issues", 200, Count(1)),
    Exchange("GET /api/heartbeat-runs/unknown/issues", 200, [], instead_of="500 for an id that is not a UUID"),
    Exchange("GET /api/heartbeat-runs/run_of_abc/issues", 200, []),
    *(
        Exchange(f"{method} {path}", 404, NO_ROUTE)
        for method, path in (
            ("GET", "/api/nothing"),
            ("PUT", COMPANY),
            ("DELETE", "/api/issues/PAP-42/activity"),
            ("GET", "/api/companies/company_xyz/events/ws"),
        )
    ),
    *(
        Exchange(f"GET {path}", 401, UNVERIFIED, sent=_as("Bearer pcp_unknown"))
        for path in (
            COMPANY,
            "/api/issues/PAP-42/activity",
            "/api/issues/PAP-42/runs",
            "/api/heartbeat-runs/run_1/issues",
        )
    ),
    Exchange(f"GET {COMPANY}", 401, UNAUTHORIZED, sent=_as("")),
    Exchange("GET /api/heartbeat-runs/run_1/issues", 401, UNAUTHORIZED, sent=_as("")),
    Exchange(
        "GET /api/issues/PAP-42/activity",
        401,
        UNAUTHORIZED,
        sent=_as(""),
        instead_of="404: credentials are checked first",
    ),
]
"""The tables of lists and access, for 511 events."""

PAPERCLIP_FILTERS = [
    Exchange(f"GET {COMPANY}?action=issue.created", 200, Count(1)),
    Exchange(f"GET {COMPANY}?action=issue.*&limit=500", 200, Count(2)),
    Exchange(f"GET {COMPANY}?actorType=user&actorId=ann", 200, Count(2)),
    Exchange(f"GET {COMPANY}?actorType=system", 200, []),
    Exchange(f"GET {COMPANY}?offset=510", 200, Count(1)),
    Exchange(f"GET {COMPANY}?offset=511", 200, []),
    Exchange(f"GET {COMPANY}?from={{time}}&to={{time}}", 200, Count(1)),
    Exchange(f"GET {COMPANY}?from=2100-01-01", 200, []),
    Exchange(f"GET {COMPANY}?to=2020-01-01", 200, []),
    Exchange(f"GET {COMPANY}?after={{event}}", 200, Count(2)),
    Exchange(f"GET {COMPANY}?since={{time}}", 200, Count(2)),
    Exchange("GET /api/issues/PAP-42/activity?limit=1", 200, Count(1)),
    Exchange(f"GET {COMPANY}?after=unknown", 410),
    *(
        Exchange(f"GET {COMPANY}?{query}", 400)
        for query in (
            "foo=1",
            "entityType=issue&entityType=issue",
            "from=yesterday",
            "to=1",
            "after={event}&since={time}",
            "offset=-1",
            "offset=1.5",
            "cursor=junk",
            "actorId=%00",
            "action=*.created",
        )
    ),
]
"""Documented future behaviour; a parameter without effect, or an invalid one, is an error."""

PAPERCLIP_WRITES = [
    Exchange(f"POST {COMPANY}", 201, body=WHOLE),
    Exchange(
        f"POST {COMPANY}",
        400,
        _invalid(*(_not_a("string", "undefined", name) for name in ("actorId", "action", "entityType", "entityId"))),
        body={},
    ),
    Exchange(
        f"POST {COMPANY}",
        400,
        _invalid(
            {
                "code": "invalid_value",
                "values": ["agent", "user", "system", "plugin"],
                "path": ["actorType"],
                "message": 'Invalid option: expected one of "agent"|"user"|"system"|"plugin"',
            }
        ),
        body=WHOLE | {"actorType": "robot"},
    ),
    *(
        Exchange(f"POST {COMPANY}", 400, _invalid(_empty(name)), body=WHOLE | {name: ""})
        for name in ("actorId", "action", "entityType", "entityId")
    ),
    Exchange(f"POST {COMPANY}", 400, _invalid(_not_a("string", "number", "actorId")), body=WHOLE | {"actorId": 5}),
    Exchange(f"POST {COMPANY}", 400, _invalid(_not_a("string", "null", "action")), body=WHOLE | {"action": None}),
    Exchange(f"POST {COMPANY}", 400, _invalid(_not_a("record", "array", "details")), body=WHOLE | {"details": []}),
    Exchange(f"POST {COMPANY}", 400, _invalid(_not_a("record", "string", "details")), body=WHOLE | {"details": "x"}),
    Exchange(f"POST {COMPANY}", 400, _invalid(_not_a("object", "undefined"))),
    Exchange(f"POST {COMPANY}", 400, _invalid(_not_a("object", "array")), body=[WHOLE]),
    Exchange(
        f"POST {COMPANY}",
        201,
        body=WHOLE | {"agentId": "agent_eng1"},
        instead_of="400 or 500: the document has such ids",
    ),
    Exchange(f"POST {COMPANY}", 400, body=b'{"actorId":', instead_of="500: the caller's error"),
    Exchange(
        f"POST {COMPANY}",
        413,
        body=WHOLE | {"details": {"text": "x" * 300_000}},
        instead_of="201 or 500: there is a limit",
    ),
    *(
        Exchange(f"POST {COMPANY}", 403, BOARD, sent=_as(authorization), body=body)
        for authorization in ("Bearer {agent}", "Bearer {viewer}", _signed(sub="vera"))
        for body in (WHOLE, {})
    ),
    Exchange(
        "POST /api/companies/company_abc/activity",
        403,
        FOREIGN,
        body={},
        instead_of="400: access is checked before the body",
    ),
    Exchange(
        "POST /api/companies/unknown/activity",
        403,
        FOREIGN,
        body=WHOLE,
        instead_of="500: a caller without access learns nothing",
    ),
    Exchange(f"POST {COMPANY}", 401, UNVERIFIED, sent=_as("Bearer pcp_unknown"), body=WHOLE),
    Exchange(
        f"POST {COMPANY}",
        401,
        UNAUTHORIZED,
        sent=_as(""),
        body=WHOLE,
        instead_of="403: there is no mode without credentials",
    ),
]
"""The tables of POST."""


async def test_paperclip(server: Server, api: Api, http: aiohttp.ClientSession) -> None:
    """Paperclip: the tables of lists, of access and of errors about bodies."""
    issue = {"type": "issue", "id": "issue_abc123", "identifier": "PAP-42"}
    foreign = {"type": "issue", "id": "issue_of_abc", "identifier": "ABC-1"}
    ben = {"type": "user", "id": "ben"}
    (await api.put("/v1/workspaces/company_xyz")).expect(201)
    await join(api, "company_xyz", "vera", "viewer")
    (await api.append("company_abc", entity=foreign, run_id="run_of_abc")).expect(201)
    await api.append_all(
        "company_xyz", [{"action": "agent.updated", "actor": ben, "entity": {"type": "agent", "id": "a"}}] * 506
    )
    events = [
        (await api.append("company_xyz", **event)).expect(201)
        for event in (
            {"action": "issue.created", "entity": issue, "actor": ben},
            {"action": "issue.updated", "entity": issue, "run_id": "run_1", "actor": ben},
            {"action": "project.created", "entity": {"type": "project", "id": "p1"}},
            {"action": "agent.paused", "agent_id": "agent_eng1", "entity": {"type": "agent", "id": "agent_eng1"}},
        )
    ]
    values = {
        "event": events[1]["id"],
        "time": events[1]["timestamp"],
        "board": await api.create_key("company_xyz"),
        "agent": await api.create_key("company_xyz", actor={"type": "agent", "id": "agent_eng1"}),
        "viewer": await api.create_key("company_xyz", scopes=["workspace:read"]),
    }
    await play(http, server.url, PAPERCLIP_READS + PAPERCLIP_FILTERS, _as("Bearer {board}"), values)
    sent = {"Authorization": "Bearer {board}", "Content-Type": "application/json"}
    await play(http, server.url, PAPERCLIP_WRITES, sent, values)


async def test_paperclip_lists_lead_on(api: Api) -> None:
    """Paperclip: `Link` and `X-Next-Cursor` lead through the whole list. A repeated request gets 304 without a body."""
    (await api.append_all("company_xyz", [{}] * 250)).expect(201)
    board = api.with_key(await api.create_key("company_xyz"))
    first = await board.get(COMPANY)
    again = await board.get(COMPANY, headers={"If-None-Match": first.headers["ETag"]})
    assert first.headers["ETag"].startswith('W/"')
    assert (again.status, again.body) == (304, b"")
    found, answer = first.expect(200), first
    while cursor := answer.headers.get("X-Next-Cursor"):
        assert f"cursor={cursor}" in answer.headers["Link"]
        answer = await board.get(COMPANY, cursor=cursor)
        found += answer.expect(200)
    assert "Link" not in answer.headers
    assert [entry["id"] for entry in found] == [event["id"] for event in await board.history("company_xyz")]


async def test_paperclip_keeps_what_it_is_sent(api: Api) -> None:
    """Paperclip: POST sets the known fields and ignores others. `details` is kept as sent, including `{}` and absence."""
    (await api.put("/v1/workspaces/company_xyz")).expect(201)
    board = api.with_key(await api.create_key("company_xyz"))
    dropped = {"id": "mine", "companyId": "company_abc", "runId": "run_9", "createdAt": "2020-01-01T00:00:00Z", "x": 1}
    for given, answered in (
        ({}, {"actorType": "system", "details": None, "agentId": None}),
        ({"details": {}}, {"details": {}}),
        ({"details": None, "agentId": None}, {"details": None, "agentId": None}),
        ({"actorType": "plugin", "details": {"z": [1, None], "a": 1.5}}, {"details": {"z": [1, None], "a": 1.5}}),
    ):
        made = (await board.post(COMPANY, {**WHOLE, **dropped, **given})).expect(201)
        wanted = {**WHOLE, "companyId": "company_xyz", "runId": None, "responsibleUserId": None, **given, **answered}
        assert made.items() >= wanted.items()
        assert made["id"] != "mine"
        assert not made["createdAt"].startswith("2020")
        assert (await board.get(COMPANY, limit=1)).expect(200) == [made]


# ---- Evershell

HISTORY = "/v1/workspaces/ws/activity"


def _invalid_field(*names: str) -> Envelope:
    return Envelope("validation_error", frozenset(names))


EVERSHELL = [
    Exchange(f"GET {HISTORY}", 200),
    Exchange(f"GET {HISTORY}?order=asc&limit=100", 200),
    Exchange(f"GET {HISTORY}?limit=10001", 200),
    Exchange(f"GET {HISTORY}?after=2026-01-01T00:00:00Z", 200),
    Exchange(f"GET {HISTORY}?task_id=t1&event_type=task_submitted", 200),
    Exchange(f"GET {HISTORY}?cursor=junk", 400, Envelope("invalid_cursor")),
    Exchange(f"GET {HISTORY}?cursor={{cursor}}&after=2026-01-01T00:00:00Z", 400, _invalid_field("after")),
    Exchange(f"GET {HISTORY}?after=yesterday", 400, _invalid_field("after")),
    *(Exchange(f"GET {HISTORY}?limit={limit}", 400, _invalid_field("limit")) for limit in ("0", "-1", "abc", "1.5")),
    Exchange(f"GET {HISTORY}?order=up", 400, _invalid_field("order")),
    Exchange(f"GET {HISTORY}?foo=1", 400, _invalid_field("foo")),
    Exchange(f"GET {HISTORY}?limit=0&order=up", 400, _invalid_field("limit", "order")),
    Exchange("GET /v1/workspaces/unknown/activity", 404, Envelope("workspace_not_found")),
    Exchange("GET /v1/workspaces/foreign/activity", 404, Envelope("workspace_not_found")),
    Exchange("GET /v1/workspaces/foreign/activity?limit=0", 404, Envelope("workspace_not_found")),
    Exchange("GET /v1/workspaces/foreign/activity/stream", 404, Envelope("workspace_not_found")),
    Exchange("GET /v1/workspaces/foreign/audit", 404, Envelope("workspace_not_found")),
    Exchange(f"GET {HISTORY}", 403, Envelope("permission_denied"), sent=_as("Bearer {writer}")),
    Exchange("GET /v1/workspaces/ws/audit", 403, Envelope("permission_denied"), sent=_as("Bearer {reader}")),
    Exchange(f"GET {HISTORY}", 200, sent=_as("Bearer {reader}")),
    *(
        Exchange(f"GET {path}", 401, Envelope("unauthenticated"), sent=_as(authorization))
        for authorization in ("", "Bearer sk_unknown", "Basic x")
        for path in (HISTORY, f"{HISTORY}/stream", "/v1/activity/stream", "/v1/workspaces/ws/audit", "/v1/audit")
    ),
    Exchange(f"GET {HISTORY}?api_key={{auditor}}", 401, Envelope("unauthenticated"), sent=_as("")),
    Exchange(f"GET {HISTORY}/stream?api_key={{token}}", 401, Envelope("unauthenticated"), sent=_as("")),
    Exchange(f"GET {HISTORY}/stream?api_key=sk_unknown", 401, Envelope("unauthenticated"), sent=_as("")),
    Exchange("GET /v1/workspaces/ws/audit", 200),
    Exchange("GET /v1/workspaces/ws/audit?filter=event_type=policy_decision&filter=actor!=agent,control-plane", 200),
    Exchange("GET /v1/workspaces/ws/audit?from=2026-01-01T00:00:00Z&to=2026-12-31T00:00:00Z&order=asc", 200),
    Exchange("GET /v1/workspaces/ws/audit?cursor=junk", 400, Envelope("invalid_cursor")),
    *(
        Exchange(f"GET /v1/workspaces/ws/audit?{query}", 400, _invalid_field(field))
        for query, field in (
            ("filter=nonsense", "filter[0]"),
            ("filter=actor=agent&filter=no_column=1", "filter[1]"),
            ("from=yesterday", "from"),
            ("to=1", "to"),
            ("after=2026-01-01T00:00:00Z", "after"),
            ("limit=0", "limit"),
        )
    ),
]
"""The statuses and slugs of its calls."""


async def test_evershell(server: Server, api: Api, http: aiohttp.ClientSession) -> None:
    """Evershell: the responses of its calls, and each error's slug and field names."""
    (await api.append("foreign")).expect(201)
    batch = [{"action": "task_submitted", "task_id": "t1"}, {"action": "task_completed", "task_id": "t1"}]
    (await api.append_all("ws", batch)).expect(201)
    auditor = await api.create_key("ws", scopes=["workspace:read", "audit:read"])
    page = (await api.with_key(auditor).get(HISTORY, limit=1)).expect(200)
    values = {
        "auditor": auditor,
        "reader": await api.create_key("ws", scopes=["workspace:read"]),
        "writer": await api.create_key("ws", scopes=["workspace:write"]),
        "token": _signed().removeprefix("Bearer "),
        "cursor": page["cursor"],
    }
    await play(http, server.url, EVERSHELL, _as("Bearer {auditor}"), values)
