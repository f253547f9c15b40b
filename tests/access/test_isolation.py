"""Isolation: on every route, callers learn nothing about workspaces without a grant, and lose access when a grant is withdrawn.

The tests are generated from the route table. A new route, parameter, header or body needs a value here; without one, a
test fails.
"""

import asyncio
import contextlib
import hmac
import itertools
import json
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Engine, event

from streamer.access.authorize import COOKIE
from streamer.access.keys import hash_secret
from streamer.access.principal import READ_OWN, ROLES, SCOPES
from streamer.app import Server
from streamer.core.filter import FILTER_FIELDS
from streamer.http.native.routes import ROUTES
from streamer.http.operation import Operation
from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Answer, Api, events, make_event
from tests.support.issuer import Issuer, issuer_key
from tests.support.keys import store_key
from tests.support.raw import RawConnection, request_head
from tests.support.readers import BEGINNING, CONNECTED, KINDS, SSE, WEBSOCKET, Ended, Kind, Reader, Refused
from tests.support.sse import StreamEnded
from tests.support.tokens import SECRET, join, person
from tests.support.waiting import SECONDS, eventually
from tests.support.websocket import UPGRADE, open_socket

MINE, THEIRS, NOWHERE = "mine", "theirs", "nowhere"
MARK = "zq7Marker"
"""A text in everything of the foreign workspace that could be exposed, and in no request."""
GUARDED = [route for route in ROUTES if not route.access.public]

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


@dataclass(frozen=True)
class Things:
    """The contents of a workspace by name: existing ones or possible ones."""

    event: str
    audit_event: str
    key: str
    user: str
    cursor: str
    position: str
    timestamp: str
    ticket: str
    idempotency: str
    org: str
    entity: str
    actor: str


MADE_UP = Things(
    event="no-such-event",
    audit_event="0193a7c0-0000-7000-8000-000000000000",
    key="key_0123456789abcdef",
    user="owner-of-none",
    cursor="ZC5hYmNkZWZnaGlqLjIuLi4zLg",
    position="abcdefghij.2",
    timestamp="2026-11-21T06:22:04Z",
    ticket="stk_" + "a" * 43,
    idempotency="no-such-request",
    org="no-such-org",
    entity="no-such-entity",
    actor="no-such-actor",
)


