"""Reading over many workspaces: Evershell's audit over all workspaces, and PraisonAI's activity of a user."""

import asyncio
import contextlib
import random
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.app import Server
from streamer.core.errors import InvalidCursor
from streamer.core.position import MAX_SEQ
from streamer.http.merge import MAX_WORKSPACES, MergeCursor, parse_positions, positions_text
from streamer.server.connection import MAX_HEADER
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Answer, Api
from tests.support.sse import SseReader
from tests.support.tokens import SECRET, person
from tests.support.waiting import eventually

AUDIT = "/v1/audit"
STREAM = "/v1/activity/stream"
MINE = "/api/v1/users/me/activity"
DECISIONS = "event_type=policy_decision"
Event = dict[str, Any]

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
pytestmark = pytest.mark.usefixtures("one_hour")


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server that accepts tokens."""
    return await make_server(jwt_secret=SECRET)


def ids(found: Sequence[Event]) -> list[str]:
    """Return the events' ids."""
    return [event["id"] for event in found]


async def append(api: Api, workspace: str, count: int = 1, **event: object) -> list[Event]:
    """Append events that both APIs show to Ann."""
    batch = [{"action": "policy_decision", "actor": {"type": "user", "id": "ann"}, **event}] * count
    found: list[Event] = (await api.append_all(workspace, batch)).expect(201)["events"]
    return found


def ordered(found: Sequence[Event], order: str = "desc") -> list[str]:
    """Return the ids of events in the order of a list over all workspaces."""
    by_time = sorted(found, key=lambda event: (event["timestamp"], event["id"]), reverse=order == "desc")
    return ids(by_time)


async def next_page(api: Api, answer: Answer) -> Answer | None:
    """Follow PraisonAI's `Link`."""
    if "Link" not in answer.headers:
        return None
    target = answer.headers["Link"].partition("<")[2].partition(">")[0]
    return await api.get(target)


async def audited(api: Api, **params: object) -> list[list[Event]]:
    """Return the pages of `/v1/audit`."""
    asked = {"filter": DECISIONS, **params}
    page = (await api.request("GET", AUDIT, params=asked)).expect(200)
    pages = [page["events"]]
    while "cursor" in page:
        kept = {name: asked[name] for name in ("filter", "limit") if name in asked}
        page = (await api.request("GET", AUDIT, params=kept | {"cursor": page["cursor"]})).expect(200)
        pages.append(page["events"])
    return pages


async def mine(api: Api, **params: object) -> list[list[Event]]:
    """Return the pages of `/api/v1/users/me/activity`."""
    answer: Answer | None = await api.request("GET", MINE, params=params)
    pages = []
    while answer is not None:
        pages.append(answer.expect(200))
        answer = await next_page(api, answer)
    return pages


def flat(pages: Sequence[Sequence[Event]]) -> list[Event]:
    """Return the events of all pages."""
    return [event for page in pages for event in page]


async def test_pages_over_many_workspaces_while_others_append(api: Api) -> None:
    """While others append, both APIs return each existing event once and in order, in both orders and with any page size."""
    rng = random.Random(5)
    ann = person(api, "ann", grants={"*": ["workspace:read", "audit:read"]})
    found: list[Event] = []
    for _ in range(20):
        found += await append(api, f"w{rng.randrange(6)}", rng.randint(1, 4))
    for limit in (4, 25, 200):
        asc, desc = {"order": "asc", "limit": limit}, {"limit": limit}
        assert ids(flat(await audited(api, **desc))) == ordered(found)
        assert ids(flat(await audited(ann, **asc))) == ordered(found, "asc")
        assert ids(flat(await mine(ann, actions="policy_decision", **desc))) == ordered(found)
    for order in ("asc", "desc"):
        there = list(found)
        page = (await api.get(AUDIT, filter=DECISIONS, order=order, limit=9)).expect(200)
        seen = page["events"]
        while "cursor" in page:
            if len(found) < 120:
                for index in rng.sample(range(6), 3):
                    found += await append(api, f"w{index}", rng.randint(1, 3))
            page = (await api.get(AUDIT, filter=DECISIONS, limit=9, cursor=page["cursor"])).expect(200)
            seen += page["events"]
        expected = found if order == "asc" else there
        assert ids(seen) == ordered(expected, order)
    answer: Answer | None = await ann.get(MINE, limit=9, actions="policy_decision")
    there, seen = list(found), []
    while answer is not None:
        seen += answer.expect(200)
        found += await append(api, f"w{rng.randrange(6)}", 2)
        answer = await next_page(ann, answer)
    assert ids(seen) == ordered(there)


async def test_equal_timestamps_have_one_order(api: Api) -> None:
    """Events of several workspaces with equal timestamps are ordered by id, and none is lost at a page boundary between them."""
    found: list[Event] = []

    async def many_twins() -> bool:
        for events in await asyncio.gather(*(append(api, f"w{index}") for index in range(12))):
            found.extend(events)
        return max(Counter(event["timestamp"] for event in found).values()) > 2

    await eventually(many_twins)
    for order in ("asc", "desc"):
        for limit in (2, 5):
            assert ids(flat(await audited(api, order=order, limit=limit))) == ordered(found, order)


