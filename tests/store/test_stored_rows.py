"""Requests that store rows without appending events are limited per account."""

import asyncio
from typing import Any

import aiohttp
import pytest
from sqlalchemy import func, insert, select

from streamer.store.engine.database import Database
from streamer.store.records.tickets import SWEPT
from streamer.store.schema import tickets
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Answer, Api
from tests.support.sse import SseReader
from tests.support.waiting import eventually

WS = "w"


async def start(make_server: MakeServer, http: aiohttp.ClientSession, **settings: Any) -> tuple[Api, Api]:
    """Start a server. Return the API with two keys that may only read."""
    admin = Api(http, (await make_server(**settings)).url, ADMIN_KEY)
    (await admin.append(WS)).expect(201)
    one, two = [admin.with_key(await admin.create_key(WS, scopes=["workspace:read"])) for _ in range(2)]
    return one, two


def refused(answer: Answer) -> bool:
    """Check whether a response says when to retry."""
    if answer.status == 201:
        return False
    assert (answer.status, answer.error) == (429, "rate_limited")
    assert int(answer.headers["Retry-After"]) > 0
    return True


async def ticket(api: Api) -> Answer:
    """Ask for a ticket."""
    return await api.post("/v1/tickets", {"workspace": WS})


async def stored(database: Database) -> int:
    """Return the number of stored tickets."""
    return await database.read(
        lambda connection: connection.execute(select(func.count()).select_from(tickets)).scalar_one()
    )


async def test_tickets_of_a_key_are_bounded(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database
) -> None:
    """A key that requests tickets in a loop gets 429 at its limit, stores no more, and does not affect other keys."""
    one, two = await start(make_server, http, max_tickets_per_key=5)
    answers = [refused(await ticket(one)) for _ in range(8)]
    assert answers == [False] * 5 + [True] * 3
    assert await stored(database) == 5
    assert not refused(await ticket(two))
    assert not refused(await ticket(two.with_key(ADMIN_KEY)))


async def test_an_opened_ticket_counts_until_it_is_over(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """An opened ticket counts until it expires, because it can resume its stream for hours."""
    one, _ = await start(make_server, http, max_tickets_per_key=2)
    secrets = [(await ticket(one)).expect(201)["ticket"] for _ in range(2)]
    path = f"/v1/workspaces/{WS}/events/stream"
    async with await SseReader.open(one.url + path, params={"ticket": secrets[0]}) as stream:
        await stream.next("synced")
        assert refused(await ticket(one))


async def test_the_rate_of_tickets(
    make_server: MakeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the rate, 429 says when to retry. Each key has its own rate."""
    monkeypatch.setattr("streamer.app.TICKET_BURST", 3)
    one, two = await start(make_server, http, ticket_rate=2)
    answers = await asyncio.gather(*[ticket(one) for _ in range(12)])
    assert sum(map(refused, answers)) >= 6
    assert not refused(await ticket(two))

    async def again() -> bool:
        return not refused(await ticket(one))

    await eventually(again)


async def test_old_tickets_are_swept_in_steps(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database
) -> None:
    """Each new ticket deletes a limited number of expired ones, and more than are created."""
    one, _ = await start(make_server, http)
    (await ticket(one)).expect(201)

    def copy(connection: Any) -> None:
        row = dict(connection.execute(select(tickets)).mappings().one())
        old = [{**row, "id": f"ticket_{n}", "secret_hash": f"{n}", "expires_at": 1} for n in range(2 * SWEPT + 10)]
        connection.execute(insert(tickets), old)

    await database.write(copy)
    for left in (SWEPT + 12, 13, 4, 5):
        (await ticket(one)).expect(201)
        assert await stored(database) == left


async def test_changes_of_access_count_as_appends(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Changes of keys, members and workspaces store rows and events, so they count towards the append rate."""
    api = Api(http, (await make_server(append_rate=0.01, append_burst=4)).url, ADMIN_KEY)
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    (await api.post(f"/v1/workspaces/{WS}/keys", {"name": "a", "scopes": ["workspace:read"]})).expect(201)
    (await api.put(f"/v1/workspaces/{WS}/members/ann", {"role": "viewer"})).expect(201)
    (await api.append(WS)).expect(201)
    for answer in (
        await api.put("/v1/workspaces/other"),
        await api.post(f"/v1/workspaces/{WS}/keys", {"name": "a", "scopes": ["workspace:read"]}),
        await api.put(f"/v1/workspaces/{WS}/members/bob", {"role": "viewer"}),
        await api.append(WS),
    ):
        assert refused(answer)
    assert (await api.get("/v1/workspaces/other")).status == 404
