"""Visibility: `:own`, audit events and the records about members, on every route that reads."""

import itertools
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from streamer.app import Server
from streamer.core.actions import OPEN_AUDIT_ACTIONS
from streamer.store.log.scan import Scan
from tests.conftest import MakeServer
from tests.support.api import Api, events, make_event
from tests.support.readers import BEGINNING, KINDS, Kind, take
from tests.support.tokens import SECRET, person
from tests.support.websocket import open_socket

Event = Mapping[str, Any]
WS = "w"

READING = ("workspace:read", "workspace:read:own", "audit:read", "audit:read:own")
pytestmark = pytest.mark.usefixtures("one_hour")
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


def corpus() -> list[dict[str, object]]:
    """Return events of every kind that views distinguish."""
    rng = random.Random(3)
    actors = [
        {"type": kind, "id": name, "on_behalf_of": behalf}
        for kind, name, behalf in itertools.product(("user", "agent"), ("ann", "bob", "Ann"), (None, "ann", "bob"))
    ]
    actions = ["issue.created", "policy_decision", "key.created", *sorted(OPEN_AUDIT_ACTIONS)]
    return [make_event(actor=actor, action=action) for actor in actors for action in rng.sample(actions, 4)]


def sees(event: Event, scopes: Collection[str], own_id: str, *, made: bool = False) -> bool:
    """Decide by the plain rules whether a principal with these scopes may see an event."""
    is_own = made or own_id in {event["actor"]["id"], event["actor"]["on_behalf_of"]}
    if event["category"] == "activity":
        return "workspace:read" in scopes or ("workspace:read:own" in scopes and is_own)
    if "audit:read" in scopes or ("audit:read:own" in scopes and is_own):
        return True
    return event["action"] in OPEN_AUDIT_ACTIONS and ("workspace:read" in scopes or is_own)


def ids(found: Sequence[Event], among: Collection[str]) -> list[str]:
    """Return the ids of those of these events that the test appended."""
    return [event["id"] for event in found if event["id"] in among]


SETS = [
    set(scopes)
    for size in range(1, 5)
    for scopes in itertools.combinations(READING, size)
    if {"workspace:read", "workspace:read:own"} & set(scopes)
]


async def test_every_set_of_scopes(api: Api) -> None:
    """For every set of scopes, history, pages and look-ups by id return exactly the events that the plain rules allow."""
    stored: list[Event] = (await api.append_all(WS, corpus())).expect(201)["events"]
    known = {event["id"] for event in stored}
    assert {event["category"] for event in stored} == {"activity", "audit"}
    for scopes in SETS:
        token = person(api, "ann", grants={WS: sorted(scopes)})
        key = api.with_key(await api.create_key(WS, scopes=sorted(scopes), actor={"type": "agent", "id": "ann"}))
        expected = [event["id"] for event in stored if sees(event, scopes, "ann")]
        for caller in (token, key):
            assert ids(await caller.history(WS, order="asc"), known) == expected, scopes
            assert ids(await caller.history(WS, limit=7), known) == expected[::-1], scopes
            for category in ("audit", "activity"):
                of_it = [event["id"] for event in stored if event["id"] in expected and event["category"] == category]
                assert ids(await caller.history(WS, order="asc", category=category), known) == of_it, scopes
            both = {"actor_type": "agent", "action": ["issue.created", "key.created"]}
            expected_both = [
                event["id"]
                for event in stored
                if event["id"] in expected and event["actor"]["type"] == "agent" and event["action"] in both["action"]
            ]
            assert ids(await caller.history(WS, order="asc", limit=3, **both), known) == expected_both, scopes
        for event in stored[::5]:
            answer = await token.get(f"{events(WS)}/{event['id']}")
            assert answer.status == (200 if event["id"] in expected else 404), (scopes, event)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_own_events_live(api: Api, kind: Kind) -> None:
    """With `:own`, a caller receives exactly its own events and those on its behalf, replayed, live and by ticket."""
    stored: list[Event] = (await api.append_all(WS, corpus())).expect(201)["events"]
    expected = [event["id"] for event in stored if sees(event, {"workspace:read:own"}, "ann")]
    ann = person(api, "ann", grants={WS: ["workspace:read:own"]})
    reader = await kind.open(ann, WS, after=BEGINNING)
    assert [event["id"] for event in await reader.synced()] == expected
    more: list[Event] = (await api.append_all(WS, corpus())).expect(201)["events"]
    expected = [event["id"] for event in more if sees(event, {"workspace:read:own"}, "ann")]
    assert [event["id"] for event in await take(reader, len(expected))] == expected
    reader.close()


