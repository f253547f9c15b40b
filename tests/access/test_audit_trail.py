"""Every change of access is recorded in the log in the same transaction, and so is the reading of these records."""

import asyncio
import contextlib
import sqlite3
from typing import Any

import aiohttp
import pytest

from streamer.app import Server
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.support.api import Api, events
from tests.support.readers import BEGINNING, KINDS, Kind
from tests.support.tokens import SECRET, join
from tests.support.waiting import eventually
from tests.support.websocket import open_socket

WS = "w"
PATH = f"/v1/workspaces/{WS}"

pytestmark = pytest.mark.usefixtures("one_hour")
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


async def trail(api: Api, workspace: str = WS) -> list[dict[str, Any]]:
    """Return the audit events of a workspace in order, without asking for them alone."""
    return [event for event in await api.history(workspace, order="asc") if event["category"] == "audit"]


def told(event: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return some fields of an event."""
    return {name: event[name] for name in names}


ADMIN = {"type": "key", "id": "admin", "name": "admin", "role": None, "on_behalf_of": None, "ip": None}


async def test_each_change_is_told(api: Api) -> None:
    """A change of keys, members, roles or settings is recorded in the workspace with its author and the old and new values."""
    (await api.put(PATH, {"name": "W", "settings": {"a": 1, "b": 2}})).expect(201)
    ann = await join(api, WS, "ann", "owner")
    made = (
        await ann.post(f"{PATH}/keys", {"name": "ci", "scopes": ["workspace:write", "workspace:read"], "actor": {"type": "agent", "id": "bot"}, "expires_at": "2999-01-01T00:00:00Z"})
    ).expect(201)  # fmt: skip
    by_key = api.with_key(await api.create_key(WS, scopes=["admin"], name="root"))
    (await by_key.delete(f"{PATH}/keys/{made['id']}")).expect(204)
    await join(ann, WS, "bob", "viewer")
    await join(ann, WS, "bob", "member")
    (await ann.delete(f"{PATH}/members/bob")).expect(204)
    (await ann.put(PATH, {"name": "V", "org_id": "acme", "settings": {"b": 3, "c": {"d": None}}})).expect(200)
    found = await trail(api)
    person_ann = {"type": "user", "id": "ann", "name": "ann", "role": None, "on_behalf_of": None, "ip": None}
    assert [event["action"] for event in found] == [
        *("member.added", "key.created", "key.created", "key.revoked"),
        *("member.added", "member.role_changed", "member.removed", "workspace.settings_updated"),
    ]
    assert [event["seq"] for event in found] == list(range(1, 9))
    assert {event["category"] for event in found} == {"audit"}
    added, key, root, revoked, bob_added, bob_changed, bob_removed, settings = found
    assert told(added, "actor", "details", "description") == {
        "actor": ADMIN, "details": {"role": "owner"}, "description": "admin added member ann",
    }  # fmt: skip
    assert added["entity"] == {"type": "member", "id": "ann", "identifier": None, "name": None}
    assert key["actor"] == person_ann
    assert key["entity"] == {"type": "key", "id": made["id"], "identifier": None, "name": "ci"}
    assert key["details"] == {
        "scopes": ["workspace:read", "workspace:write"], "actor": {"type": "agent", "id": "bot"}, "expires_at": "2999-01-01T00:00:00.000000Z",
    }  # fmt: skip
    assert root["entity"]["name"] == "root"
    assert revoked["actor"] | {"name": None} == {**person_ann, "type": "key", "id": root["entity"]["id"], "name": None}
    assert revoked["entity"] == key["entity"]
    assert (bob_added["details"], bob_removed["details"]) == ({"role": "viewer"}, {"role": "member"})
    assert bob_changed["changes"] == {"role": {"from": "viewer", "to": "member"}}
    assert settings["changes"] == {
        "name": {"from": "W", "to": "V"},
        "org_id": {"from": "default", "to": "acme"},
        "settings.a": {"from": 1, "to": None},
        "settings.b": {"from": 2, "to": 3},
        "settings.c": {"from": None, "to": {"d": None}},
    }
    for event in found:
        assert made["key"] not in str(event)


async def test_what_changes_nothing_tells_nothing(api: Api) -> None:
    """A change that has no effect, is refused or has no target is not recorded."""
    (await api.put(PATH, {"name": "W"})).expect(201)
    ann = await join(api, WS, "ann", "owner")
    before = await trail(api)
    for answer, status in (
        (await api.put(PATH, {"name": "W"}), 200),
        (await api.put(PATH, {}), 200),
        (await api.put(f"{PATH}/members/ann", {"role": "owner"}), 200),
        (await ann.delete(f"{PATH}/members/ann"), 409),
        (await ann.delete(f"{PATH}/members/bob"), 404),
        (await ann.delete(f"{PATH}/keys/nothing"), 404),
        (await ann.post(f"{PATH}/keys", {"name": "x"}), 400),
    ):
        assert answer.status == status, answer.body
    assert await trail(api) == before


async def test_the_instance_tells_in_its_own_log(api: Api) -> None:
    """Created and deleted workspaces are recorded in `system`, which only instance admins can read and nobody can write."""
    (await api.put(PATH, {"name": "W", "org_id": "acme"})).expect(201)
    ann = await join(api, WS, "ann", "owner")
    (await ann.delete(PATH)).expect(204)
    made, deleted = await trail(api, "system")
    assert (made["action"], made["actor"], made["entity"]["id"]) == ("workspace.created", ADMIN, WS)
    assert made["details"] == {"org_id": "acme", "settings": {}}
    assert (deleted["action"], deleted["actor"]["id"], deleted["entity"]["name"]) == ("workspace.deleted", "ann", "W")
    assert (await api.append("system")).status == 400
    assert (await api.put("/v1/workspaces/system", {"name": "x"})).status == 400
    assert (await api.delete("/v1/workspaces/system")).status == 400
    assert (await ann.get(events("system"))).error == "workspace_not_found"
    auditor = api.with_key(await api.create_key("system", template="read_only"))
    assert [event["action"] for event in await auditor.history("system", order="asc")][:2] == ["workspace.created", "workspace.deleted"]  # fmt: skip


async def test_another_admin_key_is_told(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """A start with a different admin key is recorded, without the key. The first key and an unchanged key are not."""
    for key, expected in (("a-first-admin-key-012", 0), ("a-first-admin-key-012", 0), ("another-admin-key-345", 1)):
        process = make_process(admin_key=key)
        await process.start()
        api = Api(http, process.url, key)
        (await api.append(WS)).expect(201)
        answer = await api.get(events("system"))
        found = answer.json["events"] if answer.status == 200 else []
        assert [event["action"] for event in found] == ["key.created"] * expected
        assert b"another-admin" not in answer.body
        assert await process.stop() == 0


async def test_a_change_and_its_event_are_one(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """Wherever the process is killed, there are as many keys and members as the log records."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.put(PATH)).expect(201)
    for turn in range(3):

        async def change(n: int, api: Api = api, turn: int = turn) -> None:
            for step in range(1000):
                await api.post(f"{PATH}/keys", {"name": f"{turn}-{n}-{step}", "scopes": ["workspace:read"]})
                await api.put(f"{PATH}/members/{turn}-{n}-{step}", {"role": "viewer"})

        changing = [asyncio.create_task(change(n)) for n in range(8)]
        while len((await api.get(f"{PATH}/keys", limit=1000)).expect(200)["keys"]) < (turn + 1) * 20:
            pass
        process.kill()
        await asyncio.gather(*changing, return_exceptions=True)
        await process.start()
        api = Api(http, process.url, ADMIN_KEY)
        found = await api.history(WS, order="asc", limit=1000)
        assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
        keys = {key["id"] for key in (await api.get(f"{PATH}/keys", limit=1000)).expect(200)["keys"]}
        members = {member["user"] for member in (await api.get(f"{PATH}/members", limit=1000)).expect(200)["members"]}
        assert keys == {event["entity"]["id"] for event in found if event["action"] == "key.created"}
        assert members == {event["entity"]["id"] for event in found if event["action"] == "member.added"}
    assert await process.stop() == 0


async def test_changes_reach_readers(api: Api) -> None:
    """A live reader receives a change of access like any other event, in log order."""
    (await api.put(PATH)).expect(201)
    async with await api.stream(WS, category="audit") as stream:
        await stream.next("synced")
        (await api.append(WS)).expect(201)
        await api.create_key(WS)
        actions = [event["action"] for event in await stream.events(1)]
        assert actions == ["key.created"]


# ---- readings of audit events


async def test_reading_audit_events_is_told_once_an_hour(api: Api) -> None:
    """A request for audit events alone is recorded before it is answered, once an hour for each principal, on any route."""
    (await api.append(WS, id="e")).expect(201)
    made = (await api.post(f"{PATH}/keys", {"name": "k", "template": "read_only"})).expect(201)
    key, ann = api.with_key(made["key"]), await join(api, WS, "ann", "admin")
    first = await key.history(WS, category="audit")
    assert first[0]["action"] == "audit.read"  # the record is part of the response
    for caller in (key, key, ann, api, api):
        await caller.history(WS, category="audit")
        async with await caller.stream(WS, category="audit") as stream:
            await stream.next("synced")
        async with await open_socket(caller, WS, category="audit") as socket:
            await socket.next("synced")
        async with await open_socket(caller) as socket:
            await socket.ask({"type": "subscribe", "sub": "s", "workspace": WS, "category": ["audit"]}, "synced")
        ticket = (await caller.post("/v1/tickets", {"workspace": WS, "category": "audit"})).expect(201)["ticket"]
        async with await api.with_key(None).stream(WS, ticket=ticket) as stream:
            await stream.next("synced")
    readings = [event for event in await trail(api) if event["action"] == "audit.read"]
    assert [(event["actor"]["type"], event["actor"]["id"]) for event in readings] == [
        ("key", made["id"]),
        ("user", "ann"),
        ("key", "admin"),
    ]
    assert readings[0]["entity"]["id"] == WS
    assert readings[1]["description"] == "ann read the audit events of workspace w"


@on_sqlite
@pytest.mark.parametrize(
    ("asked", "is_told"),
    [
        (["audit"], True),
        (["!activity"], True),
        (["audit", "!activity"], True),
        (["audit,activity", "!activity"], True),
        (["audit,activity"], False),
        (["activity"], False),
        (["!audit"], False),
        (["audit", "!audit"], False),
        ([], False),
    ],
)
async def test_what_asks_for_audit_events_alone(api: Api, asked: list[str], is_told: bool) -> None:
    """Every filter that selects audit events alone is recorded, in a query and in a ticket."""
    (await api.append(WS)).expect(201)
    await api.history(WS, category=asked)
    body = {"workspace": WS} | ({"category": asked} if asked else {})
    key = api.with_key(await api.create_key(WS, template="read_only"))
    ticket = (await key.post("/v1/tickets", body)).expect(201)["ticket"]
    async with await api.with_key(None).stream(WS, ticket=ticket) as stream:
        await stream.next("synced")
    assert [event["action"] for event in await trail(api)].count("audit.read") == (2 if is_told else 0)


@on_sqlite
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_every_way_to_read_audit_events_is_told(api: Api, kind: Kind) -> None:
    """The first reading is recorded on every route, including those with a ticket."""
    (await api.append(WS)).expect(201)
    key = api.with_key(await api.create_key(WS, template="read_only"))
    reader = await kind.open(key, WS, after=BEGINNING, category="audit")
    assert [event["action"] for event in await reader.synced()] == ["key.created", "audit.read"]
    reader.close()


async def test_mixed_history_is_not_told(api: Api) -> None:
    """A reading that does not ask for audit events alone is not recorded, whatever it returns."""
    (await api.append_all(WS, [{"action": "key.created"}, {}])).expect(201)
    for params in (
        {},
        {"category": "audit,activity"},
        {"category": "activity"},
        {"action": "issue.*"},
        {"action": "key.*,issue.*"},
        {"action": "!key.*"},
        {"action": "*"},
        {"action": "key.created,issue.created"},
        {"actor_type": "key,user"},
        {"actor_id": "admin"},
        {"entity_id": "i1"},
        {"q": "key"},
    ):
        await api.history(WS, **params)
    assert [event["action"] for event in await trail(api)] == ["key.created"]
    plain = api.with_key(await api.create_key(WS, scopes=["workspace:read"]))
    assert await plain.history(WS, category="audit") == []  # a caller that may not read audit events has not read them
    assert [event["action"] for event in await trail(api)] == ["key.created", "key.created"]


async def test_many_nodes_tell_a_reading_once(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Concurrent readings on several nodes are recorded in one event."""
    nodes = [Api(http, (await make_server()).url, ADMIN_KEY) for _ in range(2)]
    (await nodes[0].append(WS)).expect(201)
    await asyncio.gather(*(node.get(events(WS), category="audit") for node in nodes for _ in range(20)))
    assert [event["action"] for event in await trail(nodes[0])] == ["audit.read"]


async def test_an_hour_later_it_is_told_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hour has its own event."""
    (await api.append(WS)).expect(201)
    for hour in (10**18, 10**15, 10**14):  # each value puts the present into another hour
        monkeypatch.setattr("streamer.access.visibility.HOUR", hour)
        await api.history(WS, category="audit")
    assert [event["action"] for event in await trail(api)] == ["audit.read"] * 3


async def test_the_servers_own_events_have_their_ids(api: Api) -> None:
    """The server's events have ids that clients cannot use, so nobody can forge, block or probe for them."""
    (await api.put(PATH)).expect(201)
    await join(api, WS, "ann", "member")
    key = api.with_key(await api.create_key(WS, template="submit_observe"))
    await key.history(WS, category="audit")
    own = await trail(api)
    assert [event["action"] for event in own] == ["member.added", "key.created", "audit.read"]
    assert all(event["id"].startswith("streamer:") for event in own)
    for event_id in (*(event["id"] for event in own), "streamer:", "streamer:x"):
        answer = await key.append(WS, id=event_id, action="member.added")
        assert set(answer.expect(400)["error"]["details"]["fields"]) == {"id"}
    async with await open_socket(key, WS) as socket:
        event = {"id": own[0]["id"], "action": "x.y", "actor": {"type": "user", "id": "eve"}}
        assert (await socket.ask({"type": "publish", "event": event}, "published"))["type"] == "error"
    (await key.append(WS, action="member.added", id="imitation")).expect(201)
    assert [event["id"] for event in await trail(api) if not event["id"].startswith("streamer:")] == ["imitation"]


async def test_a_workspace_created_again_is_audited_again(api: Api) -> None:
    """A recreated workspace records readings again, because its new log is empty."""
    for _ in range(2):
        (await api.append(WS)).expect(201)
        await api.history(WS, category="audit")
        assert [event["action"] for event in await trail(api)] == ["audit.read"]
        (await api.delete(PATH)).expect(204)


async def test_what_a_key_changes_is_the_keys(api: Api) -> None:
    """A change by a key that acts as a person is attributed to the key, not to the person."""
    (await api.put(PATH)).expect(201)
    body = {"name": "as-ann", "scopes": ["admin"], "actor": {"type": "user", "id": "ann"}}
    made = (await api.post(f"{PATH}/keys", body)).expect(201)
    await join(api.with_key(made["key"]), WS, "eve", "viewer")
    event = (await trail(api))[-1]
    assert (event["action"], event["actor"]["type"], event["actor"]["id"]) == ("member.added", "key", made["id"])


@on_sqlite
async def test_a_reading_that_cannot_be_told_is_refused(
    make_server: MakeServer, http: aiohttp.ClientSession, database_url: str
) -> None:
    """While nothing can be stored, requests for audit events alone are refused, because they could not be recorded."""
    api = Api(http, (await make_server(append_queue_events=1)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)

    async def waits_for_the_disk(count: int) -> bool:
        return f"streamer_append_queue_events {count}.0" in (await api.get("/metrics")).body.decode()

    with contextlib.closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can write
        first = asyncio.create_task(api.append(WS))
        await eventually(lambda: waits_for_the_disk(1))
        second = asyncio.create_task(api.append(WS))
        await eventually(lambda: waits_for_the_disk(2))
        answer = await api.get(events(WS), category="audit")
        assert (answer.status, answer.error) == (503, "overloaded")
        assert (await api.get(events(WS))).status == 200
        other.execute("ROLLBACK")
    for waiting in (first, second):
        (await waiting).expect(201)
    assert [event["action"] for event in await api.history(WS, category="audit")] == ["audit.read"]
