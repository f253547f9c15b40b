"""All dialects read the same log, lose no data, and expose no foreign workspace."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.access.principal import READ_OWN, ROLES, SCOPES
from streamer.app import Server
from streamer.http.dialects import DIALECTS
from streamer.http.operation import Operation
from streamer.settings import DIALECT_NAMES
from tests.conftest import MakeServer
from tests.support.api import Answer, Api, events, make_event
from tests.support.sse import SseReader
from tests.support.tokens import SECRET, join, person
from tests.support.websocket import UPGRADE, WsReader

Event = Mapping[str, Any]
WS, THEIRS, NOWHERE = "w", "theirs", "nowhere"
MARK = "zq7Marker"
ROUTES = [(dialect.name, route) for dialect in DIALECTS for route in dialect.operations if not route.access.public]

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


# ---- nothing is lost


def from_praisonai(one: Event) -> dict[str, Any]:
    """Return the native event for an event in PraisonAI's shape."""
    rest = one["event"]
    return {
        **rest,
        "id": one["id"],
        "workspace_id": one["workspace_id"],
        "action": one["action"],
        "actor": one["actor"] | {"type": one["actor_type"], "id": one["actor_id"]},
        "entity": rest["entity"] and rest["entity"] | {"type": one["entity_type"], "id": one["entity_id"]},
        "description": one["description"],
        "details": one["details"],
        "changes": one["changes"],
        "timestamp": one["timestamp"],
    }


def from_paperclip(one: Event) -> dict[str, Any]:
    """Return the native event for an event in Paperclip's shape."""
    rest = one["event"]
    entity = {
        "type": one["entityType"],
        "id": one["entityId"],
        "identifier": rest["entity"] and rest["entity"]["identifier"],
        "name": rest["entity"] and rest["entity"]["name"],
    }
    return {
        **rest,
        "id": one["id"],
        "workspace_id": one["companyId"],
        "action": one["action"],
        "actor": rest["actor"]
        | {"type": one["actorType"], "id": one["actorId"], "on_behalf_of": one["responsibleUserId"]},
        "entity": rest["entity"] and entity,
        "agent_id": one["agentId"],
        "run_id": one["runId"],
        "details": one["details"] or {},
    }


def from_evershell(one: Event) -> dict[str, Any]:
    """Return the native event for an event in Evershell's shape."""
    own = {
        "id",
        "org_id",
        "user_id",
        "timestamp",
        "event_type",
        "category",
        "actor",
        "workspace_id",
        "task_id",
        "detail",
        "event",
    }
    lifted = {name: value for name, value in one.items() if name not in own}
    return {
        **one["event"],
        "id": one["id"],
        "workspace_id": one["workspace_id"],
        "category": one["category"],
        "action": one["event_type"],
        "task_id": one.get("task_id"),
        "details": one["detail"] | lifted,
        "timestamp": one["timestamp"],
    }


READ_BACK: dict[str, Callable[[Event], dict[str, Any]]] = {
    f"/api/v1/workspaces/{WS}/activity?limit=1": from_praisonai,
    f"/api/companies/{WS}/activity?limit=1": from_paperclip,
    f"/v1/workspaces/{WS}/activity?limit=1": from_evershell,
    f"/v1/workspaces/{WS}/audit?limit=1": from_evershell,
}

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
optional = st.none() | texts
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
fields_of_proxies = st.sampled_from(
    [
        "agent_role",
        "destination",
        "method",
        "decision",
        "latency_ms",
        "debits",
        "credentials_minted",
        "phase",
        "detail",
        "event",
    ]
)
natives = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["issue.created", "member.added", "policy_decision", "task_submitted", "x"]) | texts,
        "actor": st.fixed_dictionaries(
            {"type": st.sampled_from(["user", "agent", "system", "policy-engine", "key"]) | texts, "id": texts},
            optional={"name": optional, "role": optional, "on_behalf_of": optional, "ip": optional},
        ),
    },
    optional={
        "category": st.sampled_from(["activity", "audit"]),
        "entity": st.none()
        | st.fixed_dictionaries({}, optional={"type": st.just("issue") | optional, "id": optional, "identifier": optional, "name": optional}),
        "agent_id": optional,
        "run_id": optional,
        "task_id": optional,
        "description": optional,
        "details": st.dictionaries(
            fields_of_proxies | texts | st.sampled_from(["issue_id", "issueId", "_previous", "status"]),
            values | st.sampled_from(["allow", "dns", 3]) | st.lists(texts, max_size=2),
            max_size=4,
        ),
        "changes": st.none() | st.dictionaries(texts, st.fixed_dictionaries({"from": values, "to": values}), max_size=2),
        "occurred_at": st.none() | st.just("2026-11-21T06:22:04.5Z"),
        "traceparent": st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    },
)  # fmt: skip


