"""Positions in deleted or empty logs: every client is told how to continue, and then misses no event."""

from typing import Any

import pytest

from streamer.app import Server
from streamer.client import ApiError, PlatformClient
from streamer.store.engine.database import Database
from streamer.store.records.workspaces import Workspaces
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api, events
from tests.support.sse import SseReader
from tests.support.tokens import SECRET, join
from tests.support.websocket import WsReader, open_socket

WS = "w"
ORG_STREAM = "/v1/activity/stream"
PRAISONAI, PAPERCLIP = f"/api/v1/workspaces/{WS}/activity", f"/api/companies/{WS}/activity"


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


async def stored(api: Api, workspace: str, names: list[str]) -> None:
    """Append events with these ids."""
    (await api.append_all(workspace, [{"id": name} for name in names])).expect(201)


async def follow(api: Api, last: str | None, **params: object) -> SseReader:
    """Open the stream of all workspaces."""
    headers = api.headers | ({"Last-Event-ID": last} if last is not None else {})
    return await SseReader.open(api.url + ORG_STREAM, headers=headers, params=params)


async def last_id(api: Api) -> str:
    """Return the id of a stream of all workspaces that has delivered everything."""
    async with await follow(api, None) as stream:
        found = (await stream.next()).id
        assert found
        return found


# ---- deleted logs


async def test_a_restored_log_starts_a_stream_of_all_again(api: Api, database: Database) -> None:
    """After a restore, old ids in any form make each workspace send a gap and its whole history. The next id is valid again."""
    for workspace in ("a", "b"):
        await stored(api, workspace, [f"{workspace}1", f"{workspace}2"])
    before = await last_id(api)
    await Workspaces(database).renew_epochs()
    for last in (before, before.partition(",")[0], "an-event-that-is-gone", "v2:something-later", "at/x.1"):
        async with await follow(api, last) as stream:
            found: list[Any] = []
            gaps = 0
            while len(found) < 4:
                block = await stream.next()
                if block.event == "gap":
                    gaps += 1
                    assert (block.json["reason"], block.json["to"]) == ("reset", None), last
                elif block.event == "activity":
                    found.append(block.json["id"])
                    again = block.id
            assert (sorted(found), gaps) == (["a1", "a2", "b1", "b2"], 2), last
    (await api.append("a", id="a3")).expect(201)
    async with await follow(api, again) as stream:
        assert [event["id"] for event in await stream.events(1)] == ["a3"]
    async with await follow(api, None, after=before) as stream:
        assert (await stream.next("gap")).json["reason"] == "reset"


async def test_a_workspace_that_is_gone_from_an_id(api: Api) -> None:
    """A deleted or inaccessible workspace is reported as one gap, even if it was recreated. The others continue exactly."""
    for workspace in ("a", "b"):
        await stored(api, workspace, [f"{workspace}1"])
    before = await last_id(api)
    (await api.delete("/v1/workspaces/b")).expect(204)
    await stored(api, "b", ["again"])
    await stored(api, "a", ["a2"])
    async with await follow(api, before) as stream:
        assert (await stream.next()).event == "gap"
        found = [await stream.next("activity") for _ in range(2)]
        assert sorted(block.json["id"] for block in found) == ["a2", "again"]
        after = found[-1].id
    await stored(api, "a", ["a3"])
    async with await follow(api, after) as stream:
        block = await stream.next()
        assert (block.event, block.json["id"]) == ("activity", "a3")


async def test_polling_from_what_is_gone(api: Api, database: Database) -> None:
    """PraisonAI's and Paperclip's lists return 410 for an id or position that is not in the log, and say to start again."""
    await stored(api, WS, ["e1"])
    old = (await api.get(events(WS))).json["position"]
    await Workspaces(database).renew_epochs()
    for gone in (old, "no-such-event"):
        answer = await api.get(PRAISONAI, after_id=gone)
        assert "start again" in answer.expect(410)["detail"]
        for name in ("after", "since"):
            answer = await api.get(PAPERCLIP, **{name: gone})
            assert set(answer.expect(410)["details"]) == {"earliest", "head"}
            page = await api.get(PAPERCLIP, after=answer.json["details"]["earliest"])
            assert [row["id"] for row in page.expect(200)] == ["e1"]
        assert (await api.get(events(WS), after=gone)).status == (410 if gone == old else 400)
    for wrong in ("a b", "é"):
        assert (await api.get(PRAISONAI, after_id=wrong)).status == 422
        assert (await api.get(PAPERCLIP, after=wrong)).status == 400
    async with PlatformClient(api.url, ADMIN_KEY) as client:
        with pytest.raises(ApiError) as caught:
            await client.get_workspace_activity(WS, after_id="no-such-event")
        assert caught.value.status == 410


