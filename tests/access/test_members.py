"""Members and roles: what each role can do, which roles can change it, and that a change takes effect at once, everywhere."""

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

import aiohttp
import pytest

from streamer.access.principal import ROLES
from streamer.app import Server
from tests.conftest import ADMIN_KEY, MakeServer, WallClock
from tests.support.api import Answer, Api, events, make_event
from tests.support.readers import BEGINNING, CONNECTED, Kind, Reader
from tests.support.tokens import SECRET, join, person
from tests.support.waiting import eventually
from tests.support.websocket import open_socket

WS = "w"
MEMBERS = f"/v1/workspaces/{WS}/members"

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


@pytest.fixture
async def workspace(api: Api) -> Api:
    """Create a workspace with no events; return the server's API."""
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    return api


def event_of(user: str, **changes: object) -> dict[str, object]:
    """Return an event of a person."""
    return make_event(actor={"type": "user", "id": user}, **changes)


# ---- roles


def attempts(user: str) -> Iterator[tuple[str, str, str, object]]:
    """Return what a member may try: the lowest sufficient role and the request."""
    base = f"/v1/workspaces/{WS}"
    yield "viewer", "GET", base, None
    yield "viewer", "GET", f"{base}/events", None
    yield "viewer", "GET", f"{base}/members", None
    yield "viewer", "GET", f"{base}/members/{user}", None
    yield "member", "POST", f"{base}/events", event_of(user)
    yield "admin", "GET", f"{base}/keys", None
    yield "admin", "POST", f"{base}/keys", {"name": "k", "template": "read_only"}
    yield "admin", "PUT", f"{base}/members/new", {"role": "admin"}
    yield "admin", "DELETE", f"{base}/members/new", None
    yield "admin", "PUT", base, {"name": "W"}
    yield "owner", "PUT", base, {"org_id": f"org-{user}"}
    yield "owner", "PUT", f"{base}/members/chief", {"role": "member"}
    yield "owner", "PUT", f"{base}/members/chief", {"role": "owner"}
    yield "owner", "DELETE", f"{base}/members/chief", None
    yield "owner", "DELETE", base, None


async def test_what_each_role_may_do(workspace: Api) -> None:
    """Each role includes the rights of the roles below it. Everything else gets 403 and has no effect."""
    order = list(ROLES)
    for role in order:
        caller = await join(workspace, WS, role, role)
        (await workspace.put(f"{MEMBERS}/chief", {"role": "owner"})).expect(200 if role != "viewer" else 201)
        for least, method, path, body in attempts(role):
            answer = await caller.request(method, path, body=body)
            if order.index(role) >= order.index(least):
                assert answer.status < 300, (role, method, path, answer.body)
            elif body != {"role": "owner"}:  # the chief is an owner already
                assert (answer.status, answer.error) == (403, "permission_denied"), (role, method, path)
                if path.endswith(f"/v1/workspaces/{WS}") and method == "DELETE":
                    assert (await workspace.get(path)).status == 200
    assert (await workspace.get(f"/v1/workspaces/{WS}")).error == "workspace_not_found"


@on_sqlite
async def test_a_token_alone_opens_nothing(workspace: Api) -> None:
    """A person who is a member of no workspace gets 404 for each, an empty list, and 403 on instance routes."""
    nobody = person(workspace, "nobody")
    for method, path in (
        ("GET", events(WS)),
        ("POST", events(WS)),
        ("PUT", f"{MEMBERS}/nobody"),
        ("GET", "/v1/workspaces/v"),
    ):
        answer = await nobody.request(method, path, body={"role": "owner"} if method == "PUT" else None)
        assert (answer.status, answer.error) == (404, "workspace_not_found")
    assert (await nobody.get("/v1/workspaces")).expect(200) == {"workspaces": []}
    assert (await nobody.get("/metrics")).error == "permission_denied"
    assert (await nobody.put("/v1/workspaces/mine")).error == "workspace_not_found"
    who = (await nobody.get("/v1/session")).expect(200)
    assert (who["id"], who["grants"], who["roles"]) == ("user:nobody", {}, {})
    assert who["actor"] == {"type": "user", "id": "nobody"}


