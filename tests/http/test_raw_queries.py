"""Values of queries and headers that HTTP libraries read differently."""

import aiohttp
import pytest
from yarl import URL

from tests.conftest import MakeServer
from tests.support.api import Answer, Api, events, make_event
from tests.support.tokens import SECRET

W = events("w")
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PATHS = (
    W,
    "/v1/workspaces/w",
    "/api/companies/w/activity",
    "/api/v1/workspaces/w/activity",
    "/v1/workspaces/w/activity",
)


@pytest.fixture
async def api(make_server: MakeServer, http: aiohttp.ClientSession, api: Api) -> Api:
    """Return a client of a server that also accepts tokens."""
    server = await make_server(jwt_secret=SECRET)
    found = api.at(server.url)
    (await found.append("w")).expect(201)
    return found


async def get_raw(api: Api, http: aiohttp.ClientSession, path: str) -> Answer:
    """GET a path without normalizing it."""
    async with http.get(URL(api.url + path, encoded=True), headers=api.headers) as response:
        return Answer(response.status, response.headers, await response.read())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("query", "name"), [("q=%ff", "q"), ("limit=1&actor_id=%c3", "actor_id"), ("%ff=1", "\ufffd")])
async def test_what_is_no_text(api: Api, http: aiohttp.ClientSession, path: str, query: str, name: str) -> None:
    """A name or value that is not UTF-8 is an error that names the parameter."""
    answer = await get_raw(api, http, f"{path}?{query}")
    assert answer.status == (422 if path.startswith("/api/v1/") else 400), answer.body
    assert name in answer.body.decode()


async def test_two_idempotency_keys(api: Api, http: aiohttp.ClientSession) -> None:
    """Two keys in one request are an error."""
    headers = [*api.headers.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with http.post(api.url + W, json=make_event(), headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["error"]["details"]["fields"] == {"Idempotency-Key": "given more than once"}


async def test_digits(api: Api, http: aiohttp.ClientSession) -> None:
    """Fractions of a second and clamped limits may have any number of digits."""
    (await get_raw(api, http, f"{W}?after=2026-01-01T00:00:00.123456789012Z")).expect(200)
    (await get_raw(api, http, f"/v1/workspaces/w/activity?limit={'9' * 40}")).expect(200)
    (await get_raw(api, http, f"/v1/workspaces/w/activity?limit={'0' * 40}")).expect(400)