async def test_a_socket_from_what_is_gone(api: Api, database: Database) -> None:
    """Paperclip's socket reports a gap and sends everything, because the client would repeat a refused attempt indefinitely."""
    await stored(api, WS, ["e1"])
    old = (await api.get(events(WS))).json["position"]
    await Workspaces(database).renew_epochs()
    for gone in (old, "no-such-event"):
        url = f"{api.url}/api/companies/{WS}/events/ws"
        async with await WsReader.open(url, params={"after": gone}, headers=api.headers) as socket:
            assert (await socket.next())["type"] == "activity.gap"
            assert (await socket.next())["payload"]["id"] == "e1"


async def test_a_cursor_over_many_logs_that_are_gone(api: Api, database: Database) -> None:
    """The cursor is refused instead of looking like the end of the list."""
    for workspace in ("a", "b"):
        for _ in range(3):
            (await api.append(workspace, actor={"type": "user", "id": "ann"})).expect(201)
        ann = await join(api, workspace, "ann", "admin")
    link = (await ann.get("/api/v1/users/me/activity", limit=1)).headers["Link"].partition(">")[0].strip("<")
    cursor = (await ann.get("/v1/audit", limit=1)).json["cursor"]
    await Workspaces(database).renew_epochs()
    assert (await ann.get(link)).status == 422
    assert (await ann.get("/v1/audit", cursor=cursor)).error == "invalid_cursor"


# ---- empty logs


async def test_polling_from_an_empty_log(api: Api) -> None:
    """A client that polls an empty log gets a position to continue from, and then each of very many events once."""
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    names = [f"e{index:03}" for index in range(120)]
    places = {
        (PRAISONAI, "after_id"): await api.get(PRAISONAI, after_id="", limit=50),
        (PAPERCLIP, "after"): await api.get(PAPERCLIP),
        ("/api/companies/not-yet/activity", "after"): await api.get("/api/companies/not-yet/activity"),
    }
    positions = [(await api.get(path)).expect(200)["position"] for path in (events(WS), f"{events(WS)}?after=2200-01-01T00:00:00Z")]  # fmt: skip
    evershell = (await api.get(f"/v1/workspaces/{WS}/activity")).expect(200)["position"]
    for workspace in (WS, "not-yet"):
        await stored(api, workspace, [name if workspace == WS else f"n{name}" for name in names])
    for (path, parameter), answer in places.items():
        assert answer.expect(200) == []
        found: list[str] = []
        place = answer.headers["X-Position"]
        while rows := (page := await api.get(path, **{parameter: place, "limit": 50})).expect(200):
            found += [row["id"] for row in rows]
            place = page.headers["X-Position"]
        assert [name.removeprefix("n") for name in found] == names, path
    for position in (*positions, evershell):
        assert [event["id"] for event in await api.history(WS, after=position)] == names


async def test_the_platform_client_polls_from_an_empty_log(api: Api) -> None:
    """The documented polling loop of the platform, which uses only ids, misses nothing if it starts before the first event."""
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    names = [f"e{index:03}" for index in range(120)]
    last, found = None, []
    async with PlatformClient(api.url, ADMIN_KEY) as client:
        for round_ in range(6):
            if round_ == 2:
                await stored(api, WS, names)
            for activity in await client.get_workspace_activity(WS, limit=50, after_id=last):
                last = activity["id"]
                found.append(last)
    assert found == names


async def test_a_stream_of_no_workspaces_resumes(api: Api) -> None:
    """A stream of all that opened before any workspace existed continues with the first event of each."""
    async with await follow(api, None) as stream:
        last = (await stream.next()).id
    assert last
    await stored(api, "a", ["a1"])
    async with await follow(api, last) as stream:
        block = await stream.next()
        assert (block.event, block.json["id"]) == ("activity", "a1")


async def test_every_way_of_following_an_empty_log(api: Api) -> None:
    """Streams, sockets and long polls return a position before the first event, too."""
    (await api.put(f"/v1/workspaces/{WS}")).expect(201)
    async with await api.stream(WS) as stream:
        by_stream = (await stream.next("synced")).id
    async with await open_socket(api, WS) as socket:
        by_socket = (await socket.next("synced"))["position"]
    by_poll = (await api.get(events(WS), after=by_socket, wait=0.05)).expect(200)["position"]
    async with await SseReader.open(f"{api.url}/v1/workspaces/{WS}/activity/stream", headers=api.headers) as stream:
        foreign = (await stream.next()).id
    await stored(api, WS, ["e1"])
    assert by_stream == by_socket == by_poll
    assert [event["id"] for event in await api.history(WS, after=by_poll)] == ["e1"]
    assert foreign is not None
    headers = api.headers | {"Last-Event-ID": foreign}
    async with await SseReader.open(f"{api.url}/v1/workspaces/{WS}/activity/stream", headers=headers) as stream:
        assert [event["id"] for event in await stream.events(1)] == ["e1"]
