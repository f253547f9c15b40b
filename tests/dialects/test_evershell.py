"""Evershell's activity API: lists, filters, audit, streams and the stream of all workspaces follow the contract."""

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.app import Server
from streamer.core.event import Facets
from streamer.core.position import MAX_SEQ, Position
from streamer.feed.reasons import Reason
from streamer.http.dialects.evershell import params
from streamer.http.dialects.evershell.shape import of_actors, of_users, shape, user_of
from streamer.http.dialects.evershell.stream import parse_place, place_of
from streamer.store.engine.database import Database
from streamer.transports import sse
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.http.test_fuzz import examined
from tests.support.api import Answer, Api, events, make_event
from tests.support.databases import trim
from tests.support.readers import BEGINNING, LOST
from tests.support.sse import SseReader
from tests.support.tokens import SECRET, join, person, token
from tests.support.waiting import eventually

WS = "ws_01"
ORG_AUDIT = "/v1/audit"
ORG_STREAM = "/v1/activity/stream"
Event = dict[str, Any]

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
pytestmark = pytest.mark.usefixtures("one_hour", "often")


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for new workspaces often, so that no test has to wait."""
    monkeypatch.setattr("streamer.http.dialects.evershell.handlers.LOOK_SECONDS", 0.05)


def activity(workspace: str = WS) -> str:
    """Return the path of a workspace's activity."""
    return f"/v1/workspaces/{workspace}/activity"


def audit(workspace: str = WS) -> str:
    """Return the path of a workspace's audit events."""
    return f"/v1/workspaces/{workspace}/audit"


async def follow(api: Api, path: str = f"{activity()}/stream", *, last: str | None = None, **options: Any) -> SseReader:
    """Open a stream; keywords are its parameters."""
    headers = api.headers | ({} if last is None else {"Last-Event-ID": last})
    buffer = options.pop("receive_buffer", None)
    return await SseReader.open(api.url + path, params=options, headers=headers, receive_buffer=buffer)


async def listed(api: Api, path: str, **params: object) -> list[Event]:
    """Return all events of a list, page by page."""
    found: list[Event] = []
    page = (await api.request("GET", path, params=params)).expect(200)
    found += page["events"]
    kept = {name: value for name, value in params.items() if name not in {"order", "after", "from", "to"}}
    while "cursor" in page:
        page = (await api.request("GET", path, params=kept | {"cursor": page["cursor"]})).expect(200)
        found += page["events"]
    return found