async def test_an_offset_over_many_workspaces(api: Api) -> None:
    """`offset` skips this many of the newest events of all workspaces. After the end, the page is empty."""
    ann = person(api, "ann", grants={"*": ["workspace:read", "audit:read"]})
    found: list[Event] = []
    for index in (0, 1, 2, 0, 1, 0, 3, 3, 3, 0):
        found += await append(api, f"w{index}", 3)
        await append(api, f"w{index}", actor={"type": "user", "id": "bob"})
    found += await append(api, "w1", actor={"type": "agent", "id": "bot", "on_behalf_of": "ann"})
    expected = ordered(found)
    for offset in (0, 1, 5, 17, 30, 31):
        for limit in (1, 4, 50):
            page = (await ann.get(MINE, offset=offset, limit=limit)).expect(200)
            assert ids(page) == expected[offset : offset + limit], (offset, limit)
    assert ids(flat(await mine(ann, offset=11, limit=4))) == expected[11:], "pages continue after the offset"
    for offset in (32, 10_000):
        answer = await ann.get(MINE, offset=offset)
        assert answer.expect(200) == []
        assert "Link" not in answer.headers


async def test_ends_in_time_go_with_the_cursor(api: Api) -> None:
    """Later pages keep the time range of the first, including times before 1970."""
    found: list[Event] = []
    for index in range(12):
        found += await append(api, f"w{index % 3}")
    low, high = found[2]["timestamp"], found[9]["timestamp"]
    for limit in (3, 50):
        for order in ("asc", "desc"):
            times = {"from": low, "to": high}
            assert ids(flat(await audited(api, order=order, limit=limit, **times))) == ordered(found[2:10], order)
            times = {"from": "1900-01-01T00:00:00Z", "to": "9999-12-31T23:59:59.999999Z"}
            assert ids(flat(await audited(api, order=order, limit=limit, **times))) == ordered(found, order)


@on_sqlite
async def test_an_offset_is_skipped_many_at_a_time(api: Api, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of one event after an offset of hundreds takes few queries, not one per event."""
    for workspace in ("a", "b"):
        await append(api, workspace, 200)
    queries = 0
    original = server.subscribers._log.page

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal queries
        queries += 1
        return await original(*args, **options)

    monkeypatch.setattr(server.subscribers._log, "page", counted)
    ann = person(api, "ann", grants={"*": ["workspace:read", "audit:read"]})
    assert len((await ann.get(MINE, offset=399, limit=1)).expect(200)) == 1
    assert queries <= 10


# ---- limit in bytes


async def test_a_page_is_bounded_by_bytes(
    make_server: MakeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page over many workspaces ends at its size limit and has a cursor. Reading it takes little more than its size."""
    server = await make_server(max_page_bytes=64 * 1024)
    api = Api(http, server.url, ADMIN_KEY)
    found: list[Event] = []
    for index in range(16):
        found += await append(api, f"w{index}", 6, details={"blob": "x" * 7000})
    read: list[int] = []
    original = server.subscribers._log.page

    async def measured(*args: Any, **options: Any) -> Any:
        page = await original(*args, **options)
        read.append(sum(len(event.body) for event in page.events))
        return page

    monkeypatch.setattr(server.subscribers._log, "page", measured)
    pages = await audited(api, limit=1000)
    assert ids(flat(pages)) == ordered(found)
    assert all(8 <= len(page) <= 10 for page in pages[:-1]), [len(page) for page in pages]
    # At least one event of each workspace, and one more for each event returned.
    assert sum(read) <= len(pages) * (16 + 10) * 8000


# ---- cursors


async def test_workspaces_that_come_and_go_between_pages(api: Api) -> None:
    """A cursor leaves out workspaces that were created or recreated since, and deleted ones, and continues in the others."""
    found: dict[str, list[Event]] = {name: await append(api, name, 3) for name in ("a", "b", "c")}
    first = (await api.get(AUDIT, filter=DECISIONS, limit=4)).expect(200)
    await append(api, "new")
    (await api.delete("/v1/workspaces/a")).expect(204)
    (await api.delete("/v1/workspaces/b")).expect(204)
    await append(api, "b")
    rest = (await api.get(AUDIT, filter=DECISIONS, cursor=first["cursor"])).expect(200)
    assert ids(first["events"] + rest["events"]) == ordered(found["c"]) + ordered(found["b"])[:1]
    assert "cursor" not in rest


async def test_a_cursor_opens_nothing(api: Api) -> None:
    """A cursor of another caller grants no access. A position that is not in its log is reported and causes no fault."""
    for name in ("a", "b"):
        await append(api, name, 3)
    cursor = (await api.get(AUDIT, filter=DECISIONS, limit=1)).expect(200)["cursor"]
    key = api.with_key(await api.create_key("a", scopes=["workspace:read", "audit:read"]))
    page = (await key.get(AUDIT, filter=DECISIONS, cursor=cursor)).expect(200)
    assert {event["workspace_id"] for event in page["events"]} == {"a"}
    seqs = MergeCursor.parse(cursor).seqs
    for order in ("asc", "desc"):
        for seq in (0, 1, 100, MAX_SEQ):
            made = MergeCursor("asc" if order == "asc" else "desc", None, None, dict.fromkeys(seqs, seq))
            answer = await api.get(AUDIT, filter=DECISIONS, cursor=str(made))
            assert answer.status in {200, 410}, answer.body
    nowhere = MergeCursor("asc", None, None, {"nolog": 1})
    assert (await api.get(AUDIT, cursor=str(nowhere))).error == "invalid_cursor"


@on_sqlite
async def test_what_only_looks_like_a_cursor(api: Api) -> None:
    """A cursor that this server cannot have written gets 400 at once, without retries."""
    texts = [
        *("", "d;;;;", "x;;;;", "d;;;a.1", "d;;;a.1,;", "d;;;a.01;", "d;;;a.1;;", "d;-;;;", "d;1.5;;;", "d;;;A.1;"),
        *("d;٣;;;", "d;;;a.99999999999999999999;", "d;-0;;;", "d;0001;;;", "d;;;a.1,a.1;", "d;" + "9" * 19 + ";;;"),
        "d;;;a" + ".1111111111111111111" * 400 + ";",
        "d;;;" + "a1.1" * 2000,
        "d;;;" + ",".join(f"e{index}.1" for index in range(6000)) + ";",
    ]  # fmt: skip
    for text in texts:
        if text == "d;;;;":  # a list without a workspace
            continue
        cursor = urlsafe_b64encode(text.encode()).decode().rstrip("=")
        with pytest.raises(InvalidCursor):
            MergeCursor.parse(cursor)
        if len(cursor) < 8000:
            answer = await api.get(AUDIT, cursor=cursor)
            assert (answer.status, answer.error) == (400, "invalid_cursor"), text


_EPOCHS = st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True)
_TIMES = st.none() | st.integers(-62_135_596_800_000_000, 253_402_300_800_000_000)


