"""Tokens signed with an issuer's published keys, tested through the server from the first request to the end of the streams."""

import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from streamer.access.jwks import Jwks
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api, events
from tests.support.issuer import Issuer, IssuerKey, issuer_key, says
from tests.support.websocket import open_socket

WS = "w"
MEMBERS = f"/v1/workspaces/{WS}/members"

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Start an issuer with a key of each kind."""
    async with Issuer(*(issuer_key(alg, alg) for alg in ("RS256", "ES256", "EdDSA"))) as issuer:
        yield issuer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch keys as often as tokens ask for it."""
    made = Jwks.__init__

    def init(self: Jwks, *given: object, **named: object) -> None:
        made(self, *given, **{**named, "pause_seconds": 0})  # type: ignore[arg-type]

    monkeypatch.setattr(Jwks, "__init__", init)


def signed(key: IssuerKey, user: str = "ann", **claims: object) -> str:
    """Return a token that is signed with an issuer's key."""
    return key.sign(
        {"sub": user, "exp": int(time.time()) + 600, "iss": "https://id.example", "aud": "streamer", **claims}
    )


async def test_from_the_first_token_to_the_last(
    make_server: MakeServer, http: aiohttp.ClientSession, issuer: Issuer
) -> None:
    """Each algorithm's token identifies its person, foreign tokens are refused, and streams end when their key is withdrawn."""
    server = await make_server(jwks_url=issuer.url, jwt_issuer="https://id.example", jwt_audience="streamer")
    api = Api(http, server.url, ADMIN_KEY)
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    (await api.put(f"{MEMBERS}/ann", {"role": "member"})).expect(201)
    for key in issuer.keys:
        stored = (await api.with_key(signed(key)).post(events(WS), {"action": "a.b"})).expect(201)
        assert stored["actor"]["id"] == "ann"
        for wrong in ({"aud": "another"}, {"iss": "https://evil.example"}, {"exp": 1}):
            assert (await api.with_key(signed(key, **wrong)).get(events(WS))).error == "unauthenticated"
    staying = issuer.keys[1]
    going = api.with_key(signed(issuer.keys[0]))  # one token throughout: its look-up is cached
    nobody = api.with_key(None)
    ticket = (await going.post("/v1/tickets", {"workspace": WS})).expect(201)["ticket"]
    later = (await going.post("/v1/tickets", {"workspace": WS})).expect(201)["ticket"]
    async with (
        await going.stream(WS) as stream,
        await open_socket(going) as socket,
        await nobody.stream(WS, ticket=ticket) as by_ticket,
        await api.with_key(signed(staying)).stream(WS) as other,
    ):
        new = issuer_key("RS256", "new", 1)
        issuer.keys[0] = new
        (await going.get(events(WS))).expect(200)
        (await api.with_key(signed(new)).get(events(WS))).expect(200)  # an unknown key is fetched at once
        assert (await going.get(events(WS))).error == "unauthenticated"
        for reader in (stream, by_ticket):
            assert (await reader.next("closed")).json == {"reason": "credential_revoked", "reconnect": False}
        assert (await socket.next("closed"))["reason"] == "credential_revoked"
        assert (await nobody.get(f"{events(WS)}/stream", ticket=later)).error == "unauthenticated"
        (await api.append(WS, id="after")).expect(201)
        assert "after" in [event["id"] for event in await other.events(1)]
        issuer.answer = says(500)  # an outage ends no stream
        (await api.with_key(signed(new)).get(events(WS))).expect(200)
        assert (await api.with_key(signed(issuer_key("ES256", "never", 2))).get(events(WS))).error == "unauthenticated"
        (await api.append(WS, id="in")).expect(201)
        assert [event["id"] for event in await other.events(1)] == ["in"]


async def test_a_server_that_starts_in_an_outage(
    make_server: MakeServer, http: aiohttp.ClientSession, issuer: Issuer
) -> None:
    """A server that starts while the issuer is down accepts keys. Tokens get 503 until the issuer recovers."""
    issuer.answer = says(503)
    server = await make_server(jwks_url=issuer.url, jwt_audience="streamer")
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    answer = await api.with_key(signed(issuer.keys[0])).get(events(WS))
    assert (answer.status, answer.error) == (503, "issuer_unavailable")
    assert answer.headers["Retry-After"]
    issuer.answer = None
    assert (await api.with_key(signed(issuer.keys[0])).get(events(WS))).error == "workspace_not_found"
