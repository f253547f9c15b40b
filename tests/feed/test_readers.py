"""Guarantees of all kinds of readers in one suite: server-sent events, both WebSockets and long poll."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.store.test_promises import Account, _node, _slow_down, _write
from tests.support.api import Api, events
from tests.support.databases import trim
from tests.support.readers import (
    BEGINNING,
    CONNECTED,
    KINDS,
    LONG_POLL,
    LOST,
    SUBSCRIPTION,
    Diary,
    Ended,
    Kind,
    Reader,
    Refused,
    seqs_of,
    take,
)
from tests.support.waiting import SECONDS, eventually

WS = "readers"

of_every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
of_every_connected_kind = pytest.mark.parametrize("kind", CONNECTED, ids=lambda kind: kind.name)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def head_of(api: Api, workspace: str = WS) -> str:
    """Return the position of the last stored event."""
    position = (await api.get(events(workspace), limit=1)).expect(200)["position"]
    assert isinstance(position, str)
    return position


async def refused(kind: Kind, api: Api, workspace: str = WS, **options: Any) -> Refused:
    """Return the server's refusal of this reader."""
    with pytest.raises(Refused) as caught:
        await (await kind.open(api, workspace, **options)).some()
    if kind is not SUBSCRIPTION:
        assert caught.value.status is not None, "refused before the upgrade"
    return caught.value


# ---- where to start


@of_every_kind
async def test_live_from_now(api: Api, kind: Kind) -> None:
    """Without a position, a reader receives new events, each as it was stored, and its position advances."""
    (await api.append(WS)).expect(201)
    reader = await kind.open(api, WS)
    assert await reader.synced() == []
    assert reader.position == await head_of(api)
    for _ in range(3):
        stored = (await api.append(WS, details={"text": "line one\nline two\r\n\x00 ünïcode \u2028 😀"})).expect(201)
        assert await reader.some() == [stored]
        assert reader.position == await head_of(api)
    reader.close()


@of_every_kind
async def test_replay_from_position_timestamp_and_beginning(api: Api, kind: Kind) -> None:
    """A reader starts exactly after a position or a timestamp."""
    stored = (await api.append_all(WS, [{}] * 5)).expect(201)["events"]
    epoch = (await head_of(api)).rpartition(".")[0]
    for options, expected in (
        ({"position": f"{epoch}.2"}, [3, 4, 5]),
        ({"after": f"{epoch}.2"}, [3, 4, 5]),
        ({"after": stored[3]["timestamp"]}, [5]),
        ({"after": BEGINNING}, [1, 2, 3, 4, 5]),
        ({"position": f"{epoch}.0"}, [1, 2, 3, 4, 5]),
        ({"position": f"{epoch}.5"}, []),
    ):
        reader = await kind.open(api, WS, **options)
        assert [event["seq"] for event in await reader.synced()] == expected, options
        assert reader.position == f"{epoch}.5"
        reader.close()


@of_every_kind
async def test_a_long_replay_joins_live(api: Api, kind: Kind) -> None:
    """Events stored during a replay arrive once, after the missed events and before live ones."""
    for _ in range(3):
        (await api.append_all(WS, [{"details": {"x": "y" * 500}}] * 500)).expect(201)
    reader = await kind.open(api, WS, after=BEGINNING)
    found = await take(reader, 10)
    appending = asyncio.create_task(_append_steadily(api, 200))
    found += await take(reader, 1700 - len(found))
    await appending
    (await api.append(WS)).expect(201)
    found += await reader.some()
    assert [event["seq"] for event in found] == list(range(1, 1702))
    reader.close()


async def _append_steadily(api: Api, count: int) -> None:
    for _ in range(0, count, 5):
        (await api.append_all(WS, [{}] * 5)).expect(201)


# ---- filters


@of_every_kind
async def test_filters_on_replay_and_live(api: Api, kind: Kind) -> None:
    """The same filter applies to missed and to live events."""
    batch = [
        {"action": f"issue.{verb}", "agent_id": agent} for verb in ("created", "updated", "closed") for agent in "ab"
    ]
    (await api.append_all(WS, batch)).expect(201)
    wanted: list[tuple[dict[str, Any], list[int]]] = [
        ({"action": "issue.updated"}, [3, 4]),
        ({"action": ["issue.updated", "issue.created"], "agent_id": "a"}, [1, 3]),
        ({"action": "!issue.*"}, []),
        ({"action": ["!issue.created", "issue.*"], "agent_id": "!a"}, [4, 6]),
        ({"agent_id": "a,b", "action": "issue.closed"}, [5, 6]),
        ({"actor_type": "user", "q": ["UPDATED", "no such text"]}, [3, 4]),
    ]
    readers = [await kind.open(api, WS, after=BEGINNING, **options) for options, _ in wanted]
    for reader, (options, expected) in zip(readers, wanted, strict=True):
        assert [event["seq"] for event in await reader.synced()] == expected, options
    (await api.append_all(WS, batch)).expect(201)
    for reader, (options, expected) in zip(readers, wanted, strict=True):
        if expected:
            assert await seqs_of(reader, 2) == [seq + 6 for seq in expected], options
        reader.close()


