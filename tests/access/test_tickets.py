"""Tickets: credentials with which browsers, which cannot send headers, open streams."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from streamer.access.authorize import COOKIE
from streamer.access.keys import Keyring
from streamer.access.tickets import OPEN_SECONDS, TICKET_SECONDS, Tickets
from streamer.app import Server
from streamer.core.clock import format_timestamp, now_us, parse_timestamp
from streamer.store.engine.database import Database
from streamer.store.records.credentials import Credentials
from streamer.store.records.members import Members
from streamer.store.records.tickets import TicketStore
from streamer.store.records.workspaces import Workspaces
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer, WallClock
from tests.support.api import Api, events
from tests.support.proxy import proxy_to
from tests.support.readers import BEGINNING, SSE, WEBSOCKET, Kind, Reader, Refused, seqs_of
from tests.support.tools import require
from tests.support.waiting import eventually
from tests.support.websocket import open_socket

WS = "ticketed"
DAY_US = 24 * 3600 * 1_000_000

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
STREAMS: tuple[Kind, ...] = (SSE, WEBSOCKET)
"""The routes that a ticket opens."""
of_each_kind = pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.name)


async def make_ticket(api: Api, workspace: str = WS, **selection: object) -> str:
    """Create a ticket."""
    made = (await api.post("/v1/tickets", {"workspace": workspace, **selection})).expect(201)
    assert set(made) == {"ticket", "expires_at"}
    ticket = made["ticket"]
    assert isinstance(ticket, str)
    return ticket


async def refused(opening: Awaitable[Reader]) -> tuple[int | None, str]:
    """Return the refusal of an attempt to open a stream."""
    try:
        reader = await opening
    except Refused as error:
        return error.status, error.code
    reader.abort()
    raise AssertionError("the stream was opened")


UNAUTHENTICATED = (401, "unauthenticated")


# ---- creating tickets


async def test_who_may_make_a_ticket(api: Api) -> None:
    """Creating a ticket requires `workspace:read` in the workspace. Other workspaces are reported as missing."""
    for workspace in (WS, "theirs"):
        (await api.append(workspace)).expect(201)
    reader = api.with_key(await api.create_key(WS, scopes=["workspace:read"]))
    writer = api.with_key(await api.create_key(WS, scopes=["workspace:write"]))
    assert await make_ticket(reader) != await make_ticket(reader)
    assert (await writer.post("/v1/tickets", {"workspace": WS})).error == "permission_denied"
    said = []
    for caller, workspace in ((reader, "theirs"), (reader, "nowhere"), (api, "nowhere"), (api, "\0")):
        answer = await caller.post("/v1/tickets", {"workspace": workspace})
        assert (answer.status, answer.error) == (404, "workspace_not_found")
        said.append(answer.json["error"]["message"])
    assert len(set(said)) == 1
    for key in (None, "garbage"):
        answer = await api.with_key(key).post("/v1/tickets", {"workspace": WS})
        assert (answer.status, answer.error) == UNAUTHENTICATED


@on_sqlite
async def test_what_a_ticket_is_made_of(api: Api) -> None:
    """A ticket has a workspace and a filter. Other or invalid fields get 400. It expires no later than its key."""
    (await api.append(WS)).expect(201)
    cases: list[tuple[object, set[str]]] = [
        ({}, {"workspace"}),
        ({"workspace": 5}, {"workspace"}),
        ({"workspace": WS, "bogus": 1}, {"bogus"}),
        ({"workspace": WS, "after": BEGINNING}, {"after"}),
        ({"workspace": WS, "category": "nonsense"}, {"category"}),
        ({"workspace": WS, "action": "a*b"}, {"action"}),
        ({"workspace": WS, "agent_id": 5}, {"agent_id"}),
        ({"workspace": WS, "agent_id": [[]]}, {"agent_id[0]"}),
        ({"workspace": WS, "q": ["x", ""]}, {"q"}),
        ({"workspace": WS, "action": []}, {"action"}),  # an empty list is not the same as no filter
        ({"workspace": WS, "agent_id": ["a"] * 101}, {"filter"}),
        ([], {"body"}),
    ]
    for body, fields in cases:
        answer = await api.post("/v1/tickets", body)
        found = set(answer.expect(400)["error"]["details"]["fields"])
        assert {name.partition("[")[0] for name in found} == {name.partition("[")[0] for name in fields}, body
    assert (await api.post("/v1/tickets", {"workspace": WS}, params={"bogus": 1})).error == "validation_error"
    made = (await api.post("/v1/tickets", {"workspace": WS, "action": "issue.*", "q": ["a", "b"]})).expect(201)
    assert now_us() < parse_timestamp(made["expires_at"]) < now_us() + DAY_US
    soon = now_us() + 30_000_000
    caller = api.with_key(await api.create_key(WS, expires_at=format_timestamp(soon)))
    made = (await caller.post("/v1/tickets", {"workspace": WS})).expect(201)
    assert parse_timestamp(made["expires_at"]) <= soon


# ---- opening streams


@of_each_kind
async def test_a_ticket_opens_its_stream_with_its_filter(api: Api, kind: Kind) -> None:
    """Without any header, a ticket opens the stream it was created for, with an optional `after`."""
    batch = [{"action": f"issue.{verb}", "agent_id": agent} for verb in ("created", "updated") for agent in "ab"]
    (await api.append_all(WS, batch)).expect(201)
    nobody = api.with_key(None)
    ticket = await make_ticket(api, action=["issue.updated", "issue.closed"], agent_id="!a")
    reader = await kind.open(nobody, WS, ticket=ticket, after=BEGINNING)
    assert await seqs_of(reader, 1) == [4]
    (await api.append_all(WS, batch)).expect(201)
    assert await seqs_of(reader, 1) == [8]
    reader.close()
    live = await kind.open(nobody, WS, ticket=await make_ticket(api))
    assert await live.synced() == []
    (await api.append(WS)).expect(201)
    assert await seqs_of(live, 1) == [9]
    live.close()


@of_each_kind
async def test_a_tickets_filter_is_not_changed_by_the_url(api: Api, kind: Kind) -> None:
    """A filter or an invalid `after` in the URL gets 400 with its name, even if the filter is the same. The ticket stays unused."""
    (await api.append_all(WS, [{"agent_id": "a"}, {"agent_id": "b"}])).expect(201)
    nobody = api.with_key(None)
    ticket = await make_ticket(api, agent_id="a")
    for params in (
        {"agent_id": "b"},
        {"agent_id": "a"},
        {"action": "issue.*"},
        {"q": "x"},
        {"after": "garbage"},
        {"bogus": "1"},
    ):
        with pytest.raises(Refused) as caught:
            await kind.open(nobody, WS, ticket=ticket, **params)
        assert (caught.value.status, caught.value.fields) == (400, set(params))
    reader = await kind.open(nobody, WS, ticket=ticket, after=BEGINNING)
    assert await seqs_of(reader, 1) == [1]
    reader.close()


@of_each_kind
async def test_a_ticket_shows_no_more_than_its_key(api: Api, kind: Kind) -> None:
    """Without `audit:read`, a ticket shows no audit events, whatever its filter; with it, it does."""
    (await api.append_all(WS, [{"id": "audit", "category": "audit"}, {"id": "open"}])).expect(201)
    plain = api.with_key(await api.create_key(WS, scopes=["workspace:read"]))
    auditor = api.with_key(await api.create_key(WS, template="read_only"))
    for caller, selection, expected in (
        (plain, {}, ["open"]),
        (plain, {"category": "audit"}, []),
        (plain, {"category": ["activity", "audit"]}, ["open"]),
        (auditor, {}, ["audit", "open"]),
        (auditor, {"category": "audit"}, ["audit"]),
    ):
        ticket = await make_ticket(caller, **selection)
        reader = await kind.open(api.with_key(None), WS, ticket=ticket, after=BEGINNING)
        # In addition to the server's records of the keys and of the reading.
        assert [event["id"] for event in await reader.synced() if event["id"] in {"audit", "open"}] == expected
        reader.close()


@on_sqlite
async def test_a_ticket_publishes_nothing(api: Api) -> None:
    """A ticket's socket can only read its workspace: it can neither append nor read another workspace."""
    for workspace in (WS, "other"):
        (await api.append(workspace)).expect(201)
    async with await open_socket(api.with_key(None), WS, ticket=await make_ticket(api, agent_id="x")) as socket:
        await socket.next("synced")
        event = {"action": "x.y", "actor": {"type": "user", "id": "ann"}}
        for workspace in (WS, "other", "new"):
            answer = await socket.ask({"type": "publish", "workspace": workspace, "event": event}, "published")
            assert answer["type"] == "error"
            assert answer["error"]["code"] in {"permission_denied", "workspace_not_found", "validation_error"}
        answer = await socket.ask({"type": "subscribe", "sub": "x", "workspace": "other", "after": BEGINNING}, "events")
        assert answer["type"] == "error"
    assert len(await api.history("other")) == 1


