"""Entities: they are derived from the log, served by the API, and can be rebuilt."""

import asyncio
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from alembic import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from streamer.core.clock import parse_timestamp
from streamer.core.entities import Entity, facts, fold, issue_of
from streamer.core.errors import EntityNotFound, WorkspaceNotFound
from streamer.core.filter import Condition, canonical
from streamer.store import migrate as migrations
from streamer.store.engine.database import Database
from streamer.store.log.entities import STEP_EVENTS, Entities, RebuildOvertaken
from streamer.store.log.reader import SqlLog
from streamer.store.migrate import migrate
from streamer.store.schema import metadata
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.support.api import Answer, Api, events
from tests.support.cli import Cli
from tests.support.databases import run_sql
from tests.support.tokens import SECRET, join, person
from tests.support.waiting import eventually

WS = "w"
AGENT = {"type": "agent", "id": "a1", "name": "Eng", "on_behalf_of": "ann"}
ISSUE = {"type": "issue", "id": "i1", "identifier": "PAP-1", "name": "Fix login"}


async def entity(api: Api, type_: str, id_: str, workspace: str = WS) -> Answer:
    """Ask for an entity."""
    return await api.get(f"/v1/workspaces/{workspace}/entities/{quote(type_, safe='')}/{quote(id_, safe='')}")


async def told(api: Api, type_: str, id_: str, *batch: dict[str, Any]) -> dict[str, Any]:
    """Append events one by one and return the resulting entity."""
    for event in batch:
        (await api.append(WS, **event)).expect(201)
    found: dict[str, Any] = (await entity(api, type_, id_)).expect(200)
    return found


# ---- from events to entities


async def test_an_issue_is_what_its_events_told_last(api: Api) -> None:
    """An issue has the identifier, name, status and priority of the last event that set them, in any form."""
    first = (await api.append(WS, action="issue.created", entity=ISSUE, details={"status": "todo"})).expect(201)
    found = (await entity(api, "issue", "i1")).expect(200)
    assert found == {
        "workspace_id": WS, "type": "issue", "id": "i1", "identifier": "PAP-1", "name": "Fix login", "status": "todo",
        "attributes": {}, "created_at": first["timestamp"], "updated_at": first["timestamp"], "deleted_at": None,
    }  # fmt: skip
    bare = {"type": "issue", "id": "i1"}
    found = await told(
        api, "issue", "i1", {"action": "issue.updated", "entity": bare, "details": {"fields": {"status": "doing", "priority": "high"}}}
    )  # fmt: skip
    assert (found["status"], found["attributes"], found["name"]) == ("doing", {"priority": "high"}, "Fix login")
    found = await told(
        api, "issue", "i1", {"action": "issue.updated", "entity": bare, "changes": {"status": {"from": "doing", "to": "done"}}}
    )  # fmt: skip
    assert found["status"] == "done"
    odd = {"status": 5, "priority": "", "identifier": "x" * 513, "title": "new\0", "fields": {"status": ["a"]}}
    found = await told(api, "issue", "i1", {"action": "issue.updated", "entity": bare, "details": odd})
    assert (found["status"], found["identifier"], found["name"]) == ("done", "PAP-1", "Fix login")
    found = await told(
        api, "issue", "i1", {"action": "issue.comment_added", "entity": bare, "details": {"issueTitle": "Log in", "identifier": "PAP-2"}}
    )  # fmt: skip
    assert (found["name"], found["identifier"]) == ("Log in", "PAP-2")
    assert found["created_at"] == first["timestamp"] < found["updated_at"]


async def test_a_deleted_entity_stays_known(api: Api) -> None:
    """`deleted` sets the time of deletion, later events keep it, and `created` removes it."""
    deleted = (await api.append(WS, action="issue.deleted", entity=ISSUE)).expect(201)
    assert (await entity(api, "issue", "i1")).expect(200)["deleted_at"] == deleted["timestamp"]
    found = await told(api, "issue", "i1", {"action": "issue.comment_added", "entity": ISSUE})
    assert found["deleted_at"] == deleted["timestamp"]
    assert (await told(api, "issue", "i1", {"action": "issue.created", "entity": ISSUE}))["deleted_at"] is None