@of_every_kind
async def test_a_narrow_filter_moves_the_position_on(
    make_server: MakeServer, http: aiohttp.ClientSession, kind: Kind
) -> None:
    """When a filter stops all events, the position still advances, live and during a replay."""
    server = await make_server(heartbeat_seconds=1)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    reader = await kind.open(api, WS, action="never.happens")
    assert await reader.synced() == []
    (await api.append_all(WS, [{}] * 4)).expect(201)
    await asyncio.wait_for(reader.moved_to(await head_of(api)), SECONDS)
    reader.close()
    replaying = await kind.open(api, WS, after=BEGINNING, action="never.happens")
    assert await replaying.synced() == []
    assert replaying.position == await head_of(api)
    replaying.close()


@of_every_kind
async def test_audit_events_need_their_scope(api: Api, kind: Kind) -> None:
    """A reader without `audit:read` receives no audit event, missed or live, even if its filter asks for them."""
    (await api.append_all(WS, [{"category": "audit"}, {}])).expect(201)
    caller = api.with_key(await api.create_key(WS, scopes=["workspace:read"]))
    reader = await kind.open(caller, WS, after=BEGINNING)
    asking = await kind.open(caller, WS, after=BEGINNING, category="audit")
    (await api.append_all(WS, [{"category": "audit"}, {}])).expect(201)
    assert await seqs_of(reader, 2) == [2, 5]  # the third records the key
    assert await asking.synced() == []
    reader.close()
    asking.close()


# ---- resuming


@of_every_kind
async def test_resume_at_each_point(api: Api, kind: Kind) -> None:
    """A reader that disconnects at any time, during the replay or live, resumes exactly after the last event it received."""
    total = 240
    (await api.append_all(WS, [{}] * 40)).expect(201)
    appending = asyncio.create_task(_append_steadily(api, total - 40))
    seqs: list[int] = []
    where = {"after": BEGINNING}
    connections = 0
    while len(seqs) < total:
        reader = await kind.open(api, WS, **where)
        for _ in range(random.randrange(1, 12)):
            if len(seqs) < total:
                seqs += [event["seq"] for event in await reader.some()]
        assert reader.position
        where = {"position": reader.position}
        reader.abort()
        connections += 1
    await appending
    assert seqs == list(range(1, total + 1))
    assert connections > 1


@of_every_kind
async def test_resume_after_a_gap_of_being_away(api: Api, kind: Kind) -> None:
    """A reader that reconnects late receives the events it missed, even if the server no longer caches them."""
    (await api.append(WS)).expect(201)
    reader = await kind.open(api, WS)
    await reader.synced()
    other = await kind.open(api, WS)
    (await api.append(WS)).expect(201)
    assert await seqs_of(reader, 1) == [2]
    reader.abort()
    (await api.append_all(WS, [{}] * 50)).expect(201)
    assert await seqs_of(other, 51) == list(range(2, 53))
    again = await kind.open(api, WS, position=reader.position)
    assert await seqs_of(again, 50) == list(range(3, 53))
    again.close()
    other.close()


# ---- gaps


@of_every_kind
async def test_what_retention_removed_is_said(api: Api, database: Database, kind: Kind) -> None:
    """When a reader's next events have been removed, it gets a gap with the reason and continues after it, exactly at the edge."""
    (await api.append_all(WS, [{}] * 10)).expect(201)
    head = await head_of(api)
    epoch = head.rpartition(".")[0]
    await trim(database, below=7)
    if kind.says_gaps:
        reader = await kind.open(api, WS, position=f"{epoch}.2")
        assert await reader.gap() == {"from": 3, "to": 6, "reason": "retention", "position": f"{epoch}.6"}
        assert reader.position == f"{epoch}.6"
    else:
        said = await refused(kind, api, position=f"{epoch}.2")
        assert (said.status, said.code) == (410, "position_expired")
        assert said.details == {"earliest": f"{epoch}.6", "head": head}
        reader = await kind.open(api, WS, position=said.details["earliest"])
    assert await seqs_of(reader, 4) == [7, 8, 9, 10]
    reader.close()
    edge = await kind.open(api, WS, position=f"{epoch}.6")
    assert await seqs_of(edge, 4) == [7, 8, 9, 10]
    edge.close()


