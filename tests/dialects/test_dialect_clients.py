"""Released clients of the dialects run unchanged: PraisonAI's client, Paperclip's command line and MCP server, and `ws`."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from praisonai_platform.client import PlatformClient  # type: ignore[import-untyped]

from streamer.app import Server
from tests.conftest import MakeServer
from tests.support.api import Api
from tests.support.cli import Ended
from tests.support.databases import sqlite_url
from tests.support.foreign import Running, run, running
from tests.support.proxy import proxy_to
from tests.support.tokens import SECRET, join, token
from tests.support.tools import ROOT, require
from tests.support.waiting import eventually

COMPANY = "company_xyz"
ISSUE = {"type": "issue", "id": "issue_abc123", "identifier": "PAP-42", "name": "Fix login bug"}
BOB = {"type": "agent", "id": "agent_eng1", "name": "Bob"}

PRAISONAI_KEYS = [
    "id", "workspace_id", "entity_type", "entity_id", "issue_id", "actor_type", "actor_id", "action", "details", "created_at",
]  # fmt: skip
PAPERCLIP_KEYS = [
    "id", "companyId", "actorType", "actorId", "action", "entityType", "entityId", "agentId", "runId",
    "responsibleUserId", "details", "createdAt",
]  # fmt: skip

RUN_KEYS = {
    "runId", "runtimeMode", "status", "agentId", "adapterType", "startedAt", "finishedAt", "createdAt",
    "invocationSource", "responsibleUserId", "errorCode", "usageJson", "resultJson", "logBytes", "retryOfRunId",
    "scheduledRetryAt", "scheduledRetryAttempt", "scheduledRetryReason", "livenessState", "livenessReason",
    "continuationAttempt", "lastUsefulActionAt", "nextAction", "wakeCommentIds", "wakeCommentId", "contextCommentId",
    "contextIssueId", "execution", "environment", "environmentLease", "retryExhaustedReason",
}  # fmt: skip
"""The released server's fields of a run."""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because a client never sees it."""
    return sqlite_url(tmp_path)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts users' tokens."""
    return await make_server(jwt_secret=SECRET)


# ---- PraisonAI


async def test_praisonai_client(server: Server, api: Api) -> None:
    """PraisonAI's client lists a workspace and an issue, newest first, by limit and offset, with and without a connection pool."""
    update = {"action": "issue.updated", "entity": ISSUE, "details": {"fields": {"status": "done"}}}
    batch = [
        {"action": "issue.created", "actor": BOB, "entity": ISSUE, "details": {"title": "Fix login bug"}},
        *[update] * 5,
        {"action": "comment.created", "entity": {"type": "comment", "id": "c1"}, "details": {"issue_id": ISSUE["id"]}},
        *[{"action": "issue.created", "entity": {"type": "issue", "id": "another"}}] * 60,
    ]
    (await api.append_all("ws", batch)).expect(201)
    ann = await join(api, "ws", "ann", "member")
    events = await ann.history("ws")
    client = PlatformClient(server.url + "/", token=token("ann"))

    entries = await client.list_workspace_activity("ws")
    assert [entry["id"] for entry in entries] == [event["id"] for event in events[:50]]
    assert all(list(entry)[:10] == PRAISONAI_KEYS for entry in entries)
    of_issue = await client.list_issue_activity("ws", ISSUE["id"], limit=200)
    assert [entry["action"] for entry in of_issue] == ["comment.created", *["issue.updated"] * 5, "issue.created"]
    assert {entry["issue_id"] for entry in of_issue} == {ISSUE["id"]}
    assert of_issue[-1]["details"] == {"title": "Fix login bug"}
    assert (of_issue[-1]["actor_type"], of_issue[-1]["actor_id"]) == ("agent", "agent_eng1")
    async with PlatformClient(server.url, token=token("ann")) as pooled:
        pages = [await pooled.list_workspace_activity("ws", limit=7, offset=offset) for offset in range(0, 77, 7)]
        assert [entry["id"] for page in pages for entry in page] == [event["id"] for event in events]
        assert await pooled.list_issue_activity("ws", ISSUE["id"], limit=2, offset=1) == of_issue[1:3]
        assert await pooled.list_workspace_activity("ws", offset=1000) == []


async def test_praisonai_client_is_refused(server: Server, api: Api) -> None:
    """For a missing or invalid token, a foreign workspace or an unknown issue, PraisonAI's client raises its usual errors."""
    (await api.append("ws")).expect(201)
    await join(api, "ws", "ann", "member")
    ann, stranger = (PlatformClient(server.url, token=token(user)) for user in ("ann", "zoe"))
    calls = {
        (401, "Missing Authorization header"): PlatformClient(server.url).list_workspace_activity("ws"),
        (401, "Invalid or expired token"): PlatformClient(server.url, token="x").list_workspace_activity("ws"),
        (403, "Not a member of this workspace or insufficient role"): stranger.list_workspace_activity("ws"),
        (404, "Issue not found"): ann.list_issue_activity("ws", "unknown"),
    }
    for (status, detail), call in calls.items():
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await call
        assert (refused.value.response.status_code, refused.value.response.json()) == (status, {"detail": detail})
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await ann.list_workspace_activity("ws", limit=201)
    assert refused.value.response.status_code == 422