class Witness(Api):
    """An API that keeps every byte of its responses."""

    seen: list[bytes]

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request and keep the response. An endless response is an error."""
        async with asyncio.timeout(SECONDS):
            answer = await super().request(method, path, **options)
        self.seen.append(repr(sorted(answer.headers.items())).encode() + answer.body)
        return answer


def witness(api: Api, key: str | None, seen: list[bytes]) -> Witness:
    """Return the API with a credential; its responses are collected in `seen`."""
    made = Witness(api._session, api.url, key)
    made.seen = seen
    return made


@dataclass
class World:
    """Two workspaces with the same kinds of things, the admin, and callers without a grant in `theirs`."""

    admin: Api
    theirs: Things
    mine: Things
    strangers: dict[str, Witness]
    seen: list[bytes]
    """All responses to the strangers."""

    async def state(self) -> Any:
        """Return the whole contents of the foreign workspace."""
        path = f"/v1/workspaces/{THEIRS}"
        found = [(await self.admin.get(path + part)).expect(200) for part in ("", "/keys", "/members")]
        listed = (await self.admin.get("/v1/workspaces")).expect(200)["workspaces"]
        return [*found, await self.admin.history(THEIRS), [workspace["id"] for workspace in listed]]


async def furnish(api: Api, workspace: str, mark: str) -> Things:
    """Fill a workspace with one of everything."""
    base = f"/v1/workspaces/{workspace}"
    (await api.put(base, {"name": mark, "org_id": f"org-{workspace}", "settings": {"note": mark}})).expect(201)
    made = (await api.post(f"{base}/keys", {"name": mark, "template": "read_only"})).expect(201)
    for role in ROLES:
        await join(api, workspace, f"{role}-of-{workspace}", role)
    stored = make_event(
        id=f"event-of-{workspace}", actor={"type": "agent", "id": f"agent-of-{workspace}", "name": mark},
        entity={"type": "issue", "id": f"issue-of-{workspace}", "name": mark}, description=mark, details={"note": mark},
    )  # fmt: skip
    headers = {"Idempotency-Key": f"request-of-{workspace}"}
    (await api.post(events(workspace), stored, headers=headers)).expect(201)
    (await api.append_all(workspace, [{"description": mark}] * 3)).expect(201)
    page = (await api.get(events(workspace), limit=2)).expect(200)
    told = (await api.get(events(workspace), action="member.added", limit=1)).expect(200)["events"][0]
    ticket = (await api.post("/v1/tickets", {"workspace": workspace})).expect(201)["ticket"]
    return Things(
        event=f"event-of-{workspace}",
        audit_event=told["id"],
        key=made["id"],
        user=f"owner-of-{workspace}",
        cursor=page["cursor"],
        position=page["position"],
        timestamp=told["timestamp"],
        ticket=ticket,
        idempotency=f"request-of-{workspace}",
        org=f"org-{workspace}",
        entity=f"issue-of-{workspace}",
        actor=f"agent-of-{workspace}",
    )


@pytest.fixture
async def world(api: Api) -> World:
    """Create two furnished workspaces, and every kind of caller that may use only one of them."""
    mine, theirs = await furnish(api, MINE, "plain"), await furnish(api, THEIRS, MARK)
    everything = list(SCOPES)
    keys = {
        "a key": await api.create_key(MINE, scopes=everything),
        "a key that reads its own": await api.create_key(MINE, scopes=[READ_OWN, "audit:read:own"]),
        "an agent's key": await api.create_key(
            MINE, scopes=everything, actor={"type": "agent", "id": "agent-of-theirs"}
        ),
        "a key that acts as their owner": await api.create_key(
            MINE, scopes=everything, actor={"type": "user", "id": "owner-of-theirs"}
        ),
        **{f"a {role}": person(api, f"{role}-of-{MINE}").key for role in ROLES},
        "a person with grants elsewhere": person(api, "pat", grants={MINE: everything, "elsewhere": everything}).key,
        "a person who reads their own": person(api, "pat", grants={MINE: [READ_OWN]}).key,
        "a person with no grant": person(api, "pat").key,
        "a person whose grants are alike": person(
            api, "pat", grants=dict.fromkeys(("their", "theirs2", "THEIRS", "theirs.", "~theirs"), everything)
        ).key,
    }  # fmt: skip
    seen: list[bytes] = []
    return World(api, theirs, mine, {name: witness(api, key, seen) for name, key in keys.items()}, seen)


# ---- requests, made from the route table


def path_of(route: Operation, workspace: str, things: Things) -> str:
    """Return a path of the route."""
    identity = things.key if "/keys/" in route.path else things.event
    return route.path.format(ws=workspace, id=identity, user=things.user, type="issue", entity=things.entity)


def values(name: str, things: Things) -> Any:
    """Return possible values of a parameter, including a foreign id where it accepts one."""
    return {
        "order": "asc",
        "limit": "1",
        "cursor": things.cursor,
        "after": things.position,
        "before": things.position,
        "wait": "0.001",
        "ticket": things.ticket,
        "lastEventId": things.position,
        "org_id": things.org,
        "category": "audit",
        "action": "member.*",
        "actor_type": "agent",
        "actor_id": things.actor,
        "entity_type": "issue",
        "entity_id": things.entity,
        "agent_id": things.actor,
        "run_id": things.event,
        "task_id": things.event,
        "q": things.entity,
    }[name]


def header(name: str, things: Things) -> str:
    """Return a valid value of a header."""
    return {"Idempotency-Key": things.idempotency, "Last-Event-ID": things.position}[name]


def body(route: Operation, workspace: str, things: Things) -> Any:
    """Return a valid body."""
    return {
        "append_events": make_event(id=things.event),
        "create_ticket": {"workspace": workspace, "entity_id": things.entity},
        "put_workspace": {"name": "taken", "org_id": things.org},
        "put_member": {"role": "owner"},
        "create_key": {"name": "taken", "template": "full_access"},
        "sign_in": {"code": "x"},
    }[route.operation]


def requests_of(route: Operation, workspace: str, things: Things) -> Iterator[dict[str, Any]]:
    """Return valid and invalid requests to a route that name these things wherever it accepts a name."""
    path = path_of(route, workspace, things)
    right = {"body": body(route, workspace, things)} if route.body is not None else {}
    plain = {"method": route.method, "path": path}
    yield plain | right
    if route.method == "GET":
        yield plain | {"headers": UPGRADE}
        if not route.streams:
            yield plain | {"method": "HEAD"}
    is_list_of_ids = "cursor" not in route.query and not route.streams
    for name in route.query:
        if name != "ticket":  # it is a credential, and has a test of its own
            value = things.user if name == "after" and is_list_of_ids else values(name, things)
            yield plain | right | {"params": {name: value}}
    if "wait" in route.query:
        yield plain | {"params": {"after": things.position, "wait": "0.001"}}
        yield plain | {"params": {"after": things.timestamp, "wait": "0.001"}}
    for name in route.headers:
        yield plain | right | {"headers": {name: header(name, things)}}
    yield plain | right | {"params": {"bogus": things.event, "limit": "x"}}
    yield plain | {"data": b"\xff{", "headers": {"Content-Type": "text/nonsense"}}
    if route.body is not None:
        yield plain | {"data": b"{}"}
        yield plain | {"body": {**right["body"], "bogus": 1}}


async def said(caller: Api, request: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    """Return a response without its request id and time."""
    answer = await caller.request(**request)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    del headers["date"], headers["x-request-id"]
    content = json.loads(answer.body) if answer.body else None
    if isinstance(content, dict) and "error" in content:
        assert content["error"].pop("request_id") == answer.headers["X-Request-Id"]
    return answer.status, headers, content


# ---- all routes


def test_the_walk_has_a_value_for_everything() -> None:
    """Each route is tested, and each parameter, header and body has a value. A new one without a value fails here."""
    for route in GUARDED:
        assert list(requests_of(route, MINE, MADE_UP)), route
        values("after", MADE_UP)
    without_workspace = {route.operation for route in GUARDED if "{ws}" not in route.path}
    assert without_workspace == {
        *{"open_shared_socket", "create_ticket"},  # the messages, and the bodies, below
        *{"list_workspaces", "get_session"},  # test_the_list_of_workspaces
        *{"sign_out", "metrics", "list_nodes"},  # contain nothing about a workspace
    }
    public = {route.operation for route in ROUTES if route.access.public}
    assert public == {"sign_in", "livez", "readyz", "openapi", "page", "static_file"}  # know of no workspace


async def test_every_route_to_a_foreign_workspace(world: World) -> None:
    """Every request to a foreign workspace gets the same 404, whether its target exists or not, and has no effect."""
    before = await world.state()
    count = 0
    for route in GUARDED:
        if "{ws}" not in route.path and route.operation != "create_ticket":
            continue
        asked = [
            requests_of(route, workspace, things)
            for workspace in (THEIRS, NOWHERE)
            for things in (world.theirs, MADE_UP)
        ]
        for alike in zip(*asked, strict=True):
            for name, caller in world.strangers.items():
                answers = [await said(caller, request) for request in alike]
                count += len(answers)
                assert all(answer == answers[0] for answer in answers), (route.operation, name, alike, answers)
                status, _, content = answers[0]
                if route.operation == "create_ticket" and status in {400, 415}:
                    continue  # the body names the workspace, so it is read first
                assert status == 404, (route.operation, name, alike[0], answers[0])
                assert content is None or content["error"]["code"] == "workspace_not_found"
    assert count > 4000, "too few requests"
    assert await world.state() == before
    assert MARK.encode() not in b"".join(world.seen)
    # Control: with a grant, the same requests return data.
    shown = witness(world.admin, ADMIN_KEY, [])
    for route in GUARDED:
        if route.method == "GET" and "{ws}" in route.path and not route.streams:
            await shown.request("GET", path_of(route, THEIRS, world.theirs))
    assert sum(MARK.encode() in answer for answer in shown.seen) >= 4


async def test_foreign_things_at_home(world: World) -> None:
    """In the caller's own workspace, foreign ids, cursors, positions and filters behave like made-up ones."""
    before = await world.state()
    made_up_things = replace(MADE_UP, timestamp=world.theirs.timestamp)  # a time belongs to nobody
    for name in ("a owner", "a key", "a key that acts as their owner"):
        caller = world.strangers[name]
        for route in GUARDED:
            if route.method in {"GET", "DELETE"} and "{ws}" in route.path and not route.streams:
                if route.operation == "delete_workspace":
                    continue
                both = [requests_of(route, MINE, things) for things in (world.theirs, made_up_things)]
                for foreign, made_up in zip(*both, strict=True):
                    answers = [await said(caller, request) for request in (foreign, made_up)]
                    assert answers[0] == answers[1], (route.operation, name, foreign)
                if "{id}" in route.path or "{user}" in route.path:
                    assert answers[0][0] in {400, 404}, route.operation
    owner = world.strangers["a key"]
    (await owner.post(events(MINE), make_event(id=world.theirs.event, action="other.content"))).expect(201)
    # The server's own ids belong to nobody, whether they exist or not.
    for own_id in (world.theirs.audit_event, "streamer:made-up"):
        assert (await owner.post(events(MINE), make_event(id=own_id))).error == "validation_error"
    headers = {"Idempotency-Key": world.theirs.idempotency}
    (await owner.post(events(MINE), make_event(action="other.content"), headers=headers)).expect(201)
    (await owner.put(f"/v1/workspaces/{MINE}/members/{world.theirs.user}", {"role": "viewer"})).expect(201)
    (await owner.delete(f"/v1/workspaces/{MINE}/members/{world.theirs.user}")).expect(204)
    for position in (world.theirs.position, MADE_UP.position):
        async with await owner.stream(MINE, last_event_id=position) as stream:
            assert (await stream.next("gap")).json["reason"] == "reset"
            await stream.next("synced")
            world.seen.append(stream.raw)
    assert await world.state() == before
    assert MARK.encode() not in b"".join(world.seen)