@of_every_kind
async def test_a_position_that_is_not_of_this_log_is_said(api: Api, kind: Kind) -> None:
    """A position of another epoch or after the head is reported as a reset, followed by this log's events."""
    (await api.append_all(WS, [{}] * 3)).expect(201)
    head = await head_of(api)
    epoch = head.rpartition(".")[0]
    if kind.says_gaps:
        reader = await kind.open(api, WS, position="other.40")
        assert await reader.gap() == {"from": 41, "to": None, "reason": "reset", "position": f"{epoch}.0"}
        assert await seqs_of(reader, 3) == [1, 2, 3]
        reader.close()
        reader = await kind.open(api, WS, position=f"{epoch}.9")
        assert await reader.gap() == {"from": 4, "to": 9, "reason": "reset", "position": head}
        assert await reader.synced() == []
        (await api.append(WS)).expect(201)
        assert await seqs_of(reader, 1) == [4]
        reader.close()
    else:
        for position in ("other.40", f"{epoch}.9"):
            said = await refused(kind, api, position=position)
            assert (said.status, said.code) == (410, "position_expired")
            assert said.details == {"earliest": f"{epoch}.0", "head": head}


# ---- deleted workspaces


@of_every_kind
async def test_deleting_a_workspace_ends_its_readers(api: Api, kind: Kind) -> None:
    """When a workspace is deleted, its readers end and must not reconnect. In a recreated one, an old position is a reset."""
    (await api.append_all(WS, [{}] * 3)).expect(201)
    reader = await kind.open(api, WS)
    await reader.synced()
    position = reader.position
    ending = asyncio.create_task(reader.ended())
    await asyncio.sleep(0)
    (await api.delete(f"/v1/workspaces/{WS}")).expect(204)
    ended = await asyncio.wait_for(ending, SECONDS)
    assert ended.reason == ("workspace_deleted" if kind.has_connection else "workspace_not_found")
    assert not ended.reconnect
    assert (await refused(kind, api, position=position)).code == "workspace_not_found"
    (await api.append(WS)).expect(201)
    if kind.says_gaps:
        again = await kind.open(api, WS, position=position)
        assert (await again.gap())["reason"] == "reset"
        assert await seqs_of(again, 1) == [1]
        again.close()
    else:
        assert (await refused(kind, api, position=position)).code == "position_expired"


# ---- refusals


@of_every_kind
async def test_unknown_and_foreign_workspaces(api: Api, kind: Kind) -> None:
    """Without a grant, a workspace is reported as missing before any upgrade. Without the scope, the missing scope is reported."""
    for workspace in ("mine", "theirs"):
        (await api.append(workspace)).expect(201)
    me = api.with_key(await api.create_key("mine", scopes=["workspace:read", "admin"]))
    writer = api.with_key(await api.create_key("mine", scopes=["workspace:write"]))
    found = [await refused(kind, me, workspace) for workspace in ("theirs", "nowhere", "system")]
    found.append(await refused(kind, api, "nowhere"))
    assert {(each.status, each.code) for each in found} == {
        (None if kind is SUBSCRIPTION else 404, "workspace_not_found")
    }
    lacking = await refused(kind, writer, "mine")
    assert (lacking.status, lacking.code) == (None if kind is SUBSCRIPTION else 403, "permission_denied")
    for key in (None, "garbage"):
        said = await refused(kind, api.with_key(key), "mine")
        assert (said.status, said.code) == (401, "unauthenticated")


GARBAGE = [
    "x",
    "1",
    "abc.",
    ".5",
    "abc.-1",
    "abc.1.2",
    "ABC.1",
    "abc.99999999999999999999",
    "é.1",
    "2026-13-01T00:00:00Z",
]


@on_sqlite
@of_every_kind
async def test_bad_parameters_are_named(api: Api, kind: Kind) -> None:
    """An invalid parameter gets 400 with its name, before any upgrade. An empty `after` counts as absent."""
    (await api.append(WS)).expect(201)
    cases: list[tuple[dict[str, Any], str]] = [({"after": garbage}, "after") for garbage in GARBAGE]
    cases += [
        ({"bogus": "1"}, "bogus"),
        ({"q": ""}, "q"),
        ({"action": "x" * 513}, "action"),
        ({"category": "nonsense"}, "category"),
        ({"agent_id": ",".join("x" * 101)}, "filter"),
        ({"action": "*.created"}, "action"),
    ]
    for options, name in cases:
        said = await refused(kind, api, **options)
        assert (said.status, said.code) == (None if kind is SUBSCRIPTION else 400, "validation_error"), options
        assert said.fields == {name}, options
    reader = await kind.open(api, WS, after="")
    assert await reader.synced() == []
    reader.close()