# ---- Paperclip's command line


class Paperclip:
    """The command `paperclipai`, run with one key."""

    def __init__(self, url: str, key: str, folder: Path) -> None:
        self._url = url
        self._key = key
        self._folder = folder

    async def __call__(self, *arguments: str) -> Ended:
        """Run one command."""
        script = require("node_modules") / "paperclipai" / "dist" / "index.js"
        where = ("--api-base", self._url, "--api-key", self._key)
        variables = {"PAPERCLIP_TELEMETRY_DISABLED": "1", "NO_COLOR": "1"}
        return await run(require("node"), script, *arguments, *where, folder=self._folder, **variables)


async def test_paperclip_command_line(server: Server, api: Api, tmp_path: Path) -> None:
    """`paperclipai` lists activity of a company and an issue, creates an event, and shows an issue's runs and a run's issues."""
    batch: list[Mapping[str, object]] = [
        {"action": "issue.created", "actor": BOB, "entity": ISSUE, "details": {"status": "todo", "priority": "high"}},
        {"action": "heartbeat.invoked", "actor": BOB, "entity": {"type": "run", "id": "run_1"}, "run_id": "run_1"},
        {"action": "issue.updated", "actor": BOB, "agent_id": "agent_eng1", "entity": ISSUE, "run_id": "run_1"},
        {"action": "project.created", "entity": {"type": "project", "id": "p1"}},
    ]
    (await api.append_all(COMPANY, batch)).expect(201)
    paperclip = Paperclip(server.url, await api.create_key(COMPANY), tmp_path)
    made = await paperclip(
        "activity", "create", "-C", COMPANY, "--json", "--payload-json",
        json.dumps({"actorId": "ann", "actorType": "user", "action": "manual.intervention", "entityType": "issue",
                    "entityId": ISSUE["id"], "details": {"reason": "stuck", "apiKey": "very-secret"}}),
    )  # fmt: skip
    assert list(_decoded(made))[:12] == PAPERCLIP_KEYS
    assert _decoded(made)["details"] == {"reason": "stuck", "apiKey": "***REDACTED***"}

    everything, of_type, of_agent, shown, by_id, by_identifier, runs, issues = await asyncio.gather(
        paperclip("activity", "list", "-C", COMPANY, "--json"),
        paperclip("activity", "list", "-C", COMPANY, "--json", "--entity-type", "project", "--entity-id", "p1"),
        paperclip("activity", "list", "-C", COMPANY, "--json", "--agent-id", "agent_eng1"),
        paperclip("activity", "list", "-C", COMPANY),
        paperclip("activity", "issue", str(ISSUE["id"]), "--json"),
        paperclip("activity", "issue", "pap-42", "--json"),
        paperclip("issue", "runs", "PAP-42", "--json"),
        paperclip("run", "issues", "run_1", "--json"),
    )
    events = [event for event in await api.history(COMPANY) if event["category"] == "activity"]
    assert [entry["id"] for entry in _decoded(everything)] == [event["id"] for event in events]
    assert all(list(entry)[:12] == PAPERCLIP_KEYS for entry in _decoded(everything))
    assert _decoded(everything)[0] == _decoded(made)
    assert [entry["action"] for entry in _decoded(of_type)] == ["project.created"]
    assert [entry["action"] for entry in _decoded(of_agent)] == ["issue.updated"]
    assert [f"action={event['action']} " in line for event, line in zip(events, shown.out.splitlines(), strict=True)]
    assert [entry["action"] for entry in _decoded(by_id)] == ["manual.intervention", "issue.updated", "issue.created"]
    assert _decoded(by_identifier) == _decoded(by_id)
    (its_run,) = _decoded(runs)
    assert (its_run["runId"], its_run["id"], its_run["agentName"]) == ("run_1", "run_1", "Bob")
    assert its_run.keys() >= RUN_KEYS
    (its_issue,) = _decoded(issues)
    assert (
        its_issue.items() >= {"id": ISSUE["id"], "identifier": "PAP-42", "status": "todo", "priority": "high"}.items()
    )
    assert its_issue["title"] == "Fix login bug"


def _decoded(ended: Ended) -> Any:
    """Return the output of a command, which must have succeeded."""
    assert ended.code == 0, ended
    return json.loads(ended.out)