async def test_nothing_is_lost(api: Api) -> None:
    """Each dialect returns every value of an event: the native event can be rebuilt from its shape."""
    loop = asyncio.get_running_loop()

    async def check(sent: Event) -> None:
        answer = await api.post(events(WS), sent)
        stored = answer.expect(201)
        shown = 0
        for path, restored in READ_BACK.items():
            found = (await api.get(path)).expect(200)
            for one in found if isinstance(found, list) else found["events"]:
                if one["id"] == stored["id"]:
                    assert restored(one) == stored, path
                    shown += 1
        assert shown == 3  # PraisonAI, Paperclip, and one of Evershell's two

    @settings(suppress_health_check=list(HealthCheck), max_examples=60)
    @given(natives)
    def run(sent: Event) -> None:
        asyncio.run_coroutine_threadsafe(check(sent), loop).result(20)

    await asyncio.to_thread(run)


async def test_what_paperclip_writes(api: Api) -> None:
    """An event written through Paperclip's API keeps every sent value, in the native API and the other dialects."""
    sent = {
        "actorType": "agent",
        "actorId": "eng1",
        "action": "issue.updated",
        "entityType": "issue",
        "entityId": "i-1",
        "agentId": "eng1",
        "details": {"identifier": "PAP-1", "title": "Fix", "status": "done", "_previous": {"status": "todo"}},
    }
    row = (await api.post(f"/api/companies/{WS}/activity", sent)).expect(201)
    stored = (await api.get(f"{events(WS)}/{row['id']}")).expect(200)
    assert (stored["actor"]["type"], stored["actor"]["id"]) == ("agent", "eng1")
    assert stored["entity"] == {"type": "issue", "id": "i-1", "identifier": "PAP-1", "name": "Fix"}
    assert (stored["action"], stored["agent_id"], stored["details"]) == ("issue.updated", "eng1", sent["details"])
    assert stored["changes"] == {"status": {"from": "todo", "to": "done"}}
    for path, restored in READ_BACK.items():
        found = (await api.get(path)).expect(200)
        for one in found if isinstance(found, list) else found["events"]:
            assert one["id"] != row["id"] or restored(one) == stored


async def test_all_learn_of_it_at_once(api: Api) -> None:
    """An event appended natively or through Paperclip's API reaches all dialects' streams, and their lists contain it then."""
    (await api.append(WS)).expect(201)
    native = await api.stream(WS)
    shell = await SseReader.open(f"{api.url}/v1/workspaces/{WS}/activity/stream", headers=api.headers)
    org = await SseReader.open(f"{api.url}/v1/activity/stream", headers=api.headers)
    socket = await WsReader.open(f"{api.url}/api/companies/{WS}/events/ws", headers=api.headers)
    async with native, shell, org, socket:
        await native.next("synced")
        for reader in (shell, org):
            await reader.next()  # retry, and the position
        sent = (await api.append(WS)).expect(201)["id"]
        posted = (
            await api.post(
                f"/api/companies/{WS}/activity",
                {"actorId": "a", "action": "b", "entityType": "c", "entityId": "d"},
            )
        ).expect(201)["id"]
        expected = [sent, posted]
        assert [(await native.next("activity")).json["id"] for _ in expected] == expected
        for reader in (shell, org):
            assert [(await reader.next("activity")).json["id"] for _ in expected] == expected
        assert [(await socket.next())["payload"]["id"] for _ in expected] == expected
        for path in READ_BACK:
            if "audit" not in path:
                found = (await api.get(path.replace("limit=1", "limit=2"))).expect(200)
                found = found if isinstance(found, list) else found["events"]
                assert [one["id"] for one in found] == expected[::-1]