async def test_the_list_of_workspaces(world: World) -> None:
    """The list of workspaces contains only the caller's own, and the session describes the caller only."""
    for name, caller in world.strangers.items():
        full = (await caller.get("/v1/workspaces")).expect(200)["workspaces"]
        assert {found["id"] for found in full} <= {MINE}, name
        for params in ({"org_id": world.theirs.org}, {"after": MINE}, {"after": THEIRS}, {"org_id": MADE_UP.org}):
            assert (await caller.get("/v1/workspaces", **params)).expect(200) == {"workspaces": []}, (name, params)
        who = (await caller.get("/v1/session")).expect(200)
        assert not {THEIRS, "*"} & {*who["grants"], *who["roles"]}, name
        assert (await caller.get("/metrics")).error == "permission_denied"
    assert MARK.encode() not in b"".join(world.seen)


async def test_messages_about_a_foreign_workspace(world: World) -> None:
    """On a socket, every message about a foreign workspace gets the same error as for a missing workspace."""
    before = await world.state()
    for name, caller in world.strangers.items():
        for place in (None, MINE):
            if place and name in {"a person with no grant", "a person whose grants are alike"}:
                continue
            async with await open_socket(caller, place) as socket:
                assert socket.status == 101, name
                if place:
                    await socket.next("synced")
                for message in messages(world):
                    if "grants are alike" in name and message.get("workspace") not in {THEIRS, NOWHERE}:
                        continue
                    both = [message | {"workspace": workspace} for workspace in (THEIRS, NOWHERE)]
                    answers = [await socket.ask(one, "published", "synced") for one in both]
                    assert answers[0] == answers[1], (name, message)
                    assert answers[0]["type"] == "error", (name, message)
                    code = answers[0]["error"]["code"]
                    expected = {"validation_error"} if place else {"workspace_not_found", "validation_error"}
                    assert code in expected, (name, message, answers)
                    if not place and "bogus" not in message:
                        assert code == "workspace_not_found", (name, message, answers)
                await socket.send({"type": "unsubscribe", "sub": "x"})  # none of them was created
                assert (await socket.next("error"))["error"]["details"]["fields"] == {
                    "sub": "there is no such subscription on this socket"
                }
                world.seen.append(json.dumps(socket.messages).encode())
    assert await world.state() == before
    assert MARK.encode() not in b"".join(world.seen)