async def test_what_is_deleted_of_an_entity_is_not_the_entity(api: Api) -> None:
    """Deleting a comment or label of an issue does not delete the issue, and creating one does not restore it."""
    (await api.append(WS, action="issue.created", entity=ISSUE)).expect(201)
    for action in ("comment.deleted", "issue.comment.deleted", "deleted", "issue.label_deleted"):
        assert (await told(api, "issue", "i1", {"action": action, "entity": ISSUE}))["deleted_at"] is None, action
    assert (await told(api, "issue", "i1", {"action": "tracker.issue.deleted", "entity": ISSUE}))["deleted_at"]
    assert (await told(api, "issue", "i1", {"action": "comment.created", "entity": ISSUE}))["deleted_at"]
    run = {"type": "heartbeat_run", "id": "r1"}
    assert (await told(api, "run", "r1", {"action": "heartbeat_run.deleted", "entity": run}))["deleted_at"]
    assert (await told(api, "run", "r1", {"action": "run.created", "entity": run}))["deleted_at"] is None


async def test_audit_events_tell_nothing(api: Api) -> None:
    """Audit events never change an entity, because not all readers may see them."""
    (await api.append(WS, action="x.y", category="audit", entity=ISSUE, run_id="r1")).expect(201)
    assert (await entity(api, "issue", "i1")).error == "entity_not_found"
    assert (await entity(api, "run", "r1")).error == "entity_not_found"


async def test_secrets_are_not_told(api: Api) -> None:
    """An entity is derived from stored events, so redacted values stay redacted."""
    secret = "ghp_" + "a1B2" * 9
    found = await told(api, "issue", "i1", {"entity": ISSUE, "details": {"title": f"use {secret}", "status": secret}})
    assert secret not in str(found)
    assert found["status"] == "***REDACTED***"


def at(event: dict[str, Any]) -> str:
    """Return when an event was stored."""
    timestamp = event["timestamp"]
    assert isinstance(timestamp, str)
    return timestamp


async def test_the_life_of_a_run(api: Api) -> None:
    """A run is queued, starts with its first action, ends once, and has an agent, person, issue, source, error and times."""
    run = {"type": "heartbeat_run", "id": "r1"}
    details = {"agentId": "a1", "invocationSource": "assignment", "issueId": "i1", "retryOfRunId": "r0"}
    found = await told(api, "run", "r1", {"action": "heartbeat.invoked", "entity": run, "details": details})
    assert found["status"] == "queued"
    assert found["attributes"] == {
        "agent_id": "a1", "invocation_source": "assignment", "issue_id": "i1", "retry_of_run_id": "r0",
    }  # fmt: skip
    deed = (await api.append(WS, action="issue.updated", actor=AGENT, entity=ISSUE, run_id="r1", details={"status": "done"})).expect(201)  # fmt: skip
    found = (await entity(api, "heartbeat_run", "r1")).expect(200)
    assert (found["type"], found["status"]) == ("run", "running"), "the issue's status is not the run's"
    assert found["attributes"] == {
        "agent_id": "a1", "agent_name": "Eng", "responsible_user_id": "ann", "issue_id": "i1", "started_at": at(deed),
        "invocation_source": "assignment", "retry_of_run_id": "r0",
    }  # fmt: skip
    other = {"type": "agent", "id": "boss", "name": "Boss"}
    over = (
        await api.append(
            WS, action="heartbeat.cancelled", actor=other, entity=run, details={"errorCode": "stopped"}
        )
    ).expect(201)  # fmt: skip
    ended = (await entity(api, "run", "r1")).expect(200)
    assert ended["status"] == "cancelled"
    assert ended["attributes"] == found["attributes"] | {"error_code": "stopped", "finished_at": at(over)}
    for late in (
        {"action": "issue.updated", "actor": AGENT, "entity": ISSUE, "run_id": "r1"},
        {"action": "heartbeat.run.running", "actor": AGENT, "entity": run},
        {"action": "heartbeat.run.cancelled", "actor": AGENT, "entity": run},
    ):
        found = await told(api, "run", "r1", late)
        assert (found["status"], found["attributes"]) == ("cancelled", ended["attributes"])