@on_sqlite
async def test_a_tickets_filter_is_not_widened_on_its_socket(api: Api) -> None:
    """A subscription on a ticket's socket is limited to the ticket's filter, or refused."""
    (await api.append_all(WS, [{"agent_id": "a"}, {"agent_id": "b"}])).expect(201)
    async with await open_socket(api.with_key(None), WS, ticket=await make_ticket(api, agent_id="a")) as socket:
        await socket.next("synced")
        for number, selection in enumerate(({}, {"agent_id": "b"}, {"action": "issue.*"})):
            await socket.send(
                {"type": "subscribe", "sub": f"more {number}", "workspace": WS, "after": BEGINNING, **selection}
            )
            while (answer := await socket.next())["type"] not in {"error", "synced"}:
                assert "b" not in {event["agent_id"] for event in answer.get("events", [])}, selection


# ---- refusals


@of_each_kind
async def test_a_second_opening_is_refused(api: Api, kind: Kind) -> None:
    """A ticket opens one stream. A second attempt gets 401 and does not affect the first, open or closed."""
    (await api.append(WS)).expect(201)
    nobody = api.with_key(None)
    ticket = await make_ticket(api)
    reader = await kind.open(nobody, WS, ticket=ticket)
    await reader.synced()
    assert await refused(kind.open(nobody, WS, ticket=ticket)) == UNAUTHENTICATED
    (await api.append(WS)).expect(201)
    assert await seqs_of(reader, 1) == [2]
    reader.abort()
    assert await refused(kind.open(nobody, WS, ticket=ticket)) == UNAUTHENTICATED


