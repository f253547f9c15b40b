"""Long poll: a request for a page of history that waits for new events."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from streamer.app import Server
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.support.api import Answer, Api, events
from tests.support.readers import BEGINNING
from tests.support.waiting import SECONDS, eventually

WS = "polled"
LONG = 60
"""Seconds for `wait`: longer than a test may take, so a poll that waits this long fails its test."""

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


AT_ONCE = 20


async def head_of(api: Api) -> str:
    """Return the position of the last stored event."""
    position = (await api.get(events(WS), limit=1)).expect(200)["position"]
    assert isinstance(position, str)
    return position


async def waiting_now(api: Api) -> float:
    """Count the waiting polls."""
    lines = (await api.get("/metrics")).body.decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith('streamer_subscribers{transport="longpoll"')
    )


async def poll(api: Api, count: int = 1, **params: object) -> list[asyncio.Task[Answer]]:
    """Start a poll and return when this many more polls wait on the server."""
    before = await waiting_now(api)
    polls: list[asyncio.Task[Answer]] = []

    async def all_wait() -> bool:
        assert not any(each.done() for each in polls), [each.result() for each in polls if each.done()]
        return await waiting_now(api) >= before + len(polls)

    while len(polls) < count:  # a few at once: each reads a page first, and one key has few concurrent reads
        polls += [asyncio.create_task(api.get(events(WS), **params)) for _ in range(min(AT_ONCE, count - len(polls)))]
        await eventually(all_wait)
    return polls


async def answered(task: asyncio.Task[Answer]) -> Answer:
    """Return the response, which must arrive long before the poll's time is over."""
    return await asyncio.wait_for(task, SECONDS)


async def test_what_is_there_is_answered_at_once(api: Api) -> None:
    """If events exist, a poll returns the same page as without `wait`: events, position, cursor and link."""
    stored = (await api.append_all(WS, [{}] * 5)).expect(201)["events"]
    for after in (BEGINNING, stored[1]["timestamp"], (await head_of(api)).rpartition(".")[0] + ".3"):
        for limit in (2, 100):
            page = await api.get(events(WS), after=after, limit=limit)
            waited = await answered(asyncio.create_task(api.get(events(WS), after=after, limit=limit, wait=LONG)))
            assert waited.json == page.json
            assert ("cursor" in waited.json) == (limit == 2)
            assert ("Link" in waited.headers) == ("Link" in page.headers)


async def test_a_poll_wakes_with_the_first_event(api: Api) -> None:
    """A waiting poll returns the next stored events unchanged, and the client continues from its position."""
    (await api.append(WS)).expect(201)
    position = await head_of(api)
    for number in range(3):
        (waiting,) = await poll(api, after=position, wait=LONG)
        stored = (await api.append_all(WS, [{"details": {"n": number}}] * 3)).expect(201)["events"]
        page = (await answered(waiting)).expect(200)
        assert page["events"] == stored
        assert page["position"] == await head_of(api)
        position = page["position"]


async def test_a_poll_wakes_with_the_first_that_passes(api: Api) -> None:
    """Events that do not match the filter do not wake a poll. Its position is after the event that woke it."""
    (await api.append(WS)).expect(201)
    (waiting,) = await poll(api, after=await head_of(api), wait=LONG, action="issue.closed", agent_id="bob")
    for event in ({}, {"action": "issue.closed"}, {"agent_id": "bob"}):
        (await api.append(WS, **event)).expect(201)
        assert await waiting_now(api) == 1
        assert not waiting.done()
    stored = (await api.append(WS, action="issue.closed", agent_id="bob")).expect(201)
    page = (await answered(waiting)).expect(200)
    assert page["events"] == [stored]
    assert page["position"] == await head_of(api)


@on_sqlite
async def test_audit_events_do_not_wake_who_may_not_see_them(api: Api) -> None:
    """Without `audit:read`, an audit event does not wake a poll, but its position advances."""
    (await api.append(WS)).expect(201)
    caller = api.with_key(await api.create_key(WS, scopes=["workspace:read"]))
    waiting = asyncio.create_task(caller.get(events(WS), after=await head_of(api), wait=1))
    (await api.append(WS, category="audit")).expect(201)
    page = (await answered(waiting)).expect(200)
    assert page == {"events": [], "position": await head_of(api)}


async def test_when_the_time_is_over(api: Api) -> None:
    """A poll that times out is empty, and its position is after the events that the filter stopped."""
    (await api.append(WS)).expect(201)
    before = await head_of(api)
    waiting = asyncio.create_task(api.get(events(WS), after=before, wait=1, action="never.happens"))
    (await api.append_all(WS, [{}] * 3)).expect(201)
    page = (await answered(waiting)).expect(200)
    assert page == {"events": [], "position": await head_of(api)}
    assert page["position"] != before
    for wait in (0, 1):
        assert (await api.get(events(WS), after=page["position"], wait=wait)).expect(200) == page


async def test_a_page_is_as_long_as_its_limit(api: Api) -> None:
    """A batch longer than the page wakes a poll with a full page. The cursor or the position leads to the rest."""
    (await api.append(WS)).expect(201)
    (waiting,) = await poll(api, after=await head_of(api), wait=LONG, limit=3)
    stored = (await api.append_all(WS, [{}] * 8)).expect(201)["events"]
    page = (await answered(waiting)).expect(200)
    assert page["events"] == stored[:3]
    by_cursor = (await api.get(events(WS), cursor=page["cursor"], limit=100)).expect(200)["events"]
    by_position = (await api.get(events(WS), after=page["position"], wait=LONG)).expect(200)["events"]
    assert by_cursor == by_position == stored[3:]