def messages(world: World) -> Iterator[dict[str, Any]]:
    """Return messages that need a workspace, without it."""
    subscribe = {"type": "subscribe", "sub": "x"}
    yield subscribe
    for after in (world.theirs.position, world.theirs.timestamp, MADE_UP.position, BEGINNING):
        yield subscribe | {"after": after}
    for name in FILTER_FIELDS:
        yield subscribe | {name: values(name, world.theirs)}
    yield subscribe | {"bogus": "x"}
    stored = make_event(id=world.theirs.event)
    yield {"type": "publish", "event": stored}
    yield {"type": "publish", "events": [stored]}
    yield {"type": "publish", "event": stored, "idempotency_key": world.theirs.idempotency}
    yield {"type": "publish", "event": {"bogus": 1}}
    yield {"type": "publish"}


async def test_a_ticket_opens_its_workspace_only(world: World) -> None:
    """A ticket is no grant in other workspaces and is not used up there. On other routes, it is not a credential."""
    nobody = witness(world.admin, None, world.seen)
    for route in GUARDED:
        if route.access.ticket:
            for headers in ({}, UPGRADE, {"Last-Event-ID": world.theirs.position}):
                asked = [
                    {"method": "GET", "path": path_of(route, workspace, things), "headers": headers}
                    | {"params": {"ticket": world.mine.ticket, "after": things.position}}
                    for workspace in (THEIRS, NOWHERE)
                    for things in (world.theirs, MADE_UP)
                ]
                answers = [await said(nobody, request) for request in asked]
                assert all(answer == answers[0] for answer in answers), (route.operation, answers)
                assert (answers[0][0], answers[0][2]["error"]["code"]) == (404, "workspace_not_found")
        else:
            for place in (
                {"params": {"ticket": world.mine.ticket}},
                {"headers": {"Authorization": f"Bearer {world.mine.ticket}"}},
            ):
                answer = await nobody.request(route.method, path_of(route, MINE, world.mine), **place)
                assert answer.status == 401, route.operation
    async with await nobody.stream(MINE, ticket=world.mine.ticket) as stream:
        assert stream.status == 200
    assert MARK.encode() not in b"".join(world.seen)


@on_sqlite
async def test_what_is_not_ones_own_is_not_there(world: World) -> None:
    """For a caller limited to its own events, others' events of the same workspace do not exist."""
    grants = {THEIRS: [READ_OWN, "audit:read:own"]}
    own = witness(world.admin, person(world.admin, "own", grants=grants).key, [])
    for things in (world.theirs, MADE_UP):
        for event_id in (things.event, things.audit_event):
            answer = await own.get(f"{events(THEIRS)}/{event_id}")
            assert (answer.status, answer.error) == (404, "event_not_found")
    for name in FILTER_FIELDS:
        page = (await own.get(events(THEIRS), **{name: values(name, world.theirs)})).expect(200)
        assert {found["action"] for found in page["events"]} <= {"audit.read"}, name
    (await world.admin.append(THEIRS, id="for-own", actor={"type": "user", "id": "own"})).expect(201)
    page = (await own.get(events(THEIRS), after=world.theirs.position)).expect(200)
    assert "for-own" in {found["id"] for found in page["events"]}
    assert {found["actor"]["id"] for found in page["events"]} == {"own"}
    assert (await own.get(f"/v1/workspaces/{THEIRS}/keys")).error == "permission_denied"


# ---- no queries


