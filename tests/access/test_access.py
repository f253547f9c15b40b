"""Access control: it is checked before anything else, its errors disclose nothing, and no secret is exposed anywhere."""

import asyncio
import json
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from streamer.access.authorize import COOKIE
from streamer.access.keys import SESSION_SECONDS, SIGN_IN_SECONDS, Keyring
from streamer.access.principal import (
    ADMIN,
    AUDIT,
    AUDIT_OWN,
    EVERYWHERE,
    OWNER,
    READ,
    READ_OWN,
    SCOPES,
    TEMPLATES,
    WEBHOOKS,
    WRITE,
    Principal,
)
from streamer.app import Server
from streamer.core.clock import format_timestamp, now_us
from streamer.core.errors import StoreUnavailable, Unauthenticated
from streamer.http.native.routes import ROUTES
from streamer.http.operation import Operation
from streamer.settings import load
from streamer.store.engine.database import Database
from streamer.store.records.credentials import Credential, Credentials
from streamer.store.records.members import Members
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer, WallClock
from tests.support.api import Answer, Api, events, make_event
from tests.support.keys import keyring_with_admin, store_key
from tests.support.raw import RawConnection, request_head
from tests.support.waiting import eventually

WORKSPACES = ("mine", "theirs", "nowhere", "%00", "system")
"""A workspace with a grant, one without, and three that do not exist."""

GUARDED = [route for route in ROUTES if not route.access.public]
OF_A_WORKSPACE = [route for route in GUARDED if "{ws}" in route.path]

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def mine(api: Api) -> Api:
    """Create a key that may do everything in the workspace `mine` and nothing in `theirs`."""
    for workspace in ("mine", "theirs"):
        (await api.append(workspace, id="some-id")).expect(201)
    return api.with_key(await api.create_key("mine", scopes=list(SCOPES)))


def path_of(route: Operation, workspace: str = "mine") -> str:
    """Return a path of the route."""
    return route.path.format(ws=workspace, id="some-id", user="ann", file="index.html", type="issue", entity="i1")


def variations() -> Iterator[dict[str, Any]]:
    """Return a valid request and requests that are invalid in every respect except access."""
    yield {}
    yield {"params": {"bogus": "1", "limit": "x"}}
    yield {"data": b"\xff{", "headers": {"Content-Type": "text/nonsense"}}
    yield {
        "data": b"[" * 10_000,
        "headers": {"Content-Encoding": "rot13", "Idempotency-Key": "a b", "Last-Event-ID": "x"},
    }


def stripped(answer: Answer) -> tuple[int, Any]:
    """Return an error without its request ID."""
    body = answer.json
    assert body["error"].pop("request_id") == answer.headers["X-Request-Id"]
    return answer.status, body


def unauthenticated(answer: Answer) -> bool:
    """Check that the response is a 401 as RFC 6750 requires it."""
    return (
        answer.status == 401
        and answer.error == "unauthenticated"
        and answer.headers["WWW-Authenticate"].startswith("Bearer ")
    )


# ---- all routes


def test_the_walk_sees_every_route() -> None:
    """The route table holds what the tests below assume: routes of both kinds, and only known public routes."""
    assert {route.operation for route in ROUTES if route.access.public} == {
        "sign_in",
        "livez",
        "readyz",
        "openapi",
        "page",
        "static_file",
    }
    assert len(OF_A_WORKSPACE) >= 10
    assert all(route.access.scope is not None for route in OF_A_WORKSPACE)
    assert {route.access.scope for route in GUARDED} == {None, READ, WRITE, ADMIN, OWNER}


async def test_without_a_valid_key(server: Server, api: Api, mine: Api, database: Database) -> None:
    """Without a valid key, every request gets the same 401, whether the key is missing, malformed, expired or revoked."""
    assert mine.key
    revoked_id, revoked = await store_key(database, "mine", SCOPES)
    (await api.delete(f"/v1/workspaces/mine/keys/{revoked_id}")).expect(204)
    _, expired = await store_key(database, "mine", SCOPES, expires_at=1)
    code = await server.keyring.create_sign_in()
    session = await server.keyring.sign_in(await server.keyring.create_sign_in())
    headers: list[dict[str, str]] = [
        {},
        *(
            {"Authorization": f"Bearer {secret}"}
            for secret in (
                *("garbage", "", " ", "sk_", "null", "x" * 5000, "é"),
                *(
                    mine.key[:-1],
                    mine.key + "x",
                    mine.key.lower(),
                    mine.key.removeprefix("sk_"),
                    f"{mine.key} {mine.key}",
                ),
                *(revoked, expired, code, session, "admin", "*"),
            )
        ),
        {"Authorization": mine.key},
        {"Authorization": f"Basic {mine.key}"},
        {"Authorization": f"Token {mine.key}"},
        {"X-Api-Key": mine.key},
        {"Cookie": f"{COOKIE}={mine.key}"},
        {"Cookie": f"{COOKIE}={code}"},
        {"Cookie": f"{COOKIE}="},
        {"Cookie": "x"},
        {"Authorization": "Bearer garbage", "Cookie": f"{COOKIE}={session}"},
    ]
    nobody = api.with_key(None)
    said: set[str] = set()
    for route in GUARDED:
        for sent in headers:
            answer = await nobody.request(route.method, path_of(route), headers=sent)
            assert unauthenticated(answer), (route.operation, sent, answer.body)
            said.add(answer.json["error"]["message"])
        for workspace in WORKSPACES:
            for options in variations():
                answer = await nobody.request(route.method, path_of(route, workspace), **options)
                assert unauthenticated(answer), (route.operation, workspace, options, answer.body)
        for name in ("key", "token", "api_key", "access_token", "ticket"):
            assert unauthenticated(await nobody.request(route.method, path_of(route), params={name: mine.key})), name
    assert len(said) <= 4, said  # nothing in them discloses what a valid key would see