@on_sqlite
async def test_a_role_is_of_one_workspace(workspace: Api) -> None:
    """A role applies to one workspace only. The list of workspaces shows the caller's memberships."""
    (await workspace.put("/v1/workspaces/v")).expect(201)
    ann = await join(workspace, WS, "ann", "owner")
    assert (await ann.get(events("v"))).error == "workspace_not_found"
    assert [found["id"] for found in (await ann.get("/v1/workspaces")).expect(200)["workspaces"]] == [WS]
    await join(workspace, "v", "ann", "viewer")
    assert [found["id"] for found in (await ann.get("/v1/workspaces")).expect(200)["workspaces"]] == ["v", WS]
    assert (await ann.post(events("v"), event_of("ann"))).error == "permission_denied"
    assert (await ann.get("/v1/session")).expect(200)["roles"] == {"v": "viewer", WS: "owner"}


async def test_organisations_group_workspaces(workspace: Api) -> None:
    """Workspaces can be listed by organisation. This grants no access, and only an owner may move a workspace there."""
    for name, org in (("a", "acme"), ("b", "acme"), ("c", "other")):
        (await workspace.put(f"/v1/workspaces/{name}", {"org_id": org})).expect(201)
    ann = await join(workspace, "b", "ann", "viewer")
    await join(workspace, "c", "ann", "admin")

    async def listed(caller: Api, **params: object) -> list[str]:
        return [found["id"] for found in (await caller.get("/v1/workspaces", **params)).expect(200)["workspaces"]]

    assert await listed(workspace, org_id="acme") == ["a", "b"]
    assert await listed(workspace, org_id="acme", after="a") == ["b"]
    assert await listed(workspace, org_id="default") == ["system", WS]
    assert await listed(ann, org_id="acme") == ["b"]
    assert await listed(ann) == ["b", "c"]
    assert await listed(ann, org_id="nobody") == []
    assert (await ann.put("/v1/workspaces/c", {"org_id": "acme"})).error == "permission_denied"
    assert (await ann.put("/v1/workspaces/c", {"org_id": "other", "name": "C"})).status == 200  # its present values
    for wrong in ("", "x" * 513, "a%00"):
        answer = await workspace.get(f"/v1/workspaces?org_id={wrong}")
        assert set(answer.expect(400)["error"]["details"]["fields"]) == {"org_id"}
    owner = await join(workspace, "c", "bob", "owner")
    (await owner.put("/v1/workspaces/c", {"org_id": "acme"})).expect(200)
    assert await listed(workspace, org_id="acme") == ["a", "b", "c"]


@on_sqlite
async def test_a_workspace_that_is_made_again_has_no_members(workspace: Api) -> None:
    """Deleting a workspace deletes its members, so a recreated workspace has none of them."""
    ann = await join(workspace, WS, "ann", "owner")
    (await ann.delete(f"/v1/workspaces/{WS}")).expect(204)
    (await workspace.put(f"/v1/workspaces/{WS}")).expect(201)
    assert (await ann.get(events(WS))).error == "workspace_not_found"
    assert (await workspace.get(MEMBERS)).expect(200) == {"members": []}


@on_sqlite
@pytest.mark.parametrize(
    "user", ["auth0|5f7c", "ann@example.com", "a/b", "a%2Fb", "é ü", "x" * 512, "?a=b&c#d", "'; --", "\n", "\U0001f600"]
)
async def test_ids_of_any_form(workspace: Api, user: str) -> None:
    """A member's id may be any text, as in the token. Members are put, found, listed and removed by it."""
    path = f"{MEMBERS}/{quote(user, safe='')}"
    assert (await workspace.put(path, {"role": "member"})).expect(201)["user"] == user
    caller = person(workspace, user)
    assert (await caller.post(events(WS), {"action": "a.b"})).expect(201)["actor"]["id"] == user
    assert (await workspace.get(path)).expect(200)["role"] == "member"
    assert [member["user"] for member in (await workspace.get(MEMBERS)).expect(200)["members"]] == [user]
    async with await caller.stream(WS) as stream:
        (await workspace.delete(path)).expect(204)
        while (block := await stream.next()).event != "closed":
            pass
        assert block.json["reason"] == "access_revoked"
    assert (await caller.get(events(WS))).error == "workspace_not_found"