@contextlib.contextmanager
def statements() -> Iterator[list[tuple[str, str]]]:
    """Record the statements that this process sends to the databases."""
    asked: list[tuple[str, str]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, repr(parameters)))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_a_refusal_asks_nothing_of_the_workspace(server: Server, world: World) -> None:
    """A refused request runs the same statements whether the workspace exists or not, so its timing discloses nothing."""
    for name in {*server.loops.names()} - {"writer"}:  # so that all statements are the request's
        await server.loops.stop(name)
    for route in GUARDED:
        if "{ws}" not in route.path and route.operation != "create_ticket":
            continue
        for name, caller in world.strangers.items():
            made = []
            for workspace, things in ((THEIRS, world.theirs), (NOWHERE, MADE_UP)):
                request = next(requests_of(route, workspace, things))
                server.keyring.forget()  # so that each request looks up the credential
                with statements() as asked:
                    assert (await caller.request(**request)).status == 404
                assert not any(text in parameters for _, parameters in asked for text in (workspace, things.event))
                made.append([statement for statement, _ in asked if "FROM" in statement])
            assert made[0] == made[1], (route.operation, name)
            assert len(made[0]) == 1, (route.operation, name, made)  # the credential, or the person's roles
    with statements() as asked:  # the recording works
        (await world.admin.get(events(THEIRS))).expect(200)
    assert any(THEIRS in parameters for _, parameters in asked)


# ---- credentials

ISSUER, AUDIENCE = "https://issuer.example", "streamer"
OLD, NEW, UNPUBLISHED = issuer_key("RS256", "old", 1), issuer_key("RS256", "new", 2), issuer_key("RS256", "new", 3)


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of an owner's token; None removes a claim."""
    now = int(time.time())
    said = {"sub": "ann", "iat": now, "exp": now + 600, "iss": ISSUER, "aud": AUDIENCE} | changes
    return {name: value for name, value in said.items() if value is not None}


