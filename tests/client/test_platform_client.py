"""The client's PraisonAI calls: requests as documented, responses as the server returns them, and clear errors."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from streamer.app import Server
from streamer.client import ApiError, PlatformClient, SyncPlatformClient, Timing, UnexpectedAnswer, Unreachable
from tests.conftest import ADMIN_KEY
from tests.support.api import Api
from tests.support.databases import sqlite_url
from tests.support.process import free_port
from tests.support.proxy import proxy_to
from tests.support.scripted import scripted
from tests.support.waiting import SECONDS, eventually

FAST = Timing(unit=0.001, connect=10_000, silence=15_000)
ACTIVITY = {"id": "a1", "action": "created", "resource_type": "issue", "actor": {"id": "ann", "name": "Ann"}}


class Recorder:
    """A server that answers as configured and records its requests."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.answer: Any = [ACTIVITY]
        self.status = 200

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.raw_path)
        self.tokens.append(request.headers.get("Authorization"))
        if isinstance(self.answer, str):
            return web.Response(text=self.answer, status=self.status)
        return web.json_response(self.answer, status=self.status)


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    """Start a server that returns one activity."""
    recorder = Recorder()
    async with scripted(recorder.handle) as recorder.url:
        yield recorder


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the client never sees it."""
    return sqlite_url(tmp_path)


@pytest.fixture
def client(server: Server) -> PlatformClient:
    """Create a client of the real server as the documents do, without closing it."""
    return PlatformClient(server.url, ADMIN_KEY)


ANN = {"type": "user", "id": "ann", "name": "Ann"}
BOT = {"type": "system", "id": "scheduler"}
ISSUE = {"type": "issue", "id": "issue-1", "identifier": "PAP-42"}
PROJECT = {"type": "project", "id": "project-1"}
BATCH = (
    {"action": "issue.created", "actor": ANN, "entity": ISSUE},
    {"action": "issue.assigned", "actor": ANN, "entity": ISSUE},
    {"action": "project.created", "actor": ANN, "entity": PROJECT},
    {"action": "issue.updated", "actor": BOT, "entity": ISSUE},
)


@pytest.fixture
async def stored(api: Api) -> list[dict[str, Any]]:
    """Return events of two actors about an issue and a project, as stored."""
    events: list[dict[str, Any]] = (await api.append_all("ws", BATCH)).expect(201)["events"]
    return events


# ---- the real server


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [3, 2, 1, 0]),
        ({"limit": 2}, [3, 2]),
        ({"limit": 2, "offset": 1}, [2, 1]),
        ({"include_system": True}, [3, 2, 1, 0]),
        ({"include_system": False}, [2, 1, 0]),
        ({"resource_types": ["issue"]}, [3, 1, 0]),
        ({"resource_types": ["issue", "project"], "actions": ["created"]}, [2, 0]),
        ({"actions": ["created", "issue.updated"]}, [3, 2, 0]),
        ({"actions": "assigned"}, [1]),
        ({"actor_id": "scheduler"}, [3]),
        ({"start_date": "2025-01-01T00:00:00Z", "end_date": "2025-01-31T23:59:59Z"}, []),
        ({"start_date": "2025-01-01", "end_date": None, "actor_id": None, "actions": None}, [3, 2, 1, 0]),
        ({"after_id": None}, [0, 1, 2, 3]),
        ({"after_id": None, "limit": 2}, [2, 3]),
        ({"after_id": 1}, [2, 3]),
        ({"after_id": 3}, []),
    ],
)
async def test_the_filters(
    client: PlatformClient, stored: list[dict[str, Any]], filters: dict[str, Any], found: list[int]
) -> None:
    """Each documented filter returns matching activities in the documented order. None means no filter."""
    if isinstance(filters.get("after_id"), int):
        filters = filters | {"after_id": stored[filters["after_id"]]["id"]}
    activities = await client.get_workspace_activity("ws", **filters)
    assert [activity["id"] for activity in activities] == [stored[index]["id"] for index in found]


async def test_the_answers(client: PlatformClient, stored: list[dict[str, Any]], server: Server) -> None:
    """Activities have the documented fields. The calls find a single one, an issue's and one's own."""
    everything = await client.get_workspace_activity("ws")
    newest = everything[0]
    assert (newest["action"], newest["resource_type"], newest["resource_id"]) == ("updated", "issue", "issue-1")
    assert newest["actor"] | {"name": "scheduler"} == newest["actor"]
    assert newest["timestamp"] == stored[3]["timestamp"]
    assert newest["description"] == stored[3]["description"]
    assert await client.get_activity("ws", newest["id"]) == newest
    assert await client.get_issue_activity("PAP-42", 2) == [everything[0], everything[2]]
    assert await client.get_issue_activity("issue-1", actor_id="ann") == [everything[2], everything[3]]
    listed = await client.list_workspace_activity("ws", 3, 1)
    assert [activity["action"] for activity in listed] == ["project.created", "issue.assigned", "issue.created"]
    listed = await client.list_issue_activity("ws", "issue-1")
    assert [activity["action"] for activity in listed] == ["issue.updated", "issue.assigned", "issue.created"]
    async with PlatformClient(server.url, ADMIN_KEY) as shared:
        assert await shared.list_issue_activity("ws", "PAP-42", limit=1) == listed[:1]


async def test_ones_own_activity(api: Api, server: Server, stored: list[dict[str, Any]]) -> None:
    """`get_my_activity` returns the activity of the token's user in the workspaces that it may read."""
    body = {"name": "ann's", "scopes": ["workspace:read"], "actor": {"type": "user", "id": "ann"}}
    key = (await api.post("/v1/workspaces/ws/keys", body)).expect(201)["key"]
    ann = PlatformClient(server.url, key)
    assert [activity["id"] for activity in await ann.get_my_activity()] == [stored[n]["id"] for n in (2, 1, 0)]
    assert [activity["id"] for activity in await ann.get_my_activity(1, 1)] == [stored[1]["id"]]
    found = await ann.get_my_activity(resource_types=["project"])
    assert [activity["id"] for activity in found] == [stored[2]["id"]]