@pytest.mark.parametrize(
    ("action", "status"),
    [
        *(("heartbeat.invoked", "queued"), ("run.queued", "queued"), ("run.started", "running")),
        *(("heartbeat.run.running", "running"), ("run.succeeded", "succeeded"), ("run.completed", "succeeded")),
        *(("heartbeat.run.finished", "succeeded"), ("run.failed", "failed"), ("heartbeat.cancelled", "cancelled")),
        *(("heartbeat.run.timed_out", "timed_out"), ("run.noted", None), ("job.failed", None)),
    ],
)
def test_the_action_tells_the_status_of_a_run(action: str, status: str | None) -> None:
    """The last word of a run's action is its status, unless the details contain a status."""
    event = complete(action=action, entity={"type": "run", "id": "r"})
    (fact,) = facts(event)
    assert fold(None, fact, 1, 1).status == status
    (fact,) = facts(event | {"details": {"status": "odd"}})
    assert fold(None, fact, 1, 1).status == "odd"


def test_times_of_a_run_that_the_event_gives_win() -> None:
    """`startedAt` and `finishedAt` are stored in one RFC 3339 form. Invalid times are ignored."""
    event = complete(action="run.succeeded", entity={"type": "run", "id": "r"})
    given_times = {"startedAt": "2026-11-21T06:22:04+01:00", "finishedAt": "yesterday"}
    (fact,) = facts(event | {"details": given_times})
    assert fold(None, fact, 1, 1_000_000).attributes == {
        "started_at": "2026-11-21T05:22:04.000000Z", "finished_at": "1970-01-01T00:00:01.000000Z",
    }  # fmt: skip
    for odd in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "", 5, None, "x" * 600):
        (fact,) = facts(event | {"details": {"startedAt": odd}})
        assert "started_at" not in fold(None, fact, 1, 1).attributes, odd


def test_a_heartbeat_about_an_agent_is_about_its_run() -> None:
    """A heartbeat event sets status and source of its run. Its agent is the agent that is woken."""
    event = complete(
        action="heartbeat.invoked", entity={"type": "agent", "id": "a2", "name": "Two"}, run_id="r",
        details={"status": "queued", "source": "timer"},
    )  # fmt: skip
    agent, run = facts(event)
    assert (agent.type, agent.id, agent.status) == ("agent", "a2", None)
    assert (run.type, run.id, run.status, run.attributes) == ("run", "r", "queued", {"invocation_source": "timer"})
    assert run.agent == {"agent_id": "a2"}


def test_the_name_of_an_agent_goes_with_its_id() -> None:
    """When a run's agent changes, the name of the former agent is dropped."""
    one = complete(run_id="r", actor=AGENT, entity=ISSUE)
    other = complete(run_id="r", agent_id="a2", entity=ISSUE)
    known = None
    for event in (one, other):
        known = fold(known, facts(event)[-1], 1, 1)
    assert known is not None
    assert (known.attributes["agent_id"], known.attributes.get("agent_name")) == ("a2", None)


@pytest.mark.parametrize(
    ("event", "issue"),
    [
        ({"details": {"issue_id": "i", "issueId": "j"}}, "i"),
        ({"details": {"issueId": "j"}, "entity": {"type": "comment", "id": "c"}}, "j"),
        ({"details": {"issueId": "j"}, "entity": {"type": "issue", "id": "i"}}, None),
        ({"details": {"issueId": ""}}, None),
        ({"details": {"issue_id": 7}}, None),
        ({"details": {"issueId": "a\0"}}, None),
        ({"details": {"issueId": "x" * 513}}, None),
        ({"details": {"sourceIssueId": "s"}}, None),
        ({"details": {"sourceIssueId": "s"}, "action": "project.created"}, "s"),
        ({"details": {}}, None),
    ],
)
def test_the_issue_that_an_event_belongs_to(event: dict[str, Any], issue: str | None) -> None:
    """Details can name the issue in three ways. An event about an issue belongs to that issue."""
    assert issue_of(complete(**event)) == issue


def complete(**event: Any) -> dict[str, Any]:
    """Return an event with all keys of the canonical form that these tests use."""
    bare = {"category": "activity", "action": "x.y", "actor": {"type": "user", "id": "ann"}, "entity": None}
    return {**bare, "agent_id": None, "run_id": None, "details": {}, "changes": None, **event}


# ---- the route


