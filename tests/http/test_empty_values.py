"""An empty value is an error, except where a stream resumes. Also, where `Last-Event-ID` is accepted."""

import pytest

from streamer.app import Server
from tests.conftest import MakeServer
from tests.support.api import Api, events
from tests.support.sse import SseReader
from tests.support.tokens import SECRET
from tests.support.websocket import open_socket

WS = "w"
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LISTS = {
    events(WS): ("order", "limit", "cursor", "after", "before", "wait", "category", "action", "actor_id", "q"),
    "/v1/workspaces": ("after", "limit", "org_id"),
    f"/v1/workspaces/{WS}/members": ("after", "limit"),
    f"/api/companies/{WS}/activity": ("agentId", "entityType", "entityId", "actorType", "actorId", "action", "after", "since", "from", "to", "offset", "cursor"),
    "/api/issues/i1/activity": ("agentId", "cursor", "offset"),
    f"/api/v1/workspaces/{WS}/activity": ("limit", "offset", "actor_id", "resource_types", "actions", "start_date", "end_date", "include_system", "cursor", "view"),
    "/api/v1/users/me/activity": ("limit", "after_id", "cursor"),
    f"/v1/workspaces/{WS}/activity": ("task_id", "event_type", "after", "order", "limit", "cursor"),
    f"/v1/workspaces/{WS}/audit": ("filter", "from", "to", "order", "limit", "cursor"),
    "/v1/audit": ("filter", "from", "to", "order", "limit", "cursor"),
}  # fmt: skip
STREAMS = {
    f"{events(WS)}/stream": ("category", "action", "q"),
    f"/v1/workspaces/{WS}/activity/stream": ("task_id", "event_type"),
    "/v1/activity/stream": ("task_id", "event_type"),
}
NAMES = ("lastEventId", "last_event_id", "Last-Event-ID")


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


async def test_an_empty_value_is_an_error(api: Api) -> None:
    """Empty parameters of lists and empty filters of streams get 400, or 422 where PraisonAI's clients expect it."""
    (await api.append(WS, entity={"type": "issue", "id": "i1"})).expect(201)
    for path, names in (LISTS | STREAMS).items():
        for name in names:
            answer = await api.get(path, **{name: ""})
            assert answer.status == (422 if path.startswith("/api/v1/") else 400), (path, name)
            assert name in answer.body.decode() or answer.error == "invalid_cursor", (path, name)


async def test_where_a_stream_resumes_empty_is_absent(api: Api) -> None:
    """An empty resume point counts as absent, because a client that has seen nothing sends an empty `Last-Event-ID`."""
    (await api.append(WS, id="old")).expect(201)
    for path in STREAMS:
        for name in ("after", *NAMES):
            async with await SseReader.open(api.url + path, headers=api.headers, params={name: ""}) as stream:
                assert stream.status == 200, (path, name)
    async with await open_socket(api, WS, after="") as socket:
        await socket.next("synced")


async def test_last_event_id_in_the_query(api: Api) -> None:
    """Every stream accepts it in the query under each of its names. The header takes precedence, and `after` does not."""
    for name in ("e1", "e2", "e3"):
        (await api.append(WS, id=name)).expect(201)
    epoch = (await api.get(events(WS))).json["position"].partition(".")[0]
    places = {
        f"{events(WS)}/stream": (f"{epoch}.1", f"{epoch}.2"),
        f"/v1/workspaces/{WS}/activity/stream": ("e1", "e2"),
        "/v1/activity/stream": ("e1", f"{epoch}.2"),
    }
    for path, (first, second) in places.items():
        for name in NAMES:
            params = {name: first, "after": "2200-01-01T00:00:00Z"}
            async with await SseReader.open(api.url + path, headers=api.headers, params=params) as stream:
                assert [event["id"] for event in await stream.events(2)] == ["e2", "e3"], (path, name)
        headers = api.headers | {"Last-Event-ID": second}
        async with await SseReader.open(api.url + path, headers=headers, params={"lastEventId": first}) as stream:
            assert [event["id"] for event in await stream.events(1)] == ["e3"], path
        twice = await api.get(path, lastEventId=first, last_event_id=second)
        assert (twice.status, twice.error) == (400, "validation_error")
    assert (await api.get(f"{events(WS)}/stream", lastEventId="nothing")).error == "validation_error"


async def test_a_ticket_resumes_by_the_query(api: Api) -> None:
    """A browser library that resumes through the URL can continue with its ticket."""
    for name in ("e1", "e2"):
        (await api.append(WS, id=name)).expect(201)
    position = (await api.get(events(WS))).json["position"]
    ticket = (await api.post("/v1/tickets", {"workspace": WS})).expect(201)["ticket"]
    nobody = api.with_key(None)
    async with await nobody.stream(WS, ticket=ticket) as stream:
        await stream.next("synced")
    first = position.partition(".")[0] + ".1"
    async with await nobody.stream(WS, ticket=ticket, lastEventId=first) as stream:
        assert [event["id"] for event in await stream.events(1)] == ["e2"]
    assert (await nobody.get(f"{events(WS)}/stream", ticket=ticket)).status == 401