async def test_public_routes_need_no_key(api: Api) -> None:
    """A public route responds without a key and with an invalid one, because it does not check keys."""
    for key in (None, "garbage"):
        for route in ROUTES:
            if route.access.public:
                answer = await api.with_key(key).request(route.method, path_of(route))
                assert answer.status in ({400, 415} if route.method == "POST" else {200}), (
                    route.operation,
                    answer.body,
                )


async def test_a_key_of_another_workspace(api: Api, mine: Api) -> None:
    """To callers without a grant in a workspace, it does not exist: they get the same 404, whatever else is wrong."""
    for route in OF_A_WORKSPACE:
        answers = [
            stripped(await mine.request(route.method, path_of(route, workspace), **sent))
            for workspace in WORKSPACES[1:]
            for sent in variations()
        ]
        assert answers[0][0] == 404
        assert answers[0][1]["error"]["code"] == "workspace_not_found"
        assert all(answer == answers[0] for answer in answers), (route.operation, answers)
    (await api.get(f"{events('theirs')}/some-id")).expect(200)
    assert [w["id"] for w in (await mine.get("/v1/workspaces")).expect(200)["workspaces"]] == ["mine"]
    assert [w["id"] for w in (await api.get("/v1/workspaces")).expect(200)["workspaces"]] == ["mine", "theirs"]


@pytest.mark.parametrize("scope", SCOPES)
async def test_each_single_scope(api: Api, mine: Api, scope: str) -> None:
    """A scope opens only its own routes, instance-wide routes included. Others respond 403 before anything else is checked."""
    assert mine.key
    caller = api.with_key(await api.create_key("mine", scopes=[scope]))
    opened = set()
    for route in GUARDED:
        needed = route.access.scope
        enough = {needed, f"{needed}:own"} | ({ADMIN} if needed != OWNER else set())
        allowed = needed is None or ("{ws}" in route.path and scope in enough)
        for sent in variations():
            if allowed:  # only access matters here, so the request must change nothing
                sent["params"] = {"bogus": "1"}
            answer = await caller.request(route.method, path_of(route), **sent)
            if allowed:
                assert (answer.status, answer.error) == (400, "validation_error"), (route.operation, sent, answer.body)
                opened.add(route.operation)
            else:
                assert (answer.status, answer.error) == (403, "permission_denied"), (route.operation, sent, answer.body)
    reading = {"list_events", "stream_events", "open_socket", "get_event", "get_workspace"}
    reading |= {"list_members", "get_member", "get_entity"}
    anyone = {"list_workspaces", "get_session", "sign_out", "open_shared_socket", "create_ticket"}
    assert (
        opened - anyone
        == {
            READ: reading,
            READ_OWN: reading,
            WRITE: {"append_events"},
            AUDIT: set(),
            AUDIT_OWN: set(),
            WEBHOOKS: set(),
            ADMIN: {route.operation for route in OF_A_WORKSPACE} - {"delete_workspace"},
        }[scope]
    )


