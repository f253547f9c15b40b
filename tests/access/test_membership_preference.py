"""Anybody may add a person to their workspace. It does not change the person's results, and the person can leave."""

from pathlib import Path
from typing import Any

import pytest

from streamer.app import Server
from streamer.client import Client
from tests.conftest import MakeServer
from tests.support.api import Api, make_event
from tests.support.cli import Cli
from tests.support.readers import BEGINNING
from tests.support.sse import SseReader
from tests.support.tokens import SECRET, join, person, token

MINE, THEIRS = "mine", "a-theirs"  # sorts first in every order except by joining
ORG_STREAM = "/v1/activity/stream"
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


async def tenant(api: Api, workspace: str, admin: str) -> Api:
    """Create a workspace with an owner; return the API with the owner's token."""
    (await api.put(f"/v1/workspaces/{workspace}")).expect(201)
    return await join(api, workspace, admin, "owner")


async def rows(api: Api, path: str, **params: object) -> list[dict[str, Any]]:
    """Return a list's rows, whatever their envelope."""
    found = (await api.get(path, **params)).expect(200)
    return found if isinstance(found, list) else found["events"]


def issue(id_: str, identifier: str) -> dict[str, object]:
    """Return an event about an issue, in a run."""
    return make_event(entity={"type": "issue", "id": id_, "identifier": identifier}, run_id="run-1")


ROUTES = (
    "/api/v1/issues/{}/activity",
    "/api/issues/{}/activity",
    "/api/issues/{}/runs",
    "/api/heartbeat-runs/run-1/issues",
)


async def test_being_added_changes_no_answer(api: Api) -> None:
    """If another tenant copies ids, identifiers and runs and adds a person, the person still finds the originals."""
    mine, eve = await tenant(api, MINE, "mia"), await tenant(api, THEIRS, "eve")
    (await api.post(f"/v1/workspaces/{MINE}/events", issue("i1", "PAP-1"))).expect(201)
    ann = await join(mine, MINE, "ann", "viewer")
    paths = [route.format(name) for route in ROUTES for name in ("i1", "PAP-1", "pap-1")]
    before = {path: (await ann.get(path)).expect(200) for path in paths}
    assert all(before.values())
    for copied in (issue("i1", "PAP-1"), issue("PAP-1", "PAP-9"), issue("pap-1", "PAP-8")):
        (await api.post(f"/v1/workspaces/{THEIRS}/events", copied)).expect(201)
    for role in ("viewer", "owner"):
        (await eve.put(f"/v1/workspaces/{THEIRS}/members/ann", {"role": role})).expect(200 if role == "owner" else 201)
        assert {path: (await ann.get(path)).expect(200) for path in paths} == before, role
    # What exists only in the other workspace is found there. The operator has no preference and must name the
    # workspace.
    assert await rows(ann, "/api/v1/issues/PAP-9/activity")
    assert (await api.get("/api/v1/issues/i1/activity")).status == 409
    # The token's own grants take precedence over memberships, and so does a workspace that the person joined
    # themselves.
    assert {one["companyId"] for one in await rows(person(api, "ann", grants={THEIRS: ["workspace:read"]}), ROUTES[1].format("i1"))} == {THEIRS}  # fmt: skip
    (await ann.delete(f"/v1/workspaces/{THEIRS}/members/ann")).expect(204)
    admin = person(api, "ann", grants={THEIRS: ["admin"]})
    (await admin.put(f"/v1/workspaces/{THEIRS}/members/ann", {"role": "viewer"})).expect(201)
    assert {one["companyId"] for one in await rows(ann, ROUTES[1].format("i1"))} == {THEIRS}


async def test_a_grant_everywhere_prefers_ones_memberships(api: Api) -> None:
    """A caller that may read everything still gets its own workspace first, whoever else has an issue of this name."""
    mine = await tenant(api, MINE, "mia")
    for workspace in (MINE, THEIRS):
        (await api.post(f"/v1/workspaces/{workspace}/events", issue("i1", "PAP-1"))).expect(201)
    await join(mine, MINE, "ann", "viewer")
    ann = person(api, "ann", grants={"*": ["workspace:read"]})
    assert {one["companyId"] for one in await rows(ann, "/api/issues/PAP-1/activity")} == {MINE}
    assert (await person(api, "bob", grants={"*": ["workspace:read"]}).get("/api/issues/PAP-1/activity")).status == 409


@on_sqlite
async def test_no_workspace_hides_an_issue_from_a_narrow_reader(api: Api) -> None:
    """A caller limited to its own events finds its issue among others' copies, or an error says that there are too many."""
    bobs = issue("i1", "PAP-1") | {"actor": {"type": "user", "id": "bob"}}
    for number in range(5):
        (await api.post(f"/v1/workspaces/a-{number}/events", bobs)).expect(201)
    (await api.post("/v1/workspaces/z/events", issue("i1", "PAP-1"))).expect(201)
    narrow = person(api, "ann", grants={"*": ["workspace:read:own"]})
    assert [one["workspace_id"] for one in await rows(narrow, "/api/v1/issues/i1/activity")] == ["z"]
    for number in range(5, 20):
        (await api.post(f"/v1/workspaces/a-{number}/events", bobs)).expect(201)
    assert (await narrow.get("/api/v1/issues/i1/activity")).status == 409
    named = person(api, "ann", grants={"*": ["workspace:read:own"], "z": ["workspace:read:own"]})
    assert [one["workspace_id"] for one in await rows(named, "/api/v1/issues/i1/activity")] == ["z"]


