"""Lists of keys are paged, and a workspace's keys and members are limited."""

import aiohttp

from streamer.client import Client
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Answer, Api

KEYS = "/v1/workspaces/w/keys"
MEMBERS = "/v1/workspaces/w/members"


async def started(make_server: MakeServer, http: aiohttp.ClientSession, **settings: object) -> Api:
    """Return a server's API, with a workspace `w`."""
    api = Api(http, (await make_server(**settings)).url, ADMIN_KEY)
    (await api.put("/v1/workspaces/w")).expect(201)
    return api


async def make_key(api: Api, name: str) -> Answer:
    """Create a key that may read."""
    return await api.post(KEYS, {"name": name, "scopes": ["workspace:read"]})


async def test_keys_come_in_pages(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Keys are sorted by id, `Link` continues even after a deleted key, and the client returns all in order of creation."""
    api = await started(make_server, http, max_page_events=2)
    made = [(await make_key(api, str(n))).expect(201)["id"] for n in range(5)]
    found: list[str] = []
    path: str | None = KEYS
    while path is not None:
        answer = await api.get(path)
        found += [key["id"] for key in answer.expect(200)["keys"]]
        path = answer.headers["Link"].partition("<")[2].partition(">")[0] if "Link" in answer.headers else None
    assert found == sorted(made)
    async with Client(api.url, ADMIN_KEY) as client:
        assert [key["id"] for key in await client.keys("w")] == made
    (await api.delete(f"{KEYS}/{found[1]}")).expect(204)
    assert [key["id"] for key in (await api.get(KEYS, after=found[1], limit=1)).expect(200)["keys"]] == found[2:3]
    for wrong in ({"limit": 3}, {"after": ""}, {"order": "desc"}):
        assert (await api.get(KEYS, **wrong)).error == "validation_error"


async def test_keys_are_bounded(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A key above the limit is refused with the limit. Revoking a key makes room for another."""
    api = await started(make_server, http, max_keys_per_workspace=2)
    ids = [(await make_key(api, str(n))).expect(201)["id"] for n in range(2)]
    refused = await make_key(api, "one too many")
    assert (refused.status, refused.error) == (429, "rate_limited")
    assert "2 keys" in refused.json["error"]["message"]
    assert len((await api.get(KEYS)).expect(200)["keys"]) == 2
    (await api.put("/v1/workspaces/other")).expect(201)
    (await api.post("/v1/workspaces/other/keys", {"name": "x", "scopes": ["admin"]})).expect(201)
    (await api.delete(f"{KEYS}/{ids[0]}")).expect(204)
    (await make_key(api, "now there is room")).expect(201)


async def test_members_are_bounded(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A member above the limit is refused with the limit; roles of members can still change."""
    api = await started(make_server, http, max_members_per_workspace=1)
    (await api.put(f"{MEMBERS}/ann", {"role": "viewer"})).expect(201)
    refused = await api.put(f"{MEMBERS}/ben", {"role": "viewer"})
    assert (refused.status, refused.error) == (429, "rate_limited")
    assert "1 members" in refused.json["error"]["message"]
    (await api.put(f"{MEMBERS}/ann", {"role": "member"})).expect(200)
    (await api.delete(f"{MEMBERS}/ann")).expect(204)
    (await api.put(f"{MEMBERS}/ben", {"role": "viewer"})).expect(201)