@on_sqlite
async def test_members_are_checked(workspace: Api) -> None:
    """An invalid role or id gets 400 with its name. A missing workspace has no members."""
    for body, fields in (
        ({}, {"role"}),
        ({"role": "king"}, {"role"}),
        ({"role": None}, {"role"}),
        ({"role": "owner", "user": "x"}, {"user"}),
    ):
        answer = await workspace.put(f"{MEMBERS}/ann", body)
        assert set(answer.expect(400)["error"]["details"]["fields"]) == fields, body
    for user in ("x" * 513, "a%00b"):
        answer = await workspace.put(f"{MEMBERS}/{user}", {"role": "viewer"})
        assert set(answer.expect(400)["error"]["details"]["fields"]) == {"user"}, user
    assert (await workspace.put("/v1/workspaces/v/members/ann", {"role": "viewer"})).error == "workspace_not_found"
    assert (await workspace.delete("/v1/workspaces/v/members/ann")).error == "workspace_not_found"
    assert (await workspace.get("/v1/workspaces/v/members")).error == "workspace_not_found"
    assert (await workspace.get(f"{MEMBERS}/ann")).error == "not_found"
    assert (await workspace.delete(f"{MEMBERS}/ann")).error == "not_found"


async def test_the_list_of_members_has_pages(workspace: Api) -> None:
    """Members are listed by id, as many as requested, after the given id."""
    names = [f"user-{number:02}" for number in range(7)]
    for name in reversed(names):
        await join(workspace, WS, name, "viewer")
    found: list[str] = []
    while page := (await workspace.get(MEMBERS, limit=3, after=found[-1] if found else None)).expect(200)["members"]:
        assert len(page) <= 3
        found += [member["user"] for member in page]
    assert found == names


# ---- changing roles


async def test_only_owners_make_and_change_owners(workspace: Api) -> None:
    """An admin cannot appoint, change or remove an owner, and cannot become one."""
    admin = await join(workspace, WS, "admin", "admin")
    await join(workspace, WS, "chief", "owner")
    for user, role in (("new", "owner"), ("admin", "owner"), ("chief", "viewer"), ("chief", "admin")):
        answer = await admin.put(f"{MEMBERS}/{user}", {"role": role})
        assert (answer.status, answer.error) == (403, "permission_denied"), (user, role)
    assert (await admin.delete(f"{MEMBERS}/chief")).error == "permission_denied"
    by_key = workspace.with_key(await workspace.create_key(WS, scopes=["admin"]))
    assert (await by_key.put(f"{MEMBERS}/new", {"role": "owner"})).error == "permission_denied"
    roles = {member["user"]: member["role"] for member in (await workspace.get(MEMBERS)).expect(200)["members"]}
    assert roles == {"admin": "admin", "chief": "owner"}
    (await admin.put(f"{MEMBERS}/chief", {"role": "owner"})).expect(200)  # unchanged


async def test_the_last_owner_stays(workspace: Api) -> None:
    """The last owner can neither leave nor step down, but an instance admin can remove them."""
    ann = await join(workspace, WS, "ann", "owner")
    assert (await ann.put(f"{MEMBERS}/ann", {"role": "admin"})).error == "last_owner"
    assert (await ann.delete(f"{MEMBERS}/ann")).error == "last_owner"
    bob = await join(workspace, WS, "bob", "owner")
    (await ann.put(f"{MEMBERS}/ann", {"role": "admin"})).expect(200)
    assert (await bob.delete(f"{MEMBERS}/bob")).error == "last_owner"
    (await workspace.delete(f"{MEMBERS}/bob")).expect(204)


