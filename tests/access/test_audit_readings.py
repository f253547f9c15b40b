"""A reading of audit events alone is recorded once an hour as `audit.read`, by every filter and route."""

from typing import Any

import pytest

from streamer.app import Server
from tests.conftest import MakeServer
from tests.support.api import Api, events
from tests.support.readers import BEGINNING, KINDS, Kind
from tests.support.sse import SseReader
from tests.support.tokens import SECRET
from tests.support.websocket import open_socket

WS = "w"
PATH = f"/v1/workspaces/{WS}"
pytestmark = [
    pytest.mark.usefixtures("one_hour"),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server with an audit action of its operator."""
    return await make_server(jwt_secret=SECRET, audit_actions=("vault.opened", "vault.closed"))


@pytest.fixture
async def key(api: Api) -> Api:
    """Create a key that may read audit events."""
    (await api.append(WS)).expect(201)
    return api.with_key(await api.create_key(WS, template="read_only"))


async def readings(api: Api) -> int:
    """Count the recorded readings."""
    return [event["action"] for event in await api.history(WS)].count("audit.read")


FILTERS: list[dict[str, Any]] = [
    {"action": "key.*"},
    {"action": "key.created"},
    {"action": ["key.created", "policy_decision"]},
    {"action": "vault.*"},
    {"action": "vault.opened,key.revoked"},
    {"action": "audit.read", "category": "audit,activity"},
    {"actor_type": "key"},
    {"actor_type": "policy-engine"},
    {"entity_type": "key"},
    {"entity_id": "key_0123456789abcdef"},
    {"actor_id": "key_0123456789abcdef"},
    {"actor_type": "key", "action": "!issue.*", "q": "x"},
]


@pytest.mark.parametrize("selection", FILTERS, ids=str)
async def test_any_filter_for_audit_events_alone(api: Api, key: Api, selection: dict[str, Any]) -> None:
    """Pages, streams and sockets with a filter for audit events alone are recorded once in total."""
    for _ in range(2):
        (await key.get(events(WS), **selection)).expect(200)
        assert await readings(api) == 1
    async with await key.stream(WS, **selection) as stream:
        await stream.next("synced")
    async with await open_socket(key, WS, **selection) as socket:
        await socket.next("synced")
    assert await readings(api) == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_every_way_of_reading(api: Api, key: Api, kind: Kind) -> None:
    """The first reading is recorded by every route, before anything is returned."""
    reader = await kind.open(key, WS, after=BEGINNING, action="key.*")
    await reader.synced()
    reader.close()
    assert await readings(api) == 1


async def test_tickets_subscriptions_and_long_polls(api: Api, key: Api) -> None:
    """A reading is recorded when a ticket is used, when a subscription is created, and when a long poll starts to wait."""
    position = (await key.get(events(WS))).json["position"]
    for step, caller in enumerate((key, api, api.with_key(await api.create_key(WS, template="read_only")))):
        if step == 0:
            ticket = (await caller.post("/v1/tickets", {"workspace": WS, "actor_type": "key"})).expect(201)["ticket"]
            assert await readings(api) == 0
            async with await api.with_key(None).stream(WS, ticket=ticket) as stream:
                await stream.next("synced")
        elif step == 1:
            async with await open_socket(caller) as socket:
                asked = {"type": "subscribe", "sub": "s", "workspace": WS, "action": ["key.*"]}
                await socket.ask(asked, "synced")
        else:
            (await caller.get(events(WS), action="key.*", after=position, wait=0.1)).expect(200)
        assert await readings(api) == step + 1


async def test_an_audit_event_by_its_id(api: Api, key: Api) -> None:
    """Reading an audit event by id is recorded; reading an activity is not. Callers without audit access find nothing."""
    audit = (await api.history(WS, category="audit,activity", action="*"))[0]
    plain = api.with_key(await api.create_key(WS))
    activity = (await api.append(WS)).expect(201)
    for path in (events(WS), f"/api/v1/workspaces/{WS}/activity"):
        (await key.get(f"{path}/{activity['id']}")).expect(200)
        assert (await plain.get(f"{path}/{audit['id']}")).status == 404
    assert await readings(api) == 0
    (await key.get(f"{events(WS)}/{audit['id']}")).expect(200)
    assert await readings(api) == 1
    (await api.get(f"/api/v1/workspaces/{WS}/activity/{audit['id']}")).expect(200)
    assert await readings(api) == 2


@pytest.mark.parametrize(
    ("path", "params"),
    [
        (f"/api/companies/{WS}/activity", {"action": "key.*"}),
        (f"/api/companies/{WS}/activity", {"actorType": "key"}),
        (f"/api/companies/{WS}/activity", {"entityType": "key"}),
        (f"/api/v1/workspaces/{WS}/activity", {"actions": "key.created"}),
        (f"/api/v1/workspaces/{WS}/activity", {"actions": "revoked"}),
        (f"/api/v1/workspaces/{WS}/activity", {"resource_types": "key"}),
        (f"{PATH}/audit", {}),
    ],
)
async def test_the_dialects(api: Api, key: Api, path: str, params: dict[str, str]) -> None:
    """The filters of the dialects follow the same rule."""
    (await key.get(path, **params)).expect(200)
    assert await readings(api) == 1


async def test_a_filter_of_activity_is_not_recorded(api: Api, key: Api) -> None:
    """Evershell's streams return activity only, so no filter of theirs is recorded."""
    (await key.get(f"{PATH}/activity", event_type="issue.created")).expect(200)
    async with await SseReader.open(f"{api.url}{PATH}/activity/stream", headers=key.headers):
        pass
    assert await readings(api) == 0
