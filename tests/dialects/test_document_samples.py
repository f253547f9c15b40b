"""The samples in the dialects' documents, run unchanged except for URL, credential and ids.

The shortest document (000) has no samples left. The pytest commands in 001 are for another project.
"""

import asyncio
import csv
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from streamer.app import Server
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api
from tests.support.cli import Ended
from tests.support.databases import sqlite_url
from tests.support.foreign import run, running
from tests.support.seeds import DOCUMENTS, sample, samples
from tests.support.tokens import SECRET, join
from tests.support.tools import require

HOLE = Ellipsis
"""Stands for a value that the server generates."""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because a client never sees it."""
    return sqlite_url(tmp_path)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts users' tokens."""
    return await make_server(jwt_secret=SECRET)


# ---- the samples themselves


def test_samples_are_the_documents() -> None:
    """Each sample matches its document except for white space, and none is missing. Needs the documents beside the project."""
    for file in DOCUMENTS.glob("*.txt"):
        number = file.name.partition("_")[0]
        document = _squeezed(file.read_text())
        if number == "000":
            assert "curl-" not in document
            continue
        for name, text in samples(number).items():
            assert _squeezed(text) in document, f"{number} {name}"
        together = "".join(map(_squeezed, samples(number).values()))
        for mark in ("asyncdef", "curl-", 'curl"', "curlhttp", "fetch(", "http://localhost", "your-org.", '"action":'):
            assert together.count(mark) == document.count(mark), f"{number} {mark}"


def _squeezed(text: str) -> str:
    return "".join(text.split())


# ---- 001: PraisonAI's activity log


async def test_activity_log(server: Server, api: Api, tmp_path: Path) -> None:
    """Document 001: its programs print the events of a workspace and of an issue, by age, action and kind of actor."""
    entry = json.loads(samples("001")["entry.json"])
    bot = {"type": "agent", "id": "agent-1"}
    issue = {"type": "issue", "id": entry["issue_id"]}
    (
        await api.append_all(
            entry["workspace_id"],
            [
                {
                    "id": entry["id"],
                    "action": entry["action"],
                    "actor": {"type": entry["actor_type"], "id": entry["actor_id"]},
                    "entity": issue,
                    "details": entry["details"],
                },
                {"action": "issue.updated", "actor": bot, "entity": issue, "details": {"fields": {"status": "done"}}},
                {"action": "comment.created", "actor": bot, "details": {"issue_id": issue["id"]}},
                {"action": "issue.created", "actor": bot, "entity": {"type": "issue", "id": "another"}},
            ],
        )
    ).expect(201)
    ann = await join(api, entry["workspace_id"], "ann", "member")
    filled = {"http://localhost:8000": server.url, "YOUR_TOKEN": _key(ann), "your-workspace-id": entry["workspace_id"]}
    of_issue = filled | {"your-issue-id": issue["id"]}
    for_curl = {
        "http://localhost:8000": server.url,
        "your-jwt-token": _key(ann),
        "workspace-id": entry["workspace_id"],
        "issue-id": issue["id"],
    }
    listed, within, recent, curled = await asyncio.gather(
        _python(tmp_path, sample("001", "workspace.py", filled)),
        _python(tmp_path, sample("001", "issue.py", of_issue)),
        _python(tmp_path, sample("001", "recent.py", filled)),
        _bash(tmp_path, sample("001", "curl.sh", for_curl)),
    )

    entries, of_one = _documents_in(curled.out)
    events = await ann.history(entry["workspace_id"])
    assert [entry["id"] for entry in entries] == [event["id"] for event in events]
    assert [entry["action"] for entry in of_one] == ["comment.created", "issue.updated", "issue.created"]
    _check(of_one[-1], entry | {"created_at": HOLE})
    assert of_one[-1]["created_at"] == events[-1]["timestamp"].removesuffix("Z")

    shown = [(f"[{each['action']}] by {each['actor_type']}: {each['actor_id']}", each["details"]) for each in entries]
    assert listed == "".join(f"{head}\n  Details: {details}\n" for head, details in shown)
    assert [line for line in within.splitlines() if not line.startswith("  ")] == [
        f"{each['created_at']}: {each['action']}" for each in of_one
    ]
    assert f"  Actor: user {entry['actor_id']}\n  Details: {entry['details']}\n" in within
    assert {"issue.created: 2 events", "issue.updated: 1 events"} <= set(recent.splitlines())

    names: dict[str, Any] = {"activities": entries}
    exec(samples("001")["actors.py"] + samples("001")["anomalies.py"], names)
    assert [each["actor_id"] for each in names["agent_actions"]] == ["agent-1"] * 3
    assert entry["actor_id"] in {each["actor_id"] for each in names["user_actions"]}
    names["detect_anomalies"](entries)