async def test_paperclip_command_line_is_refused(server: Server, api: Api, tmp_path: Path) -> None:
    """`paperclipai` prints the status and text of an error and exits with 1, as with its own server."""
    (await api.append(COMPANY, entity=ISSUE)).expect(201)
    (await api.append("company_abc", entity=ISSUE)).expect(201)
    (await api.put("/v1/workspaces/another")).expect(201)
    board = Paperclip(server.url, await api.create_key(COMPANY), tmp_path)
    agent = await api.create_key(COMPANY, actor={"type": "agent", "id": "agent_eng1"})
    foreign = Paperclip(server.url, await api.create_key("another"), tmp_path)
    whole = json.dumps({"actorId": "a", "action": "a.b", "entityType": "issue", "entityId": "i"})
    refused = await asyncio.gather(
        board("activity", "list", "-C", "company_abc"),
        board("activity", "create", "-C", "company_abc", "--payload-json", whole),
        Paperclip(server.url, agent, tmp_path)("activity", "create", "-C", COMPANY, "--payload-json", whole),
        board("activity", "issue", "PAP-43"),
        foreign("activity", "issue", "PAP-42"),
        foreign("issue", "runs", str(ISSUE["id"])),
        Paperclip(server.url, "sk_nobody", tmp_path)("run", "issues", "run_1"),
        board("activity", "create", "-C", COMPANY, "--payload-json", "{}"),
    )
    company = "API error 403: Cannot access activity for another company"
    texts = [
        company,
        company,
        "API error 403: Board access required",
        *["API error 404: Issue not found"] * 3,
        "API error 401: Agent token did not verify; obtain fresh credentials and retry",
        'API error 400: Validation error details=[{"expected":"string","code":"invalid_type","path":["actorId"]',
    ]
    for ended, text in zip(refused, texts, strict=True):
        assert (ended.code, ended.out) == (1, ""), ended
        assert text in ended.err


# ---- Paperclip's MCP server


class Mcp:
    """Model Context Protocol calls over standard input and output."""

    def __init__(self, program: Running) -> None:
        self._program = program
        self._count = 0

    async def call(self, method: str, **parameters: object) -> Any:
        """Return the result of a request."""
        self._count += 1
        await self._program.say(_rpc(method, parameters, id=self._count))
        await eventually(lambda: len(self._program.out) >= self._count)
        answer = json.loads(self._program.out[self._count - 1])
        assert answer["id"] == self._count, answer
        return answer["result"]

    async def get(self, path: str) -> Any:
        """Return the response of Paperclip's API for a path."""
        called = {"name": "paperclipApiRequest", "arguments": {"method": "GET", "path": path}}
        (content,) = (await self.call("tools/call", **called))["content"]
        return json.loads(content["text"])

    async def tell(self, method: str) -> None:
        """Send a notification."""
        await self._program.say(_rpc(method, {}))


def _rpc(method: str, parameters: Mapping[str, object], **fields: object) -> str:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": parameters, **fields})