def encoded(value: bytes | object) -> str:
    """Encode bytes, or a value as JSON, in base64url."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: object, payload: object, secret: bytes | None = None) -> str:
    """Create a token that no library would create, signed with HS256 or unsigned."""
    text = f"{encoded(header)}.{encoded(payload)}"
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), 'sha256')) if secret is not None else ''}"


def forged_tokens() -> Iterator[tuple[str, str]]:
    """Return invalid tokens, by what is wrong with them."""
    good = jwt.encode(claims(), SECRET, "HS256")
    head, payload, signature = good.split(".")
    for alg in ("none", "None", "NONE", "nOnE", "", None):
        yield f"alg {alg!r}", by_hand({"alg": alg, "typ": "JWT", "kid": "new"}, claims())
        yield f"alg {alg!r}, signed", f"{encoded({'alg': alg})}.{payload}.{signature}"
    pem = NEW.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = NEW.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for name, secret in {"PEM": pem, "DER": der, "JWK": json.dumps(NEW.jwk).encode(), "nothing": b""}.items():
        yield f"HS256 by the public key as {name}", by_hand({"alg": "HS256", "kid": "new"}, claims(), secret)
    yield "another secret", jwt.encode(claims(), SECRET + "!", "HS256")
    yield "a key that is not published", UNPUBLISHED.sign(claims())
    yield "a key that is published no more", OLD.sign(claims())
    yield "no signature", f"{head}.{payload}."
    yield "another payload", f"{head}.{encoded(claims(sub='owner'))}.{signature}"
    for changes in (
        {"aud": "another"}, {"aud": ["another"]}, {"aud": None}, {"iss": "https://another.example"}, {"iss": None},
        {"exp": int(time.time()) - 60}, {"exp": None}, {"nbf": int(time.time()) + 600}, {"iat": int(time.time()) + 600},
        {"sub": None}, {"sub": ""}, {"grants": {"w": ["admin", "owner"]}},
    ):  # fmt: skip
        for key in (None, NEW):
            token = jwt.encode(claims(**changes), SECRET, "HS256") if key is None else key.sign(claims(**changes))
            yield f"{changes} by {'the secret' if key is None else 'the issuer'}", token
    for cut in (1, 2, len(signature), len(signature) + 1, len(signature) + 2, len(good) // 2, len(good) - 4):
        yield f"{cut} characters less", good[:-cut]
    for place in (3, len(head) + 5, len(good) - 5):
        yield f"another character at {place}", good[:place] + ("A" if good[place] != "A" else "B") + good[place + 1 :]


def forged_keys(key: str) -> Iterator[tuple[str, str]]:
    """Return texts that resemble a key."""
    for cut in (1, 2, 10, len(key) - 3, len(key) - 4):
        yield f"a key, {cut} characters less", key[:-cut]
    for place in (0, 3, 20, len(key) - 1):
        yield (
            f"a key, another character at {place}",
            key[:place] + ("A" if key[place] != "A" else "B") + key[place + 1 :],
        )
    yield "its hash", hash_secret(key)
    yield "its other case", key.swapcase()
    yield "one more", key + "A"


async def test_every_route_with_a_bad_credential(
    make_server: MakeServer, http: aiohttp.ClientSession, database: Database
) -> None:
    """On each route, an invalid credential gets 401 with a text that depends on the credential alone."""
    async with Issuer(OLD, NEW) as issuer:
        options = {"jwt_secret": SECRET, "jwks_url": issuer.url, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
        first = Api(http, (await make_server(**options)).url, ADMIN_KEY)
        (await first.with_key(OLD.sign(claims())).get("/v1/session")).expect(200)
        issuer.keys.remove(OLD)
        server = await make_server(**options)  # accepts only current keys
        api = Api(http, server.url, ADMIN_KEY)
        things = await furnish(api, "w", MARK)
        (await api.put("/v1/workspaces/w/members/ann", {"role": "owner"})).expect(201)
        made = (await api.post("/v1/workspaces/w/keys", {"name": "x", "scopes": list(SCOPES)})).expect(201)
        revoked_id, revoked = await store_key(database, "w", SCOPES)
        (await api.delete(f"/v1/workspaces/w/keys/{revoked_id}")).expect(204)
        _, expired = await store_key(database, "w", SCOPES, expires_at=1)
        code = await server.keyring.create_sign_in()
        session = await server.keyring.sign_in(await server.keyring.create_sign_in())
        good = {"secret": jwt.encode(claims(), SECRET, "HS256"), "issuer": NEW.sign(claims()), "key": made["key"]}
        for name, credential in good.items():  # the forged tokens are variations of this
            assert (await api.with_key(credential).get(events("w"))).status == 200, name
        others = {"revoked": revoked, "expired": expired, "code": code, "session": session, "ticket": things.ticket}
        bad = [*forged_tokens(), *forged_keys(made["key"]), *others.items(), ("id", made["id"]), ("admin", "admin")]
        asked: list[tuple[str, dict[str, Any]]] = [("none", {})]
        asked += [(name, {"headers": {"Authorization": f"Bearer {text}"}}) for name, text in bad]
        asked += [
            (f"{name} as ?{parameter}=", {"params": {parameter: text}})
            for parameter in ("token", "access_token", "jwt", "key", "api_key", "authorization")
            for name, text in good.items()
        ]
        asked += [(f"{name} as a cookie", {"headers": {"Cookie": f"{COOKIE}={text}"}}) for name, text in good.items()]
        asked += [(f"{name} as a ticket", {"params": {"ticket": text}}) for name, text in good.items()]
        nobody, seen = witness(api, None, []), dict[str, set[str]]()
        before = await api.history("w")
        for route in GUARDED:
            for name, sent in asked:
                for workspace, these in (("w", things), (NOWHERE, MADE_UP)):
                    headers = sent.get("headers", {}) | (UPGRADE if route.operation.endswith("socket") else {})
                    request = {"method": route.method, "path": path_of(route, workspace, these), **sent}
                    answer = await nobody.request(**request | {"headers": headers})
                    assert (answer.status, answer.error) == (401, "unauthenticated"), (
                        route.operation,
                        name,
                        answer.body,
                    )
                    way = "ticket" if route.access.ticket else "other"
                    seen.setdefault(f"{name} {way}", set()).add(answer.json["error"]["message"])
        assert {name for name, texts in seen.items() if len(texts) > 1} == set()
        assert await api.history("w") == before
        assert MARK.encode() not in b"".join(nobody.seen)
        assert len(set[str]().union(*seen.values())) <= 14  # a few, and one for each claim


@on_sqlite
async def test_a_credential_is_looked_at_first(server: Server, api: Api) -> None:
    """A request without a credential is refused after its head, before its body arrives and its handshake is read."""
    for route in GUARDED:
        async with await RawConnection.open(server.url) as connection:
            sent: dict[str, str | int] = {"Content-Type": "x", "Content-Length": 100, "Expect": "100-continue"}
            sent |= (
                {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "1"} if route.streams else {}
            )
            await connection.send(request_head(route.method, path_of(route, MINE, MADE_UP), sent))
            answer = await connection.answer()
            assert (answer.status, answer.error) == (401, "unauthenticated"), route.operation
            assert "sec-websocket-version" not in answer.headers


# ---- concurrent clients

WAYS = ("asking", *(kind.name for kind in CONNECTED))
HELD = 100
"""Readers that a crowd keeps open before the access ends."""


class Crowd:
    """Clients that send requests and open streams at a node, with a credential that is about to end."""

    def __init__(self, api: Api, name: str, refusal: str) -> None:
        self._api = api
        self.name = name
        self._refusal = refusal
        """The error code after the end of access; a workspace that is about to be recreated is refused for another reason."""
        self.has_ended = self.is_ending = self.is_over = False
        """`has_ended`: from now on, nothing new may be accepted."""
        self.let_in: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """Number of attempts by route."""
        self.wrong: list[str] = []
        """What was accepted although it started after the end."""
        self.readers: list[asyncio.Task[list[Any]]] = []
        self._tasks = [asyncio.create_task(self._ask(n)) for n in range(6)]
        self._tasks += [asyncio.create_task(self._open(kind)) for kind in CONNECTED for _ in range(3)]

    async def until(self, condition: Callable[["Crowd"], bool]) -> None:
        """Wait until the crowd fulfils the condition."""
        await eventually(lambda: condition(self))

    async def stop(self) -> None:
        """Stop after pending requests have a response."""
        self.is_over = True
        await asyncio.gather(*self._tasks)

    def _note(self, way: str, refusal: str | None, *, after: bool) -> None:
        if refusal is None:
            self.let_in[way] += 1
            self.wrong += [way] if after else []
        elif refusal == self._refusal:
            self.refused[way] += 1

    async def _ask(self, number: int) -> None:
        while not self.is_over:
            after = self.has_ended
            if number % 2:
                answer = await self._api.append("w", actor={"type": "user", "id": "crowd"}, task_id=self.name)
            else:
                answer = await self._api.get(events("w"))
            self._note("asking", None if answer.status < 300 else answer.error, after=after)

    async def _open(self, kind: Kind) -> None:
        while not self.is_over:
            after = self.has_ended
            try:
                reader = await kind.open(self._api, "w")
            except Refused as refused:
                self._note(kind.name, refused.code, after=after)
                continue
            begun = asyncio.Event()
            following = asyncio.create_task(self._follow(reader, begun))
            await asyncio.wait([following, asyncio.create_task(begun.wait())], return_when=asyncio.FIRST_COMPLETED)
            refusal = following.exception() if following.done() else None
            self._note(kind.name, refusal.code if isinstance(refusal, Refused) else None, after=after)
            if refusal is not None:
                continue
            if self.is_ending or len(self.readers) < HELD:
                self.readers.append(following)
            else:
                following.cancel()

    @staticmethod
    async def _follow(reader: Reader, begun: asyncio.Event) -> list[Any]:
        """Return what a reader receives until the server ends it. Raises Refused if it is not accepted."""
        found: list[Any] = []
        try:
            found += await reader.synced()
            begun.set()
            while True:
                found += await reader.some()
        except Ended:
            return found
        finally:
            reader.close()


def has_refused(counts: dict[str, int], crowd: Crowd) -> bool:
    """Check that this many requests of a crowd were refused."""
    return all(crowd.refused[way] > count for way, count in counts.items())


async def revoke(admin: Api) -> None:
    """Revoke the workspace's key."""
    (key,) = (await admin.get("/v1/workspaces/w/keys")).expect(200)["keys"]
    (await admin.delete(f"/v1/workspaces/w/keys/{key['id']}")).expect(204)