# ---- 002: PraisonAI's platform activity log


async def test_platform_quick_start(server: Server, api: Api, tmp_path: Path) -> None:
    """Document 002: activity shows who did what to which resource, and is filtered by resource, action, dates and actor."""
    ann = await _workspace_of_002(api)
    (await api.append("ws", action="backup.done", actor={"type": "system", "id": "cron"})).expect(201)
    now = datetime.now(UTC)
    this_time = {
        "2025-01-01T00:00:00Z": (now - timedelta(days=1)).isoformat(),
        "2025-01-31T23:59:59Z": (now + timedelta(days=1)).isoformat(),
    }
    shown, in_january, now_too = await asyncio.gather(
        _python(tmp_path, _program_of_002(server, ann, "recent.py")),
        _python(tmp_path, _program_of_002(server, ann, "filter.py")),
        _python(tmp_path, _program_of_002(server, ann, "filter.py", this_time)),
    )
    assert in_january == "Found 0 issue activities in January\nUser performed 2 activities\n"
    assert now_too == "Found 3 issue activities in January\nUser performed 2 activities\n"

    blocks = shown.removesuffix("\n\n").split("\n\n")
    events = await ann.history("ws")
    assert len(blocks) == len(events)
    for block, event in zip(blocks, events, strict=True):
        head, text = block.splitlines()
        assert head == f"[{event['timestamp']}] {event['actor']['name'] or event['actor']['id']}"
        assert text.endswith(f": {event['description']}"), text
    assert "  created issue: " in shown
    assert "] cron\n" in shown


async def test_platform_dashboard(server: Server, api: Api, tmp_path: Path) -> None:
    """Document 002: the dashboard lists by resource and by action, including changes of members."""
    ann = await _workspace_of_002(api)
    (await ann.with_key(ADMIN_KEY).put("/v1/workspaces/ws/members/bob", {"role": "viewer"})).expect(201)
    (await api.put("/v1/workspaces/ws/members/bob", {"role": "member"})).expect(200)
    (await api.delete("/v1/workspaces/ws/members/bob")).expect(204)
    today = {"2025-01-15": f"{datetime.now(UTC):%Y-%m-%d}"}
    text = _program_of_002(server, ann, "dashboard.py", today)
    shown = json.loads(
        await _python(tmp_path, f"import json\n{text}\nprint(json.dumps(asyncio.run(activity_dashboard())))")
    )
    events = await ann.history("ws")
    assert [each["id"] for each in shown["recent_activities"]] == [event["id"] for event in events[:20]]
    assert [each["action"] for each in shown["issue_updates"]] == ["assigned", "updated", "created"]
    assert [each["action"] for each in shown["team_changes"]] == [
        "member_removed", "role_changed", "member_added", "member_added",
    ]  # fmt: skip
    assert shown["summary"] == {
        "total_activities_today": len(events),
        "active_users": len({event["actor"]["id"] for event in events}),
        "issues_updated": 1,
    }