async def test_filters_that_name_all_there_is(api: Api) -> None:
    """A filter that excludes nothing returns everything, and one that allows nothing returns nothing, without a database error."""
    stored = [
        (await api.append(WS, action=action, entity={"type": "issue", "id": "i-1"})).expect(201)["id"]
        for action in ("issue.created", "agent.created", "policy_decision")
    ]
    everything = {"resource_types": "workspace,workspace_member,agent,issue"}
    path = f"/api/v1/workspaces/{WS}/activity"
    found = [one["id"] for one in (await api.get(path, **everything, actions="created,agent_created")).expect(200)]
    assert found == stored[1::-1]
    assert [one["id"] for one in (await api.get(path, **everything, offset=1, end_date="9999-12-31")).expect(200)]
    actors = "agent,policy-engine,control-plane"
    for audit in (f"/v1/workspaces/{WS}/audit", "/v1/audit"):
        found = (await api.get(audit, filter=f"actor={actors}")).expect(200)["events"]
        assert stored[2] in [one["id"] for one in found]
        assert (await api.get(audit, filter=f"actor!={actors}")).expect(200)["events"] == []


# ---- isolation

PARAMETERS = {
    "limit": "1",
    "offset": "1",
    "actor_id": "ann",
    "resource_types": "issue",
    "actions": "created",
    "start_date": "2026-01-01",
    "end_date": "2036-01-01",
    "include_system": "true",
    "after_id": "event-of-theirs",
    "cursor": "ZC5hYmNkZWZnaGlqLjIuLi4zLg",
    "view": "platform",
    "agentId": "eng1",
    "entityType": "issue",
    "entityId": "i-1",
    "action": "issue.created",
    "actorType": "user",
    "actorId": "ann",
    "from": "2026-01-01T00:00:00Z",
    "to": "2036-01-01T00:00:00Z",
    "after": "2026-01-01T00:00:00Z",
    "since": "event-of-theirs",
    "order": "asc",
    "task_id": "t-1",
    "event_type": "issue.created",
    "filter": "event_type=issue.created",
    "api_key": "",
    "lastEventId": "event-of-theirs",
    "last_event_id": "event-of-theirs",
    "Last-Event-ID": "event-of-theirs",
}
"""A value for each parameter of a route. Parameters with credentials have tests of their own."""
ACROSS = {
    "issue_activity", "my_activity", "activity_of_issue", "issue_runs", "run_issues", "org_audit", "stream_org_activity",
}  # fmt: skip
"""Routes without a workspace in their path have tests of their own."""


def path_of(route: Operation, workspace: str) -> str:
    """Return the path of a route, with ids that exist in the foreign workspace."""
    return route.path.format(ws=workspace, id=f"event-of-{THEIRS}", issue=f"issue-of-{THEIRS}", run=f"run-of-{THEIRS}")


def requests_of(route: Operation, workspace: str) -> Iterator[dict[str, Any]]:
    """Return valid and invalid requests to a route."""
    plain: dict[str, Any] = {"method": route.method, "path": path_of(route, workspace)}
    if route.method == "POST":
        body = {"actorId": "a", "action": "b", "entityType": "c", "entityId": "d"}
        yield plain | {"body": body}
        yield plain | {"data": b"\xff{"}
    else:
        yield plain
    if route.streams:
        yield plain | {"headers": UPGRADE}
        yield plain | {"headers": UPGRADE | {"Last-Event-ID": f"event-of-{THEIRS}"}}
    for name in route.query:
        if name not in {"api_key", "token"}:
            yield plain | {"params": {name: PARAMETERS[name]}}
    yield plain | {"params": {"bogus": "x", "limit": "x"}}