@on_sqlite
async def test_a_ticket_keeps_to_what_is_own(api: Api) -> None:
    """With a ticket of a caller with `:own`, replays, live events and subscriptions show no more than the caller may see."""
    (await api.append_all(WS, [{"id": "mine", "actor": {"type": "agent", "id": "bot", "on_behalf_of": "ann"}}, {"id": "other", "actor": {"type": "user", "id": "eve"}}])).expect(201)  # fmt: skip
    key = api.with_key(await api.create_key(WS, scopes=["workspace:read:own"], actor={"type": "user", "id": "ann"}))
    for caller in (person(api, "ann", grants={WS: ["workspace:read:own"]}), key):
        ticket = (await caller.post("/v1/tickets", {"workspace": WS})).expect(201)["ticket"]
        async with await open_socket(api.with_key(None), WS, ticket=ticket, after=BEGINNING) as socket:
            assert [event["id"] for event in await socket.events(1)] == ["mine"]
            await socket.next("synced")
            await socket.send({"type": "subscribe", "sub": "s", "after": BEGINNING, "actor_id": "eve"})
            said = await socket.next()
            assert said.get("events", []) == []
            if said["type"] == "events":  # the position, without an event
                assert (await socket.next())["type"] == "synced"


async def test_who_made_a_workspace_owns_what_is_in_it(api: Api) -> None:
    """The creator of a workspace owns everything in it: others' events, and audit events with `audit:read:own`."""
    (await person(api, "ann", grants={"*": ["admin"]}).put(f"/v1/workspaces/{WS}")).expect(201)
    maker = person(api, "ann", grants={WS: ["workspace:read:own"]})
    assert (await api.get(f"/v1/workspaces/{WS}")).expect(200)["created_by"] == "user:ann"
    stored: list[Event] = (await api.append_all(WS, corpus())).expect(201)["events"]
    known = {event["id"] for event in stored}
    by_key = api.with_key(await api.create_key(WS, scopes=["workspace:read:own"], actor={"type": "user", "id": "ann"}))
    agent = api.with_key(await api.create_key(WS, scopes=["workspace:read:own"], actor={"type": "agent", "id": "ann"}))
    for caller, scopes, made in (
        (maker, {"workspace:read:own"}, True),
        (by_key, {"workspace:read:own"}, True),
        (agent, {"workspace:read:own"}, False),
        (person(api, "bob", grants={WS: ["workspace:read:own"]}), {"workspace:read:own"}, False),
        (person(api, "ann", grants={WS: ["workspace:read:own", "audit:read:own"]}), {"workspace:read:own", "audit:read:own"}, True),
    ):  # fmt: skip
        own_id = "bob" if caller.key and "user:bob" in str((await caller.get("/v1/session")).json) else "ann"
        expected = [event["id"] for event in stored if sees(event, scopes, own_id, made=made)]
        assert ids(await caller.history(WS, order="asc"), known) == expected


async def test_an_append_that_makes_a_workspace_owns_only_itself(api: Api) -> None:
    """An append that creates a workspace makes no owner: on every route, the caller still reads only its own events."""
    both = {"*": ["workspace:write", "workspace:read:own", "audit:read:own"]}
    first = person(api, "eve", grants=both)
    (await first.post(events(WS), {"action": "first.event"})).expect(201)
    assert (await api.get(f"/v1/workspaces/{WS}")).expect(200)["created_by"] == "user:eve"
    stored: list[Event] = (await api.append_all(WS, corpus())).expect(201)["events"]
    known = {event["id"] for event in stored}
    assert ids(await first.history(WS, order="asc"), known) == []
    # Changing the workspace's values is no creation, either.
    (await person(api, "eve", grants={"*": ["admin"]}).put(f"/v1/workspaces/{WS}", {"name": "mine"})).expect(200)
    assert ids(await first.history(WS, order="asc"), known) == []
    assert (await first.get(f"{events(WS)}/{stored[0]['id']}")).error == "event_not_found"
    reader = await KINDS[0].open(first, WS, after=BEGINNING)
    assert ids(await reader.synced(), known) == []
    reader.close()
    for path in (f"/api/companies/{WS}/activity", f"/api/v1/workspaces/{WS}/activity", "/api/v1/users/me/activity"):
        assert ids((await first.get(path)).expect(200), known) == []
    for path in (f"/v1/workspaces/{WS}/activity", f"/v1/workspaces/{WS}/audit", "/v1/audit"):
        assert ids((await first.get(path)).expect(200)["events"], known) == []