async def test_what_each_scope_can_do(api: Api, mine: Api) -> None:
    """A reader can read, a writer can append but not read, and a workspace admin can administer that workspace only."""
    assert mine.key
    callers = {scope: api.with_key(await api.create_key("mine", scopes=[scope])) for scope in SCOPES}
    assert (await callers[WRITE].append("mine", id="written")).status == 201
    assert (await callers[WRITE].get(f"{events('mine')}/written")).status == 403
    assert (await callers[READ].get(f"{events('mine')}/written")).status == 200
    assert (await callers[READ].append("mine")).status == 403
    assert (await callers[ADMIN].put("/v1/workspaces/mine", {"name": "Mine"})).expect(200)["name"] == "Mine"
    assert (await callers[ADMIN].put("/v1/workspaces/new", {})).error == "workspace_not_found"
    assert (await callers[ADMIN].get("/metrics")).error == "permission_denied"
    for name, scopes in TEMPLATES.items():
        made = (await api.post("/v1/workspaces/mine/keys", {"name": "x", "template": name})).expect(201)
        assert set(made["scopes"]) == set(scopes)
        grants = (await api.with_key(made["key"]).get("/v1/session")).expect(200)["grants"]
        assert {workspace: set(found) for workspace, found in grants.items()} == {"mine": set(scopes)}
    assert (await callers[ADMIN].delete("/v1/workspaces/mine")).error == "permission_denied"
    assert (await api.delete("/v1/workspaces/mine")).status == 204
    assert all([unauthenticated(await caller.get("/v1/session")) for caller in callers.values()])


@on_sqlite
async def test_methods_and_paths_that_do_not_exist(api: Api) -> None:
    """An unsupported method gets 405 with the allowed methods and an unknown path gets 404, as JSON, with and without a key."""
    methods: dict[str, set[str]] = {}
    for route in ROUTES:
        found = methods.setdefault(route.path, set())
        found |= {route.method} | ({"HEAD"} if route.method == "GET" and not route.streams else set())
    for caller in (api, api.with_key(None)):
        for route in ROUTES:
            if route.streams:  # its path also matches the route for a single event
                continue
            for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - methods[route.path]:
                answer = await caller.request(method, path_of(route))
                assert answer.status == 405, (method, route.path)
                assert set(answer.headers["Allow"].split(", ")) == methods[route.path]
                assert method == "HEAD" or answer.error == "method_not_allowed"
        for path in ("/v1", "/v1/", "/v1/nothing", "/v2/workspaces", "/v1/workspaces/", "/v1/workspaces/mine/events/",
                     "/v1/workspaces/mine/events/x/y", "/v1/keys", "/static/", "/static/a/b", "/static/nothing.js",
                     "/static/%2e%2e%2fpyproject.toml", "/static/..%2f..%2fpyproject.toml", "/.git/config", "/admin.key"):  # fmt: skip
            answer = await caller.get(path)
            assert (answer.status, answer.error) == (404, "not_found"), path


async def test_head_is_get_without_a_body(server: Server, api: Api, mine: Api) -> None:
    """HEAD returns the status and headers of GET without a body, for successes and for errors."""
    assert mine.key
    varies = {"date", "x-request-id", "etag"}
    async with await RawConnection.open(server.url) as connection:
        for route in ROUTES:
            if route.method != "GET" or route.streams:
                continue
            for caller in (api, mine, api.with_key(None)):
                for query in ("", "?bogus=1"):
                    target = path_of(route) + query
                    await connection.send(request_head("GET", target, dict(caller.headers)))
                    got = await connection.answer()
                    await connection.send(request_head("HEAD", target, dict(caller.headers)))
                    head = await connection.answer(has_body=False)
                    assert head.status == got.status, target
                    ignored = varies | ({"content-length"} if route.operation == "metrics" else set())
                    assert {name: value for name, value in head.headers.items() if name not in ignored} == {
                        name: value for name, value in got.headers.items() if name not in ignored
                    }, target
        await connection.send(request_head("GET", "/livez"))  # a body after HEAD would be read as this response
        assert (await connection.answer()).json == {"status": "ok"}


@on_sqlite
async def test_headers_that_are_not_text(server: Server, api: Api) -> None:
    """Bytes that are not text are a client error in every header that the server reads."""
    (await api.append("mine")).expect(201)
    data = json.dumps(make_event()).encode()
    for name, value in (
        ("Authorization", "Bearer \xff\xfe"),
        ("Authorization", "\xff"),
        ("Cookie", f"{COOKIE}=\xff"),
        ("Cookie", f'{COOKIE}="\\377"'),
        ("Idempotency-Key", "\xff"),
        ("Last-Event-ID", "\xff"),
        ("Content-Type", "application/json; charset=\xff"),
        ("Content-Type", "\xff/\xff"),
        ("Content-Encoding", "\xff"),
        ("Expect", "\xff"),
        ("Origin", "http://[\xff"),
        ("Host", "\xff"),
    ):
        for path, method in (
            (events("mine"), "POST"),
            (events("mine") + "/stream?bogus=1", "GET"),
            ("/v1/session", "DELETE"),
        ):
            body = data if method == "POST" else b""
            sent: dict[str, str | int] = {"Content-Type": "application/json", "Content-Length": len(body)}
            authorized = {} if name in {"Authorization", "Cookie"} else api.headers
            head = request_head(method, path, {**sent, **authorized, name: value, "Connection": "close"})
            async with await RawConnection.open(server.url) as connection:
                await connection.send(head + body)
                status = (await connection.answer()).status
            assert status in {201, 400, 401, 415, 417}, (name, value, path, status)