async def said(caller: Api, request: dict[str, Any]) -> tuple[int, Any]:
    """Return a response without its request-specific parts."""
    answer: Answer = await caller.request(**request)
    text = answer.body.decode().replace(answer.headers["X-Request-Id"], "")
    return answer.status, text


async def furnish(api: Api, workspace: str, mark: str) -> None:
    """Fill a workspace with events."""
    for number, action in enumerate(("issue.created", "heartbeat.invoked", "policy_decision")):
        (
            await api.append(
                workspace,
                id=f"event-of-{workspace}" if not number else f"event-{number}-of-{workspace}",
                action=action,
                actor={"type": "user", "id": "ann", "name": mark},
                entity={"type": "issue", "id": f"issue-of-{workspace}", "identifier": f"{mark}-1", "name": mark},
                run_id=f"run-of-{workspace}",
                description=mark,
            )
        ).expect(201)
    (await api.put(f"/v1/workspaces/{workspace}", {"name": mark, "org_id": mark})).expect(200)


async def strangers(api: Api) -> dict[str, Api]:
    """Return callers that may do everything in `w` and nothing in `theirs`."""
    everything = list(SCOPES)
    return {
        "a key": api.with_key(await api.create_key(WS, scopes=everything)),
        "an agent's key": api.with_key(await api.create_key(WS, scopes=everything, actor={"type": "agent", "id": "a"})),
        "a key that reads its own": api.with_key(await api.create_key(WS, scopes=[READ_OWN, "audit:read:own"])),
        **{f"a {role}": await join(api, WS, f"{role}-of-w", role) for role in ROLES},
        "nobody's person": person(api, "zoe"),
        "a person with grants alike": person(
            api, "zoe", grants=dict.fromkeys(("their", "theirs2", "THEIRS"), everything)
        ),
    }


def test_the_walk_has_a_value_for_everything() -> None:
    """Each parameter has a value, each route has a test, and all dialects can be named in the settings. New ones fail here."""
    for _, route in ROUTES:
        assert list(requests_of(route, WS))
    assert {route.operation for _, route in ROUTES if "{ws}" not in route.path} == ACROSS
    assert {dialect.name for dialect in DIALECTS} == set(DIALECT_NAMES)


async def test_no_route_shows_a_foreign_workspace(api: Api) -> None:
    """Every request for a foreign workspace gets the dialect's one refusal, as for a missing workspace, and changes nothing."""
    await furnish(api, WS, "plain")
    await furnish(api, THEIRS, MARK)
    before = await api.history(THEIRS)
    count = 0
    callers = await strangers(api)
    for dialect, route in ROUTES:
        if "{ws}" not in route.path:
            continue
        expected = {404} if dialect == "evershell" else {403}
        if route.operation == "company_events":
            expected = {403, 404}  # 404: a plain GET of a socket
        for there, nowhere in zip(requests_of(route, THEIRS), requests_of(route, NOWHERE), strict=True):
            for name, caller in callers.items():
                found, other = await said(caller, there), await said(caller, nowhere)
                assert found == other, (route.operation, name, there)
                assert found[0] in expected, (route.operation, name, there, found)
                assert MARK not in found[1]
                count += 1
    assert count > 500, "too few routes"
    assert await api.history(THEIRS) == before


async def test_nobody_is_refused_as_nobody(api: Api) -> None:
    """Without a valid credential, every route of every dialect responds 401, or 403 on Paperclip's socket."""
    await furnish(api, WS, "plain")
    for caller in (api.with_key(None), api.with_key("nonsense")):
        for _, route in ROUTES:
            for request in requests_of(route, WS):
                status, text = await said(caller, request)
                assert status == (403 if route.operation == "company_events" and "headers" in request else 401) or (
                    route.operation == "company_events" and status in {401, 403, 404}
                ), (route.operation, request)
                assert "plain" not in text.replace("text/plain", "")