async def test_two_owners_at_each_other(workspace: Api) -> None:
    """If two owners remove each other concurrently, one of them stays."""
    for turn in range(10):
        both = [await join(workspace, WS, name, "owner") for name in ("ann", "bob")]
        answers = await asyncio.gather(both[0].delete(f"{MEMBERS}/bob"), both[1].delete(f"{MEMBERS}/ann"))
        assert sorted(answer.status for answer in answers) in ([204, 403], [204, 404]), turn
        left = (await workspace.get(MEMBERS)).expect(200)["members"]
        assert len(left) == 1
        (await workspace.delete(f"{MEMBERS}/{left[0]['user']}")).expect(204)


async def test_many_changes_at_once_are_one_after_the_other(workspace: Api) -> None:
    """Of concurrent requests to add one person, one adds them. Concurrent role changes are recorded one after another."""
    answers = await asyncio.gather(*(workspace.put(f"{MEMBERS}/ann", {"role": "viewer"}) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    await asyncio.gather(*(workspace.put(f"{MEMBERS}/ann", {"role": role}) for role in list(ROLES) * 3))
    told = await workspace.history(WS, order="asc", entity_id="ann")
    assert told[0]["action"] == "member.added"
    last = "viewer"
    for event in told[1:]:
        assert event["action"] == "member.role_changed"
        assert event["changes"]["role"]["from"] == last != event["changes"]["role"]["to"]
        last = event["changes"]["role"]["to"]
    assert (await workspace.get(f"{MEMBERS}/ann")).expect(200)["role"] == last


# ---- changes take effect


async def test_a_removed_member_is_out_at_once(workspace: Api) -> None:
    """After the 204, none of the removed member's requests is accepted, however many are in progress."""
    for turn in range(3):
        ann = await join(workspace, WS, f"ann{turn}", "member")
        (await ann.get(events(WS))).expect(200)
        removed = asyncio.Event()

        async def hammer(caller: Api, done: asyncio.Event) -> list[Answer]:
            late: list[Answer] = []
            while len(late) < 5:
                was_removed = done.is_set()
                answer = await caller.get(events(WS), limit=1)
                if was_removed:
                    late.append(answer)
            return late

        hammering = [asyncio.create_task(hammer(ann, removed)) for _ in range(20)]
        (await workspace.delete(f"{MEMBERS}/ann{turn}")).expect(204)
        removed.set()
        for late in await asyncio.gather(*hammering):
            assert [answer.status for answer in late] == [404] * 5


async def test_what_another_node_remembers_makes_no_key(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A node may treat a removed admin as one for a second, from its cache. No access can be granted in this time."""
    here, there = [Api(http, (await make_server(jwt_secret=SECRET)).url, ADMIN_KEY) for _ in range(2)]
    (await here.put(f"/v1/workspaces/{WS}")).expect(201)
    ann = await join(here, WS, "ann", "admin")
    made = (await here.post(f"/v1/workspaces/{WS}/keys", {"name": "k", "scopes": ["admin"]})).expect(201)
    for caller, remove in (
        (ann, f"{MEMBERS}/ann"),
        (here.with_key(made["key"]), f"/v1/workspaces/{WS}/keys/{made['id']}"),
    ):
        elsewhere = caller.at(there.url)
        (await elsewhere.get(events(WS))).expect(200)
        (await here.delete(remove)).expect(204)
        before = (await here.get(f"/v1/workspaces/{WS}/keys")).expect(200)
        for method, path, body in (
            ("POST", f"/v1/workspaces/{WS}/keys", {"name": "k", "scopes": ["admin"]}),
            ("PUT", f"{MEMBERS}/ann", {"role": "admin"}),
            ("PUT", f"/v1/workspaces/{WS}", {"name": "taken"}),
        ):
            answer = await elsewhere.request(method, path, body=body)
            assert answer.status in {401, 403, 404}, (path, answer.body)
        assert (await here.get(f"/v1/workspaces/{WS}/keys")).expect(200) == before
        assert (await here.get(f"{MEMBERS}/ann")).error == "not_found"


@pytest.mark.parametrize("kind", CONNECTED, ids=lambda kind: kind.name)
async def test_readers_end_with_the_role(make_server: MakeServer, http: aiohttp.ClientSession, kind: Kind) -> None:
    """When a role changes, the person's readers end on every node and reconnect. After a removal, they end for good."""
    here, there = [Api(http, (await make_server(jwt_secret=SECRET)).url, ADMIN_KEY) for _ in range(2)]
    (await here.put(f"/v1/workspaces/{WS}")).expect(201)
    for at in (here, there):
        ann = (await join(here, WS, "ann", "admin")).at(at.url)
        bob = (await join(here, WS, "bob", "viewer")).at(at.url)
        reader, other = await kind.open(ann, WS, after=BEGINNING), await kind.open(bob, WS, after=BEGINNING)
        await reader.synced()
        await other.synced()
        ending = asyncio.create_task(reader.ended())
        (await here.put(f"{MEMBERS}/ann", {"role": "viewer"})).expect(200)
        ended = await ending
        assert (ended.reason, ended.reconnect) == ("access_changed", True)
        reader = await kind.open(ann, WS, after=BEGINNING)
        seen = await reader.synced()
        assert {event["action"] for event in seen if event["category"] == "audit"} == {
            "member.added",
            "member.role_changed",
        } | ({"member.removed"} if at is there else set())
        ending = asyncio.create_task(reader.ended())
        (await here.delete(f"{MEMBERS}/ann")).expect(204)
        ended = await ending
        assert (ended.reason, ended.reconnect) == ("access_revoked", False)
        # The other reader continues.
        (await here.append(WS, id=f"after-{at.url[-5:]}")).expect(201)
        assert await reads(other, f"after-{at.url[-5:]}")
        other.close()
        (await here.delete(f"{MEMBERS}/bob")).expect(204)


async def reads(reader: Reader, event_id: str) -> bool:
    """Read until an event arrives."""
    while all(event["id"] != event_id for event in await reader.some()):
        pass
    return True


async def test_a_poll_ends_with_the_role(workspace: Api) -> None:
    """A waiting poll never answers for a changed role: it returns at once, and the next request is authorized again."""
    ann = await join(workspace, WS, "ann", "admin")
    position = (await ann.get(f"/v1/workspaces/{WS}")).expect(200)["position"]
    polling = asyncio.create_task(ann.get(events(WS), after=position, wait=30))
    await eventually(lambda: waiting(workspace))
    (await workspace.put(f"{MEMBERS}/ann", {"role": "viewer"})).expect(200)
    answer = (await polling).expect(200)
    assert {event["action"] for event in answer["events"]} <= {"member.role_changed"}
    polling = asyncio.create_task(ann.get(events(WS), after=answer["position"], wait=30, action="never"))
    await eventually(lambda: waiting(workspace))
    (await workspace.delete(f"{MEMBERS}/ann")).expect(204)
    assert (await polling).error == "workspace_not_found"


async def waiting(api: Api) -> bool:
    """Check whether a poll waits."""
    metrics = (await api.get("/metrics")).body.decode()
    return 'streamer_subscribers{transport="longpoll"} 1.0' in metrics


async def test_a_shared_socket_knows_the_role_of_the_moment(workspace: Api) -> None:
    """On a multiplexed socket, each message is authorized with the current roles. A subscription ends with the role it needs."""
    (await workspace.put("/v1/workspaces/v")).expect(201)
    ann = await join(workspace, WS, "ann", "viewer")
    async with await open_socket(ann, None) as socket:
        for role, kind in (("member", "published"), ("viewer", "error"), ("member", "published")):
            await join(workspace, WS, "ann", role)
            said = await socket.ask(
                {"type": "publish", "workspace": WS, "event": event_of("ann")}, "published", "error"
            )
            assert said["type"] == kind, role
        assert (await socket.ask({"type": "subscribe", "sub": "v", "workspace": "v"}, "synced", "error"))[
            "type"
        ] == "error"
        await join(workspace, "v", "ann", "viewer")
        await socket.ask({"type": "subscribe", "sub": "v", "workspace": "v"}, "synced")
        (await workspace.delete(f"{MEMBERS}/ann")).expect(204)  # no subscription of this socket is there
        await socket.ask({"type": "ping"}, "pong")
        await join(workspace, WS, "ann", "viewer")
        await socket.ask({"type": "subscribe", "sub": "w", "workspace": WS}, "synced")
        (await workspace.delete("/v1/workspaces/v/members/ann")).expect(204)
        closed = await socket.next("closed")
        assert (closed["sub"], closed["reason"], closed["reconnect"]) == ("v", "access_revoked", False)
        (await workspace.append(WS, id="on")).expect(201)  # the other subscription continues
        assert "on" in [event["id"] for event in await socket.events(1, "w")]


async def test_keys_that_act_as_a_member_go_with_them(workspace: Api) -> None:
    """Removing a person revokes the keys that act as them in the workspace. Keys that they created for others stay."""
    await join(workspace, WS, "ann", "admin")
    ann = person(workspace, "ann")
    own = ann.with_key(await ann.create_key(WS, actor={"type": "user", "id": "ann"}))
    agents = ann.with_key(await ann.create_key(WS, actor={"type": "agent", "id": "ann"}))
    async with await own.stream(WS) as stream:
        await stream.next("synced")
        (await workspace.delete(f"{MEMBERS}/ann")).expect(204)
        assert (await stream.next("closed")).json == {"reason": "credential_revoked", "reconnect": False}
    assert (await own.get(events(WS))).error == "unauthenticated"
    (await agents.get(events(WS))).expect(200)
    told = [event["action"] for event in await workspace.history(WS, order="asc", category="audit")]
    assert told[-3:-1] == ["member.removed", "key.revoked"]  # the last event records this reading


# ---- tokens


async def test_a_reader_ends_when_its_token_expires(workspace: Api, wall_clock: WallClock) -> None:
    """A stream and a socket end at the token's `exp` with the reason, and the token is refused afterwards."""
    await join(workspace, WS, "ann", "viewer")
    ann = person(workspace, "ann", seconds=30)
    async with await ann.stream(WS) as stream, await open_socket(ann, WS) as socket:
        wall_clock.advance(31)
        assert (await stream.next("closed")).json == {"reason": "credential_expired", "reconnect": False}
        assert (await socket.next("closed"))["reason"] == "credential_expired"


@on_sqlite
async def test_tickets_of_persons(workspace: Api, wall_clock: WallClock) -> None:
    """A ticket created with a token uses the role at the time of use, and ends with the token and the role."""
    await join(workspace, WS, "ann", "admin")
    ann, nobody = person(workspace, "ann"), workspace.with_key(None)
    (await workspace.append(WS, id="hidden", category="audit")).expect(201)

    async def ticket(caller: Api) -> str:
        return str((await caller.post("/v1/tickets", {"workspace": WS})).expect(201)["ticket"])

    whole, narrowed, late = await ticket(ann), await ticket(ann), await ticket(ann)
    async with await nobody.stream(WS, ticket=whole, after=BEGINNING) as stream:
        assert "hidden" in [event["id"] for event in await stream.events(2)]
        await join(workspace, WS, "ann", "viewer")
        while (block := await stream.next()).event != "closed":
            pass
        assert block.json == {"reason": "access_changed", "reconnect": True}
    async with await nobody.stream(WS, ticket=narrowed, after=BEGINNING) as stream:
        got = await stream.events(2)
        assert {event["action"] for event in got} == {"member.added", "member.role_changed"}
        (await workspace.delete(f"{MEMBERS}/ann")).expect(204)
        while (block := await stream.next()).event != "closed":
            pass
        assert block.json == {"reason": "access_revoked", "reconnect": False}
    refused = await nobody.stream(WS, ticket=late)
    assert refused.status in {401, 404}
    refused.close()
    await join(workspace, WS, "ann", "viewer")
    soon = await ticket(person(workspace, "ann", seconds=30))
    async with await nobody.stream(WS, ticket=soon) as stream:
        wall_clock.advance(31)
        while (block := await stream.next()).event != "closed":
            pass
        assert block.json["reason"] == "credential_expired"


@on_sqlite
async def test_what_a_token_grants_itself(workspace: Api) -> None:
    """`grants` in a token add to the roles, for one workspace or for all. Grants for another server are ignored."""
    (await workspace.append("v")).expect(201)
    caller = person(workspace, "svc", grants={WS: ["workspace:write"], "v": ["workspace:read"]})
    assert (await caller.post(events(WS), event_of("svc"))).status == 201
    assert (await caller.get(events(WS))).error == "permission_denied"
    assert (await caller.get(events("v"))).status == 200
    everywhere = person(workspace, "svc", grants={"*": ["workspace:write"]})
    assert (await everywhere.post(events("brand-new"), event_of("svc"))).status == 201
    operator = person(workspace, "op", grants={"*": ["admin"]})
    assert (await operator.get("/metrics")).status == 200
    future = person(workspace, "svc", grants={"not-made-yet": ["admin"]})
    assert (await future.put("/v1/workspaces/not-made-yet")).error == "workspace_not_found"
    assert (await workspace.get("/v1/workspaces/not-made-yet")).error == "workspace_not_found"
    wrong = person(workspace, "svc", grants={WS: ["workspace:everything"]})
    assert (await wrong.get(events(WS))).error == "unauthenticated"


@on_sqlite
async def test_a_server_without_tokens(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Without a secret and an issuer, no token is accepted."""
    api = Api(http, (await make_server()).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    answer = await person(api, "ann", grants={"*": ["admin"]}).get(events(WS))
    assert (answer.status, answer.error) == (401, "unauthenticated")


# ---- attribution


@on_sqlite
async def test_persons_write_as_themselves(workspace: Api) -> None:
    """A person's token fills in the actor with their name. Another actor, or another person on whose behalf, gets 403."""
    await join(workspace, WS, "ann", "owner")
    ann = person(workspace, "ann", name="Ann")
    stored = (await ann.post(events(WS), {"action": "a.b"})).expect(201)["actor"]
    assert (stored["type"], stored["id"], stored["name"]) == ("user", "ann", "Ann")
    stored = (await ann.post(events(WS), {"action": "a.b", "actor": {"name": "Boss", "on_behalf_of": "ann"}})).expect(
        201
    )
    assert (stored["actor"]["name"], stored["actor"]["on_behalf_of"]) == ("Ann", "ann")
    for actor in (
        {"id": "bob"},
        {"type": "agent"},
        {"type": "agent", "id": "ann"},
        {"type": "user", "id": "bob"},
        {"on_behalf_of": "bob"},
    ):
        answer = await ann.post(events(WS), {"action": "a.b", "actor": actor})
        assert (answer.status, answer.error) == (403, "permission_denied"), actor
    by_key = ann.with_key(await ann.create_key(WS, actor={"type": "user", "id": "ann"}))
    assert (await by_key.post(events(WS), {"action": "a.b", "actor": {"on_behalf_of": "bob"}})).status == 403
    agent = ann.with_key(await ann.create_key(WS, actor={"type": "agent", "id": "robot"}))
    assert (await agent.post(events(WS), {"action": "a.b", "actor": {"on_behalf_of": "bob"}})).status == 201


@on_sqlite
async def test_a_token_that_may_claim(workspace: Api) -> None:
    """With `admin` in its own grants, a token appends as any actor, or as itself by default. A role is no such grant."""
    back_end = person(workspace, "svc", grants={WS: ["admin"]})
    stored = (await back_end.post(events(WS), event_of("bob"))).expect(201)
    assert stored["actor"]["id"] == "bob"
    assert (await back_end.post(events(WS), {"action": "a.b"})).expect(201)["actor"]["id"] == "svc"
    owner = await join(workspace, WS, "chief", "owner")
    assert (await owner.post(events(WS), event_of("bob"))).status == 403
