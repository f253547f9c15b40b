"""PraisonAI's API beyond its released server: filters, polling by id, any offset, users and issues across workspaces.

The released server's own responses are in tests/dialects/test_dialect_exchanges.py.
"""

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy import event as sql

from streamer.app import Server
from streamer.http.dialects.praisonai.names import PLATFORM, platform_action, resource_type
from tests.conftest import MakeServer
from tests.support.api import Api, events, make_event
from tests.support.tokens import SECRET, join, person

Activity = Mapping[str, Any]
WS = "w"
BASE = f"/api/v1/workspaces/{WS}/activity"
FORBIDDEN = {"detail": "Not a member of this workspace or insufficient role"}

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


def corpus(count: int = 60, seed: int = 5) -> list[dict[str, object]]:
    """Return events of all kinds that the filters distinguish."""
    rng = random.Random(seed)
    actions = [*PLATFORM, "issue.created", "issue.updated", "project.created", "created", "label.deleted", "other"]
    types = ["issue", "project", "workspace", "member", "agent", None]
    return [
        make_event(
            action=rng.choice(actions),
            actor={"type": rng.choice(["user", "agent", "system"]), "id": rng.choice(["ann", "bob", "eng1"])},
            **({"entity": {"type": kind, "id": f"{kind}-{rng.randrange(3)}"}} if (kind := rng.choice(types)) else {}),
        )
        for _ in range(count)
    ]


async def listed(api: Api, path: str = BASE, **params: Any) -> list[dict[str, Any]]:
    """Return a list of activity."""
    found: list[dict[str, Any]] = (await api.get(path, **params)).expect(200)
    return found


def ids(found: Sequence[Activity]) -> list[str]:
    """Return the ids, in order."""
    return [activity["id"] for activity in found]


async def wrong(api: Api, path: str = BASE, **params: Any) -> list[str]:
    """Return the parameters that the error names."""
    answer = await api.get(path, **params)
    return [issue["loc"][1] for issue in answer.expect(422)["detail"]]


# ---- filters

ACTIONS = (
    "created",
    "issue.created",
    "agent_created",
    "member_added",
    "member.added",
    "role_changed",
    "other",
    "nothing",
)
RESOURCES = ("issue", "project", "workspace", "workspace_member", "agent", "member", "nothing")


async def test_filters_find_what_they_say(api: Api) -> None:
    """Actions in both spellings, documented resource types, actors and `include_system` each select exactly their events."""
    (await api.append_all(WS, corpus())).expect(201)
    everything = await listed(api, limit=200)
    assert len(everything) == 60
    rng = random.Random(7)
    found = 0
    for _ in range(60):
        actions, resources = rng.sample(ACTIONS, rng.randrange(3)), rng.sample(RESOURCES, rng.randrange(3))
        actor, system = rng.choice(["ann", "bob", None]), rng.choice(["true", "false", None])
        got = await listed(
            api,
            limit=200,
            actions=",".join(actions) or None,
            resource_types=",".join(resources) or None,
            actor_id=actor,
            include_system=system,
        )
        expected = [
            one
            for one in everything
            if (not actions or {one["action"], platform_action(one["action"])} & {*actions})
            and (not resources or resource_type(one["action"], one["entity_type"]) in resources)
            and (actor is None or one["actor_id"] == actor)
            and (system != "false" or one["actor_type"] != "system")
        ]
        got = [one for one in got if one["action"] != "audit.read"]  # this reading itself appends it
        assert ids(got) == ids(expected), (actions, resources, actor, system)
        found += len(got)
    assert found > 100


async def test_lists_may_be_repeated(api: Api) -> None:
    """`actions=a&actions=b` is `actions=a,b`. For a single-valued parameter, the last value counts, as in FastAPI."""
    (
        await api.append_all(WS, [{"action": action} for action in ("issue.created", "issue.updated", "issue.closed")])
    ).expect(201)
    assert len(await listed(api, actions=["created", "updated"])) == 2
    assert len(await listed(api, limit=[3, 1])) == 1