async def test_a_copied_event_id_moves_no_reader_of_all(api: Api) -> None:
    """A stream of all workspaces resumes at the caller's event, even if another tenant has a later event with its id."""
    mine, eve = await tenant(api, MINE, "mia"), await tenant(api, THEIRS, "eve")
    ann = await join(mine, MINE, "ann", "viewer")
    for name in ("e1", "e2", "e3"):
        (await api.append(MINE, id=name)).expect(201)
    (await api.append(THEIRS, id="e1")).expect(201)
    await join(eve, THEIRS, "ann", "viewer")
    headers = ann.headers | {"Last-Event-ID": "e1"}
    async with await SseReader.open(api.url + ORG_STREAM, headers=headers) as stream:
        found = {(event["workspace_id"], event["id"]) for event in await stream.events(3)}
        assert {one for one in found if one[0] == MINE} == {(MINE, "e2"), (MINE, "e3")}


@on_sqlite
async def test_more_memberships_than_one_reader_reads(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person added to more workspaces than one stream can read keeps the earlier ones, and learns how many are left out."""
    monkeypatch.setattr("streamer.http.merge.MAX_WORKSPACES", 3)
    for name in ("x", "y", "z"):
        await tenant(api, name, "mia")
        ann = await join(api, name, "ann", "admin")
        (await api.append(name, id=f"of-{name}", actor={"type": "user", "id": "ann"})).expect(201)
    async with await SseReader.open(api.url + ORG_STREAM, headers=ann.headers, params={"after": BEGINNING}) as before:
        await before.events(3)
        for name in ("a", "b"):
            eve = await tenant(api, name, "eve")
            (await eve.put(f"/v1/workspaces/{name}/members/ann", {"role": "admin"})).expect(201)
            (await api.append(name, id=f"of-{name}", actor={"type": "user", "id": "ann"})).expect(201)
        for path in ("/api/v1/users/me/activity", "/v1/audit"):
            answer = await ann.get(path)
            answer.expect(200)
            assert answer.headers["X-Workspaces-Omitted"] == "2"
        found = {event["workspace_id"] for event in await rows(ann, "/api/v1/users/me/activity")}
        assert found == {"x", "y", "z"}
        async with await SseReader.open(api.url + ORG_STREAM, headers=ann.headers, params={"after": BEGINNING}) as one:
            assert {event["id"] for event in await one.events(3)} == {"of-x", "of-y", "of-z"}
            assert b": 2 workspaces omitted\n" in one.raw
            # It continues where one of them is left: the next one takes the place.
            (await ann.delete("/v1/workspaces/y/members/ann")).expect(204)
            assert [event["id"] for event in await one.events(1)] == ["of-a"]
        (await api.append("x", id="later")).expect(201)
        assert [event["id"] for event in await before.events(2)] in (["of-a", "later"], ["later", "of-a"])
    assert (await ann.get("/api/v1/users/me/activity")).headers["X-Workspaces-Omitted"] == "1"


@pytest.mark.parametrize("role", ["viewer", "member", "admin"])
async def test_a_member_leaves(api: Api, role: str) -> None:
    """A member can leave whatever the role, and nobody else can remove them without the right. The event names the author."""
    owner = await tenant(api, MINE, "mia")
    ann = await join(owner, MINE, "ann", role)
    await join(owner, MINE, "bob", "viewer")
    path = f"/v1/workspaces/{MINE}/members"
    if role != "admin":
        assert (await ann.delete(f"{path}/bob")).error == "permission_denied"
    assert (await ann.delete(f"{path}/mia")).error == "permission_denied"
    (await ann.delete(f"{path}/ann")).expect(204)
    assert (await ann.get(f"/v1/workspaces/{MINE}")).error == "workspace_not_found"
    assert (await ann.delete(f"{path}/ann")).error == "workspace_not_found"
    told = (await api.history(MINE, action="member.removed", limit=1))[0]
    assert (told["actor"]["id"], told["entity"]["id"]) == ("ann", "ann")


async def test_who_may_not_leave(api: Api) -> None:
    """The last owner can leave after appointing another. A stranger, or a key that acts as the member, cannot leave for them."""
    owner = await tenant(api, MINE, "mia")
    path = f"/v1/workspaces/{MINE}/members"
    assert (await owner.delete(f"{path}/mia")).error == "last_owner"
    assert (await person(api, "zoe").delete(f"{path}/zoe")).error == "workspace_not_found"
    await join(owner, MINE, "ann", "viewer")
    key = api.with_key(await api.create_key(MINE, actor={"type": "user", "id": "ann"}))
    assert (await key.delete(f"{path}/ann")).error == "permission_denied"
    await join(owner, MINE, "ann", "owner")
    (await owner.delete(f"{path}/mia")).expect(204)


@on_sqlite
async def test_leaving_by_client_and_command(api: Api, tmp_path: Path) -> None:
    """The client and the command let a person leave with their own token."""
    owner = await tenant(api, MINE, "mia")
    for name in ("ann", "bob"):
        await join(owner, MINE, name, "viewer")
    async with Client(api.url, token("ann")) as client:
        await client.remove_member(MINE, "ann")
    cli = Cli(tmp_path, {"STREAMER_URL": api.url, "STREAMER_KEY": token("bob")})
    done = await cli("members", "remove", MINE, "bob", "--yes")
    assert done.code == 0, done
    left = (await api.get(f"/v1/workspaces/{MINE}/members")).expect(200)["members"]
    assert [member["user"] for member in left] == ["mia"]
