"""Repeated requests are recognized by what the client sent, not by what this version derives from it."""

import hashlib
import re
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text

from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Answer, Api, events
from tests.support.websocket import WsReader

W = events("w")
ONE = b'{"action":"tool.used","actor":{"type":"agent","id":"a"},"details":{"a":1,"b":[{"x":1,"y":{"p":null,"q":2}}]}%b}'
OTHER_ORDER = (
    b'{"details":{"b":[{"y":{"q":2,"p":null},"x":1}],"a":1},"actor":{"id":"a","type":"agent"}%b,"action":"tool.used"}'
)
OTHER_LIST = ONE.replace(b'"b":[{"x":1', b'"b":[{"x":2')
OTHER_NUMBER = ONE.replace(b'"a":1', b'"a":1.0')
ID = b',"id":"mine"'


async def send(api: Api, data: bytes, **headers: str) -> Answer:
    """Append an event as written."""
    return await api.request("POST", W, data=data, headers=headers)


async def change(database: Database, statement: str, **values: object) -> None:
    """Run a statement."""
    await database.write(lambda connection: connection.execute(text(statement), values))


async def test_the_order_of_keys_does_not_matter(api: Api) -> None:
    """An event with reordered keys at any depth is the same, by id and by Idempotency-Key, also over a socket."""
    first = await send(api, ONE % ID)
    first.expect(201)
    keyed = await send(api, ONE % b"", **{"Idempotency-Key": "k"})
    keyed.expect(201)
    again = await send(api, OTHER_ORDER % ID)
    assert (again.status, again.body) == (200, first.body)
    again = await send(api, OTHER_ORDER % b"", **{"Idempotency-Key": "k"})
    assert (again.status, again.body) == (200, keyed.body)
    again = await send(api, b"[%b,%b]" % (OTHER_ORDER % ID, ONE % b',"id":"new"'))
    assert [event["seq"] for event in again.expect(201)["events"]] == [1, 3]
    for other in (OTHER_LIST, OTHER_NUMBER):
        assert (await send(api, other % ID)).error == "id_conflict"
        assert (await send(api, other % b"", **{"Idempotency-Key": "k"})).error == "idempotency_conflict"
    async with await WsReader.open(api.url + "/v1/ws", headers=api.headers) as socket:
        await socket.send_frame(1, b'{"type":"publish","workspace":"w","event":%b}' % (OTHER_ORDER % ID))
        assert (await socket.next("published"))["events"] == [{"id": "mine", "seq": 1}]


@pytest.mark.parametrize(
    "changed",
    [{"redact_names": ("visa",)}, {"keep_names": ("token",)}, {"audit_actions": ("tool.used",)}],
    ids=["redacted", "kept", "audited"],
)
async def test_other_rules_make_no_other_event(
    make_server: MakeServer, http: aiohttp.ClientSession, changed: dict[str, Any]
) -> None:
    """After a change of rules, a repeated event gets the stored response, and different content is still a conflict."""
    before = Api(http, (await make_server()).url, ADMIN_KEY)
    event: dict[str, Any] = {
        "action": "tool.used",
        "actor": {"type": "agent", "id": "a"},
        "details": {"visa": "5f3a", "token": "q7Zk9aB3dE5gH7jK"},
    }
    key = {"Idempotency-Key": "k"}
    first = await before.post(W, event | {"id": "mine"})
    keyed = await before.post(W, event, headers=key)
    after = Api(http, (await make_server(**changed)).url, ADMIN_KEY)
    again = await after.post(W, event | {"id": "mine"})
    assert (first.status, again.status, again.body) == (201, 200, first.body)
    again = await after.post(W, event, headers=key)
    assert (keyed.status, again.status, again.body) == (201, 200, keyed.body)
    # Different secrets have the same replacement, but make different events.
    other = event | {"details": event["details"] | {"token": "other9aB3dE5gH7jK"}}
    assert (await after.post(W, other | {"id": "mine", "run_id": "r"})).error == "id_conflict"
    assert (await after.post(W, other, headers=key)).error == "idempotency_conflict"


async def test_what_an_older_version_stored(api: Api, database: Database) -> None:
    """Events and keys stored without a fingerprint are recognized by their stored content."""
    first = await send(api, ONE % ID)
    keyed = await send(api, ONE % b"", **{"Idempotency-Key": "k"})
    body = re.fullmatch(rb'\{"id":"[^"]*","seq":\d+,(.*)"timestamp":"[^"]*",(.*)', keyed.body)
    assert body is not None
    old = hashlib.sha256(b"\0" + body[1] + body[2]).hexdigest()
    await change(database, "UPDATE events SET fingerprint = NULL")
    await change(database, "UPDATE idempotency SET fingerprint = :old", old=old)
    for data in (ONE, OTHER_ORDER):
        again = await send(api, data % ID)
        assert (again.status, again.body) == (200, first.body)
    again = await send(api, ONE % b"", **{"Idempotency-Key": "k"})
    assert (again.status, again.body) == (200, keyed.body)
    assert (await send(api, OTHER_LIST % ID)).error == "id_conflict"
    assert (await send(api, OTHER_LIST % b"", **{"Idempotency-Key": "k"})).error == "idempotency_conflict"