async def test_a_refusal_says_why(client: PlatformClient, server: Server, stored: list[dict[str, Any]]) -> None:
    """An error has the status and the server's text, and names the invalid parameters."""
    refusals = [
        (client.get_workspace_activity("elsewhere"), 403, "Not a member of this workspace or insufficient role"),
        (client.get_activity("ws", "nothing"), 404, "Activity not found"),
        (client.get_issue_activity("nothing"), 404, "Issue not found"),
        (PlatformClient(server.url).get_my_activity(), 401, "Missing Authorization header"),
        (PlatformClient(server.url, "a.b.c").get_my_activity(), 401, "Invalid or expired token"),
    ]
    for call, status, text in refusals:
        with pytest.raises(ApiError) as refused:
            await call
        assert (refused.value.status, refused.value.message) == (status, text)
        assert refused.value.request_id
    with pytest.raises(ApiError, match="limit: Input should be less than or equal to 200; offset: ") as wrong:
        await client.get_workspace_activity("ws", limit=201, offset=-1)
    assert (wrong.value.status, list(wrong.value.fields)) == (422, ["limit", "offset"])
    with pytest.raises(ApiError, match="actions") as wrong:
        await client.get_workspace_activity("ws", actions=[])
    assert list(wrong.value.fields) == ["actions"]


async def test_the_documents_loop_misses_nothing(server: Server, api: Api) -> None:
    """The documented loop, which asks for activities after the last one, gets each once and in order despite disconnections."""
    patient = replace(FAST, attempts=1000)
    first = (await api.append("ws")).expect(201)["id"]
    written, found = [first], list[str]()
    enough = asyncio.Event()

    async def follow(client: PlatformClient) -> None:
        last_activity_id = None
        while not (enough.is_set() and found[-1] == written[-1]):
            for activity in await client.get_workspace_activity("ws", limit=10, after_id=last_activity_id):
                found.append(activity["id"])
                last_activity_id = activity["id"]

    async with proxy_to(server.url) as proxy:
        following = asyncio.create_task(follow(PlatformClient(proxy.url, ADMIN_KEY, timing=patient)))
        await eventually(lambda: found)
        for _ in range(20):
            answer = await api.append_all("ws", [{}] * 25)
            written += [event["id"] for event in answer.expect(201)["events"]]
            proxy.cut()
        enough.set()
        await asyncio.wait_for(following, SECONDS)
    assert found == written


# ---- requests


async def test_the_calls_of_the_documents(recorder: Recorder) -> None:
    """Each call is a GET of the documented path with the token and the documented parameters, and comma-separated lists."""
    client = PlatformClient(recorder.url + "/", token="a.b.c")
    assert await client.get_workspace_activity("w 1", limit=50, include_system=True) == [ACTIVITY]
    await client.get_workspace_activity(
        "w",
        resource_types=["issue", "project"],
        actions=["created"],
        start_date="2025-01-01T00:00:00Z",
        end_date="2025-01-31T23:59:59Z",
        include_system=False,
        actor_id=None,
        offset=100,
    )
    await client.get_issue_activity("PAP-42", 20)
    await client.get_my_activity(20, 40, actions=["created"])
    await client.list_workspace_activity("w", 10, 0)
    await client.list_issue_activity("w", "i/1")
    recorder.answer = ACTIVITY
    assert await client.get_activity("w", "a1") == ACTIVITY
    assert recorder.asked == [
        "/api/v1/workspaces/w%201/activity?view=platform&limit=50&include_system=true",
        (
            "/api/v1/workspaces/w/activity?view=platform&limit=50&offset=100&resource_types=issue,project&actions=created"
            "&start_date=2025-01-01T00:00:00Z&end_date=2025-01-31T23:59:59Z&include_system=false"
        ),
        "/api/v1/issues/PAP-42/activity?view=platform&limit=20",
        "/api/v1/users/me/activity?view=platform&limit=20&offset=40&actions=created",
        "/api/v1/workspaces/w/activity?limit=10&offset=0",
        "/api/v1/workspaces/w/issues/i%2F1/activity",
        "/api/v1/workspaces/w/activity/a1?view=platform",
    ]
    assert set(recorder.tokens) == {"Bearer a.b.c"}