async def test_routes_over_many_workspaces_show_ones_own(api: Api) -> None:
    """Routes without a workspace never return a foreign workspace. With a grant, they do."""
    await furnish(api, WS, "plain")
    await furnish(api, THEIRS, MARK)
    paths = [
        f"/api/v1/issues/issue-of-{THEIRS}/activity", f"/api/v1/issues/{MARK}-1/activity", "/api/v1/users/me/activity?limit=200",
        f"/api/issues/issue-of-{THEIRS}/activity", f"/api/issues/{MARK}-1/activity", f"/api/issues/issue-of-{THEIRS}/runs",
        f"/api/heartbeat-runs/run-of-{THEIRS}/issues", "/v1/audit?limit=1000",
    ]  # fmt: skip
    callers = await strangers(api)
    for path in paths:
        shown = await api.get(path)
        assert shown.status == 200, path
        assert MARK in shown.body.decode() or THEIRS in shown.body.decode(), path
        for name, caller in callers.items():
            answer = await caller.get(path)
            assert answer.status in {200, 403, 404}, (path, name)
            assert MARK not in answer.body.decode(), (path, name)
            assert THEIRS not in answer.body.decode(), (path, name)
    ann = await join(api, THEIRS, "ann", "viewer")
    assert MARK in (await ann.get("/api/v1/users/me/activity")).body.decode()


async def test_the_org_wide_stream_shows_ones_own(api: Api) -> None:
    """The stream of all workspaces contains only readable workspaces, even if the caller resumes at a foreign event."""
    await furnish(api, WS, "plain")
    await furnish(api, THEIRS, MARK)
    blind = {"a key that reads its own", "a person with grants alike"}  # they see none of this
    for name, caller in (await strangers(api)).items():
        path = f"{api.url}/v1/activity/stream"
        resumed = caller.headers | {"Last-Event-ID": f"event-of-{THEIRS}"}
        async with await SseReader.open(path, headers=resumed) as reader:
            assert reader.status in {200, 403}
            if reader.status == 403:  # no workspace at all
                continue
            first = await reader.next()  # as for an unknown id; without a workspace, nothing can be missed
            assert first.event == "gap" or first.id == "0.0"
            assert THEIRS not in (first.data or "")
        async with await SseReader.open(
            path, headers=caller.headers, params={"after": "2026-01-01T00:00:00Z"}
        ) as reader:
            (await api.append(THEIRS, description=MARK)).expect(201)
            last = (await api.append(WS, actor={"type": "key", "id": "x"}, action="last.one")).expect(201)
            if name in blind:
                continue
            seen: list[str] = []
            while not seen or seen[-1] != last["id"]:
                block = await reader.next("activity")
                assert MARK not in (block.data or "")
                seen.append(block.json["id"])
            assert all(one.split("-of-")[-1] != THEIRS for one in seen)


# ---- paging


@on_sqlite
@pytest.mark.parametrize(
    "path", [f"/api/v1/workspaces/{WS}/activity", f"/api/companies/{WS}/activity", f"/v1/workspaces/{WS}/activity"]
)
async def test_pages_fit_while_others_append(api: Api, path: str) -> None:
    """In every dialect, pages by link or cursor contain each event once while other events are appended."""
    stored = [event["id"] for event in (await api.append_all(WS, [make_event()] * 17)).expect(201)["events"]]
    answer = await api.get(path, limit=5)
    seen: list[str] = []
    while True:
        found = answer.expect(200)
        events_ = found if isinstance(found, list) else found["events"]
        seen += [event["id"] for event in events_]
        (await api.append(WS)).expect(201)
        if "Link" in answer.headers:
            answer = await api.get(answer.headers["Link"].split(";")[0].strip("<>"))
        elif isinstance(found, dict) and "cursor" in found:
            answer = await api.get(path, limit=5, cursor=found["cursor"])
        else:
            break
    assert seen == stored[::-1]
    assert all(a != b for a, b in pairwise(seen))