# ---- expired and revoked credentials


async def test_a_revoked_key_stops_at_once(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A revoked key gets 401 from the next request on, and its streams end with a reason; other nodes follow soon."""
    here, there = [Api(http, (await make_server()).url, ADMIN_KEY) for _ in range(2)]
    (await here.append("w")).expect(201)
    made = (await here.post("/v1/workspaces/w/keys", {"name": "x", "scopes": [READ]})).expect(201)
    caller, other = here.with_key(made["key"]), here.with_key(await here.create_key("w"))
    elsewhere = there.with_key(made["key"])
    assert (await caller.get(events("w"))).status == 200
    assert (await elsewhere.get(events("w"))).status == 200
    async with (
        await caller.stream("w") as one,
        await caller.stream("w", run_id="r") as two,
        await other.stream("w") as kept,
    ):
        for reader in (one, two, kept):
            await reader.next("synced")
        (await here.delete(f"/v1/workspaces/w/keys/{made['id']}")).expect(204)
        assert unauthenticated(await caller.get(events("w")))
        assert unauthenticated(await caller.get(f"{events('w')}/stream"))
        for reader in (one, two):
            assert (await reader.next("closed")).json == {"reason": "credential_revoked", "reconnect": False}
            await reader.ended()
        await here.append("w", id="after")
        assert (await kept.events(1))[0]["id"] == "after"
        assert b"after" not in one.raw + two.raw

    async def is_over() -> bool:
        return (await elsewhere.get(events("w"))).status == 401

    await eventually(is_over, timeout=5)
    assert (await here.delete(f"/v1/workspaces/w/keys/{made['id']}")).error == "not_found"


async def test_an_expired_key_stops(
    make_server: MakeServer, http: aiohttp.ClientSession, wall_clock: WallClock
) -> None:
    """An expired key gets 401 at once, even while it is in use, and its streams end with the reason."""
    api = Api(http, (await make_server(heartbeat_seconds=1)).url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    caller = api.with_key(await api.create_key("w", expires_at=format_timestamp(now_us() + 30_000_000)))
    async with await caller.stream("w") as reader:
        await reader.next("synced")
        assert (await caller.get(events("w"))).status == 200
        wall_clock.advance(31)
        assert (await reader.next("closed")).json == {"reason": "credential_expired", "reconnect": False}
        await reader.ended()
    assert unauthenticated(await caller.get(events("w")))
    for past in ("2001-01-01T00:00:00Z", format_timestamp(now_us() - 1)):
        answer = await api.post("/v1/workspaces/w/keys", {"name": "x", "template": "read_only", "expires_at": past})
        assert list(answer.expect(400)["error"]["details"]["fields"]) == ["expires_at"]


async def test_a_deleted_workspace_takes_its_keys_along(api: Api) -> None:
    """Deleting a workspace deletes its keys and streams. A new workspace of the same name knows none of its keys."""
    (await api.append("w")).expect(201)
    caller = api.with_key(await api.create_key("w"))
    async with await caller.stream("w") as reader:
        await reader.next("synced")
        (await api.delete("/v1/workspaces/w")).expect(204)
        assert (await reader.next("closed")).json == {"reason": "workspace_deleted", "reconnect": False}
        await reader.ended()
    assert unauthenticated(await caller.get(events("w")))
    (await api.append("w")).expect(201)
    assert unauthenticated(await caller.get(events("w")))
    assert (await api.get("/v1/workspaces/w/keys")).expect(200) == {"keys": []}


# ---- keys


async def test_keys_are_listed_without_their_secrets(api: Api) -> None:
    """A key's secret appears only in the response that created it: neither in lists nor in the database file."""
    (await api.append("w")).expect(201)
    wanted = {
        "name": "CI",
        "scopes": [WRITE, READ],
        "actor": {"type": "agent", "id": "ci"},
        "expires_at": "2999-01-01T00:00:00+01:00",
    }
    made = [
        (await api.post("/v1/workspaces/w/keys", wanted)).expect(201),
        (await api.post("/v1/workspaces/w/keys", {"name": "x", "template": "read_only"})).expect(201),
    ]
    secrets = [key.pop("key") for key in made]
    assert all(secret.startswith("sk_") and len(secret) >= 40 for secret in secrets)
    assert len(set(secrets)) == 2
    listed = await api.get("/v1/workspaces/w/keys")
    assert listed.expect(200) == {"keys": sorted(made, key=lambda key: key["id"])}
    assert made[0] | {"id": "", "created_at": ""} == {
        "id": "",
        "name": "CI",
        "scopes": [READ, WRITE],
        "actor": {"type": "agent", "id": "ci"},
        "created_at": "",
        "created_by": "admin",
        "expires_at": "2998-12-31T23:00:00.000000Z",
    }
    assert (await api.get("/v1/workspaces/other/keys")).error == "workspace_not_found"


@on_sqlite
async def test_the_database_holds_no_secret(server: Server, api: Api, tmp_path: Path) -> None:
    """The database stores only hashes of keys, sign-in codes and sessions."""
    (await api.append("w")).expect(201)
    secrets = [ADMIN_KEY, await api.create_key("w", name="known by its name"), await server.keyring.create_sign_in()]
    secrets.append(await server.keyring.sign_in(await server.keyring.create_sign_in()))
    files = b"".join(file.read_bytes() for file in tmp_path.glob("streamer.db*"))  # noqa: ASYNC240
    assert b"known by its name" in files
    assert [secret for secret in secrets if secret.encode() in files] == []


@on_sqlite
async def test_keys_are_checked(api: Api) -> None:
    """An invalid request for a key gets 400 with the field's name. A missing workspace has no keys."""
    (await api.put("/v1/workspaces/w")).expect(201)
    good = {"name": "x", "template": "read_only"}
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"name": None}, {"name"}),
        ({"name": ""}, {"name"}),
        ({"name": "x" * 257}, {"name"}),
        ({"name": "\0"}, {"name"}),
        ({"template": "everything"}, {"template"}),
        ({"template": None}, {"template"}),
        ({"scopes": [READ]}, {"scopes"}),
        ({"actor": {"type": "user"}}, {"actor.id"}),
        ({"actor": {"type": "user", "id": "ann", "name": "Ann"}}, {"actor.name"}),
        ({"actor": "ann"}, {"actor"}),
        ({"expires_at": "tomorrow"}, {"expires_at"}),
        ({"expires_at": 5}, {"expires_at"}),
        ({"workspace": "v"}, {"workspace"}),
        ({"grants": {"*": ["admin"]}}, {"grants"}),
    ]
    for change, expected in cases:
        answer = await api.post("/v1/workspaces/w/keys", good | change)
        assert set(answer.expect(400)["error"]["details"]["fields"]) == expected, change
    for scopes in (
        [],
        ["all"],
        ["*"],
        ["owner"],
        [READ] * (len(SCOPES) + 1),
        READ,
        None,
        [None],
        ["workspace:read:all"],
    ):
        answer = await api.post("/v1/workspaces/w/keys", {"name": "x", "scopes": scopes})
        assert any(name.startswith("scopes") for name in answer.expect(400)["error"]["details"]["fields"]), scopes
    assert (
        "scopes" in (await api.post("/v1/workspaces/w/keys", {"name": "x"})).expect(400)["error"]["details"]["fields"]
    )
    assert (await api.post("/v1/workspaces/v/keys", good)).error == "workspace_not_found"
    assert (await api.get("/v1/workspaces/w/keys")).expect(200) == {"keys": []}