async def remove(admin: Api) -> None:
    """Remove the member."""
    (await admin.delete("/v1/workspaces/w/members/crowd")).expect(204)


async def create_again(admin: Api) -> None:
    """Delete the workspace and let somebody else create one with the same id."""
    (await admin.delete("/v1/workspaces/w")).expect(204)
    other = person(admin, "somebody else", grants={"*": ["admin"]})
    (await other.put("/v1/workspaces/w", {"name": "another"})).expect(201)


@pytest.mark.parametrize("end", [revoke, remove, create_again])
async def test_a_crowd_at_the_moment_of_the_end(
    make_server: MakeServer, http: aiohttp.ClientSession, end: Callable[[Api], Awaitable[None]]
) -> None:
    """When access ends amid many requests and streams on two nodes, later ones are refused and readers get no later events."""
    admin, other = [Api(http, (await make_server(jwt_secret=SECRET)).url, ADMIN_KEY) for _ in range(2)]
    (await admin.put("/v1/workspaces/w")).expect(201)
    if end is remove:
        key = (await join(admin, "w", "crowd", "member")).key
    else:
        key = await admin.create_key("w", actor={"type": "user", "id": "crowd"})
    refusal = "workspace_not_found" if end is remove else "unauthenticated"
    here, there = Crowd(admin.with_key(key), "here", refusal), Crowd(other.with_key(key), "there", refusal)
    for crowd in (here, there):
        await crowd.until(lambda crowd: all(crowd.let_in[way] > 10 for way in WAYS))
        crowd.is_ending = True
    await end(admin)
    here.has_ended = True
    (await admin.append("w", id="too-late")).expect(201)
    # The other node takes up to two seconds. A refusal is final.
    for crowd in (here, there):
        await crowd.until(lambda crowd: all(crowd.refused[way] for way in WAYS))
        crowd.has_ended = True
    for crowd in (here, there):
        enough = {way: crowd.refused[way] + 10 for way in WAYS}
        await crowd.until(partial(has_refused, enough))
        await crowd.stop()
        assert Counter(crowd.wrong) == {}, (crowd.name, crowd.let_in, crowd.refused)
        async with asyncio.timeout(SECONDS):
            read = await asyncio.gather(*crowd.readers)
        if crowd is here:
            assert not [found for found in itertools.chain(*read) if found["id"] == "too-late"]
    if end is create_again:
        assert not await admin.history("w", task_id="here")