WRONG: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"wait"}),
    ({"order": "asc"}, {"wait"}),
    ({"order": "desc", "after": BEGINNING}, {"wait"}),
    ({"before": "2999-01-01T00:00:00Z"}, {"wait"}),
    ({"before": "2999-01-01T00:00:00Z", "after": BEGINNING}, {"wait"}),
    *(
        ({"after": BEGINNING, "wait": wait}, {"wait"})
        for wait in ("-1", "61", "60.1", "x", "", "nan", "inf", "1e1", " 1", "٣", "9" * 50, ["1", "1"])
    ),
    ({"after": "garbage"}, {"after"}),
    ({"after": BEGINNING, "bogus": "1"}, {"bogus"}),
]  # fmt: skip


@on_sqlite
async def test_waits_that_cannot_be(api: Api) -> None:
    """`wait` requires `after` and ascending order, and is 0 to 60 seconds. Anything else gets 400 with the name."""
    (await api.append_all(WS, [{}] * 5)).expect(201)
    for params, fields in WRONG:
        answer = await api.get(events(WS), **{"wait": 5, **params})
        assert answer.status == 400, params
        assert fields <= set(answer.json["error"]["details"]["fields"]), params
    cursor = (await api.get(events(WS), after=BEGINNING, limit=2)).expect(200)["cursor"]
    assert "wait" in (await api.get(events(WS), cursor=cursor, wait=5)).expect(400)["error"]["details"]["fields"]
    (await api.get(events(WS), after=BEGINNING, order="asc", wait=60)).expect(200)
    assert (await api.get(events("nowhere"), after=BEGINNING, wait=5)).error == "workspace_not_found"


@on_sqlite
async def test_the_longest_wait_is_a_setting(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A setting limits the longest wait."""
    api = Api(http, (await make_server(max_wait_seconds=2)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    assert "wait" in (await api.get(events(WS), after=BEGINNING, wait=3)).expect(400)["error"]["details"]["fields"]
    (await api.get(events(WS), after=BEGINNING, wait=2)).expect(200)


async def test_a_position_that_is_gone_is_said_at_once(api: Api) -> None:
    """A position that cannot be served exactly gets 410 at once."""
    (await api.append(WS)).expect(201)
    epoch = (await head_of(api)).rpartition(".")[0]
    for position in ("other.1", f"{epoch}.2"):
        answer = await answered(asyncio.create_task(api.get(events(WS), after=position, wait=LONG)))
        assert (answer.status, answer.error) == (410, "position_expired")


async def test_many_wait_for_one_event(api: Api, server: Server) -> None:
    """One append wakes all waiting polls, each with its own filter, and they leave nothing behind."""
    (await api.append(WS)).expect(201)
    position = await head_of(api)
    waiting = await poll(api, 200, after=position, wait=LONG)
    others = await poll(api, 20, after=position, wait=LONG, action="issue.closed")
    stored = (await api.append(WS)).expect(201)
    pages = [(await answered(each)).expect(200) for each in waiting]
    assert pages == [{"events": [stored], "position": await head_of(api)}] * 200
    assert not any(each.done() for each in others)
    closed = (await api.append(WS, action="issue.closed")).expect(201)
    assert [(await answered(each)).expect(200)["events"] for each in others] == [[closed]] * 20
    await eventually(lambda: not server.channels._channels)


async def test_another_nodes_event_wakes_a_poll(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """An event of another node is found within the interval at which a node polls the log."""
    here, there = [Api(http, (await make_server(poll_seconds=0.05)).url, ADMIN_KEY) for _ in range(2)]
    (await here.append(WS)).expect(201)
    (waiting,) = await poll(here, after=await head_of(there), wait=LONG)
    stored = (await there.append(WS)).expect(201)
    assert (await answered(waiting)).expect(200)["events"] == [stored]


async def test_a_poll_of_a_workspace_that_is_deleted(api: Api) -> None:
    """If the workspace is deleted, waiting polls are answered at once."""
    (await api.append(WS)).expect(201)
    (waiting,) = await poll(api, after=await head_of(api), wait=LONG)
    (await api.delete(f"/v1/workspaces/{WS}")).expect(204)
    answer = await answered(waiting)
    assert (answer.status, answer.error) == (404, "workspace_not_found")


async def test_who_leaves_leaves_nothing(api: Api, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of disconnected polls leave no task, descriptor, channel or traceback."""
    (await api.append(WS)).expect(201)
    position = await head_of(api)

    async def come_and_go() -> None:
        polls = await poll(api, 50, after=position, wait=LONG)
        for each in polls:
            each.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await eventually(lambda: not server.channels._channels)

    await come_and_go()
    gc.collect()
    tasks, descriptors = len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))  # noqa: ASYNC240
    for _ in range(4):
        await come_and_go()
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    await eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 10)
    assert await waiting_now(api) == 0
    assert "Traceback" not in caplog.text


@on_sqlite
async def test_a_stopping_server_answers_who_waits(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """On SIGTERM, a poll returns its position at once, and the server does not wait for its timeout."""
    longest = 300
    process = make_process(max_wait_seconds=longest, drain_seconds=longest)
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    position = await head_of(api)
    waiting = await poll(api, 20, after=position, wait=longest)
    assert await asyncio.wait_for(process.stop(), SECONDS) == 0
    for each in waiting:
        assert (await answered(each)).expect(200) == {"events": [], "position": position}
    assert "Traceback" not in process.log
    lines = process.log_lines
    assert lines
    assert all(line["level"] in {"info", "warning"} for line in lines)