async def test_a_key_is_revoked_in_its_own_workspace_only(api: Api, mine: Api) -> None:
    """Revoking another workspace's key, the admin key or an unknown id gets 404, and these keys keep working."""
    made = (await api.post("/v1/workspaces/theirs/keys", {"name": "x", "scopes": [READ]})).expect(201)
    session = await mine.get("/v1/session")
    for key_id in (made["id"], "admin", "nothing", "%00", "x" * 200, "%FF"):
        answer = await mine.delete(f"/v1/workspaces/mine/keys/{key_id}")
        assert (answer.status, answer.error) == (404, "not_found"), key_id
    assert (await api.with_key(made["key"]).get(events("theirs"))).status == 200
    (await mine.delete(f"/v1/workspaces/mine/keys/{session.json['id']}")).expect(204)  # it may revoke its own
    assert unauthenticated(await mine.get("/v1/session"))


# ---- browser sessions


async def signed_in(api: Api, server: Server) -> tuple[Api, dict[str, str]]:
    """Sign in a browser. Return the API without a key, and the headers that the browser's page sends."""
    code = (await server.sign_in_link()).partition("#sign-in=")[2]
    answer = await api.with_key(None).post("/v1/session", {"code": code})
    answer.expect(200)
    cookie = answer.headers["Set-Cookie"].split(";")[0]
    return api.with_key(None), {"Cookie": cookie, "Origin": server.url}