async def test_a_loop_begins_with_an_after_id_of_none(recorder: Recorder) -> None:
    """An explicit `after_id` of None is sent as empty, so a loop's first response is oldest first, too."""
    client = PlatformClient(recorder.url)
    await client.get_workspace_activity("w", after_id=None)
    await client.get_workspace_activity("w", after_id="a1")
    await client.get_workspace_activity("w")
    assert [path.partition("limit=50")[2] for path in recorder.asked] == ["&after_id=", "&after_id=a1", ""]
    assert set(recorder.tokens) == {None}


async def test_a_filter_that_does_not_exist(recorder: Recorder) -> None:
    """A misspelt filter is refused before the request, because a server would ignore it and return everything."""
    client = PlatformClient(recorder.url)
    with pytest.raises(TypeError, match="there is no filter action, actor"):
        await client.get_workspace_activity("w", actor="ann", action="created")  # type: ignore[call-arg]
    assert recorder.asked == []


async def test_a_filter_of_another_type(recorder: Recorder) -> None:
    """A filter that cannot be written into a URL is refused before the request. A set is as good as a list."""
    client = PlatformClient(recorder.url)
    values: dict[str, Any] = {
        "start_date": datetime.now(UTC),
        "actor_id": 5,
        "include_system": 0,
        "actions": iter(["created"]),
    }
    for name, value in values.items():
        with pytest.raises(TypeError, match=f"{name}: {type(value).__name__} is not a valid type"):
            await client.get_workspace_activity("w", **{name: value})
    assert recorder.asked == []
    await client.get_workspace_activity("w", actions={"created"}, actor_id=None)
    assert recorder.asked == ["/api/v1/workspaces/w/activity?view=platform&limit=50&actions=created"]


# ---- errors


@pytest.mark.parametrize(
    "answer", ["Internal Server Error", [], {"detail": 3}, {"detail": [3]}, {"detail": [{}]}, {"detail": None}, 7, {}]
)
async def test_an_error_without_words(recorder: Recorder, answer: Any) -> None:
    """An error in an unknown form is still raised, with its status."""
    recorder.status, recorder.answer = 418, answer
    with pytest.raises(ApiError, match=r"^I'm a Teapot \(418 http_error\)$"):
        await PlatformClient(recorder.url).get_my_activity()


@pytest.mark.parametrize("answer", ["<h1>It works!</h1>", {"items": []}, [1], [{}], None])
async def test_an_answer_of_another_server(recorder: Recorder, answer: Any) -> None:
    """A response that is not an activity or a list of them is refused."""
    recorder.answer = answer
    client = PlatformClient(recorder.url)
    with pytest.raises(UnexpectedAnswer):
        await client.get_my_activity()
    with pytest.raises(UnexpectedAnswer):
        await client.get_activity("w", "a1")


async def test_a_busy_server_is_asked_again(recorder: Recorder) -> None:
    """Temporary errors are retried, and then raised with the server's text. Without a server, the error is Unreachable."""
    recorder.status, recorder.answer = 503, {"detail": "later"}
    with pytest.raises(ApiError, match="later"):
        await PlatformClient(recorder.url, timing=FAST).get_my_activity()
    assert len(recorder.asked) == 4
    with pytest.raises(Unreachable):
        await PlatformClient(f"http://127.0.0.1:{free_port()}", timing=FAST).get_my_activity()


# ---- synchronous client


async def test_the_twin_asks_the_same(recorder: Recorder) -> None:
    """The synchronous calls and their errors are the same."""

    def calls() -> None:
        with SyncPlatformClient(recorder.url, "a.b.c") as client:
            assert client.get_workspace_activity("w", 5, after_id=None) == [ACTIVITY]
            recorder.status, recorder.answer = 403, {"detail": "no"}
            with pytest.raises(ApiError, match="no"):
                client.get_my_activity(actions=["created", "updated"])

    await asyncio.to_thread(calls)
    assert recorder.asked == [
        "/api/v1/workspaces/w/activity?view=platform&limit=5&after_id=",
        "/api/v1/users/me/activity?view=platform&limit=50&actions=created,updated",
    ]