async def test_an_entity_may_be_called_anything(api: Api) -> None:
    """Ids with slashes, dots, percent signs, spaces and other letters are found. Impossible ids get 404."""
    ids = ["a/b", ".a", "a%2Fb", "ä €", "1?x=1#y", "x" * 512, "é" * 256]
    for id_ in ids:
        (await api.append(WS, entity={"type": "pull/request", "id": id_}, run_id=id_)).expect(201)
        assert (await entity(api, "pull/request", id_)).expect(200)["id"] == id_
        assert (await entity(api, "run", id_)).expect(200)["id"] == id_
    for id_ in ("none", "a\0b", "x" * 513):
        assert (await entity(api, "pull/request", id_)).error == "entity_not_found"
    assert (await entity(api, "issue", "a/b")).error == "entity_not_found"
    assert (await entity(api, "issue", "i1", "nowhere")).error == "workspace_not_found"
    wide = "\U0001f600" * 512
    event = {"type": "issue", "id": wide, "identifier": wide, "name": wide}
    (await api.append(WS, entity=event, run_id=wide, details={"issue_id": wide})).expect(201)
    assert (await entity(api, "issue", wide)).expect(200)["name"] == wide, "the maximum length"
    (await api.append(WS, entity={"type": "t" * 65, "id": "x"})).expect(201)
    assert (await entity(api, "t" * 65, "x")).error == "entity_not_found"


async def test_who_reads_only_its_own_may_not_ask(make_server: MakeServer, api: Api) -> None:
    """An entity is derived from all events, so `workspace:read:own` is not enough, except in the caller's own workspace."""
    (await api.append(WS, entity=ISSUE)).expect(201)
    own = api.with_key(await api.create_key(WS, scopes=["workspace:read:own", "audit:read:own"]))
    refused = await entity(own, "issue", "i1")
    assert (refused.status, refused.error) == (403, "permission_denied")
    both = api.with_key(await api.create_key(WS, scopes=["workspace:read", "audit:read:own"]))
    assert (await entity(both, "issue", "i1")).status == 200
    there = api.at((await make_server(jwt_secret=SECRET)).url)
    await join(there, WS, "vic", "viewer")
    assert (await entity(person(there, "vic"), "issue", "i1")).status == 200
    maker = person(there, "pat", grants={"*": ["workspace:read:own", "workspace:write", "admin"]})
    (await maker.put("/v1/workspaces/pats")).expect(201)
    for workspace in ("pats", "only-appended"):
        (await maker.append(workspace, entity=ISSUE)).expect(201)
    narrow = person(there, "pat", grants={"*": ["workspace:read:own"]})
    assert (await entity(narrow, "issue", "i1")).status == 403
    assert (await entity(narrow, "issue", "i1", "pats")).status == 200
    assert (await entity(narrow, "issue", "i1", "only-appended")).status == 403


# ---- the derived rows


IDS = st.sampled_from(["1", "2"])
TEXTS = st.sampled_from(["x", "y", "PAP-1", "", 5, None])
DETAILS = st.dictionaries(
    st.sampled_from(["status", "title", "name", "identifier", "priority", "issueId", "issue_id", "agentId", "errorCode"]),
    TEXTS, max_size=3,
)  # fmt: skip
HAPPENINGS = st.fixed_dictionaries(
    {
        "action": st.sampled_from(
            ["issue.created", "issue.updated", "issue.deleted", "run.started", "run.failed", "heartbeat.invoked", "x.y"]
        ),
        "actor": st.sampled_from([AGENT, {"type": "user", "id": "ann"}, {"type": "agent", "id": "a2"}]),
    },
    optional={
        "entity": st.builds(
            lambda type_, id_: {"type": type_, "id": id_}, st.sampled_from(["issue", "run", "heartbeat_run", "agent"]), IDS
        ),
        "run_id": IDS,
        "details": DETAILS,
        "category": st.sampled_from(["activity", "audit"]),
    },
)  # fmt: skip

Rows = tuple[list[tuple[Any, ...]], list[tuple[str, str]], list[tuple[str, str]]]


async def stored(database: Database, workspace: str) -> Rows:
    """Return the rows of a workspace: entities, links, and the issue of each event that has one."""
    key = f"(SELECT key FROM workspaces WHERE id = '{workspace}')"
    names = ", ".join(Entity._fields)
    found = await run_sql(database, f"SELECT {names} FROM entities WHERE workspace = {key} ORDER BY type, id")
    links = await run_sql(database, f"SELECT run_id, issue_id FROM run_issues WHERE workspace = {key} ORDER BY 1, 2")
    belonging = await run_sql(
        database, f"SELECT id, issue_id FROM events WHERE workspace = {key} AND issue_id IS NOT NULL ORDER BY id"
    )
    return (
        [(*row[:5], json.loads(row[5]), *row[6:]) for row in found],
        [tuple(row) for row in links],
        [tuple(row) for row in belonging],
    )