def ids(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the events' ids."""
    return [event["id"] for event in found]


async def stored(api: Api, workspace: str, names: Sequence[str], **event: object) -> list[Event]:
    """Append an event for each id."""
    answer = await api.append_all(workspace, [{"id": name, **event} for name in names])
    found: list[Event] = answer.expect(201)["events"]
    return found


def fields(answer: Answer) -> set[str]:
    """Return the names of the wrong fields of an error in the contract's form."""
    error = answer.expect(400)["error"]
    assert error["code"] == "validation_error"
    assert error["message"]
    assert error["request_id"] == answer.headers["X-Request-ID"]
    return set(error["details"]["fields"])


# ---- an AuditEvent

PROXY = {
    "agent_role": "coder",
    "agent_provider": "claude",
    "destination": "api.github.com",
    "method": "GET",
    "path": "/repos",
    "decision": "deny",
    "reason": "no rule",
    "latency_ms": 12,
    "transforms_applied": 0,
    "validations_applied": 3,
    "capability_name": "github-read",
    "phase": "request_headers",
    "policy_type": "http",
    "debits": {"output_tokens": 1.5},
    "debit_ceilings": {"output_tokens": "daily"},
    "transform_errors": {"strip": "failed"},
    "credentials_minted": ["github"],
    "credential_errors": {"gitlab": "refused"},
}


async def test_an_audit_event_in_its_published_order(api: Api) -> None:
    """An AuditEvent has the contract's fields in order, a proxy's values lifted from `details`, and our event under `event`."""
    (await api.put(f"/v1/workspaces/{WS}", {"org_id": "acme"})).expect(201)
    (
        await api.append(
            WS,
            id="e1",
            action="policy_decision",
            actor={"type": "policy-engine", "id": "p", "on_behalf_of": "ann"},
            entity={"type": "request", "id": "r1"},
            task_id="t1",
            run_id="run1",
            details={"rule": 7, **PROXY},
        )
    ).expect(201)
    native = (await api.get(f"{events(WS)}/e1")).expect(200)
    (event,) = (await api.get(audit(), filter="event_type=policy_decision")).expect(200)["events"]
    assert list(event) == [
        *("id", "org_id", "user_id", "timestamp", "event_type", "category", "actor", "workspace_id", "task_id"),
        *PROXY,
        *("detail", "event"),
    ]
    assert event == {
        "id": "e1",
        "org_id": "acme",
        "user_id": "ann",
        "timestamp": native["timestamp"],
        "event_type": "policy_decision",
        "category": "audit",
        "actor": "policy-engine",
        "workspace_id": WS,
        "task_id": "t1",
        **PROXY,
        "detail": {"rule": 7},
        "event": {
            name: native[name]
            for name in ("seq", "actor", "entity", "agent_id", "run_id", "description", "changes", "occurred_at", "traceparent")
        },
    }  # fmt: skip
    await api.append(WS, id="e2", actor={"type": "key", "id": "k"})
    (plain,) = (await api.get(activity())).expect(200)["events"]
    assert "task_id" not in plain
    assert (plain["user_id"], plain["actor"], plain["detail"]) == ("system", "control-plane", {})
    assert not plain.keys() & PROXY.keys()


FITS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("agent_role", "agent_provider", "destination", "method", "path", "reason", "capability_name"),
        lambda value: isinstance(value, str),
    ),
    **dict.fromkeys(
        ("latency_ms", "transforms_applied", "validations_applied"),
        lambda value: isinstance(value, int) and not isinstance(value, bool),
    ),
    **dict.fromkeys(
        ("debits", "debit_ceilings", "transform_errors", "credential_errors"), lambda value: isinstance(value, dict)
    ),
    "decision": lambda value: value in ("allow", "deny"),
    "phase": lambda value: value in ("request_headers", "request_body", "response_headers", "response_body", "dns"),
    "policy_type": lambda value: value in ("http", "dns"),
    "credentials_minted": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
}
"""The contract's types of the lifted fields."""

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.sampled_from(["allow", "deny", "dns", "http", "request_body"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
_NAMES = st.sampled_from([*FITS, "id", "detail", "event", "org_id", "task_id"]) | st.text(max_size=5)


@example(details={"latency_ms": True, "transforms_applied": False, "validations_applied": 1})
@given(details=st.none() | st.dictionaries(_NAMES, _VALUES, max_size=12))
def test_nothing_of_the_details_is_lost(details: dict[str, Any] | None) -> None:
    """Lifted details match the contract's schema, others are in `detail`, and together they are complete."""
    actor = {"type": "user", "id": "u", "on_behalf_of": None}
    fixed = ("entity", "agent_id", "run_id", "task_id", "description", "changes", "occurred_at", "traceparent")
    known = {"id": "e", "seq": 1, "timestamp": "t", "action": "a", "category": "activity", "workspace_id": "w"}
    event = shape({**known, **dict.fromkeys(fixed), "actor": actor, "details": details}, "o")
    bare = {
        *("id", "org_id", "user_id", "timestamp", "event_type", "category", "actor", "workspace_id", "detail", "event")
    }
    lifted = {name: event[name] for name in event if name not in bare}
    assert all(FITS[name](value) for name, value in lifted.items())
    assert not lifted.keys() & event["detail"].keys()
    assert {**lifted, **event["detail"]} == (details or {})
    assert not any(name in FITS and FITS[name](value) for name, value in event["detail"].items())
    assert (event["id"], event["org_id"]) == ("e", "o")


# ---- users and actors

_PEOPLE = st.sampled_from(["ann", "bob", "system", ""])
_TYPES = st.sampled_from(["user", "agent", "policy-engine", "control-plane", "key", "system", "robot"])


@example(kind="system", name="ann", behalf=None, users={"ann"}, actors={"agent"}, exclude=False)
@example(kind="key", name="ann", behalf=None, users={"ann"}, actors={"agent"}, exclude=True)
@given(
    kind=_TYPES,
    name=_PEOPLE,
    behalf=st.none() | _PEOPLE,
    users=st.sets(_PEOPLE, min_size=1),
    actors=st.sets(st.sampled_from(["agent", "policy-engine", "control-plane"]), min_size=1),
    exclude=st.booleans(),
)
def test_the_filters_of_users_and_actors_are_what_is_answered(
    *, kind: str, name: str, behalf: str | None, users: set[str], actors: set[str], exclude: bool
) -> None:
    """An event passes `user_id` and `actor`, included or excluded, exactly if the values in the response pass."""
    facets = Facets("audit", "a", kind, name, None, None, None, None, None, behalf, None, "")
    user = user_of({"type": kind, "id": name, "on_behalf_of": behalf})
    assert user == (behalf if behalf is not None else "system" if kind in {"key", "system"} else name)
    actor = kind if kind in {"agent", "policy-engine"} else "control-plane"
    passes = all(condition.matches(facets) for condition in of_users(frozenset(users), exclude=exclude))
    assert passes == ((user in users) is not exclude)
    passes = all(condition.matches(facets) for condition in of_actors(frozenset(actors), exclude=exclude))
    assert passes == ((actor in actors) is not exclude)


POOLS: Mapping[str, Sequence[str]] = {
    "user_id": ("ann", "bob", "system", "nobody"),
    "actor": ("agent", "policy-engine", "control-plane"),
    "event_type": ("policy_decision", "key.created", "never"),
    "task_id": ("t1", "t2"),
    "actor_type": ("user", "agent", "key", "system", "policy-engine", "robot"),
    "actor_id": ("ann", "bob", "system"),
    "entity_type": ("request", "key"),
    "entity_id": ("x", "y"),
    "agent_id": ("g1",),
    "run_id": ("r1", "r2"),
}
"""The columns of a filter, and values to try."""


def column_of(event: Event, column: str) -> str | None:
    """Return an event's value in a column."""
    own = event["event"]
    value: str | None
    if column in {"actor_type", "actor_id"}:
        value = own["actor"][column.removeprefix("actor_")]
    elif column in {"entity_type", "entity_id"}:
        value = own["entity"] and own["entity"][column.removeprefix("entity_")]
    else:
        value = own.get(column) if column in {"agent_id", "run_id"} else event.get(column)
    return value


def lets_through(text: str, event: Event) -> bool:
    """Apply one filter to an event as the contract defines it."""
    column, _, rest = text.partition("=")
    value = column_of(event, column.removesuffix("!"))
    if column.endswith("!") and not rest:
        return value is not None
    return (value in rest.split(",")) is not column.endswith("!")


def _filters() -> st.SearchStrategy[list[str]]:
    def of(column: str) -> st.SearchStrategy[str]:
        some = st.lists(st.sampled_from(POOLS[column]), min_size=1, max_size=4).map(",".join)
        either = st.builds(lambda sign, values: f"{column}{sign}{values}", st.sampled_from(["=", "!="]), some)
        return either | st.just(f"{column}!=")

    return st.lists(st.sampled_from(list(POOLS)).flatmap(of), max_size=3)


async def test_filters_agree_with_the_answers(api: Api) -> None:
    """For any combination of filters, the pages contain exactly the events whose own values pass all filters."""
    rng = random.Random(7)
    batch = [
        {
            "action": rng.choice(["policy_decision", "key.created"]),
            "actor": {"type": kind, "id": name, "on_behalf_of": behalf},
            "entity": rng.choice([None, {"type": "request", "id": "x"}, {"type": "key", "id": "y"}]),
            "task_id": rng.choice([None, "t1", "t2"]),
            "agent_id": rng.choice([None, "g1"]),
            "run_id": rng.choice([None, "r1", "r2"]),
        }
        for kind, name, behalf in itertools.product(
            POOLS["actor_type"], POOLS["actor_id"], (None, "ann", "bob", "system")
        )
    ]
    (await api.append_all(WS, batch)).expect(201)
    everything = await listed(api, audit(), limit=1000)
    assert len(everything) == len(batch) + 1, "plus the record of the reading"

    async def check(made: list[str]) -> None:
        expected = [event["id"] for event in everything if all(lets_through(text, event) for text in made)]
        assert ids(await listed(api, audit(), filter=made, limit=40)) == expected

    for whole in (["actor=agent,policy-engine,control-plane"], ["actor!=agent,policy-engine,control-plane"]):
        await check(whole)
    await examined(check, _filters())


async def test_filters_that_cannot_be(api: Api) -> None:
    """An invalid filter, an unknown column, a missing value or too many values get 400 with the parameter's position."""
    (await api.append(WS)).expect(201)
    for wrong in ("", "x", "task_id", "nope=1", "Task_id=1", "=a", "!=a", "user_id=", "user_id=a,,b", "user_id=a%00",
                  "actor=ann", "actor!=x", "user_id=" + "x" * 513, "user_id=" + ",".join(map(str, range(101)))):  # fmt: skip
        for path in (audit(), ORG_AUDIT):
            answer = await api.get(f"{path}?filter=task_id!=&filter={wrong}")
            assert fields(answer) & {"filter", "filter[1]"}, wrong
    assert fields(await api.get(audit(), filter=["task_id=a"] * 101)) == {"filter"}
    assert fields(await api.get(audit(), filter=[f"task_id={i}," + "x" * 80 for i in range(101)])) == {"filter"}
    assert fields(await api.get(activity(), filter="task_id=a")) == {"filter"}, "of audit lists only"


async def test_the_most_that_filters_may_hold(api: Api) -> None:
    """The maximum number of filter values, in any distribution over the columns, is a valid database query."""
    (await api.append(WS, action="policy_decision", actor={"type": "user", "id": "u0"})).expect(201)
    everything = await listed(api, audit())
    starts = ("user_id=u0", "user_id!=u0", "event_type=policy_decision", "event_type!=never")
    for split, first, second in itertools.product((1, 34, 50, 66, 99), starts, starts[:2]):
        made = [
            ",".join([start, *(f"v{i}" for i in range(count - 1))])
            for start, count in ((first, split), (second, 100 - split))
        ]
        expected = [event["id"] for event in everything if all(lets_through(text, event) for text in made)]
        assert ids((await api.get(audit(), filter=made)).expect(200)["events"]) == expected, (split, first, second)
    one_each = [f"user_id!=v{i}" for i in range(100)]
    assert len((await api.get(audit(), filter=one_each)).expect(200)["events"]) == 2
    assert fields(await api.get(audit(), filter=["user_id=" + ",".join(f"v{i}" for i in range(60)), "task_id!=" + ",".join(f"v{i}" for i in range(60))])) == {"filter"}  # fmt: skip


# ---- lists


async def test_pages_of_activity(api: Api) -> None:
    """Pages are newest first by default. A full page has a `cursor`, which keeps the order and leaves out later events."""
    names = [f"e{index}" for index in range(7)]
    await stored(api, WS, names)
    page = (await api.get(activity(), limit=3)).expect(200)
    assert list(page)[:2] == ["events", "cursor"]
    assert ids(page["events"]) == ["e6", "e5", "e4"]
    await stored(api, WS, ["late"])
    page = (await api.get(activity(), limit=3, cursor=page["cursor"])).expect(200)
    assert ids(page["events"]) == ["e3", "e2", "e1"]
    page = (await api.get(activity(), limit=3, cursor=page["cursor"])).expect(200)
    assert ids(page["events"]) == ["e0"]
    assert "cursor" not in page
    page = (await api.get(activity(), limit=8)).expect(200)
    assert "cursor" in page, "a full page has a cursor, even without further events"
    assert (await api.get(activity(), limit=8, cursor=page["cursor"])).expect(200)["events"] == []
    assert "cursor" not in (await api.get(activity(), limit=9)).expect(200)
    page = (await api.get(activity(), limit=5, order="asc")).expect(200)
    assert ids(page["events"]) == names[:5]
    await stored(api, WS, ["later"])
    again = (await api.get(activity(), limit=5, cursor=page["cursor"])).expect(200)
    assert ids(again["events"]) == ["e5", "e6", "late", "later"]
    assert again["position"] == (await api.get(events(WS))).expect(200)["position"], (
        "the position for a stream is always returned"
    )


async def test_after_is_a_loose_beginning(api: Api) -> None:
    """`after` means strictly after a time, oldest first by default. It excludes a cursor, and an empty cursor is malformed."""
    found = await stored(api, WS, ["a", "b", "c", "d"])
    second = found[1]["timestamp"]
    assert ids((await api.get(activity(), after=second)).expect(200)["events"]) == ["c", "d"]
    assert ids((await api.get(activity(), after=second, order="desc")).expect(200)["events"]) == ["d", "c"]
    page = (await api.get(activity(), after=second, limit=1)).expect(200)
    assert ids((await api.get(activity(), cursor=page["cursor"])).expect(200)["events"]) == ["d"]
    page = (await api.get(activity(), after=second, order="desc", limit=1)).expect(200)
    assert ids((await api.get(activity(), cursor=page["cursor"])).expect(200)["events"]) == ["c"]
    assert fields(await api.get(activity(), after=second, cursor=page["cursor"])) == {"after"}
    assert fields(await api.get(activity(), after=second, cursor="x")) == {"after"}
    for wrong in ("", "yesterday", "2026-11-21", "2026-11-21T06:22:04", "x.1.2"):
        assert fields(await api.get(activity(), after=wrong)) == {"after"}, wrong
    for path in (audit(), ORG_AUDIT):
        assert fields(await api.get(path, after=second)) == {"after"}, "of activity only"


async def test_limits_and_orders(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit is 1 to 10000, by default 100. Orders other than asc and desc, and unknown parameters, are refused."""
    assert params.MAX_LIMIT == 10_000
    monkeypatch.setattr(params, "MAX_LIMIT", 150)
    (await api.append_all(WS, [{}] * 200)).expect(201)
    assert len((await api.get(activity())).expect(200)["events"]) == 100
    for limit in (150, 151, 10**40):
        page = (await api.get(activity(), limit=limit)).expect(200)
        assert len(page["events"]) == 150
        assert "cursor" in page
    for path in (activity(), audit(), ORG_AUDIT):
        for wrong in ("0", "-1", "1.5", "", "ten", "٣", " 1", "1_0"):
            assert fields(await api.get(path, limit=wrong)) == {"limit"}, wrong
        for wrong in ("", "ASC", "up"):
            assert fields(await api.get(path, order=wrong)) == {"order"}, wrong
        assert fields(await api.get(path, limit=[1, 2], order="up", nope=1)) == {"limit", "order", "nope"}


@on_sqlite
async def test_cursors_that_are_none_of_ours(api: Api) -> None:
    """A malformed cursor, or one of another kind of list, gets 400 `invalid_cursor` on every route."""
    for workspace in ("a", "b"):
        (await api.append_all(workspace, [{"action": "policy_decision"}] * 3)).expect(201)
    one = (await api.get(audit("a"), limit=1)).expect(200)["cursor"]
    many = (await api.get(ORG_AUDIT, limit=1)).expect(200)["cursor"]
    tries = ("", "x", "%", "é", "AAAA", "x" * 9000, one + "=", many + "=", one[:-1], many[:-2], " " + one)
    for path, foreign in ((activity("a"), many), (audit("a"), many), (ORG_AUDIT, one)):
        for wrong in (*tries, foreign):
            answer = await api.get(path, cursor=wrong)
            assert (answer.status, answer.error) == (400, "invalid_cursor"), (path, wrong)
            assert answer.json["error"]["request_id"]


async def test_activity_and_audit_are_apart(api: Api) -> None:
    """`/activity` returns activity of its task or type, and `/audit` returns the rest. No event is in both."""
    await stored(api, WS, ["a1", "a2"], task_id="t1", action="task_submitted")
    await stored(api, WS, ["a3"], task_id="t2", action="task_completed")
    await stored(api, WS, ["x1", "x2"], task_id="t1", action="policy_decision")
    assert ids(await listed(api, activity(), order="asc")) == ["a1", "a2", "a3"]
    assert ids(await listed(api, activity(), order="asc", task_id="t1")) == ["a1", "a2"]
    assert ids(await listed(api, activity(), event_type="task_completed")) == ["a3"]
    assert ids(await listed(api, activity(), event_type="task_completed", task_id="t1")) == []
    assert ids(await listed(api, activity(), event_type="policy_decision")) == []
    assert ids(await listed(api, audit(), filter="event_type!=audit.read")) == ["x2", "x1"]
    assert ids(await listed(api, audit(), filter="task_id!=", order="asc")) == ["x1", "x2"]
    for name in ("task_id", "event_type"):
        assert fields(await api.get(activity(), **{name: ""})) == {name}
        assert fields(await api.get(activity(), **{name: "x" * 513})) == {name}
        assert fields(await api.get(f"{activity()}?{name}=a%00")) == {name}


async def test_from_and_to_are_within(api: Api) -> None:
    """`from` and `to` are inclusive, in one workspace and in all. A cursor keeps them."""
    found = await stored(api, WS, [f"e{index}" for index in range(6)], action="policy_decision")
    ends = {"from": found[1]["timestamp"], "to": found[4]["timestamp"]}
    kept = {"filter": "event_type=policy_decision"}
    for path in (audit(), ORG_AUDIT):
        for limit in (1, 2, 3, 100):
            assert ids(await listed(api, path, **ends, limit=limit)) == ["e4", "e3", "e2", "e1"]
            assert ids(await listed(api, path, **ends, limit=limit, order="asc")) == ["e1", "e2", "e3", "e4"]
        early, late = {"from": "1969-07-20T20:17:40Z"}, {"to": "9999-12-31T23:59:59.999999Z"}
        for ends_ in (early, late, early | late):
            assert len(await listed(api, path, **kept, **ends_, limit=2)) == 6
        assert await listed(api, path, **kept, to="0001-01-01T00:00:00Z") == []
        assert await listed(api, path, **kept, **{"from": ends["to"], "to": ends["from"]}) == []
        for name in ("from", "to"):
            for wrong in ("", "now", "2026-11-21", "2026-13-01T00:00:00Z"):
                assert fields(await api.get(path, **{name: wrong})) == {name}


# ---- access


async def key_with(api: Api, *scopes: str, workspace: str = WS) -> Api:
    """Create a key with these scopes; return the API with it."""
    return api.with_key(await api.create_key(workspace, scopes=list(scopes)))


async def test_scopes(api: Api) -> None:
    """Activity needs `workspace:read` or its `:own`; audit needs `audit:read` or its `:own`, too. Others get 403 or 404."""
    (await api.append(WS)).expect(201)
    (await api.append("other")).expect(201)
    reads = (activity(), f"{activity()}/stream", ORG_STREAM)
    audits = (audit(), ORG_AUDIT)

    async def status(caller: Api, path: str) -> tuple[int, str | None]:
        async with await follow(caller, path) as answer:
            if answer.status == 200:
                return 200, None
            error = json.loads(await answer.body())["error"]
            assert error["message"]
            assert error["request_id"]
            return answer.status, error["code"]

    fine, refused = (200, None), (403, "permission_denied")
    for scopes, may_read, may_audit in (
        (["workspace:read"], True, False),
        (["workspace:read:own"], True, False),
        (["audit:read"], False, False),
        (["workspace:write"], False, False),
        (["workspace:read", "audit:read"], True, True),
        (["workspace:read:own", "audit:read:own"], True, True),
        (["admin"], True, True),
    ):
        caller = await key_with(api, *scopes)
        for path in reads:
            assert await status(caller, path) == (fine if may_read else refused), (scopes, path)
        for path in audits:
            assert await status(caller, path) == (fine if may_audit else refused), (scopes, path)
        for path in (activity("other"), audit("other"), f"{activity('other')}/stream", activity("no-such")):
            assert await status(caller, path) == (404, "workspace_not_found"), (scopes, path)
    for caller in (api.with_key(None), api.with_key("sk_wrong")):
        for path in (*reads, *audits):
            assert await status(caller, path) == (401, "unauthenticated")
    for path in (ORG_STREAM, ORG_AUDIT):
        assert await status(person(api, "nobody"), path) == refused
    for path in (
        activity("no-such"),
        audit("no-such"),
        f"{activity('no-such')}/stream",
        activity("a%00"),
        audit("%2E%2E"),
    ):
        assert (await status(api, path))[0] == 404, path


async def test_own_events_in_lists_and_streams(api: Api) -> None:
    """`:own` returns activity and audit events by the caller or on the caller's behalf, in every list and stream."""
    for name, actor in (
        ("mine", {"type": "user", "id": "ann"}),
        ("for", {"type": "agent", "id": "g", "on_behalf_of": "ann"}),
        ("not", {"type": "user", "id": "bob"}),
    ):
        await stored(api, WS, [name], actor=actor)
        await stored(api, WS, [f"x-{name}"], actor=actor, action="policy_decision")
    ann = person(api, "ann", grants={WS: ["workspace:read:own", "audit:read:own"]})
    assert ids(await listed(ann, activity())) == ["for", "mine"]
    for path in (audit(), ORG_AUDIT):
        assert ids(await listed(ann, path, filter="event_type=policy_decision")) == ["x-for", "x-mine"]
    for index, path in enumerate((f"{activity()}/stream", ORG_STREAM)):
        async with await follow(ann, path, after=BEGINNING) as stream:
            assert ids(await stream.events(2)) == ["mine", "for"]
            await stored(api, WS, [f"live-{index}"], actor={"type": "user", "id": "bob"})
            await stored(api, WS, [f"live-mine-{index}"], actor={"type": "user", "id": "ann"})
            assert (await stream.events(1))[0]["id"].startswith("live-mine")


async def test_audit_rights_of_some_workspaces_only(api: Api) -> None:
    """A caller with audit access in one workspace only gets the audit events of that workspace alone."""
    for workspace in ("a", "b"):
        await stored(api, workspace, [f"x-{workspace}"], action="policy_decision")
    both = person(api, "ann", grants={"*": ["workspace:read"], "a": ["audit:read"]})
    assert ids(await listed(both, ORG_AUDIT, filter="event_type=policy_decision")) == ["x-a"]
    assert (await person(api, "eve", grants={"*": ["workspace:read"]}).get(ORG_AUDIT)).error == "permission_denied"
    everywhere = person(api, "bob", grants={"*": ["audit:read"], "b": ["workspace:read"]})
    assert ids(await listed(everywhere, ORG_AUDIT, filter="event_type=policy_decision")) == ["x-b"]


# ---- a workspace's stream


async def test_the_frames_of_a_stream(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A stream sends `event`, `id` and `data`, `: heartbeat` while it is idle, and nothing else, and it ends cleanly."""
    server = await make_server(heartbeat_seconds=1, evershell_stream_seconds=1)
    api = Api(http, server.url, ADMIN_KEY)
    await stored(api, WS, ["first"])
    shown = (await api.get(activity(), limit=1)).expect(200)["events"][0]

    async def look(path: str) -> None:
        async with await follow(api, path, after=BEGINNING) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            block = await stream.next()
            assert block.json == shown
            said = f"event: activity\nid: {block.id}\ndata: {block.data}\n\n".encode()
            head, _, _ = stream.raw.partition(said)
            assert head.startswith(b"retry: ")
            assert set(head.split(b"\n")[1:]) <= {b"", b": heartbeat"}
            await stream.ended()
            rest = set(stream.raw.partition(said)[2].split(b"\n"))
            assert {line for line in rest if not line.startswith(b"id: ")} == {b"", b": heartbeat"}

    async def end(path: str) -> None:
        """Read like a client that checks how a response ends."""
        async with http.get(api.url + path, headers=api.headers) as response:
            assert b"closed" not in await response.read()

    await asyncio.gather(*(read(path) for read in (look, end) for path in (f"{activity()}/stream", ORG_STREAM)))


async def test_a_stream_resumes_by_event_id(api: Api) -> None:
    """`Last-Event-ID` is the event's own id, and the stream continues exactly after it. Types and tasks stay separate."""
    await stored(api, WS, ["a", "b", "c"], task_id="t1")
    await stored(api, WS, ["x"], action="policy_decision")
    await stored(api, WS, ["d"], action="task_failed")
    async with await follow(api, last="b") as stream:
        blocks = [await stream.next("activity") for _ in range(2)]
        assert [(block.id, block.json["id"]) for block in blocks] == [("c", "c"), ("d", "d")]
        await stored(api, WS, ["e"])
        assert ids(await stream.events(1)) == ["e"]
    async with await follow(api, last="a", after=BEGINNING, task_id="t1") as stream:
        assert ids(await stream.events(2)) == ["b", "c"]
    async with await follow(api, last="x", event_type="task_failed") as stream:
        assert ids(await stream.events(1)) == ["d"], "also after an event that the stream filters out"
    async with await follow(api, last="", after=(await api.get(f"{events(WS)}/c")).json["timestamp"]) as stream:
        assert ids(await stream.events(2)) == ["d", "e"]
    position = (await api.get(activity(), limit=1)).json["position"]
    await stored(api, WS, ["f"])
    async with await follow(api, after=position) as stream:
        assert ids(await stream.events(1)) == ["f"]
    for name in ("after", "task_id", "event_type"):
        assert fields(await api.get(f"{activity()}/stream", **{name: "\x01" * 513})) == {name}
    assert fields(await api.get(f"{activity()}/stream", cursor="x")) == {"cursor"}


async def test_an_unknown_id_is_a_gap_and_then_everything(api: Api) -> None:
    """An unknown or invisible id is reported as a gap, followed by all events."""
    await stored(api, WS, ["a", "b"], actor={"type": "user", "id": "ann"})
    await stored(api, WS, ["hidden"], actor={"type": "user", "id": "bob"})
    ann = person(api, "ann", grants={WS: ["workspace:read:own"]})
    for caller, last in (
        (api, "nope"),
        (api, "é"),
        (api, "x" * 5000),
        (api, "at/"),
        (api, "at/other.7"),
        (ann, "hidden"),
    ):
        async with await follow(caller, last=last) as stream:
            gap = await stream.next()
            assert (gap.event, gap.json["reason"], gap.json["to"]) == ("gap", "reset", None)
            assert ids(await stream.events(2)) == ["a", "b"]
            resume = gap.id
        async with await follow(caller, last=resume) as stream:
            assert ids(await stream.events(2)) == ["a", "b"], "a gap has a resume point, too"


async def test_removed_events_are_a_gap(api: Api, database: Database) -> None:
    """Removed events are reported as a gap with the resume point after them."""
    await stored(api, WS, ["a", "b", "c", "d"])
    place = place_of(Position((await api.get(activity())).json["position"].partition(".")[0], 1))
    await trim(database, below=4)
    for path, last in ((f"{activity()}/stream", place), (ORG_STREAM, place.removeprefix("at/"))):
        async with await follow(api, path, last=last) as stream:
            gap = await stream.next("gap")
            assert (gap.json["from"], gap.json["to"], gap.json["reason"]) == (2, 3, "retention")
            assert ids(await stream.events(1)) == ["d"]


async def test_where_nothing_comes_the_resume_point_moves(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """When a filter stops all events, the stream advances the client's resume point by an id that no event can have."""
    server = await make_server(heartbeat_seconds=1)
    api = Api(http, server.url, ADMIN_KEY)
    await stored(api, WS, ["a"])
    async with await follow(api, event_type="never") as stream:
        first = await stream.next()
        assert (first.event, first.data) == (None, None)
        await stored(api, WS, ["b"])
        second = await stream.next()
    assert first.id is not None
    assert second.id is not None
    assert "/" in first.id, "event ids never have it"
    async with await follow(api, last=first.id) as stream:
        assert ids(await stream.events(1)) == ["b"]
    async with await follow(api, last=second.id) as stream:
        await stored(api, WS, ["c"])
        assert ids(await stream.events(1)) == ["c"]


@on_sqlite
async def test_where_nothing_comes_from_many_workspaces(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """The stream of all workspaces advances its resume point in the same way, with one frame for all changed workspaces."""
    api = Api(http, (await make_server(heartbeat_seconds=1)).url, ADMIN_KEY)
    workspaces = ("a", "b", "c", "d")
    for workspace in workspaces:
        await stored(api, workspace, ["first"])
    told: list[str | None] = []
    async with await follow(api, ORG_STREAM, event_type="late") as stream:
        told.append((await stream.next()).id)
        for _ in range(3):
            for workspace in workspaces:
                (await api.append(workspace)).expect(201)
            head = {(await api.get(activity(workspace))).json["position"] for workspace in workspaces}
            while not told[-1] or set(told[-1].split(",")) != head:
                told.append((await stream.next()).id)
    assert len(set(told)) == len(told), "nothing is repeated"
    for workspace in workspaces:
        await stored(api, workspace, [f"late-{workspace}"], action="late")
    async with await follow(api, ORG_STREAM, last=told[-1]) as stream:
        assert set(ids(await stream.events(4))) == {f"late-{workspace}" for workspace in workspaces}


@on_sqlite
async def test_an_event_whose_id_looks_like_a_position(api: Api) -> None:
    """A writer cannot choose event ids that make readers skip events."""
    await stored(api, WS, ["a", "b"])
    epoch = (await api.get(activity())).json["position"].partition(".")[0]
    await stored(api, WS, [f"{epoch}.6", f"{epoch}.0", "c", "d", "e", "f"])
    for name, rest in ((f"{epoch}.6", [f"{epoch}.0", "c", "d", "e", "f"]), (f"{epoch}.0", ["c", "d", "e", "f"])):
        async with await follow(api, last=name) as stream:
            assert ids(await stream.events(len(rest))) == rest


@given(st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True), st.integers(0, MAX_SEQ), st.text(max_size=20))
def test_places_are_read_as_written(epoch: str, seq: int, text: str) -> None:
    """A position is parsed as it is written. Any other text is not a position."""
    assert parse_place(place_of(Position(epoch, seq))) == Position(epoch, seq)
    assert parse_place(f"{epoch}.{seq}") is None
    parse_place(text)
    parse_place(f"at/{text}")


@on_sqlite
async def test_a_stream_resumes_after_a_kill(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """After a killed process, streams of one and of all workspaces continue exactly after the last id received."""
    server = make_process()
    await server.start()
    api = Api(http, server.url, ADMIN_KEY)
    seen: dict[str, list[str]] = {f"{activity()}/stream": [], ORG_STREAM: []}
    last: dict[str, str | None] = dict.fromkeys(seen)
    names = ids(await stored(api, WS, [f"a{index}" for index in range(20)]))
    for path, found in seen.items():
        stream = await follow(api, path, after=BEGINNING)
        for _ in range(15):
            block = await stream.next("activity")
            found.append(block.json["id"])
            last[path] = block.id
        stream.abort()
    server.kill()
    await server.start()
    names += ids(await stored(api, WS, ["b"]))
    for path, found in seen.items():
        async with await follow(api, path, last=last[path]) as stream:
            found.extend(ids(await stream.events(len(names) - len(found))))
    assert seen == dict.fromkeys(seen, names)


# ---- keys in URLs


async def test_a_key_in_the_url(
    make_server: MakeServer, http: aiohttp.ClientSession, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only streams accept `?api_key=`, with a key, not a token, and with no second credential. No log contains the key."""
    server = await make_server(jwt_secret=SECRET)
    api = Api(http, server.url, ADMIN_KEY)
    nobody = api.with_key(None)
    await stored(api, WS, ["a"])
    key = await api.create_key(WS, scopes=["workspace:read"])
    for path in (f"{activity()}/stream", ORG_STREAM):
        async with await follow(nobody, path, api_key=key, after=BEGINNING) as stream:
            assert ids(await stream.events(1)) == ["a"]
        for wrong in (token("ann", grants={"*": ["workspace:read"]}), "", "sk_wrong", "x" * 9000):
            answer = await nobody.get(path, api_key=wrong)
            assert (answer.status, answer.error) == (401, "unauthenticated")
            assert not wrong or wrong.encode() not in answer.body
        assert (await api.get(path, api_key=key)).status == 401, "two credentials"
        assert (await nobody.get(path, api_key=[key, key])).status == 401
    for path in (activity(), audit(), ORG_AUDIT, events(WS), f"{events(WS)}/stream", f"/v1/workspaces/{WS}"):
        assert (await nobody.get(path, api_key=key)).status == 401, path
    off = nobody.at((await make_server(keys_in_urls=False)).url)
    for path in (f"{activity()}/stream", ORG_STREAM):
        answer = await off.get(path, api_key=key)
        assert (answer.status, answer.error) == (401, "unauthenticated")
    output = "".join(capfd.readouterr())
    assert "/activity/stream" in output, "the log contains the requests"
    assert key not in output


async def test_streams_end_with_what_opened_them(api: Api) -> None:
    """When a key is revoked, its streams end, including those of many workspaces, and receive no later events."""
    await stored(api, WS, ["a"])
    made = (await api.post(f"/v1/workspaces/{WS}/keys", {"name": "k", "template": "read_only"})).expect(201)
    streams = [
        await follow(api.with_key(made["key"]), path, after=BEGINNING) for path in (f"{activity()}/stream", ORG_STREAM)
    ]
    for stream in streams:
        assert ids(await stream.events(1)) == ["a"]
    (await api.delete(f"/v1/workspaces/{WS}/keys/{made['id']}")).expect(204)
    for stream in streams:
        await stream.ended()
        assert stream.raw.count(b"event: ") == 1


# ---- the stream of many workspaces


MARK = "test.mark"
"""The action of marker events, which show a client's progress."""


class Client:
    """A model of EventSource: it stores the last id and sends it when it reconnects."""

    def __init__(self, api: Api, **options: Any) -> None:
        self.api = api
        self.seen: list[Event] = []
        self._marks: set[str] = set()
        self._last: str | None = None
        self._stream: SseReader | None = None
        self._options = options

    @property
    def last(self) -> str | None:
        """Return the last id received."""
        return self._stream.position if self._stream and self._stream.position else self._last

    def cut(self) -> None:
        """Drop the connection."""
        if self._stream is not None:
            self._last = self.last
            self._stream.abort()
            self._stream = None

    async def opened(self) -> SseReader:
        """Return the connection; open it if necessary."""
        if self._stream is None:
            start = {"after": BEGINNING} if self._last is None else {}
            self._stream = await follow(self.api, ORG_STREAM, last=self._last, **start, **self._options)
            assert self._stream.status == 200, await self._stream.body()
        return self._stream

    async def read(self, count: int) -> None:
        """Read this many more events, not counting marks, over as many connections as necessary."""
        wanted = len(self.seen) + count
        while len(self.seen) < wanted:
            await self._next()

    async def nothing_more(self, *workspaces: str) -> None:
        """Require that these workspaces have no unread events: only the marks that are appended now may follow."""
        marks = set()
        for workspace in workspaces:
            marks |= set(ids((await self.writer.append_all(workspace, [{"action": MARK}])).expect(201)["events"]))
        count = len(self.seen)
        while not marks <= self._marks:
            await self._next()
        assert len(self.seen) == count, self.seen[count:]

    async def _next(self) -> None:
        stream = await self.opened()
        try:
            block = await stream.next()
        except LOST:
            self.cut()
            return
        assert block.event in {None, "activity"} or block.json["from"] is None, block
        if block.event == "gap":
            return  # of a deleted workspace
        if block.event and block.json["event_type"] == MARK:
            self._marks.add(block.json["id"])
        elif block.event:
            self.seen.append(block.json)

    @property
    def writer(self) -> Api:
        """Return the API with the admin key."""
        return self.api.with_key(ADMIN_KEY)


def exact(found: Sequence[Event], expected: Collection[str]) -> None:
    """Require that each of these events occurs once and in the order of its workspace."""
    counted = Counter(ids(found))
    assert not set(expected) - set(counted), f"missed {sorted(set(expected) - set(counted))[:5]}"
    assert not set(counted) - set(expected), f"not expected: {sorted(set(counted) - set(expected))[:5]}"
    assert not [name for name, count in counted.items() if count > 1], "duplicates"
    for workspace in {event["workspace_id"] for event in found}:
        seqs = [event["event"]["seq"] for event in found if event["workspace_id"] == workspace]
        assert seqs == sorted(seqs), workspace


async def test_every_event_of_every_workspace_once(api: Api) -> None:
    """While workspaces are written to and created, an often interrupted stream of all brings each event once and in order."""
    rng = random.Random(11)
    expected: list[str] = []

    async def write(workspace: str, rounds: int) -> None:
        for _ in range(rounds):
            batch = [{"action": rng.choice(["task_submitted", "policy_decision"])} for _ in range(rng.randint(1, 5))]
            found = (await api.append_all(workspace, batch)).expect(201)["events"]
            expected.extend(event["id"] for event in found if event["category"] == "activity")

    async def more() -> None:
        for workspace in ("later1", "later2"):
            await write(workspace, 3)
            await asyncio.gather(write(workspace, 8), write("w0", 3))

    for index in range(3):
        await write(f"w{index}", 2)
    clients = [Client(api), Client(api)]
    writing = [asyncio.create_task(write(f"w{index}", 20)) for index in range(5)] + [asyncio.create_task(more())]
    while not all(task.done() for task in writing):
        for client in clients:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await client.read(rng.randint(1, 25))
            client.cut()
    await asyncio.gather(*writing)
    for client in clients:
        await client.read(len(expected) - len(client.seen))
        await client.nothing_more(*(f"w{index}" for index in range(5)), "later1", "later2")
        exact(client.seen, expected)
        client.cut()


async def test_each_id_holds_a_place_in_every_workspace(api: Api) -> None:
    """A client that reconnects after any event receives exactly the later events of all workspaces, even silent ones."""
    for workspace in ("a", "b", "c"):
        await stored(api, workspace, [f"{workspace}{index}" for index in range(4)])
    async with await follow(api, ORG_STREAM, after=BEGINNING) as stream:
        blocks = [await stream.next("activity") for _ in range(12)]
    names = [block.json["id"] for block in blocks]
    for index, block in enumerate(blocks):
        client = Client(api)
        client._last = block.id
        await client.read(11 - index)
        exact(client.seen, names[index + 1 :])
        client.cut()
    client = Client(api)
    client._last = blocks[-1].id
    await client.nothing_more("a", "b", "c")
    client.cut()
    async with await follow(api, ORG_STREAM) as stream:
        first = await stream.next()
        assert first.event is None, "from now on: the position is sent at once"
        await stored(api, "b", ["b4"])
        live = await stream.next("activity")
    await stored(api, "c", ["c4"])
    for last, rest in ((first.id, ["b4", "c4"]), (live.id, ["c4"])):
        client = Client(api)
        client._last = last
        await client.read(len(rest))
        exact(client.seen, rest)
        client.cut()


async def test_a_stream_of_all_is_loose_by_event_and_by_time(api: Api) -> None:
    """An event's id resumes exactly in its workspace and loses nothing elsewhere. A time resumes after it; other ids are gaps."""
    await stored(api, "a", ["a1"])
    await stored(api, "b", ["b1"])
    (middle,) = await stored(api, "a", ["a2"])
    await stored(api, "b", ["b2"])
    await stored(api, "a", ["a3"])
    await stored(api, "c", ["c1"])
    for options in ({"last": "a2"}, {"after": middle["timestamp"]}):
        async with await follow(api, ORG_STREAM, **options) as stream:
            assert sorted(ids(await stream.events(3))) == ["a3", "b2", "c1"]
    for last in ("nope", "x" * 5000, "é", "at/a.1", "abc.1", "abc.1,", ",", "a.1,b"):
        async with await follow(api, ORG_STREAM, last=last) as stream:
            assert (await stream.next("gap")).json["reason"] == "reset", last
    for after in ("nope", "2026-11-21"):
        assert fields(await api.get(ORG_STREAM, after=after)) == {"after"}, after
    assert fields(await api.get(ORG_STREAM, after="x" * 513)) == {"after"}
    assert fields(await api.get(ORG_STREAM, cursor="x", event_type="")) == {"cursor", "event_type"}


async def test_an_event_of_the_same_moment_elsewhere_is_not_missed(api: Api) -> None:
    """Two events of different workspaces may share a timestamp. Resuming at one of them still delivers the other."""

    async def twins() -> list[Event]:
        answers = await asyncio.gather(*(api.append(f"w{index}") for index in range(8)))
        found = [answer.expect(201) for answer in answers]
        count = Counter(event["timestamp"] for event in found)
        return [event for event in found if count[event["timestamp"]] > 1][:2]

    one, two = await eventually(twins)
    for first, second in ((one, two), (two, one)):
        async with await follow(api, ORG_STREAM, last=first["id"]) as stream:
            while (await stream.events(1))[0]["id"] != second["id"]:
                pass


async def test_roles_given_and_taken_while_it_is_open(api: Api) -> None:
    """A person's stream follows their roles: a granted workspace is read from its start, and resumes after a new grant."""
    await stored(api, "a", ["a1"])
    await stored(api, "b", ["b1", "b2"])
    ann = await join(api, "a", "ann", "viewer")
    client = Client(ann)
    await client.read(1)
    await join(api, "b", "ann", "viewer")
    await client.read(2)
    for role in ("member", "viewer", "member", "admin", "viewer"):
        await stored(api, "b", [f"as-{role}-{len(client.seen)}"])
        await join(api, "b", "ann", role)
        await client.read(1)
    await client.nothing_more("a", "b")
    (await api.delete("/v1/workspaces/b/members/ann")).expect(204)
    await stored(api, "b", ["secret"])
    await client.nothing_more("a")
    await join(api, "b", "ann", "member")
    await client.read(1)
    assert client.seen[-1]["id"] == "secret", "the second grant makes it readable"
    await client.nothing_more("a", "b")
    client.cut()
    await client.nothing_more("a", "b")
    exact(client.seen, {"a1", "b1", "b2", "secret", *(f"as-{role}-{index}" for index, role in enumerate(("member", "viewer", "member", "admin", "viewer"), 3))})  # fmt: skip
    for workspace in ("a", "b"):
        (await api.delete(f"/v1/workspaces/{workspace}/members/ann")).expect(204)
    stream = await client.opened()
    await stored(api, "a", ["after-all"])
    (await api.post("/v1/workspaces/c/events", make_event())).expect(201)
    await join(api, "c", "ann", "viewer")
    assert (await stream.events(1))[0]["workspace_id"] == "c", "a caller without a workspace may get one later"
    client.cut()


@on_sqlite
async def test_a_log_that_is_opened_anew_while_a_stream_begins(
    api: Api, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a workspace's channel closes before its reader starts, it is reopened and read from the client's position."""
    for workspace in ("a", "b"):
        await stored(api, workspace, [f"{workspace}1", f"{workspace}2"])
    client = Client(api)
    await client.read(4)
    client.cut()
    for workspace in ("a", "b"):
        await stored(api, workspace, [f"{workspace}3"])
    open_connection = sse.open_connection

    async def late(*args: Any, **options: Any) -> Any:
        server.channels.close_workspace("a", Reason.RESET)
        return await open_connection(*args, **options)

    monkeypatch.setattr(sse, "open_connection", late)
    await client.read(2)
    await client.nothing_more("a", "b")
    exact(client.seen, [f"{workspace}{index}" for workspace in ("a", "b") for index in (1, 2, 3)])
    client.cut()


@on_sqlite
async def test_a_place_is_kept_where_nobody_reads_just_now(
    make_server: MakeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids keep a workspace's position while it has no reader, so a reconnecting client neither misses nor repeats events."""
    monkeypatch.setattr("streamer.http.dialects.evershell.handlers.LOOK_SECONDS", 3600)
    api = Api(http, (await make_server(jwt_secret=SECRET)).url, ADMIN_KEY)
    for workspace in ("a", "b"):
        await stored(api, workspace, [f"{workspace}1", f"{workspace}2"])
        await join(api, workspace, "ann", "viewer")
    client = Client(person(api, "ann"))
    await client.read(4)
    await join(api, "b", "ann", "member")
    await stored(api, "b", ["b3"])
    await stored(api, "a", ["a3"])
    await client.read(1)
    assert client.seen[-1]["id"] == "a3"
    client.cut()
    await client.read(1)
    await client.nothing_more("a", "b")
    exact(client.seen, ["a1", "a2", "a3", "b1", "b2", "b3"])
    client.cut()


async def test_a_workspace_deleted_and_made_again(api: Api) -> None:
    """A deleted workspace's stream ends and the others continue. A recreated workspace is read from its start."""
    for workspace in ("a", "b"):
        await stored(api, workspace, [f"{workspace}1"])
    open_, cut = Client(api), Client(api)
    for client in (open_, cut):
        await client.read(2)
    cut.cut()
    for round_ in range(3):
        (await api.delete("/v1/workspaces/a")).expect(204)
        await stored(api, "a", [f"again{round_}"])
        await stored(api, "b", [f"b-again{round_}"])
        for client in (open_, cut):
            await client.read(2)
            await client.nothing_more("a", "b")
        cut.cut()
    for client in (open_, cut):
        exact(
            [event for event in client.seen if event["workspace_id"] == "b"], ["b1", *(f"b-again{i}" for i in range(3))]
        )
        assert [event["id"] for event in client.seen if event["workspace_id"] == "a"] == ["a1", *(f"again{i}" for i in range(3))]  # fmt: skip
        client.cut()


async def test_a_slow_reader_of_all_loses_nothing(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A client that stops reading and is then disconnected receives each event once."""
    server = await make_server(ring_bytes=16 * 1024, write_buffer_bytes=4 * 1024)
    api = Api(http, server.url, ADMIN_KEY)
    workspaces = [f"w{index}" for index in range(6)]
    for workspace in workspaces:
        await stored(api, workspace, [f"{workspace}-0"])
    client = Client(api, receive_buffer=4096)
    await client.read(6)
    expected = [f"{workspace}-0" for workspace in workspaces]
    readers = [
        reader
        for workspace in workspaces
        for reader in server.subscribers._audiences[server.channels._channels[workspace]].readers
    ]
    round_ = 0
    while not any(reader.session.state.name == "CATCH_UP" for reader in readers) or round_ < 8:
        round_ += 1
        for workspace in workspaces:
            names = [f"{workspace}-{round_}-{index}" for index in range(5)]
            expected += ids(await stored(api, workspace, names, details={"blob": "x" * 4000}))
    await client.read(100)
    client.cut()
    await client.read(len(expected) - len(client.seen))
    await client.nothing_more(*workspaces)
    exact(client.seen, expected)
    client.cut()


@on_sqlite
async def test_more_workspaces_than_one_stream_brings(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many workspaces get 400. An open stream that exceeds the maximum later ends with the reason."""
    monkeypatch.setattr("streamer.http.merge.MAX_WORKSPACES", 3)
    for workspace in ("a", "b"):
        await stored(api, workspace, [workspace])
    (await api.get(ORG_AUDIT)).expect(200)
    ann = person(api, "ann", grants={"a": ["workspace:read"], "b": ["workspace:read"]})
    few = Client(ann)
    async with await follow(api, ORG_STREAM) as stream:
        await few.read(2)
        for workspace in ("c", "d"):
            await stored(api, workspace, [workspace])
        await stream.ended()
    for path in (ORG_STREAM, ORG_AUDIT):
        assert fields(await api.get(path)) == {"workspaces"}
    await few.nothing_more("a", "b")
    few.cut()


@on_sqlite
async def test_who_has_no_room_left_holds_up_nobody(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """If an account may open no more readers, its stream ends. Streams of other accounts continue with new workspaces."""
    server = await make_server(jwt_secret=SECRET, max_streams_per_key=3)
    api = Api(http, server.url, ADMIN_KEY)
    for workspace in ("a", "b", "c"):
        await stored(api, workspace, [workspace])
    everywhere = {"*": ["workspace:read"]}
    crowd = [person(api, f"u{index}", grants={name: ["workspace:read"] for name in "abcd"}) for index in range(8)]
    full = [await follow(one, ORG_STREAM, after=BEGINNING) for one in crowd]
    for stream in full:
        await stream.events(3)
    ann = Client(person(api, "ann", grants={"a": ["workspace:read"], "d": ["workspace:read"]}))
    await ann.read(1)
    await stored(api, "d", ["d"])
    await ann.read(1)
    assert ids(ann.seen) == ["a", "d"]
    for stream in full:
        await stream.ended()
    assert (await crowd[0].get(ORG_STREAM)).error == "rate_limited"
    answer = await person(api, "bob", grants=everywhere).get(ORG_STREAM)
    assert (answer.status, answer.error) == (429, "rate_limited")
    ann.cut()
    await eventually(lambda: not server.channels._channels)
    assert not server.subscribers._places._by_account


async def test_organisations_of_events(api: Api) -> None:
    """Each event contains its workspace's organisation, in lists and streams of all workspaces."""
    for workspace, org in (("a", "acme"), ("b", "other")):
        (await api.put(f"/v1/workspaces/{workspace}", {"org_id": org})).expect(201)
        await stored(api, workspace, [f"x-{workspace}"], action="policy_decision")
        await stored(api, workspace, [workspace])
    expected = {"a": "acme", "b": "other"}
    found = await listed(api, ORG_AUDIT, filter="event_type=policy_decision")
    assert {event["workspace_id"]: event["org_id"] for event in found} == expected
    async with await follow(api, ORG_STREAM, after=BEGINNING) as stream:
        assert {event["workspace_id"]: event["org_id"] for event in await stream.events(2)} == expected


async def test_a_stream_that_vanishes_leaves_nothing_behind(api: Api, server: Server) -> None:
    """When the last stream of all workspaces ends, its shared reader is removed."""
    for workspace in ("a", "b", "c"):
        await stored(api, workspace, [workspace])

    async def come_and_go(index: int) -> None:
        stream = await follow(api, ORG_STREAM, after=BEGINNING)
        if index % 3:
            await stream.events(index % 3)
        stream.abort()

    await asyncio.gather(*(come_and_go(index) for index in range(30)))
    await eventually(lambda: not server.channels._channels)
    assert not server.subscribers._places._by_account