async def test_of_many_openings_one_wins(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Of concurrent attempts to open a stream with one ticket on two nodes, one succeeds."""
    nodes = [Api(http, (await make_server()).url, ADMIN_KEY) for _ in range(2)]
    (await nodes[0].append(WS)).expect(201)
    ticket = await make_ticket(nodes[0])
    streams = await asyncio.gather(*(nodes[i % 2].with_key(None).stream(WS, ticket=ticket) for i in range(12)))
    assert sorted(stream.status for stream in streams) == [200] + [401] * 11
    for stream in streams:
        stream.close()


@on_sqlite
async def test_what_is_no_ticket(server: Server, api: Api) -> None:
    """An invalid ticket, another kind of secret as a ticket, or a ticket as another kind gets 401."""
    (await api.append(WS)).expect(201)
    ticket, nobody = await make_ticket(api), api.with_key(None)
    code = await server.keyring.create_sign_in()
    session = await server.keyring.sign_in(await server.keyring.create_sign_in())
    key = await api.create_key(WS)
    for wrong in ("x", "x" * 5000, "é", ticket[:-1], ticket + "x", ticket.swapcase(), code, session, key, ADMIN_KEY):
        for kind in STREAMS:
            assert await refused(kind.open(nobody, WS, ticket=wrong)) == UNAUTHENTICATED, wrong
    assert await refused(SSE.open(nobody, WS, ticket=[ticket, ticket])) in {UNAUTHENTICATED, (400, "validation_error")}
    for name in ("key", "token", "api_key", "access_token", "authorization"):
        for kind in STREAMS:
            assert await refused(kind.open(nobody, WS, **{name: key})) == UNAUTHENTICATED, name
    for path in (events(WS), f"{events(WS)}/stream", "/v1/session", "/v1/workspaces"):
        answer = await api.with_key(ticket).get(path)
        assert (answer.status, answer.error) == UNAUTHENTICATED, path
        answer = await nobody.get(path, headers={"Cookie": f"{COOKIE}={ticket}"})
        assert (answer.status, answer.error) == UNAUTHENTICATED, path
    reader = await SSE.open(nobody, WS, ticket=ticket)  # it was valid all the time
    reader.close()


async def test_a_ticket_is_for_its_own_stream_only(api: Api) -> None:
    """For a ticket, another workspace's stream does not exist, and other routes do not accept it as a credential."""
    for workspace in (WS, "other"):
        (await api.append(workspace, id="an-event")).expect(201)
    ticket, nobody = await make_ticket(api), api.with_key(None)
    for kind in STREAMS:
        found = {await refused(kind.open(nobody, workspace, ticket=ticket)) for workspace in ("other", "nowhere")}
        assert found in ({UNAUTHENTICATED}, {(404, "workspace_not_found")}), "the same whether it exists or not"
    for path in (events(WS), f"{events(WS)}/an-event", f"/v1/workspaces/{WS}", "/v1/workspaces", "/v1/session", "/v1/ws",
                 f"/v1/workspaces/{WS}/keys", "/metrics"):  # fmt: skip
        answer = await nobody.get(path, ticket=ticket)
        assert (answer.status, answer.error) == UNAUTHENTICATED, path
    answer = await nobody.post(
        events(WS), {"action": "x.y", "actor": {"type": "user", "id": "a"}}, params={"ticket": ticket}
    )
    assert (answer.status, answer.error) == UNAUTHENTICATED
    answer = await nobody.post("/v1/tickets", {"workspace": WS}, params={"ticket": ticket})
    assert (answer.status, answer.error) == UNAUTHENTICATED
    answer = await (await open_socket(nobody, None, ticket=ticket)).answer()
    assert (answer.status, answer.error) == UNAUTHENTICATED
    reader = await SSE.open(nobody, WS, ticket=ticket)  # none of these attempts used it up
    reader.close()


@of_each_kind
async def test_a_ticket_with_another_credential_is_refused(api: Api, kind: Kind) -> None:
    """Two credentials in one request get 401, valid or not, because the intended one is ambiguous."""
    (await api.append(WS)).expect(201)
    ticket = await make_ticket(api)
    for key in (ADMIN_KEY, await api.create_key(WS), "garbage"):
        assert await refused(kind.open(api.with_key(key), WS, ticket=ticket)) == UNAUTHENTICATED
        assert await refused(kind.open(api.with_key(key), WS, ticket="made-up")) == UNAUTHENTICATED


# ---- resuming


@on_sqlite
@of_each_kind
async def test_a_refusal_for_now_does_not_use_a_ticket_up(
    make_server: MakeServer, http: aiohttp.ClientSession, kind: Kind
) -> None:
    """An attempt that gets 429 or 400 does not use up the ticket, so a later attempt succeeds."""
    api = Api(http, (await make_server(max_streams_per_key=1)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    ticket, nobody = await make_ticket(api), api.with_key(None)
    occupied = await api.stream(WS)
    with pytest.raises(Refused, match="rate_limited"):
        await kind.open(nobody, WS, ticket=ticket)
    with pytest.raises(Refused, match="validation_error"):
        await kind.open(nobody, WS, ticket=ticket, after="x")
    occupied.abort()

    async def opened() -> Any:
        try:
            return await kind.open(nobody, WS, ticket=ticket)
        except Refused as refused:
            assert "rate_limited" in str(refused)  # noqa: PT017 - the abort may not have been noticed yet
            return None

    (await eventually(opened)).close()


@on_sqlite
async def test_a_time_is_no_place_to_resume_from(api: Api) -> None:
    """A socket resumes only from a position. The URL that opened it is refused a second time."""
    (await api.append(WS)).expect(201)
    ticket, nobody = await make_ticket(api), api.with_key(None)
    async with await open_socket(nobody, WS, ticket=ticket, after=BEGINNING) as socket:
        await socket.next("synced")
        with pytest.raises(Refused, match="unauthenticated"):
            await WEBSOCKET.open(nobody, WS, ticket=ticket, after=BEGINNING)


@of_each_kind
async def test_a_ticket_resumes_and_replaces(api: Api, kind: Kind) -> None:
    """With a position, the same ticket resumes there any number of times, and closes its previous connection."""
    (await api.append_all(WS, [{"agent_id": agent} for agent in "abab"])).expect(201)
    nobody = api.with_key(None)
    ticket = await make_ticket(api, agent_id="a")
    reader = await kind.open(nobody, WS, ticket=ticket, after=BEGINNING)
    assert await seqs_of(reader, 2) == [1, 3]
    for number in range(3):
        again = await kind.open(nobody, WS, ticket=ticket, position=reader.position)
        await again.synced()
        ended = await reader.ended()
        assert (ended.reason, ended.reconnect) == ("replaced", False)
        (await api.append_all(WS, [{"agent_id": agent} for agent in "ab"])).expect(201)
        assert await seqs_of(again, 1) == [5 + 2 * number]
        reader = again
    reader.abort()  # and after a disconnection
    (await api.append(WS, agent_id="a")).expect(201)
    last = await kind.open(nobody, WS, ticket=ticket, position=reader.position)
    assert await seqs_of(last, 1) == [11]
    last.close()


@of_each_kind
async def test_a_position_that_was_made_up(api: Api, kind: Kind) -> None:
    """With the ticket alone, a stream cannot be resumed: no invented position belongs to its log or shows anything."""
    (await api.append_all(WS, [{}] * 3)).expect(201)
    nobody = api.with_key(None)
    ticket = await make_ticket(api)
    reader = await kind.open(nobody, WS, ticket=ticket, after=BEGINNING)
    await reader.synced()
    for position in ("zzzzzzzzzz.1", "zzzzzzzzzz.0", "a.3", f"{'z' * 10}.999"):
        with pytest.raises(Refused) as refused:
            await kind.open(nobody, WS, ticket=ticket, position=position)
        assert (refused.value.status, refused.value.code) == (401, "unauthenticated")
    (await api.append(WS)).expect(201)
    assert await seqs_of(reader, 1) == [4]  # it continues
    reader.close()


@on_sqlite
async def test_a_resume_after_the_log_was_created_again(api: Api, database: Database) -> None:
    """After a restore, a client that resumes with an older position receives a gap."""
    (await api.append_all(WS, [{}] * 3)).expect(201)
    nobody = api.with_key(None)
    ticket = await make_ticket(api)
    async with await nobody.stream(WS, ticket=ticket, after=BEGINNING) as stream:
        position = (await stream.next("synced")).json["position"]
    await Workspaces(database).renew_epochs()
    async with await nobody.stream(WS, ticket=ticket, last_event_id=position) as stream:
        assert (await stream.next("gap")).json["reason"] == "reset"
        after = (await stream.next("synced")).json["position"]
    async with await nobody.stream(WS, ticket=ticket, last_event_id=after) as stream:
        assert (await stream.next("synced")).json["position"] == after


@on_sqlite
async def test_a_resume_wins_over_after(api: Api) -> None:
    """When a browser reconnects with the original URL, `after` included, its `Last-Event-ID` takes precedence."""
    (await api.append_all(WS, [{}] * 4)).expect(201)
    nobody, ticket = api.with_key(None), await make_ticket(api)
    stream = await nobody.stream(WS, ticket=ticket, after=BEGINNING)
    assert [event["seq"] for event in await stream.events(2)] == [1, 2]
    stream.abort()
    with pytest.raises(Refused):  # without the header it is a second attempt
        await SSE.open(nobody, WS, ticket=ticket, after=BEGINNING)
    again = await nobody.stream(WS, ticket=ticket, after=BEGINNING, last_event_id=stream.position)
    assert [event["seq"] for event in await again.events(2)] == [3, 4]
    garbage = await nobody.get(f"{events(WS)}/stream", headers={"Last-Event-ID": "x"}, ticket=ticket)
    assert list(garbage.expect(400)["error"]["details"]["fields"]) == ["Last-Event-ID"]
    (await api.append(WS)).expect(201)
    assert [event["seq"] for event in await again.events(1)] == [5], "a refused attempt replaces no connection"
    again.close()


async def test_a_ticket_is_good_on_every_node(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A ticket works on every node: resuming on one closes the connection on the other, and no event is lost or repeated."""
    here, there = [Api(http, (await make_server(poll_seconds=0.05)).url, ADMIN_KEY) for _ in range(2)]
    (await here.append_all(WS, [{}] * 3)).expect(201)
    for kind in STREAMS:
        ticket = await make_ticket(here)
        first = await kind.open(there.with_key(None), WS, ticket=ticket, after=BEGINNING)
        assert await seqs_of(first, 3) == [1, 2, 3]
        assert await refused(kind.open(here.with_key(None), WS, ticket=ticket)) == UNAUTHENTICATED
        second = await kind.open(here.with_key(None), WS, ticket=ticket, position=first.position)
        await second.synced()
        assert (await first.ended()).reason == "replaced"
        third = await kind.open(there.with_key(None), WS, ticket=ticket, position=second.position)
        await third.synced()
        assert (await second.ended()).reason == "replaced"
        third.close()


# ---- expiry


async def make_key(api: Api, **wanted: object) -> tuple[str, str]:
    """Create a key. Return its id and its secret."""
    made = (await api.post(f"/v1/workspaces/{WS}/keys", {"name": "k", "template": "read_only", **wanted})).expect(201)
    return made["id"], made["key"]


async def test_a_ticket_ends_with_its_key(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Revoking a key closes its tickets' streams within seconds, on every node, and its tickets become invalid."""
    here, there = [Api(http, (await make_server()).url, ADMIN_KEY) for _ in range(2)]
    (await here.append(WS)).expect(201)
    key_id, key = await make_key(here)
    caller, nobody = here.with_key(key), there.with_key(None)
    opened = [await make_ticket(caller) for _ in range(4)]
    unopened = await make_ticket(caller)
    readers = [
        await kind.open(node.with_key(None), WS, ticket=opened[i])
        for i, (kind, node) in enumerate((kind, node) for kind in STREAMS for node in (here, there))
    ]
    for reader in readers:
        await reader.synced()
    (await here.delete(f"/v1/workspaces/{WS}/keys/{key_id}")).expect(204)
    for reader in readers:
        ended = await reader.ended()
        assert (ended.reason, ended.reconnect) == ("credential_revoked", False)
    for api in (here.with_key(None), nobody):
        assert await refused(SSE.open(api, WS, ticket=unopened)) == UNAUTHENTICATED
        assert await refused(SSE.open(api, WS, ticket=opened[0], position=readers[0].position)) == UNAUTHENTICATED


@of_each_kind
async def test_a_ticket_expires_with_its_key(
    make_server: MakeServer, http: aiohttp.ClientSession, kind: Kind, wall_clock: WallClock
) -> None:
    """When the ticket's key expires, the stream ends with this reason."""
    api = Api(http, (await make_server(heartbeat_seconds=1)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    _, key = await make_key(api, expires_at=format_timestamp(now_us() + 30_000_000))
    ticket, unopened = [await make_ticket(api.with_key(key)) for _ in range(2)]
    reader = await kind.open(api.with_key(None), WS, ticket=ticket)
    await reader.synced()
    wall_clock.advance(31)
    ended = await reader.ended()
    assert (ended.reason, ended.reconnect) == ("credential_expired", False)
    assert await refused(kind.open(api.with_key(None), WS, ticket=unopened)) == UNAUTHENTICATED
    assert await refused(kind.open(api.with_key(None), WS, ticket=ticket, position=reader.position)) == UNAUTHENTICATED


async def test_a_tickets_times(server: Server, api: Api, database_url: str, wall_clock: WallClock) -> None:
    """A ticket must be used within 60 seconds. Then it can resume its stream for 12 hours, even while it is open."""
    (await api.append(WS)).expect(201)
    position = (await api.get(events(WS), limit=1)).expect(200)["position"]
    nobody = api.with_key(None)
    admin = await server.keyring.principal(ADMIN_KEY, "key")
    database = Database(database_url)
    try:
        keyring = Keyring(Credentials(database), Members(database))
        for age, opened, status in (
            (OPEN_SECONDS - 5, False, 200),
            (OPEN_SECONDS, False, 401),
            (OPEN_SECONDS + 5, True, 200),
            (TICKET_SECONDS - 5, True, 200),
            (TICKET_SECONDS, True, 401),
        ):
            earlier = Tickets(TicketStore(database), keyring, clock=lambda age=age: now_us() - age * 1_000_000)  # type: ignore[misc]
            secret, _ = await earlier.issue(admin, WS, {})
            if opened:
                principal, ticket = await earlier.find(secret)
                await earlier.open(ticket, principal, position.partition(".")[0], None)
            async with await nobody.stream(WS, ticket=secret, last_event_id=position if opened else None) as stream:
                assert stream.status == status, age
                if age == TICKET_SECONDS - 5:
                    wall_clock.advance(5)
                    assert (await stream.next("closed")).json == {"reason": "credential_expired", "reconnect": False}
    finally:
        await database.close()
    assert (OPEN_SECONDS, TICKET_SECONDS) == (60, 12 * 3600)


async def test_signing_out_ends_the_sessions_tickets(server: Server, api: Api) -> None:
    """Signing out ends the tickets of the page's session. Tickets of other sessions stay valid."""
    (await api.append(WS)).expect(201)
    nobody = api.with_key(None)

    async def page() -> Callable[..., Awaitable[Any]]:
        code = (await server.sign_in_link()).partition("#sign-in=")[2]
        cookie = (await nobody.post("/v1/session", {"code": code})).headers["Set-Cookie"].split(";")[0]
        headers = {"Cookie": cookie, "Origin": server.url}

        async def call(method: str, path: str, **options: Any) -> Any:
            return await nobody.request(method, path, headers=headers, **options)

        return call

    mine, other = await page(), await page()
    tickets = [
        (await call("POST", "/v1/tickets", body={"workspace": WS})).expect(201)["ticket"]
        for call in (mine, mine, other)
    ]
    kinds = (*STREAMS, STREAMS[0])
    readers = [await kind.open(nobody, WS, ticket=ticket) for kind, ticket in zip(kinds, tickets, strict=True)]
    for reader in readers:
        await reader.synced()
    unopened = (await mine("POST", "/v1/tickets", body={"workspace": WS})).expect(201)["ticket"]
    (await mine("DELETE", "/v1/session")).expect(204)
    for reader in readers[:2]:
        ended = await reader.ended()
        assert ended.reason in {"signed_out", "credential_revoked"}
        assert not ended.reconnect
    assert await refused(SSE.open(nobody, WS, ticket=unopened)) == UNAUTHENTICATED
    assert await refused(SSE.open(nobody, WS, ticket=tickets[0], position=readers[0].position)) == UNAUTHENTICATED
    (await api.append(WS)).expect(201)
    assert await seqs_of(readers[2], 1) == [2]
    readers[2].close()


async def test_a_deleted_workspace_takes_its_tickets_along(api: Api) -> None:
    """A ticket of a deleted workspace opens nothing in a recreated one of the same name."""
    (await api.append(WS)).expect(201)
    ticket = await make_ticket(api)
    (await api.delete(f"/v1/workspaces/{WS}")).expect(204)
    found = await refused(SSE.open(api.with_key(None), WS, ticket=ticket))
    assert found in {UNAUTHENTICATED, (404, "workspace_not_found")}
    (await api.append(WS)).expect(201)
    assert await refused(SSE.open(api.with_key(None), WS, ticket=ticket)) == UNAUTHENTICATED


# ---- nothing is exposed


async def test_a_ticket_appears_nowhere(
    make_process: MakeProcess, http: aiohttp.ClientSession, database_url: str
) -> None:
    """Neither the log nor the database contains a ticket, whether it was accepted or refused."""
    process = make_process(log_level="debug", log_format="json")
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    nobody = api.with_key(None)
    (await api.append(WS)).expect(201)
    tickets = [await make_ticket(api, action="issue.*") for _ in range(3)]
    stream = await nobody.stream(WS, ticket=tickets[0])
    await stream.next("synced")
    again = await nobody.stream(WS, ticket=tickets[0], last_event_id=stream.position)
    await again.next("synced")
    socket = await open_socket(nobody, WS, ticket=tickets[1])
    await socket.next("synced")
    for path in (f"{events('other')}/stream", events(WS), "/nothing", f"{events('other')}/ws", f"{events(WS)}/x"):
        assert (await nobody.get(path, ticket=tickets[2])).status in {401, 404}, path
    for reader in (stream, again, socket):
        reader.close()
    assert await process.stop() == 0
    lines = process.log_lines
    assert any(line.get("path") == f"{events(WS)}/stream" for line in lines), "the log is not empty"
    assert [ticket for ticket in tickets if ticket in process.log] == []
    if database_url.startswith("sqlite:///"):
        file = database_url.removeprefix("sqlite:///")
        with open(file, "rb") as opened:  # noqa: ASYNC230, PTH123 - the server has ended
            data = opened.read()
        assert WS.encode() in data
        assert [ticket for ticket in tickets if ticket.encode() in data] == []


# ---- a browser

PAGE = """
async ([key, workspace, selection]) => {
  const answer = await fetch("/v1/tickets", {
    method: "POST",
    headers: {"Authorization": `Bearer ${key}`, "Content-Type": "application/json"},
    body: JSON.stringify({workspace, ...selection}),
  });
  const {ticket} = await answer.json();
  window.seen = [];
  window.source = new EventSource(`/v1/workspaces/${workspace}/events/stream?ticket=${ticket}`);
  window.source.addEventListener("synced", () => { window.synced = (window.synced ?? 0) + 1; });
  window.source.addEventListener("activity", (event) => window.seen.push(JSON.parse(event.data).seq));
}
"""


@on_sqlite
async def test_a_browsers_own_reconnect_resumes_exactly(api: Api, browser: Any) -> None:
    """An EventSource reconnects with the same ticket as often as necessary, and receives each event once and in order."""
    require("chromium")
    (await api.append(WS)).expect(201)
    async with proxy_to(api.url) as proxy:
        page = await browser.new_page()
        await page.goto(f"{proxy.url}/livez")
        await page.evaluate(PAGE, [ADMIN_KEY, WS, {"agent_id": "a"}])
        await page.wait_for_function("window.synced === 1")
        for number in range(2):
            (await api.append_all(WS, [{"agent_id": agent} for agent in "abab"])).expect(201)
            await page.wait_for_function(f"window.seen.length === {4 * number + 2}")
            proxy.cut()
            (await api.append_all(WS, [{"agent_id": agent} for agent in "abab"])).expect(201)
            await page.wait_for_function(f"window.seen.length === {4 * number + 4}")
        seen = await page.evaluate("window.seen")
        await page.evaluate("window.source.close()")
        await page.close()
    assert seen == [2, 4, 6, 8, 10, 12, 14, 16]