@given(
    order=st.sampled_from(["asc", "desc"]),
    after=_TIMES,
    before=_TIMES,
    seqs=st.dictionaries(_EPOCHS, st.integers(0, MAX_SEQ), max_size=5),
)
def test_cursors_are_read_as_written(
    *, order: Literal["asc", "desc"], after: int | None, before: int | None, seqs: dict[str, int]
) -> None:
    """Cursors and positions are parsed as they are written."""
    cursor = MergeCursor(order, after, before, seqs)
    assert MergeCursor.parse(str(cursor)) == cursor
    if seqs:
        assert parse_positions(positions_text(seqs)) == seqs


@given(
    text=st.text(max_size=60)
    | st.text("ad;-0123456789.,e", max_size=60).map(lambda t: urlsafe_b64encode(t.encode()).decode())
)
def test_any_text_is_a_cursor_or_none(text: str) -> None:
    """Any text sent as a cursor is a canonical cursor or is refused."""
    with contextlib.suppress(InvalidCursor):
        assert str(MergeCursor.parse(text)) == text


# ---- number of workspaces


@on_sqlite
async def test_as_many_workspaces_as_there_may_be(api: Api) -> None:
    """With the maximum number of workspaces, cursors lead through pages, and ids resume a stream in URL and header."""
    names = [f"w{index:03}" for index in range(MAX_WORKSPACES)]
    found: list[Event] = []
    for start in range(0, MAX_WORKSPACES, 50):
        for events in await asyncio.gather(*(append(api, name) for name in names[start : start + 50])):
            found += events
    pages = await audited(api, limit=300)
    assert [len(page) for page in pages] == [300, 200]
    assert ids(flat(pages)) == ordered(found)
    async with await SseReader.open(api.url + STREAM, headers=api.headers) as stream:
        last = (await stream.next()).id
    assert last is not None
    (await api.append(names[7], id="missed")).expect(201)
    assert len(",".join(f"{epoch}.{10**6}" for epoch in parse_positions(last))) < MAX_HEADER * 2 / 3, (
        "leaves room for longer positions"
    )
    for headers, params in (({"Last-Event-ID": last}, {}), ({}, {"after": last})):
        async with await SseReader.open(api.url + STREAM, params=params, headers=api.headers | headers) as stream:
            assert ids(await stream.events(1)) == ["missed"]
    (await api.append("one-more")).expect(201)
    for path in (AUDIT, STREAM):
        assert set((await api.get(path)).expect(400)["error"]["details"]["fields"]) == {"workspaces"}
    assert (await api.get(MINE)).status in {400, 422}


async def test_who_reads_nothing(api: Api) -> None:
    """A caller who can read no workspace has no activity and cannot query audit events."""
    await append(api, "a")
    nobody = person(api, "ann")
    assert (await nobody.get(MINE)).expect(200) == []
    assert (await nobody.get(AUDIT)).error == "permission_denied"