async def test_dates_are_inclusive(api: Api) -> None:
    """`start_date` and `end_date` are inclusive. The default zone is UTC, a date is the whole day, and `+` need not be escaped."""
    stored = [(await api.append(WS)).expect(201) for _ in range(3)]
    _, second, third = [one["timestamp"] for one in stored]
    assert ids(await listed(api, start_date=second)) == [stored[2]["id"], stored[1]["id"]]
    assert ids(await listed(api, end_date=second)) == [stored[1]["id"], stored[0]["id"]]
    assert ids(await listed(api, start_date=second.rstrip("Z"), end_date=second.rstrip("Z"))) == [stored[1]["id"]]
    moment = datetime.fromisoformat(second)
    elsewhere = (moment + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S.%f")
    answer = await api.request("GET", f"{BASE}?start_date={elsewhere}+02:00&end_date={third}")
    assert ids(answer.expect(200)) == [stored[2]["id"], stored[1]["id"]]
    today = moment.astimezone(UTC).date()
    assert len(await listed(api, start_date=today - timedelta(days=1), end_date=today + timedelta(days=1))) == 3
    assert await listed(api, end_date=today - timedelta(days=2)) == []
    assert await listed(api, start_date=today + timedelta(days=2)) == []


async def test_nothing_is_ignored(api: Api) -> None:
    """An invalid parameter gets 422 in pydantic's form with its name, and is never ignored."""
    (await api.append(WS)).expect(201)
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"start_date": "yesterday"}, ["start_date"]),
        ({"end_date": "2025-02-30"}, ["end_date"]),
        ({"end_date": ""}, ["end_date"]),
        ({"include_system": "maybe"}, ["include_system"]),
        ({"actions": ""}, ["actions"]),
        ({"actions": "a,,b"}, ["actions"]),
        ({"resource_types": "x" * 513}, ["resource_types"]),
        ({"resource_types": ",".join(["x"] * 101)}, ["resource_types"]),
        ({"actor_id": ""}, ["actor_id"]),
        ({"actor_id": "a\0b"}, ["actor_id"]),
        ({"view": "other"}, ["view"]),
        ({"cursor": "x"}, ["cursor"]),
        ({"after_id": "a b"}, ["after_id"]),
        ({"after_id": "", "offset": 1}, ["offset"]),
        ({"offset": 2**63}, ["offset"]),
        ({"foo": 1, "actor": 2}, ["foo", "actor"]),
    ]
    for params, names in cases:
        assert await wrong(api, **params) == names, params
        for path in (f"/api/v1/workspaces/{WS}/issues/i/activity", "/api/v1/users/me/activity"):
            answer = await api.get(path, **params)
            # There is no such issue, but parameters are checked first.
            if "after_id" in params or "cursor" in params:
                assert answer.status in {404, 422}
            else:
                assert answer.status == 422, (path, params)
    assert await listed(api, offset=2**63 - 1) == []


# ---- polling by id


async def test_polling_by_id_brings_each_once(api: Api) -> None:
    """The documented loop gets the newest events, oldest first, and then only events after the last, however many."""
    stored = ids((await api.append_all(WS, [{}] * 5)).expect(201)["events"])
    assert ids(await listed(api, after_id="", limit=3)) == stored[2:]
    last = stored[-1]
    assert await listed(api, after_id=last) == []
    more = ids(
        (await api.append_all(WS, [{"action": f"issue.{'created' if n % 2 else 'updated'}"} for n in range(7)])).expect(
            201
        )["events"]
    )
    seen: list[str] = []
    while page := ids(await listed(api, after_id=last, limit=3)):
        assert len(page) <= 3
        seen += page
        last = page[-1]
    assert seen == more
    assert ids(await listed(api, after_id=stored[-1], actions="created")) == more[1::2]
    ends = (await api.get(f"{events(WS)}/{more[3]}")).expect(200)["timestamp"]
    assert ids(await listed(api, after_id=stored[-1], start_date=ends)) == more[3:]
    assert ids(await listed(api, after_id=more[4], start_date=ends)) == more[5:]
    assert ids(await listed(api, after_id=stored[-1], end_date=ends)) == more[:4]
    assert await wrong(api, "/api/v1/users/me/activity", after_id=last) == ["after_id"]