async def test_platform_export(server: Server, api: Api, tmp_path: Path) -> None:
    """Document 002: the export pages through the last 30 days and returns each event once."""
    ann = await _workspace_of_002(api)
    (await api.append_all("ws", [{"details": {"n": number}} for number in range(250)])).expect(201)
    text = _program_of_002(server, ann, "export.py")
    said = await _python(tmp_path, f"{text}\nasyncio.run(export_audit_trail())")
    events = await ann.history("ws")
    assert f"Exported {len(events)} activities to audit_trail.csv\n" in said
    with (tmp_path / "audit_trail.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["timestamp"] for row in rows] == [event["timestamp"] for event in events]
    assert [row["description"] for row in rows] == [event["description"] for event in events]


async def test_platform_monitor(server: Server, api: Api, tmp_path: Path) -> None:
    """Document 002: the polling loop returns each new activity once and in order, without the webhook and with a short pause."""
    ann = await _workspace_of_002(api)
    text = _program_of_002(server, ann, "monitor.py", {"asyncio.sleep(5)": "asyncio.sleep(0.1)"})
    webhook = text[text.index("    # Set up webhook") : text.index("    # Alternative")]
    file = tmp_path / "monitor.py"
    file.write_text(f"{text.replace(webhook, '')}\nasyncio.run(monitor_workspace_activity())")
    async with running(sys.executable, file, folder=tmp_path) as program:
        for number in range(12):
            await program.said(f"New activity: {(await ann.history('ws', limit=1))[0]['description']}")
            (await api.append("ws", action="issue.assigned", description=f"Number {number}")).expect(201)
        await program.said("📋 Issue assigned: Number 11")
        assert [line for line in program.out if line.startswith("New activity")] == [
            f"New activity: {event['description']}" for event in await ann.history("ws", order="asc")
        ]
    assert not program.err


async def _workspace_of_002(api: Api) -> Api:
    """Create a workspace with a member; return the API with the member's token."""
    ann = {"type": "user", "id": "user-123", "name": "Ann"}
    bot = {"type": "agent", "id": "bot", "name": "Bot"}
    issue = {"type": "issue", "id": "i1", "identifier": "ISS-123"}
    batch = [
        {"action": "project.created", "actor": bot, "entity": {"type": "project", "id": "p1"}},
        {"action": "issue.created", "actor": ann, "entity": issue},
        {"action": "issue.updated", "actor": bot, "entity": issue, "details": {"fields": {"status": "done"}}},
        {"action": "issue.assigned", "actor": ann, "entity": issue},
    ]
    (await api.append_all("ws", batch)).expect(201)
    return await join(api, "ws", "reader", "member")


def _program_of_002(server: Server, reader: Api, name: str, replaced: Mapping[str, str] | None = None) -> str:
    """Return one of the document's programs with the imports of the first one."""
    filled = {"http://localhost:8000": server.url, "your-jwt-token": _key(reader), "your-workspace-id": "ws"}
    text = sample("002", name, filled | dict(replaced or {}))
    released = "from praisonai_platform.client import PlatformClient\n"
    ours = "from streamer.client import PlatformClient\n"
    return text.replace(released, ours) if released in text else f"import asyncio\n{ours}\n{text}"


# ---- 003: Paperclip's activity API

COMPANY = "company_xyz"


@pytest.fixture
async def company(server: Server, api: Api, tmp_path: Path) -> "Company":
    """Create the document's company, and curl with the board's credential."""
    require("curl")
    (await api.put(f"/v1/workspaces/{COMPANY}", {"name": "XYZ"})).expect(201)
    return Company(server.url, api, tmp_path, await api.create_key(COMPANY))


class Company:
    """A company with an agent; its samples run with the board's credential."""

    def __init__(self, url: str, api: Api, folder: Path, key: str) -> None:
        self.api = api
        self._url = url
        self._folder = folder
        # The document's samples name no credential. curl reads it, and the options that the tests need, from its own
        # file.
        (folder / ".curlrc").write_text(
            f'silent\nheader = "Authorization: Bearer {key}"\nwrite-out = "%{{http_code}}"\n'
        )

    async def append(self, *events: Mapping[str, Any]) -> None:
        """Append events of the document's agent in the native API's form."""
        bob = {"type": "agent", "id": "agent_eng1", "name": "Bob"}
        batch = [{"actor": bob, "agent_id": "agent_eng1", **event} for event in events]
        (await self.api.append_all(COMPANY, batch)).expect(201)

    async def run(self, name: str, **ids: str) -> list[Any]:
        """Run one of the document's samples; return its responses and their statuses in order."""
        filled = {f"{{{name}}}": value for name, value in ids.items()}
        text = sample("003", name, {"http://localhost:3100": self._url, **filled})
        return _documents_in((await _bash(self._folder, text)).out)


def _answer(name: str) -> Any:
    return json.loads(samples("003")[name])


async def test_company_activity(company: Company) -> None:
    """Document 003: a company's list, filtered by entity type and agent, returns the document's events, keys and values."""
    wanted = _answer("list.json")
    await company.append(*map(_native, wanted), {"action": "agent.paused", "entity": {"type": "agent", "id": "a2"}})
    await company.append({"action": "issue.created", "entity": {"type": "issue", "id": "i2"}, "agent_id": "a2"})
    answer, status = await company.run("list.sh", companyId=COMPANY)
    assert status == 200
    # Newest first, like Paperclip's server; the document shows the reverse.
    _check(answer[::-1], [event | {"createdAt": HOLE} for event in wanted])


async def test_issue_activity(company: Company) -> None:
    """Document 003: an issue's activity, by id and by identifier, returns the document's events, keys and values."""
    wanted = _answer("issue.json")
    issue = {"type": "issue", "id": "issue_abc123", "identifier": "PAP-42"}
    await company.append(*(_native(event) | {"entity": issue} for event in wanted))
    by_id, status, by_identifier, status_too = await company.run("issue.sh", issueId="issue_abc123")
    assert status == status_too == 200
    _check(by_id[::-1], [event | {"createdAt": HOLE} for event in wanted])
    assert by_identifier == by_id


async def test_runs_and_their_issues(company: Company) -> None:
    """Document 003: an issue's runs and a run's issues have the document's keys and values."""
    runs, issues = _answer("runs.json"), _answer("run_issues.json")
    for run_ in runs:
        times = {"startedAt": run_["startedAt"], "finishedAt": run_["finishedAt"]}
        entity = {"type": "heartbeat_run", "id": run_["id"]}
        for action in ("heartbeat.invoked", "run.started", *(["run.succeeded"] if run_["finishedAt"] else [])):
            await company.append({"action": action, "entity": entity, "run_id": run_["id"], "details": times})
    for issue in issues:
        entity = {"type": "issue", "id": issue["id"], "identifier": issue["identifier"], "name": issue["title"]}
        details = {"status": issue["status"]}
        await company.append(
            {"action": "issue.updated", "entity": entity, "details": details, "run_id": runs[0]["id"]},
        )
    await company.append(
        {"action": "issue.updated", "entity": {"type": "issue", "id": issues[0]["id"]}, "run_id": runs[1]["id"]},
    )
    answer, status = await company.run("runs.sh")
    assert status == 200
    # Newest first here, too. Paperclip's server adds milliseconds, which the document omits.
    for run_ in runs:
        run_ |= {name: run_[name] and run_[name].replace("Z", ".000Z") for name in ("startedAt", "finishedAt")}
    _check(answer[::-1], [run_ | {"createdAt": HOLE} for run_ in runs])
    answer, status = await company.run("run_issues.sh", runId=runs[0]["id"])
    assert status == 200
    _check(sorted(answer, key=lambda issue: str(issue["id"])), issues)


async def test_create_activity(company: Company) -> None:
    """Document 003: creating an event returns 201 with the document's keys and values."""
    answer, status = await company.run("create.sh", companyId=COMPANY)
    assert status == 201
    _check(answer, _answer("create.json") | {"id": HOLE, "createdAt": HOLE})
    (event,) = await company.api.history(COMPANY, action="manual.intervention")
    assert event["id"] == answer["id"]


async def test_errors_of_the_document(company: Company) -> None:
    """Document 003: an unknown issue gets 404 and a foreign company 403, with the document's bodies."""
    answer, status, again, status_again = await company.run("issue.sh", issueId="unknown")
    assert status == status_again == 404
    _check([answer, again], [_answer("not_found.json")] * 2)
    answer, status = await company.run("list.sh", companyId="company_abc")
    assert status == 403
    _check(answer, _answer("forbidden.json"))


@pytest.mark.parametrize("name", ["updated.json", "budget.json", "comment.json"])
async def test_details_come_back(company: Company, name: str) -> None:
    """Document 003: its sample details are stored and served as sent."""
    details = _answer(name)
    await company.append({"action": "issue.updated", "entity": {"type": "issue", "id": "i"}, "details": details})
    answer, _ = await company.run("list.sh", companyId=COMPANY)
    assert answer[0]["details"] == details


def _native(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event of the document in the native API's form."""
    return {
        "id": event["id"],
        "action": event["action"],
        "actor": {"type": event["actorType"], "id": event["actorId"], "name": "Bob"},
        "entity": {"type": event.get("entityType"), "id": event.get("entityId")},
        "details": event["details"],
    }


# ---- 004: Evershell's workspace activity history


async def test_activity_history(server: Server, api: Api, tmp_path: Path) -> None:
    """Document 004: fetch and curl return the workspace's activity, oldest first and without audit events."""
    require("node")
    require("curl")
    batch: list[dict[str, object]] = [{"action": "task_submitted", "task_id": f"task-{number}"} for number in range(3)]
    (await api.append_all("example", [*batch, {"action": "policy_decision", "category": "audit"}])).expect(201)
    reader = await api.create_key("example", scopes=["workspace:read"])
    filled = {"https://your-org.evershell.ai": server.url, "<token>": reader}
    (tmp_path / "fetch.mjs").write_text(sample("004", "fetch.mjs", filled))
    fetched, curled = await asyncio.gather(
        run(require("node"), "fetch.mjs", folder=tmp_path), _bash(tmp_path, sample("004", "curl.sh", filled))
    )
    page = json.loads(curled.out)
    events = await api.history("example", category="activity", order="asc")
    assert [event["id"] for event in page["events"]] == [event["id"] for event in events]
    assert [event["event_type"] for event in page["events"]] == [event["action"] for event in events]
    assert page["events"][0]["category"] == "activity"
    assert "cursor" not in page
    assert not fetched.err
    for event in page["events"]:
        assert event["id"] in fetched.out


async def test_audit_example(api: Api) -> None:
    """Document 004: the call for audit events serves the sample event with its keys and values."""
    page = json.loads(samples("004")["example.json"])
    (shown,) = page["events"]
    event = {
        "action": "policy_decision",
        "category": shown["category"],
        "actor": {"type": "control-plane", "id": "control-plane"},
        "details": {name: shown[name] for name in ("decision", "phase", "policy_type")},
    }
    (await api.append("example", **event)).expect(201)
    answer = (await api.get("/v1/workspaces/example/audit", filter="event_type=policy_decision")).expect(200)
    _check(answer, page)


async def test_error_example(api: Api) -> None:
    """Document 004: a caller without the scope gets the document's error."""
    shown = json.loads(samples("004")["error.json"])
    (await api.append("example")).expect(201)
    writer = api.with_key(await api.create_key("example", scopes=["workspace:write"]))
    answer = (await writer.get("/v1/workspaces/example/activity")).expect(403)
    _check(answer, {"error": shown["error"] | {"message": HOLE, "request_id": HOLE}})


# ---- helpers


def _key(api: Api) -> str:
    assert api.key is not None
    return api.key


async def _python(folder: Path, text: str) -> str:
    """Run a Python program, which must succeed without warnings; return its output."""
    ended = await run(sys.executable, "-c", text, folder=folder)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


async def _bash(folder: Path, text: str) -> Ended:
    require("curl")
    ended = await run("bash", "-c", text, folder=folder)
    assert ended.code == 0, ended
    return ended


def _documents_in(text: str) -> list[Any]:
    """Return the JSON values that follow one another in a text."""
    found = []
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def _check(answer: Any, wanted: Any) -> None:
    """Require that a response contains all expected keys and values; it may have more keys."""
    if isinstance(wanted, dict):
        assert isinstance(answer, dict), answer
        for key, value in wanted.items():
            assert key in answer, f"{key} is missing in {answer}"
            _check(answer[key], value)
    elif isinstance(wanted, list):
        assert len(answer) == len(wanted), answer
        for each, its in zip(answer, wanted, strict=True):
            _check(each, its)
    elif wanted is HOLE:
        assert isinstance(answer, str)
        assert answer
    else:
        assert answer == wanted, f"{answer!r} is not {wanted!r}"