async def test_paperclip_mcp_server(server: Server, api: Api, tmp_path: Path) -> None:
    """Paperclip's MCP server returns the newest activity to an assistant, and reports the reason for a refusal."""
    (await api.append_all(COMPANY, [{"entity": ISSUE}, {"action": "issue.updated", "entity": ISSUE}])).expect(201)
    script = require("node_modules") / "@paperclipai" / "mcp-server" / "dist" / "stdio.js"
    key = await api.create_key(COMPANY)
    variables = {"PAPERCLIP_API_URL": server.url, "PAPERCLIP_API_KEY": key}
    async with running(require("node"), script, folder=tmp_path, **variables) as program:
        mcp = Mcp(program)
        who = {"name": "test", "version": "1"}
        hello = await mcp.call("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=who)
        assert hello["serverInfo"]["name"] == "paperclip"
        await mcp.tell("notifications/initialized")
        assert "paperclipApiRequest" in {tool["name"] for tool in (await mcp.call("tools/list"))["tools"]}
        (newest,) = await mcp.get(f"/companies/{COMPANY}/activity?limit=1")
        assert newest["action"] == "issue.updated"
        assert [entry["action"] for entry in await mcp.get("/issues/PAP-42/activity")] == [
            "issue.updated",
            "issue.created",
        ]
        refused = await mcp.get("/companies/company_abc/activity")
        assert refused["status"] == 403
        assert refused["body"] == {"error": "Cannot access activity for another company"}


# ---- Paperclip's WebSocket


async def test_paperclip_socket(server: Server, api: Api, tmp_path: Path) -> None:
    """`ws`, with its credential in header or URL, receives events appended through either API, and missed ones by `after`."""
    (await api.append(COMPANY, id="first")).expect(201)
    key = await api.create_key(COMPANY)
    board = api.with_key(key)
    program = ROOT / "tests" / "node" / "ws.mjs"
    url = f"{server.url.replace('http', 'ws', 1)}/api/companies/{COMPANY}/events/ws"
    require("node_modules")
    node = require("node")
    async with (
        running(node, program, url, key, folder=tmp_path) as by_header,
        running(node, program, f"{url}?token={key}", folder=tmp_path) as by_token,
        running(node, program, f"{url}?after=first", key, folder=tmp_path) as resumed,
    ):
        everyone = (by_header, by_token, resumed)
        for each in everyone:
            await each.said("open")
        native = {"id": "second", "actor": BOB, "entity": ISSUE, "details": {"status": "todo"}, "run_id": "run_1"}
        (await board.append(COMPANY, **native)).expect(201)
        body = {"actorId": "ann", "actorType": "user", "action": "a.b", "entityType": "issue", "entityId": "i"}
        made = (await board.post(f"/api/companies/{COMPANY}/activity", body)).expect(201)
        listed = (await board.get(f"/api/companies/{COMPANY}/activity")).expect(200)[1::-1]
        assert listed[1] == made
        for each in everyone:
            frames = [json.loads(line) for line in (await each.printed(3))[1:]]
            for frame, entry in zip(frames, listed, strict=True):
                assert list(frame)[:5] == ["id", "companyId", "type", "createdAt", "payload"]
                assert (frame["companyId"], frame["type"]) == (COMPANY, "activity.logged")
                assert frame["createdAt"] == entry["createdAt"]
                assert frame["payload"].items() >= {key: entry[key] for key in PAPERCLIP_KEYS[2:-1]}.items()
            assert frames[0]["id"] < frames[1]["id"]
    async with running(node, program, f"{url}?after=first", key, folder=tmp_path) as later:
        frames = [json.loads(line) for line in (await later.printed(3))[1:]]
        assert [frame["payload"]["action"] for frame in frames] == ["issue.created", "a.b"]


async def test_paperclip_socket_is_refused(server: Server, api: Api, tmp_path: Path) -> None:
    """Without a credential, with an invalid one or for a foreign company, `ws` is refused with 403 before the socket opens."""
    (await api.append(COMPANY)).expect(201)
    key = await api.create_key(COMPANY)
    program = ROOT / "tests" / "node" / "ws.mjs"
    base = f"{server.url.replace('http', 'ws', 1)}/api/companies"
    require("node_modules")
    node = require("node")
    refused = await asyncio.gather(
        run(node, program, f"{base}/{COMPANY}/events/ws", folder=tmp_path),
        run(node, program, f"{base}/{COMPANY}/events/ws", "sk_nobody", folder=tmp_path),
        run(node, program, f"{base}/{COMPANY}/events/ws?token=sk_nobody", folder=tmp_path),
        run(node, program, f"{base}/{COMPANY}/events/ws?token={token('ann')}", folder=tmp_path),
        run(node, program, f"{base}/company_abc/events/ws", key, folder=tmp_path),
    )
    assert [ended.out for ended in refused] == ["refused 403 forbidden\n"] * 5


# ---- Evershell's streams


async def test_evershell_event_source(server: Server, api: Api, tmp_path: Path) -> None:
    """`EventSource` with a key in the URL streams one or all workspaces, and resumes exactly after a disconnection."""
    (await api.append("ws", action="task_submitted", task_id="t1")).expect(201)
    key = await api.create_key("ws")
    require("node_modules")
    node = require("node")
    script = ROOT / "tests" / "node" / "eventsource.mjs"
    async with proxy_to(server.url) as proxy:
        query = f"api_key={key}&after=2020-01-01T00:00:00Z"
        async with (
            running(node, script, f"{proxy.url}/v1/workspaces/ws/activity/stream?{query}", folder=tmp_path) as one,
            running(node, script, f"{proxy.url}/v1/activity/stream?{query}", folder=tmp_path) as every,
        ):
            for program in (one, every):
                await program.printed(2)
            proxy.reset()
            await eventually(lambda: one.err and every.err)
            for number in range(3):
                (await api.append("ws", action="task_running", details={"number": number})).expect(201)
            for program in (one, every):
                seen = [line.split(" ", 1) for line in await program.printed(6) if line != "open"]
                events = await api.history("ws", order="asc", category="activity")
                assert [json.loads(data)["id"] for _, data in seen] == [event["id"] for event in events]
                assert [json.loads(data)["event_type"] for _, data in seen] == ["task_submitted", *["task_running"] * 3]
                assert program.out.count("open") == 2
            assert [event_id for event_id, _ in (line.split(" ", 1) for line in one.out if line != "open")] == [
                event["id"] for event in events
            ]
    assert b"last-event-id: " in proxy.heads[-1].lower()