async def test_an_id_of_what_may_not_be_seen_is_none(api: Api) -> None:
    """Polling after an audit event that the caller may not see is like polling without an id."""
    (await api.append(WS)).expect(201)
    hidden = (await api.append(WS, action="policy_decision")).expect(201)["id"]
    ann = await join(api, WS, "ann", "viewer")
    assert (await ann.get(BASE, after_id=hidden)).expect(410) == (await ann.get(BASE, after_id="nothing")).expect(410)
    assert (await ann.get(f"{BASE}/{hidden}")).expect(404) == {"detail": "Activity not found"}
    assert (await api.get(f"{BASE}/{hidden}")).expect(200)["id"] == hidden


# ---- offset and cursor


FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"actor_id": "ann"},
    {"resource_types": "issue", "actions": "created,policy_decision"},
)


async def test_offset_at_any_depth(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every offset, the page is that part of the list, with and without audit access, `:own` and filters."""
    # Audit events are counted in blocks: many of them here, and few in each block.
    monkeypatch.setattr("streamer.store.log.ranges.BLOCK", 8)
    rng = random.Random(11)
    batch: list[dict[str, object]] = [
        {
            "action": rng.choice(["issue.created", "policy_decision", "member.added", "key.created"]),
            "actor": {"type": "user", "id": rng.choice(["ann", "bob"])},
            "entity": {"type": "issue", "id": rng.choice(["one", "two"])},
        }
        for _ in range(100)
    ]
    batch[40:40] = [{"actor": {"type": "user", "id": "ann"}, "entity": {"type": "issue", "id": "one"}}] * 30
    for start in range(0, len(batch), 7):
        (await api.append_all(WS, batch[start : start + 7])).expect(201)
    callers = {
        "admin": api,
        "viewer": await join(api, WS, "eve", "viewer"),
        "own": api.with_key(
            await api.create_key(
                WS, scopes=["workspace:read:own", "audit:read:own"], actor={"type": "user", "id": "ann"}
            )
        ),
    }
    for name, caller in callers.items():
        for params in FILTERS:
            everything = ids(await listed(caller, limit=200, **params))
            assert len(everything) > 5
            for offset in (0, 1, 2, 7, len(everything) // 2, len(everything) - 1, len(everything), 150, 10**12):
                page = ids(await listed(caller, limit=5, offset=offset, **params))
                assert page == everything[offset : offset + 5], (name, params, offset)
    log = await api.history(WS, order="asc", limit=100)
    for _ in range(40):
        first, last = sorted(rng.sample(range(len(log)), 2))
        bounds = {"start_date": log[first]["timestamp"], "end_date": log[last]["timestamp"]}
        everything = ids(await listed(callers["viewer"], limit=200, **bounds))
        offset = rng.randrange(len(everything) + 2)
        assert ids(await listed(callers["viewer"], offset=offset, limit=200, **bounds)) == everything[offset:]
        # The other direction: Paperclip's list after an event.
        path, behind = f"/api/companies/{WS}/activity", {"after": log[first]["id"], "limit": 500}
        if (found := await callers["viewer"].get(path, **behind)).status == 200:  # otherwise it is not visible
            assert ids(await listed(callers["viewer"], path, offset=offset, **behind)) == ids(found.json)[offset:]


@on_sqlite
async def test_a_deep_offset_costs_what_none_costs(api: Api) -> None:
    """An offset does not make the database scan the skipped rows, even for a member without audit access."""
    batch = [{"action": "policy_decision" if number % 100 == 0 else "issue.created"} for number in range(1000)]
    for _ in range(10):
        (await api.append_all(WS, batch)).expect(201)
    ann = await join(api, WS, "ann", "member")

    async def steps(caller: Api, offset: int) -> int:
        """Return how much SQLite's machine did for a page, in hundreds of its instructions."""
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        def watch(connection: Connection, *_: object) -> None:
            driver: Any = connection.connection.dbapi_connection
            driver.set_progress_handler(tick, 100)

        sql.listen(Engine, "before_cursor_execute", watch)
        try:
            assert len(await listed(caller, offset=offset)) == 50
        finally:
            sql.remove(Engine, "before_cursor_execute", watch)
        return count

    for caller in (api, ann):
        shallow, deep = await steps(caller, 0), await steps(caller, 9800)
        assert 0 < deep < 3 * shallow + 100, (shallow, deep)


async def test_an_offset_over_many_audit_events(api: Api) -> None:
    """Without audit access, a caller can skip any number of audit events with correct pages and a limited number of statements."""
    audit = [{"action": "policy_decision"}] * 1000
    (await api.append_all(WS, [{}] * 9)).expect(201)
    for _ in range(2):
        (await api.append_all(WS, audit)).expect(201)
    (await api.append_all(WS, [{}] * 3)).expect(201)
    ann = await join(api, WS, "ann", "viewer")
    everything = ids(await listed(ann))
    assert len(everything) == 13  # with the event of her joining
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1

    for offset in range(15):
        made = 0
        sql.listen(Engine, "before_cursor_execute", count)
        try:
            assert ids(await listed(ann, offset=offset)) == everything[offset:], offset
        finally:
            sql.remove(Engine, "before_cursor_execute", count)
        assert 0 < made < 40, (offset, made)


async def test_a_cursor_leads_on_exactly(api: Api) -> None:
    """Following `Link` while others append returns each activity once, which an offset cannot guarantee."""
    stored = ids((await api.append_all(WS, [{}] * 23)).expect(201)["events"])
    answer = await api.get(BASE, limit=5, actions="created")
    seen = ids(answer.expect(200))
    while "Link" in answer.headers:
        (await api.append(WS)).expect(201)
        target, rel = answer.headers["Link"].split("; ")
        assert rel == 'rel="next"'
        answer = await api.get(target.strip("<>"))
        seen += ids(answer.expect(200))
    assert seen == stored[::-1]


# ---- issues and users


async def test_issues_by_id_and_identifier(api: Api) -> None:
    """Both paths accept the issue's id or identifier and return only its events. A deleted issue is not found."""
    issue = {"type": "issue", "id": "i-1", "identifier": "ISS-1"}
    stored = ids((await api.append_all(WS, [
        {"entity": issue},
        {"action": "issue.updated", "entity": issue},
        {"action": "comment.created", "entity": {"type": "comment", "id": "c-1"}, "details": {"issueId": "i-1"}},
        {"action": "project.created", "entity": {"type": "project", "id": "i-1"}},
        {"entity": {"type": "issue", "id": "i-2", "identifier": "ISS-2"}},
    ])).expect(201)["events"])  # fmt: skip
    for path in ("i-1", "ISS-1", "iss-1"):
        for base in (f"/api/v1/workspaces/{WS}/issues", "/api/v1/issues"):
            found = await listed(api, f"{base}/{path}/activity")
            assert ids(found) == stored[2::-1]
            assert {one["issue_id"] for one in found} == {"i-1"}
    assert ids(await listed(api, "/api/v1/issues/i-1/activity", actions="updated")) == [stored[1]]
    assert ids(await listed(api, "/api/v1/issues/i-1/activity", offset=1, limit=1)) == [stored[1]]
    for path in ("nothing", "ISS-3", "c-1", "%00", "x" * 600):
        answer = await api.get(f"/api/v1/issues/{path}/activity")
        assert answer.expect(404) == {"detail": "Issue not found"}
    (await api.append(WS, action="issue.deleted", entity=issue)).expect(201)
    assert (await api.get("/api/v1/issues/i-1/activity")).status == 404
    assert len(await listed(api)) == 6


async def test_an_issue_in_several_workspaces_is_ambiguous(api: Api) -> None:
    """Without a workspace, an issue is looked up in all readable ones: several matches get 409, none gets 404."""
    for workspace in ("one", "two"):
        issue = {"type": "issue", "id": f"of-{workspace}", "identifier": "PAP-1"}
        (await api.append(workspace, entity=issue)).expect(201)
    path = "/api/v1/issues/PAP-1/activity"
    assert (await api.get(path)).status == 409
    assert "workspace" in (await api.get(path)).json["detail"]
    ann = await join(api, "one", "ann", "viewer")
    assert [one["workspace_id"] for one in await listed(ann, path)] == ["one"]
    assert (await ann.get("/api/v1/issues/of-two/activity")).status == 404
    assert (await person(api, "zoe").get(path)).status == 404
    assert (await ann.get("/api/v1/workspaces/two/issues/PAP-1/activity")).expect(403) == FORBIDDEN
    assert (await ann.get("/api/v1/workspaces/one/issues/of-two/activity")).status == 404


async def test_who_reads_their_own_learns_of_no_other_issue(api: Api) -> None:
    """With `workspace:read:own`, an issue without visible events does not exist."""
    for user in ("ann", "bob"):
        (await api.append(WS, actor={"type": "user", "id": user}, entity={"type": "issue", "id": f"of-{user}"})).expect(
            201
        )
    own = api.with_key(await api.create_key(WS, scopes=["workspace:read:own"], actor={"type": "user", "id": "ann"}))
    assert len(await listed(own, "/api/v1/issues/of-ann/activity")) == 1
    for path in ("/api/v1/issues/of-bob/activity", f"/api/v1/workspaces/{WS}/issues/of-bob/activity"):
        assert (await own.get(path)).expect(404) == (await own.get(path.replace("bob", "zoe"))).expect(404)


async def test_my_activity_across_workspaces(api: Api) -> None:
    """A caller's own activity covers all readable workspaces, including actions on the caller's behalf, by offset and cursor."""
    expected = []
    for number in range(12):
        workspace = ("one", "two", "three")[number % 3]
        actor = [
            {"type": "user", "id": "ann"},
            {"type": "agent", "id": "eng1", "on_behalf_of": "ann"},
            {"type": "user", "id": "bob"},
        ][number // 3 % 3]
        stored = (await api.append(workspace, actor=actor)).expect(201)
        if workspace != "three" and actor["id"] != "bob":
            expected.append(stored["id"])
    expected.reverse()
    for workspace in ("one", "two"):
        ann = await join(api, workspace, "ann", "viewer")
    path = "/api/v1/users/me/activity"
    assert ids(await listed(ann, path)) == expected
    for offset in range(len(expected) + 2):
        assert ids(await listed(ann, path, limit=2, offset=offset)) == expected[offset : offset + 2]
    assert ids(await listed(ann, path, resource_types="nothing")) == []
    assert ids(await listed(person(api, "zoe"), path)) == []
    answer = await ann.get(path, limit=2)
    seen = ids(answer.expect(200))
    while "Link" in answer.headers:
        answer = await ann.get(answer.headers["Link"].split(";")[0].strip("<>"))
        seen += ids(answer.expect(200))
    assert seen == expected
    assert await wrong(ann, path, offset=10_001) == ["offset"]
    (await api.delete("/v1/workspaces/one/members/ann")).expect(204)
    assert {one["workspace_id"] for one in await listed(ann, path)} == {"two"}


@on_sqlite
async def test_a_cursor_over_many_workspaces(api: Api) -> None:
    """The cursor for forty workspaces in `Link` is usable to the end of the list."""
    stored = [
        (await api.append(f"ws-{number}", actor={"type": "user", "id": "ann"})).expect(201)["id"]
        for number in range(40)
    ]
    ann = person(api, "ann", grants={f"ws-{number}": ["workspace:read"] for number in range(40)})
    answer = await ann.get("/api/v1/users/me/activity", limit=7)
    seen = ids(answer.expect(200))
    while "Link" in answer.headers:
        answer = await ann.get(answer.headers["Link"].split(";")[0].strip("<>"))
        seen += ids(answer.expect(200))
    assert seen == stored[::-1]


# ---- the row format


async def test_the_platforms_view(api: Api) -> None:
    """`?view=platform` has the documented actions and no actor without a name. The rest matches the default view."""
    sent = {
        "action": "issue.created",
        "actor": {"type": "agent", "id": "eng1"},
        "entity": {"type": "issue", "id": "i-1", "identifier": "ISS-1", "name": "Fix login bug"},
        "changes": {"status": {"from": "todo", "to": "done"}},
    }
    stored = (await api.append(WS, **sent)).expect(201)
    (await api.put(f"/v1/workspaces/{WS}/members/ann", {"role": "admin"})).expect(201)
    (await api.put(f"/v1/workspaces/{WS}/members/ann", {"role": "viewer"})).expect(200)
    (await api.put(f"/v1/workspaces/{WS}", {"settings": {"a": 1}})).expect(200)
    plain, platform = await listed(api), await listed(api, view="platform")
    assert [(one["action"], one["resource_type"]) for one in platform] == [
        ("settings_updated", "workspace"),
        ("role_changed", "workspace_member"),
        ("member_added", "workspace"),
        ("created", "issue"),
    ]
    assert [one["action"] for one in plain] == [
        "workspace.settings_updated", "member.role_changed", "member.added", "issue.created",
    ]  # fmt: skip
    assert [one["resource_id"] for one in platform] == [WS, "ann", WS, "i-1"]
    assert platform[-1]["actor"] == {**plain[-1]["actor"], "name": "eng1"}
    assert plain[-1]["actor"]["name"] is None
    for one, other in zip(plain, platform, strict=True):
        assert one | {"action": 0, "actor": 0} == other | {"action": 0, "actor": 0}
    assert plain[-1]["timestamp"] == stored["timestamp"]
    assert plain[-1]["changes"] == sent["changes"]
    assert (await api.get(f"{BASE}/{stored['id']}", view="platform")).expect(200) == platform[-1]
    assert (await api.get(f"{BASE}/{stored['id']}")).expect(200) == plain[-1]
    assert await wrong(api, f"{BASE}/{stored['id']}", limit=1) == ["limit"]


async def test_created_at_with_a_zone(make_server: MakeServer, api: Api) -> None:
    """The default has no zone, as the released server on SQLite. A setting adds `Z`, as it does on PostgreSQL."""
    stored = (await api.append(WS)).expect(201)
    assert (await listed(api))[0]["created_at"] + "Z" == stored["timestamp"]
    other = await make_server(jwt_secret=SECRET, praisonai_zone=True)
    assert (await listed(api.at(other.url)))[0]["created_at"] == stored["timestamp"]


async def test_dialects_can_be_switched_off(make_server: MakeServer, api: Api) -> None:
    """With the dialect disabled, its paths do not exist."""
    (await api.append(WS)).expect(201)
    other = api.at((await make_server(jwt_secret=SECRET, dialects=())).url)
    for path in (BASE, "/health", f"/api/companies/{WS}/activity", f"/v1/workspaces/{WS}/activity", "/v1/audit"):
        assert (await other.get(path)).error == "not_found"
    some = api.at((await make_server(jwt_secret=SECRET, dialects=("paperclip",))).url)
    assert (await some.get(BASE)).expect(404) == {"error": "API route not found"}