def folded(log: Sequence[dict[str, Any]]) -> Rows:
    """Return the expected rows, derived from the events as they are served."""
    known: dict[tuple[str, str], Entity] = {}
    links = set()
    for event in log:
        for fact in facts(event):
            place = fact.type, fact.id
            known[place] = fold(known.get(place), fact, event["seq"], parse_timestamp(event["timestamp"]))
            if fact.issue:
                links.add((fact.id, fact.issue))
    belonging = sorted((event["id"], issue) for event in log if (issue := issue_of(event)))
    return [tuple(known[place]) for place in sorted(known)], sorted(links), belonging


async def test_the_rows_are_the_fold_of_the_log(api: Api, database: Database) -> None:
    """After any events in any groups, in one workspace or two, the rows match the log. A rebuild yields the same rows."""
    loop = asyncio.get_running_loop()
    count = itertools.count()
    entities = Entities(database)

    async def check(batches: list[tuple[bool, list[dict[str, Any]]]]) -> None:
        number = next(count)
        names = f"fold-{number}-a", f"fold-{number}-b"
        appends = [api.append_all(names[there], batch) for there, batch in batches]
        for answer in await asyncio.gather(*appends):  # they share groups
            answer.expect(201)
        expected = {names[there]: folded(await api.history(names[there], order="asc")) for there, _ in batches}
        for name, rows in expected.items():
            assert await stored(database, name) == rows
        await run_sql(
            database, "UPDATE events SET issue_id = NULL", "UPDATE entities SET name = 'wrong'", "DELETE FROM run_issues"
        )  # fmt: skip
        for name, rows in expected.items():
            await entities.rebuild(name, lambda _reached, _head: None)
            assert await stored(database, name) == rows

    @settings(suppress_health_check=[HealthCheck.too_slow], max_examples=settings().max_examples // 2)
    @given(st.lists(st.tuples(st.booleans(), st.lists(HAPPENINGS, min_size=1, max_size=4)), min_size=1, max_size=5))
    def run(batches: list[tuple[bool, list[dict[str, Any]]]]) -> None:
        asyncio.run_coroutine_threadsafe(check(batches), loop).result()

    await asyncio.to_thread(run)
    assert await run_sql(database, "SELECT 1 FROM entities WHERE workspace < 0") == []


async def test_nodes_that_take_turns_fold_the_same(
    make_server: MakeServer, http: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's cached entities expire when another node writes. Two alternating nodes keep the rows correct."""
    monkeypatch.setattr("streamer.store.log.statements.KEPT_ROWS", 6)
    monkeypatch.setattr("streamer.store.log.statements.KEPT_LOGS", 2)
    nodes = [Api(http, (await make_server()).url, ADMIN_KEY) for _ in range(2)]
    rng = random.Random(3)
    names = ["a", "b", "c"]
    for _ in range(60):
        about = {"type": "issue", "id": rng.choice("123"), "name": rng.choice([None, "x", "y"])}
        event = {"entity": about, "run_id": rng.choice("12"), "details": {"status": rng.choice(["todo", "done", None])}}
        (await rng.choice(nodes).append(rng.choice(names), **event)).expect(201)
    for name in names:
        assert await stored(database, name) == folded(await nodes[0].history(name, order="asc"))


async def test_changes_of_access_tell_of_entities_too(api: Api) -> None:
    """Activity events that the server records itself change entities, too."""
    (await api.append(WS)).expect(201)
    await api.create_key(WS)
    told_ = await api.history(WS, action="key.created")
    assert [event["category"] for event in told_] == ["audit"]
    assert (await entity(api, "key", told_[0]["entity"]["id"])).error == "entity_not_found"


# ---- finding


async def test_a_reference_is_an_id_or_an_identifier(api: Api, database: Database) -> None:
    """An id takes precedence over an identifier, the newest identifier wins, and deleted and foreign entities are left out."""
    entities = Entities(database)

    async def found(ref: str, among: set[str] | None = None, type_: str = "issue") -> list[tuple[str, str]]:
        return [(workspace, known.id) for workspace, known in await entities.find(type_, ref, among)]

    for workspace in ("a", "b"):
        for id_ in ("1", "2"):
            name = {"type": "issue", "id": id_, "identifier": "PAP-7"}
            (await api.append(workspace, entity=name)).expect(201)
    (await api.append("b", entity={"type": "issue", "id": "PAP-7", "identifier": "X"})).expect(201)
    assert await found("1") == [("a", "1"), ("b", "1")]
    assert await found("1", {"b", "none"}) == [("b", "1")]
    assert await found("1", set()) == []
    assert await found("PAP-7") == [("b", "PAP-7")], "the id takes precedence"
    assert await found("PAP-7", {"a"}) == [("a", "2")], "the newest identifier wins"
    assert await found(" pap-7 ", {"a"}) == [("a", "2")]
    assert await found("pap 7", {"a"}) == await found("x", {"b"}) == await found("1", type_="run") == []
    for odd in ("", "a\0", "x" * 513, " "):
        assert await found(odd) == []
    (await api.append("a", action="issue.deleted", entity={"type": "issue", "id": "2"})).expect(201)
    assert await found("PAP-7", {"a"}) == [("a", "1")]
    (await api.append("a", run_id="r", entity={"type": "heartbeat_run", "id": "r"})).expect(201)
    assert await found("r", type_="heartbeat_run") == [("a", "r")]
    (await api.delete("/v1/workspaces/a")).expect(204)
    assert await found("1") == [("b", "1")]
    for number in range(25):
        (await api.append(f"many-{number:02}", entity={"type": "issue", "id": "m"})).expect(201)
    assert await found("m") == [(f"many-{number:02}", "m") for number in range(20)]


async def test_runs_and_issues_know_each_other(api: Api, database: Database) -> None:
    """An event of a run about an issue links the two, by its entity or its details. The newest come first."""
    entities = Entities(database)
    about = {"type": "issue", "id": "i1"}
    for number in (1, 2, 3):
        (await api.append(WS, run_id=f"r{number}", entity=about)).expect(201)
    comment = {"type": "comment", "id": "c"}
    (await api.append(WS, run_id="r1", entity=comment, details={"issueId": "i2"})).expect(201)
    (await api.append(WS, entity={"type": "issue", "id": "i2"})).expect(201)
    (await api.append(WS, run_id="r1", details={"issue_id": "unknown"})).expect(201)
    (await api.append("other", run_id="r9", entity=about)).expect(201)
    assert [run.id for run in await entities.runs_of(WS, "i1", 10)] == ["r3", "r2", "r1"]
    assert [run.id for run in await entities.runs_of(WS, "i1", 2)] == ["r3", "r2"]
    assert [run.status for run in await entities.runs_of(WS, "i2", 10)] == ["running"]
    assert [issue.id for issue in await entities.issues_of(WS, "r1", 10)] == ["i2", "i1"]
    assert await entities.issues_of(WS, "none", 10) == await entities.runs_of(WS, "none", 10) == []
    with pytest.raises(WorkspaceNotFound):
        await entities.runs_of("nowhere", "i1", 10)
    with pytest.raises(EntityNotFound):
        await entities.get(WS, "issue", "none")


async def test_events_are_found_by_the_issue_they_belong_to(api: Api, database: Database) -> None:
    """The store filters events by the issue they belong to, in memory and in SQL alike."""
    (await api.append(WS, id="one", details={"issueId": "i1"})).expect(201)
    (await api.append(WS, id="two", entity=ISSUE, details={"issueId": "i1"})).expect(201)
    (await api.append(WS, id="three", action="project.created", details={"sourceIssueId": "i1"})).expect(201)
    selection = canonical([Condition("issue_id", frozenset({"i1"}))])
    log = SqlLog(database)
    page = await log.page(WS, selection=selection, order="asc", limit=10, max_bytes=2**20)
    assert [event.id for event in page.events] == ["one", "three"]
    _, frames = await log.frames(WS, after=0, limit=10, max_bytes=2**20)
    assert [selection.matches(frame.facets) for frame in frames] == [True, False, True]
    refused = await api.get(events(WS), issue_id="i1")
    assert (refused.status, refused.error) == (400, "validation_error"), "it is not a filter of the API"


# ---- rebuild


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_rebuild_while_events_are_appended(api: Api, database: Database, cli: Cli, database_url: str) -> None:
    """`streamer rebuild` runs beside a server that accepts appends all the time. Afterwards, the rows match the log."""
    batch = [
        {"entity": {"type": "issue", "id": f"i{n % 50}"}, "run_id": f"r{n % 7}", "details": {"n": n}}
        for n in range(500)
    ]
    for _ in range(4):
        (await api.append_all(WS, batch)).expect(201)
    (await api.append("quiet", entity=ISSUE)).expect(201)
    await run_sql(database, "DELETE FROM entities", "DELETE FROM run_issues")
    over = asyncio.Event()

    async def go_on(name: str) -> int:
        count = 0
        while not over.is_set():
            (
                await api.append_all(WS, [{"entity": {"type": "issue", "id": f"{name}{count}"}, "run_id": name}] * 3)
            ).expect(201)
            count += 1
        return count

    working = [asyncio.create_task(go_on(name)) for name in ("x", "y")]
    here = Cli(cli._folder, {"STREAMER_DATABASE_URL": database_url})
    ended = await here("rebuild")
    over.set()
    assert all(await asyncio.gather(*working))
    assert (ended.code, ended.lines) == (0, ["quiet: rebuilt", f"{WS}: rebuilt", "2 workspaces"]), ended.err
    for name in (WS, "quiet"):
        assert await stored(database, name) == folded(await api.history(name, order="asc", limit=1000))
    assert await run_sql(database, "SELECT 1 FROM entities WHERE workspace < 0") == []


async def test_the_command_says_what_is_wrong(
    make_process: MakeProcess, http: aiohttp.ClientSession, database: Database, database_url: str, tmp_path: Path
) -> None:
    """A rebuild may name one workspace. A missing workspace and a folder without a database are clear errors."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS, entity=ISSUE)).expect(201)
    (await api.append("other", entity=ISSUE)).expect(201)
    assert await process.stop() == 0
    await run_sql(database, "UPDATE entities SET name = 'wrong'")
    here = Cli(tmp_path, {"STREAMER_DATABASE_URL": database_url})
    ended = await here("rebuild", "--workspace", WS)
    assert (ended.code, ended.lines) == (0, [f"{WS}: rebuilt", "1 workspace"])
    ended = await here("rebuild", "--workspace", "nowhere")
    assert (ended.code, ended.err) == (1, "Error: there is no workspace nowhere\n")
    ended = await Cli(tmp_path, {})("rebuild", "--data-dir", "empty")
    assert ended.code == 1
    assert "there is no database" in ended.err
    assert not (tmp_path / "empty").exists()
    await process.start()
    assert [(await entity(api, "issue", "i1", name)).json["name"] for name in (WS, "other")] == ["Fix login", "wrong"]


async def test_of_two_rebuilds_the_later_one_goes_on(api: Api, database: Database) -> None:
    """A later rebuild replaces a running one, which reports it. Remains of an interrupted rebuild are harmless."""
    batch = [{"entity": {"type": "issue", "id": f"i{number}"}} for number in range(STEP_EVENTS + 1)]
    (await api.append_all(WS, batch)).expect(201)
    first, second = Entities(database), Entities(database)
    begun = asyncio.Event()

    def note(_reached: int, _head: int) -> None:
        begun.set()

    overtaken = asyncio.create_task(first.rebuild(WS, note))
    await begun.wait()
    await second.rebuild(WS, lambda _reached, _head: None)
    with pytest.raises(RebuildOvertaken):
        await overtaken
    assert await stored(database, WS) == folded(await api.history(WS, order="asc", limit=1000))

    begun.clear()
    broken = asyncio.create_task(first.rebuild(WS, note))
    await begun.wait()
    broken.cancel()
    await asyncio.wait([broken])
    assert await run_sql(database, "SELECT 1 FROM entities WHERE workspace < 0 LIMIT 1")
    await run_sql(database, "UPDATE entities SET name = 'wrong'")
    await second.rebuild(WS, note)
    assert await stored(database, WS) == folded(await api.history(WS, order="asc", limit=1000))
    with pytest.raises(WorkspaceNotFound):
        await first.rebuild("nowhere", note)


async def test_a_deleted_workspace_takes_its_entities_along(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted workspace's entities vanish at once for readers and soon from the tables. Other workspaces keep theirs."""
    monkeypatch.setattr("streamer.store.log.entities.CUT_ROWS", 3)
    for name in (WS, "other"):
        batch = [{"entity": {"type": "issue", "id": f"i{n}"}, "run_id": f"r{n}"} for n in range(10)]
        (await api.append_all(name, batch)).expect(201)
    await run_sql(database, "INSERT INTO run_issues SELECT -workspace, issue_id, run_id FROM run_issues")
    (await api.delete(f"/v1/workspaces/{WS}")).expect(204)
    (await api.append(WS)).expect(201)
    assert (await entity(api, "issue", "i1")).error == "entity_not_found"
    workspaces = "(SELECT key FROM workspaces)"

    async def is_gone() -> bool:
        left = [
            await run_sql(database, f"SELECT 1 FROM {table} WHERE abs(workspace) NOT IN {workspaces} LIMIT 1")
            for table in ("entities", "run_issues", "events")
        ]
        return not any(left)

    await eventually(is_gone)
    assert await stored(database, "other") == folded(await api.history("other", order="asc"))


async def test_a_database_without_entities_goes_on(
    database_url: str, database: Database, make_server: MakeServer, http: Any
) -> None:
    """After a migration from revision 0005, new events update entities, and a rebuild adds the old events."""
    made = await make_server()
    api = Api(http, made.url, ADMIN_KEY)
    old: list[dict[str, object]] = [
        {"entity": ISSUE, "run_id": "r1", "details": {"status": "todo"}},
        {"details": {"issueId": "i1"}},
    ]
    (await api.append_all(WS, old)).expect(201)
    log = await api.history(WS, order="asc")

    def downgrade(connection: Connection) -> list[Any]:
        tables = ["events", "workspaces"]
        kept = [[dict(row) for row in connection.execute(text(f"SELECT * FROM {name}")).mappings()] for name in tables]
        for table in reversed(metadata.sorted_tables):
            table.drop(connection)
        connection.execute(text("DROP TABLE alembic_version"))
        command.upgrade(migrations._config(connection), "0005")
        for name, rows in zip(tables, kept, strict=True):
            names = [
                column
                for column in rows[0]
                if column not in {"issue_id", "maker", "fingerprint", "timeline", "previous_epoch", "fork"}
            ]
            values = ", ".join(f":{column}" for column in names)
            connection.execute(text(f"INSERT INTO {name} ({', '.join(names)}) VALUES ({values})"), rows)
        return kept

    await database.write(downgrade)
    assert await migrate(database)
    again = Api(http, (await make_server()).url, ADMIN_KEY)
    assert await again.history(WS, order="asc") == log, "the events were not changed"
    assert (await entity(again, "issue", "i1")).error == "entity_not_found"
    (await again.append(WS, entity={"type": "issue", "id": "i1"}, details={"status": "done"})).expect(201)
    found = (await entity(again, "issue", "i1")).expect(200)
    assert (found["status"], found["name"]) == ("done", None)
    await Entities(database).rebuild(WS, lambda _reached, _head: None)
    assert await stored(database, WS) == folded(await again.history(WS, order="asc"))
    found = await told(again, "issue", "i1", {"entity": {"type": "issue", "id": "i1"}})
    assert (found["status"], found["name"]) == ("done", "Fix login"), "also for a writer with an outdated cache"


async def test_what_is_told_of_a_document_is_not_the_issues_name(api: Api) -> None:
    """A document's title and a file's name are not the issue's name. `issue.updated` renames the issue."""
    issue = {"type": "issue", "id": "i1"}
    told_ = [
        ("issue.created", {"title": "Fix login"}, "Fix login"),
        ("issue.document_created", {"title": "The plan"}, "Fix login"),
        ("issue.attachment_added", {"name": "screen.png"}, "Fix login"),
        ("comment.created", {"title": "Hello"}, "Fix login"),
        ("issue.comment_added", {"issueTitle": "Fix the login"}, "Fix the login"),
        ("issue.updated", {"fields": {"title": "Mend login"}}, "Mend login"),
    ]
    for action, details, name in told_:
        (await api.append(WS, action=action, entity=issue, details=details)).expect(201)
        assert (await entity(api, "issue", "i1")).expect(200)["name"] == name, action