async def test_a_browser_signs_in_once(server: Server, api: Api) -> None:
    """A sign-in link creates one session, even when used concurrently. Its cookie is limited to pages of this site."""
    link = await server.sign_in_link()
    assert link.startswith(f"{server.url}/#sign-in=")  # after the #: neither the server nor a proxy ever sees it
    code = link.partition("#sign-in=")[2]
    nobody = api.with_key(None)
    answers = await asyncio.gather(*(nobody.post("/v1/session", {"code": code}) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] + [401] * 9
    won = next(answer for answer in answers if answer.status == 200)
    cookie, *attributes = won.headers["Set-Cookie"].split("; ")
    assert cookie.startswith(f"{COOKIE}=")
    assert {text.lower() for text in attributes} == {
        "httponly",
        "samesite=strict",
        "path=/",
        f"max-age={SESSION_SECONDS}",
    }
    assert cookie.split("=")[1] not in won.body.decode()
    assert won.json["grants"] == {EVERYWHERE: [ADMIN]}
    assert (await nobody.get("/v1/session", headers={"Cookie": cookie})).expect(200) == won.json
    assert all("Set-Cookie" not in answer.headers for answer in answers if answer is not won)
    for wrong in ("", "x", code, code[:-1], 5, None):
        assert (await nobody.post("/v1/session", {"code": wrong})).status in {400, 401}


async def test_a_session_is_used_by_its_own_pages_only(server: Server, api: Api) -> None:
    """A page of another origin cannot change anything with the cookie. Reads need no Origin, because browsers omit it."""
    nobody, page = await signed_in(api, server)
    cookie = {"Cookie": page["Cookie"]}
    assert (await nobody.put("/v1/workspaces/w", headers=page)).status == 201
    assert (await nobody.post(events("w"), make_event(), headers=page)).status == 201
    assert (await nobody.get(events("w"), headers=cookie)).status == 200
    port = server.url.rpartition(":")[2]
    for origin in (None, "null", "", "http://evil.example", f"http://evil.example:{port}", "http://127.0.0.1", "http://127.0.0.1:1",
                   f"{server.url}.evil.example", f"http://evil.example/{server.url}", f"http://evil.example#{server.url}",
                   f"http://evil@127.0.0.1:{port}", "http://[", "http://]", "://", "127.0.0.1", f"127.0.0.1:{port}"):  # fmt: skip
        sent = cookie if origin is None else {**cookie, "Origin": origin}
        for route in GUARDED:
            if route.method not in {"GET", "HEAD"}:
                answer = await nobody.request(route.method, path_of(route, "w"), headers=sent)
                assert (answer.status, answer.error) == (403, "permission_denied"), (origin, route.operation)
    assert (await nobody.get("/v1/workspaces/w", headers=cookie)).status == 200


async def test_sign_out_ends_the_session(server: Server, api: Api) -> None:
    """Signing out invalidates the cookie and ends the session's streams. Other sessions stay valid."""
    (await api.append("w")).expect(201)
    nobody, page = await signed_in(api, server)
    _, other = await signed_in(api, server)
    async with await nobody.stream("w", headers=page) as reader, await nobody.stream("w", headers=other) as kept:
        await reader.next("synced")
        await kept.next("synced")
        answer = await nobody.delete("/v1/session", headers=page)
        answer.expect(204)
        assert answer.headers["Set-Cookie"].startswith(f'{COOKIE}="";')
        assert unauthenticated(await nobody.get("/v1/session", headers=page))
        assert unauthenticated(await nobody.delete("/v1/session", headers=page))
        assert (await nobody.get("/v1/session", headers=other)).status == 200
        (await api.append("w", id="later")).expect(201)
        assert (await kept.events(1))[0]["id"] == "later"
        assert (await reader.next("closed")).json == {"reason": "signed_out", "reconnect": False}
        assert b"later" not in reader.raw
    answer = await api.delete("/v1/session")
    assert list(answer.expect(400)["error"]["details"]["fields"]) == ["session"]  # a key has no session to end


async def test_codes_and_sessions_expire(server: Server, api: Api, database_url: str) -> None:
    """A sign-in code lasts ten minutes and a session twelve hours."""
    database = Database(database_url)
    try:
        for age, status in ((SIGN_IN_SECONDS - 5, 200), (SIGN_IN_SECONDS, 401)):
            earlier = Keyring(Credentials(database), Members(database), clock=partial(ago, age))
            answer = await api.with_key(None).post("/v1/session", {"code": await earlier.create_sign_in()})
            assert answer.status == status, age
        for age, status in ((SESSION_SECONDS - 5, 200), (SESSION_SECONDS, 401)):
            earlier = Keyring(Credentials(database), Members(database), clock=partial(ago, age))
            secret = await earlier.sign_in(await earlier.create_sign_in())
            answer = await api.with_key(None).get("/v1/session", headers={"Cookie": f"{COOKIE}={secret}"})
            assert answer.status == status, age
    finally:
        await database.close()
    assert server.url


def ago(seconds: int) -> int:
    """Return an earlier reading of a clock."""
    return now_us() - seconds * 1_000_000


# ---- the admin key


async def test_the_first_start_makes_an_admin_key(
    make_process: MakeProcess, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Without a configured key, the first start writes one to `admin.key`, readable by its user only, and logs only the path."""
    process = make_process(admin_key=None)
    await process.start()
    file = tmp_path / "data" / "admin.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    key = file.read_text().strip()
    assert len(key) >= 40
    api = Api(http, process.url, key)
    (await api.append("w")).expect(201)
    assert str(Path("data") / "admin.key") in process.log
    assert await process.stop() == 0
    await process.start()
    assert (await api.get(events("w"))).status == 200
    assert file.read_text().strip() == key
    assert key not in process.log
    assert key.removeprefix("sk_") not in process.log


async def test_a_chosen_admin_key_replaces_the_other(
    make_process: MakeProcess, http: aiohttp.ClientSession, database_url: str
) -> None:
    """A new STREAMER_ADMIN_KEY invalidates the old key and its sessions. It stays valid when the setting is removed."""
    old, new = make_process(admin_key="the-old-key-0123456789"), make_process(admin_key="the-new-key-0123456789")
    silent = make_process(admin_key=None)
    await old.start()
    api = Api(http, old.url, "the-old-key-0123456789")
    (await api.append("w")).expect(201)
    database = Database(database_url)
    keyring = Keyring(Credentials(database), Members(database))
    session = await keyring.sign_in(await keyring.create_sign_in())
    await database.close()
    cookie = {"Cookie": f"{COOKIE}={session}"}
    assert (await api.with_key(None).get("/v1/session", headers=cookie)).status == 200
    assert await old.stop() == 0
    for process in (new, silent):
        await process.start()
        api = Api(http, process.url, "the-new-key-0123456789")
        assert (await api.get(events("w"))).status == 200
        assert unauthenticated(await api.with_key("the-old-key-0123456789").get(events("w")))
        assert unauthenticated(await api.with_key(None).get("/v1/session", headers=cookie))
        assert await process.stop() == 0
        assert "key-0123456789" not in process.log


async def test_many_requests_of_one_key_look_it_up_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent requests with one key share a single look-up. They share its failure, too, but later requests look it up again."""
    database = Database(database_url)
    await keyring_with_admin(database)
    credentials = Credentials(database)
    keyring = Keyring(credentials, Members(database))
    find, looked_up = credentials.find, 0

    async def counted(secret_hash: str) -> Credential | None:
        nonlocal looked_up
        looked_up += 1
        if looked_up == 1:
            raise StoreUnavailable("away")
        return await find(secret_hash)

    monkeypatch.setattr(credentials, "find", counted)
    for expected in (StoreUnavailable, Principal):
        together = [keyring.principal(ADMIN_KEY, "key") for _ in range(100)]
        leaving = asyncio.create_task(keyring.principal(ADMIN_KEY, "key"))
        asyncio.get_running_loop().call_soon(leaving.cancel)
        answers = await asyncio.gather(leaving, *together, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert {type(answer) for answer in answers[1:]} == {expected}
    assert looked_up == 2
    await database.close()


async def test_a_credential_works_only_in_its_own_place(database_url: str) -> None:
    """A session's secret is not accepted as a key, even right after its use as a session, and a key is not a session."""
    database = Database(database_url)
    keyring = await keyring_with_admin(database)
    session = await keyring.sign_in(await keyring.create_sign_in())
    for secret, right, wrong in ((session, "session", "key"), (ADMIN_KEY, "key", "session")):
        for _ in range(2):
            await keyring.principal(secret, right)
            with pytest.raises(Unauthenticated):
                await keyring.principal(secret, wrong)
    await database.close()


@on_sqlite
@pytest.mark.parametrize("key", ["short", "x" * 19, "x" * 257])
async def test_an_admin_key_that_is_too_short(make_process: MakeProcess, key: str) -> None:
    """An admin key under 20 or over 256 characters stops the start. The error names the setting without the key."""
    process = make_process(admin_key=key)
    process.spawn()
    assert await process.ended() == 2
    assert "STREAMER_ADMIN_KEY" in process.log
    assert "20 to 256" in process.log
    assert key not in process.log
    assert "Traceback" not in process.log


@on_sqlite
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("hunter2-0123456789abcdef\n", "a space or a line end"),
        (" hunter2-0123456789abcdef", "a space or a line end"),
        ("hunter2 0123456789abcdef", "A-Z a-z 0-9 - . _ ~ + /"),
        ("hunter2-0123456789äbcdef", "A-Z a-z 0-9 - . _ ~ + /"),
        ("hunter2=0123456789abcdef", "= only at its end"),
        ("eyJhbGciOi.hunter2-01234.56789abcdef", "JSON Web Token"),
    ],
)
async def test_an_admin_key_that_cannot_be_sent(make_process: MakeProcess, key: str, said: str) -> None:
    """An admin key that no client could send (RFC 6750, 2.1) stops the start. The error names the setting without the key."""
    process = make_process(admin_key=key)
    process.spawn()
    assert await process.ended() == 2
    assert "STREAMER_ADMIN_KEY" in process.log
    assert said in process.log
    assert key.strip() not in process.log
    assert "hunter2" not in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize(
    "key", ["x" * 20, "x" * 256, "sk_-._~+/0123456789AZ==", "eyJ-0123456789abcdefgh", "a.b.c.01234567890123456"]
)
def test_admin_keys_that_can_be(key: str) -> None:
    """Any value that a Bearer header can carry is a valid admin key (RFC 6750, 2.1), unless it looks like a token."""
    chosen = load({}, {"STREAMER_ADMIN_KEY": key}).admin_key
    assert chosen is not None
    assert chosen.get_secret_value() == key


# ---- nothing is exposed


async def test_no_credential_appears_in_the_log(
    make_process: MakeProcess, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The log never contains a secret, whether a client sends it in a header, cookie, query, body or malformed request."""
    process = make_process(admin_key=None, log_level="debug", log_format="json")
    await process.start()
    admin = (tmp_path / "data" / "admin.key").read_text().strip()
    api = Api(http, process.url, admin)
    (await api.append("w")).expect(201)
    key = await api.create_key("w")
    shown: list[str] = [admin, key]

    def secret(name: str) -> str:
        shown.append(f"sk_{name}_0123456789abcdefghij")
        return shown[-1]

    caller = api.with_key(key)
    (await caller.append("w", details={"password": secret("body"), "text": f"Bearer {secret('text')}"})).expect(201)
    assert (await api.with_key(secret("wrong")).get(events("w"))).status == 401
    assert (await caller.get(events("w"), key=secret("query"))).status == 400
    assert (await caller.get(f"{events('w')}/stream", ticket=secret("ticket"))).status == 401
    assert (await api.with_key(None).get(f"{events('w')}/ws", ticket=secret("socket"))).status == 401
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await http.ws_connect(f"{process.url}/v1/ws", protocols=[secret("subprotocol")])
    offered = {"Authorization": f"Bearer {key}"}
    async with http.ws_connect(f"{process.url}/v1/ws", protocols=[secret("offered")], headers=offered) as socket:
        await socket.send_json({"type": "subscribe", "sub": secret("sub"), "ticket": secret("message")})
        assert (await socket.receive_json())["error"]["code"] == "validation_error"
    assert (await caller.get(events("w"), q=secret("search"))).status == 200
    assert (await caller.get(events("w"), cursor=secret("cursor"))).status == 400
    assert (
        await api.with_key(None).get("/v1/session", headers={"Cookie": f"{COOKIE}={secret('cookie')}"})
    ).status == 401
    assert (await api.with_key(None).post("/v1/session", {"code": secret("code")})).status == 401
    assert (await caller.append("w", **{secret("field"): 1})).status == 400
    assert (await caller.post(events("w"), data=b"{" + secret("syntax").encode())).status == 400
    assert (await caller.get("/nothing", key=secret("nowhere"))).status == 404
    async with await caller.stream("w", headers={"X-Secret": secret("stream")}) as reader:
        await reader.next("synced")
    broken = [
        f"GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret('nul')}\0\r\n\r\n",
        f"GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {secret('colon')}\r\n\r\n",
        f"GET /livez?key={secret('long')}{'x' * 20_000} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /livez HTTP/1.1\r\nHost: x\r\nCookie: {secret('large')}{'x' * 20_000}\r\n\r\n",
        f"GET /livez?key={secret('line')} HTTP/9.9 x\r\nHost: x\r\n\r\n",
        f"GET /livez?key={secret('host')} HTTP/1.1\r\n\r\n",
        f"{secret('method')} / HTTP/1.1\r\nHost: x\r\n\r\n",
        f"POST {events('w')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {secret('length')}\r\n\r\n",
        f"POST {events('w')} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{secret('chunk')}\r\n",
    ]
    for request in broken:
        async with await RawConnection.open(process.url) as connection:
            await connection.send(request.encode("latin-1"))
            answer = await connection.answer()
            assert 400 <= answer.status < 500, request[:80]
    assert await process.stop() == 0
    assert "/v1/workspaces/w/events" in [line.get("path") for line in process.log_lines]  # the log is not empty
    assert [text for text in shown if text in process.log] == []


async def test_a_workspace_is_made_once(api: Api) -> None:
    """Of concurrent requests to create one workspace, one creates it and the others find it. It has one epoch."""
    answers = await asyncio.gather(*(api.put("/v1/workspaces/race", {"name": "race"}) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [200] * 11 + [201]
    assert len({answer.json["position"] for answer in answers}) == 1