async def test_a_key_without_an_actor_owns_what_says_so(api: Api) -> None:
    """A key without an actor owns only events that name the key's own id."""
    (await api.append(WS, id="foreign")).expect(201)
    made = (await api.post(f"/v1/workspaces/{WS}/keys", {"name": "k", "scopes": ["workspace:read:own"]})).expect(201)
    key = api.with_key(made["key"])
    assert await key.history(WS) == []
    (await api.append(WS, id="named", actor={"type": "key", "id": made["id"]})).expect(201)
    assert [event["id"] for event in await key.history(WS)] == ["named"]
    assert (await key.append(WS)).error == "permission_denied"
    assert (await key.get(f"/v1/workspaces/{WS}")).status == 200
    assert (await key.get(f"{events(WS)}/foreign")).error == "event_not_found"


async def test_audit_alone_reads_nothing(api: Api) -> None:
    """`audit:read` alone opens no route. It extends the right to read."""
    (await api.append(WS)).expect(201)
    for scopes in (["audit:read"], ["audit:read:own"], ["audit:read", "audit:read:own"]):
        caller = api.with_key(await api.create_key(WS, scopes=scopes))
        assert (await caller.get(events(WS), category="audit")).error == "permission_denied"


async def test_members_may_know_who_the_members_are(api: Api) -> None:
    """Changes of members, roles and settings are visible to every reader, those of keys only with audit access."""
    (await api.put(f"/v1/workspaces/{WS}", {"name": "W"})).expect(201)
    (await api.put(f"/v1/workspaces/{WS}/members/ann", {"role": "viewer"})).expect(201)
    await api.create_key(WS)
    (await api.put(f"/v1/workspaces/{WS}/members/ann", {"role": "member"})).expect(200)
    (await api.put(f"/v1/workspaces/{WS}", {"name": "V"})).expect(200)
    ann, everything = person(api, "ann"), await api.history(WS, order="asc")
    assert [event["action"] for event in everything] == ["member.added", "key.created", "member.role_changed", "workspace.settings_updated"]  # fmt: skip
    assert [event["action"] for event in await ann.history(WS, order="asc")] == ["member.added", "member.role_changed", "workspace.settings_updated"]  # fmt: skip
    assert await ann.history(WS, category="audit", order="asc") == await ann.history(
        WS, order="asc"
    )  # not recorded, either


@on_sqlite
async def test_what_is_own_is_found_by_index(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one's own events in a long log uses an index for each of its two conditions, instead of scanning the log."""
    (await api.append_all(WS, [{}] * 500)).expect(201)
    (await api.append(WS, id="a", actor={"type": "user", "id": "zoe"})).expect(201)
    (await api.append(WS, id="b", actor={"type": "agent", "id": "x", "on_behalf_of": "zoe"})).expect(201)
    (await api.append_all(WS, [{}] * 500)).expect(201)
    statements: list[str] = []
    between = Scan._between

    def watched(self: Scan, *args: Any) -> Any:
        query = between(self, *args)
        statements.append(str(query.compile(compile_kwargs={"literal_binds": False})))
        return query

    monkeypatch.setattr(Scan, "_between", watched)
    zoe = person(api, "zoe", grants={WS: ["workspace:read:own"]})
    assert [event["id"] for event in await zoe.history(WS, order="asc")] == ["a", "b"]
    assert statements[0].count("UNION ALL") == 1