@pytest.mark.parametrize("end", [revoke, remove, create_again])
async def test_a_body_that_comes_after_the_end(server: Server, api: Api, end: Callable[[Api], Awaitable[None]]) -> None:
    """If access ends after the head and before the body of an append, nothing is stored."""
    (await api.put("/v1/workspaces/w")).expect(201)
    await join(api, "w", "ann", "owner")
    caller = (
        await join(api, "w", "crowd", "owner")
        if end is remove
        else api.with_key(await api.create_key("w", scopes=list(SCOPES)))
    )
    attempts = {
        ("POST", events("w")): make_event(id="too-late", actor={"type": "user", "id": "crowd"}),
        ("POST", "/v1/workspaces/w/keys"): {"name": "too-late", "template": "full_access"},
        ("PUT", "/v1/workspaces/w/members/too-late"): {"role": "viewer"},
        ("PUT", "/v1/workspaces/w"): {"name": "too-late"},
        ("POST", "/v1/tickets"): {"workspace": "w"},
    }
    async with contextlib.AsyncExitStack() as stack:
        begun = []
        for (method, path), content in attempts.items():
            connection = await stack.enter_async_context(await RawConnection.open(server.url))
            data = json.dumps(content).encode()
            sent: dict[str, str | int] = {"Content-Type": "application/json", "Content-Length": len(data)}
            await connection.send(request_head(method, path, {**caller.headers, **sent, "Expect": "100-continue"}))
            assert (await connection.answer(has_body=False)).status == 100  # access was granted
            begun.append((path, connection, data))
        await end(api)
        for path, connection, data in begun:
            await connection.send(data)
            answer = await connection.answer()
            assert answer.status in {401, 403, 404}, (path, answer.body)
    assert "too-late" not in {found["id"] for found in await api.history("w")}
    assert not [
        key for key in (await api.get("/v1/workspaces/w/keys")).expect(200)["keys"] if key["name"] == "too-late"
    ]


@on_sqlite
@pytest.mark.parametrize("end", [revoke, remove, create_again])
@pytest.mark.parametrize(
    ("kind", "by"),
    [*((kind, "key") for kind in KINDS), (SSE, "ticket"), (WEBSOCKET, "ticket")],
    ids=lambda value: getattr(value, "name", value),
)
async def test_access_that_ends_while_a_stream_opens(
    server: Server, api: Api, end: Callable[[Api], Awaitable[None]], kind: Kind, by: str
) -> None:
    """If access ends between the request and the opening of the stream, the stream delivers no later event."""
    (await api.put("/v1/workspaces/w")).expect(201)
    caller = await join(api, "w", "crowd", "member") if end is remove else api.with_key(await api.create_key("w"))
    options = {}
    if by == "ticket":
        options["ticket"] = (await caller.post("/v1/tickets", {"workspace": "w"})).expect(201)["ticket"]
        caller = api.with_key(None)
    follow = server.channels.follow
    endings: list[asyncio.Task[None]] = []

    async def end_and_append() -> None:
        await end(api)
        (await api.append("w", id="too-late")).expect(201)

    async def end_and_follow(workspace: str) -> Any:
        if not endings:
            endings.append(asyncio.create_task(end_and_append()))
            await asyncio.wait(endings)
        return await follow(workspace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.channels, "follow", end_and_follow)
        with contextlib.suppress(Refused, Ended):
            reader = await kind.open(caller, "w", after="2020-01-01T00:00:00Z", **options)
            with contextlib.closing(reader):
                while True:
                    assert "too-late" not in {found["id"] for found in await reader.some()}
    await endings[0]


@on_sqlite
async def test_a_socket_that_outlives_its_key_for_a_moment(
    make_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    """On a multiplexed socket, each message uses the current credential. A recreated workspace does not accept the old key."""
    server = await make_server(jwt_secret=SECRET)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.put("/v1/workspaces/w")).expect(201)
    async with await open_socket(api.with_key(await api.create_key("w"))) as socket:
        await create_again(api)
        (await api.append("w", id="too-late")).expect(201)
        with contextlib.suppress(StreamEnded, ConnectionError):
            subscribe = {"type": "subscribe", "sub": "x", "workspace": "w", "after": "2020-01-01T00:00:00Z"}
            assert (await socket.ask(subscribe, "events", "synced"))["error"]["code"] == "unauthenticated"
            publish = {"type": "publish", "workspace": "w", "event": make_event()}
            assert (await socket.ask(publish, "published"))["error"]["code"] == "unauthenticated"
        assert await socket.closed() == (4501, "credential_revoked")
    assert {found["id"] for found in await api.history("w")} == {"too-late"}


async def test_a_ticket_for_many_at_once(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Of two hundred streams and sockets that open concurrently with one ticket on two nodes, one is accepted."""
    nodes = [Api(http, (await make_server()).url, ADMIN_KEY) for _ in range(2)]
    (await nodes[0].append("w")).expect(201)
    ticket = (await nodes[0].post("/v1/tickets", {"workspace": "w"})).expect(201)["ticket"]

    async def attempt(number: int) -> int:
        caller = nodes[number % 2].with_key(None)
        opened = await (
            caller.stream("w", ticket=ticket) if number % 4 < 2 else open_socket(caller, "w", ticket=ticket)
        )
        opened.close()
        return opened.status

    found = Counter(await asyncio.gather(*(attempt(number) for number in range(200))))
    assert found[200] + found[101] == 1
    assert found[401] == 199, found