# ---- slow readers


@of_every_kind
async def test_a_slow_reader_gets_all_and_slows_nobody(
    make_server: MakeServer, http: aiohttp.ClientSession, kind: Kind
) -> None:
    """A reader that reads nothing falls back to the log without delaying others, and later receives everything."""
    server = await make_server(ring_bytes=16 * 1024, write_buffer_bytes=4 * 1024, append_queue_events=100_000)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    slow = await kind.open(api, WS, receive_buffer=4096)
    await slow.synced()
    quick = await kind.open(api, WS)
    await quick.synced()
    total = 1
    blob = {"details": {"blob": "x" * 8000}}
    while total < 1000 or (kind.has_connection and not await _catch_ups(api)):
        (await api.append_all(WS, [blob] * 100)).expect(201)
        assert await seqs_of(quick, 100) == list(range(total + 1, total + 101))
        total += 100
    assert await seqs_of(slow, total - 1) == list(range(2, total + 1))
    (await api.append(WS)).expect(201)
    assert await seqs_of(slow, 1) == [total + 1]
    slow.close()
    quick.close()


async def _catch_ups(api: Api) -> float:
    """Count how often the server sent a slow reader back to the log."""
    text = (await api.get("/metrics")).body.decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("streamer_catch_ups_total"))


# ---- kill -9


async def test_every_kind_resumes_after_kill_9(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """However often the server is killed under load, every reader receives each acknowledged event once and in order."""
    server = make_process()
    api = Api(http, server.url, ADMIN_KEY)
    await server.start()
    (await api.append_all(WS, [{}] * 10)).expect(201)
    kills, each = 2, 120
    acknowledged = [10]

    async def load() -> None:
        number = 0
        while acknowledged[0] < each * (kills + 1):
            # An append with an unknown outcome is repeated with the same ids, so it is stored once.
            batch = [{"id": f"load-{number}-{i}"} for i in range(5)]
            number += 1
            while True:
                try:
                    answer = await api.append_all(WS, batch)
                except (OSError, *LOST):
                    await asyncio.sleep(0.02)
                    continue
                assert answer.status in {200, 201}, answer.body
                acknowledged[0] = answer.json["events"][-1]["seq"]
                break

    until = each * (kills + 1)
    diaries = {f"{kind.name}-{i}": (kind, Diary()) for kind in KINDS for i in range(3)}
    loading = asyncio.create_task(load())
    reading = [asyncio.create_task(diary.keep(kind, api, WS, until=until)) for kind, diary in diaries.values()]
    for kill in range(1, kills + 1):
        await eventually(lambda kill=kill: acknowledged[0] >= each * kill)  # type: ignore[misc]
        server.kill()
        await server.start()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(loading, *reading)
    for name, (_, diary) in diaries.items():
        assert diary.seqs == list(range(1, diary.seqs[-1] + 1)), name
        assert diary.connections >= 2, name
    stored = await api.history(WS, order="asc", limit=1000)
    assert len(stored) == until


# ---- no skipped events


async def test_no_kind_skips_under_slow_writers(database_url: str, api: Api) -> None:
    """With 16 writers and slow transactions, readers of every kind receive each event once and in order."""
    writers, each = 16, 10
    account = Account()
    (await api.put("/v1/workspaces/promises")).expect(201)
    readers: dict[str, Reader] = {}
    for kind in KINDS:
        readers[kind.name] = await kind.open(api, "promises")
        await readers[kind.name].synced()
    async with AsyncExitStack() as stack:
        intakes = [await stack.enter_async_context(_node(database_url, lambda *_: None)) for _ in range(writers)]
        await _slow_down(database_url)
        reading = {name: asyncio.create_task(_take_slowly(reader, writers * each)) for name, reader in readers.items()}
        await asyncio.gather(*(_write(intake, account, count=each) for intake in intakes))
        account.read = {name: await task for name, task in reading.items()}
    assert account.wrong() == {}
    assert len(account.stored) == writers * each
    for reader in readers.values():
        reader.close()


async def _take_slowly(reader: Reader, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(100):
        while len(found) < count:
            found += await reader.some()
    return found


def test_a_diary_is_strict() -> None:
    """A close that forbids reconnecting is not treated as an ordinary one."""
    assert not Ended("workspace_deleted", reconnect=False).reconnect
    assert Ended(None).reconnect
    assert LONG_POLL.says_gaps is False
