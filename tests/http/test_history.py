"""History: order, ranges, filters and pages. The pages contain each matching event exactly once, and no other event."""

import asyncio
import random
import re
import string
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.core.entities import issue_of
from streamer.core.event import FACET_FIELDS, Facets, search_text
from streamer.core.filter import CATEGORIES, FILTER_FIELDS, escape, parse_filter
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Answer, Api, events

Event = dict[str, Any]
Params = dict[str, Any]
W = events("w")

pytestmark = pytest.mark.usefixtures("one_hour")
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests that do not reach the database."""


async def fill(api: Api, count: int, workspace: str = "w", **event: object) -> list[Event]:
    """Append events at once and return them as stored."""
    return list((await api.append_all(workspace, [event] * count)).expect(201)["events"])


def seqs(answer: Answer) -> list[int]:
    """Return the seqs of a page."""
    return [event["seq"] for event in answer.expect(200)["events"]]


def wrong(answer: Answer) -> set[str]:
    """Return the field names of a 400."""
    answer.expect(400)
    assert answer.error == "validation_error"
    return set(answer.json["error"]["details"]["fields"])


async def epoch_of(api: Api, workspace: str = "w") -> str:
    """Return the epoch of a workspace's log."""
    position = (await api.get(f"/v1/workspaces/{workspace}")).expect(200)["position"]
    return str(position.split(".")[0])


# ---- order, limit, range


async def test_order_and_limit(api: Api) -> None:
    """Pages are newest first with 100 events, ascending with `after`, in the given order if any, and at most 1,000 events long."""
    await fill(api, 1000)
    await fill(api, 5)
    epoch = await epoch_of(api)
    assert seqs(await api.get(W)) == list(range(1005, 905, -1))
    assert seqs(await api.get(W, order="desc", limit=2)) == [1005, 1004]
    assert seqs(await api.get(W, order="asc", limit=3)) == [1, 2, 3]
    assert seqs(await api.get(W, after=f"{epoch}.1000")) == [1001, 1002, 1003, 1004, 1005]
    assert seqs(await api.get(W, after=f"{epoch}.1000", order="desc", limit=2)) == [1005, 1004]
    assert seqs(await api.get(W, before=f"{epoch}.4")) == [3, 2, 1]
    assert seqs(await api.get(W, before=f"{epoch}.4", order="asc")) == [1, 2, 3]
    assert seqs(await api.get(W, limit=1000)) == list(range(1005, 5, -1))


async def test_an_empty_log(api: Api) -> None:
    """An empty workspace returns an empty page and a position from which no event is missed."""
    (await api.put("/v1/workspaces/w")).expect(201)
    for order in ("asc", "desc"):
        page = (await api.get(W, order=order)).expect(200)
        assert page == {"events": [], "position": f"{await epoch_of(api)}.0"}
    (await api.append("w")).expect(201)
    assert seqs(await api.get(W, after=page["position"])) == [1]


async def test_ranges_by_position(api: Api) -> None:
    """`after` and `before` exclude their own event, alone and together, in both orders."""
    await fill(api, 6)
    epoch = await epoch_of(api)
    for low in range(7):
        assert seqs(await api.get(W, after=f"{epoch}.{low}")) == list(range(low + 1, 7))
        for high in range(8):
            inside = list(range(low + 1, min(high, 7)))
            params: Params = {"after": f"{epoch}.{low}", "before": f"{epoch}.{high}"}
            assert seqs(await api.get(W, **params)) == inside, params
            assert seqs(await api.get(W, **params, order="desc")) == inside[::-1], params


async def test_ranges_by_timestamp(api: Api) -> None:
    """A timestamp bound is exact: it excludes that event only, and a bound one microsecond earlier includes it."""
    stored = await fill(api, 6)
    for event in stored:
        at = datetime.fromisoformat(event["timestamp"])
        seq = event["seq"]
        exactly = event["timestamp"]
        just_before = (at - timedelta(microseconds=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert seqs(await api.get(W, after=exactly)) == list(range(seq + 1, 7))
        assert seqs(await api.get(W, before=exactly, order="asc")) == list(range(1, seq))
        assert seqs(await api.get(W, before=exactly, after=stored[0]["timestamp"])) == list(range(2, seq))
        assert seqs(await api.get(W, after=just_before, limit=1)) in ([seq], [seq - 1])
        assert seq in seqs(await api.get(W, after=just_before))
    epoch = await epoch_of(api)
    mixed = await api.get(W, after=f"{epoch}.2", before=stored[4]["timestamp"])
    assert seqs(mixed) == [3, 4]
    for early in ("0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"):
        assert seqs(await api.get(W, after=early)) == [1, 2, 3, 4, 5, 6]
        assert seqs(await api.get(W, before=early)) == []
    for late in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59"):
        nothing = (await api.get(W, after=late)).expect(200)
        assert nothing == {"events": [], "position": f"{epoch}.6"}
        assert seqs(await api.get(W, before=late)) == [6, 5, 4, 3, 2, 1]


async def test_ways_to_write_a_timestamp(api: Api) -> None:
    """All RFC 3339 forms of one moment are equal: time zones, lower case, more digits, `+` escaped or not."""
    stored = await fill(api, 3)
    at = datetime.fromisoformat(stored[1]["timestamp"])
    plain = at.strftime("%Y-%m-%dT%H:%M:%S.%f")
    east = at.astimezone(timezone(timedelta(hours=5, minutes=30))).strftime("%Y-%m-%dT%H:%M:%S.%f") + "+05:30"
    west = at.astimezone(timezone(timedelta(hours=-11))).strftime("%Y-%m-%dT%H:%M:%S.%f") + "-11:00"
    assert at.tzinfo is not None
    for text in (f"{plain}Z", f"{plain}z", f"{plain}+00:00", f"{plain}-00:00", f"{plain}999Z", east, west,
                 f"{plain}Z".replace("T", "t"), f"{plain}Z".replace("T", " ")):  # fmt: skip
        assert seqs(await api.get(W, after=text)) == [3], text
        for raw in (text.replace(" ", "%20"), text.replace(" ", "%20").replace("+", "%2B").replace(":", "%3A")):
            assert seqs(await api.get(f"{W}?after={raw}")) == [3], raw
            assert seqs(await api.get(f"{W}?before={raw}")) == [1], raw
    second = at.replace(microsecond=0)
    assert seqs(await api.get(W, after=second.strftime("%Y-%m-%dT%H:%M:%SZ")))[-1] == 3
    leap = (second + timedelta(days=1)).astimezone(UTC).strftime("%Y-%m-%dT23:59:60Z")
    assert seqs(await api.get(W, before=leap)) == [3, 2, 1]


# ---- filters

CORPUS: list[dict[str, object]] = [
    {"action": "issue.created", "actor": {"type": "user", "id": "ann"}, "entity": {"type": "issue", "id": "i1", "identifier": "PAP-1"}},
    {"action": "issue.updated", "actor": {"type": "agent", "id": "bob"}, "agent_id": "bob", "run_id": "r1"},
    {"action": "issue.comment.added", "actor": {"type": "user", "id": "Ann"}, "task_id": "t1", "description": "50% done"},
    {"action": "issue", "actor": {"type": "user", "id": "a,b"}, "entity": {"type": "bug", "id": "i2"}},
    {"action": "issues.created", "actor": {"type": "system", "id": "!x"}, "run_id": "r2", "description": "Straße É_x"},
    {"action": "member.added", "actor": {"type": "user", "id": "ann"}, "entity": {"type": "user", "id": "eve"}},
    {"action": "a*b.c", "actor": {"type": "agent", "id": "back\\slash"}, "agent_id": "eve", "run_id": "r1"},
]  # fmt: skip


FILTERS: list[tuple[Params, list[int]]] = [
    ({"category": "audit"}, [6]),
    ({"category": "activity"}, [1, 2, 3, 4, 5, 7]),
    ({"category": "activity,audit"}, [1, 2, 3, 4, 5, 6, 7]),
    ({"category": "!audit"}, [1, 2, 3, 4, 5, 7]),
    ({"action": "issue.created"}, [1]),
    ({"action": "Issue.created"}, []),
    ({"action": "issue.*"}, [1, 2, 3]),
    ({"action": "issue.comment.*"}, [3]),
    ({"action": "*"}, [1, 2, 3, 4, 5, 6, 7]),
    ({"action": "!*"}, []),
    ({"action": "issue"}, [4]),
    ({"action": "issue,issues.*,member.added"}, [4, 5, 6]),
    ({"action": ["issue", "issue.created"]}, [1, 4]),
    ({"action": "!issue.*"}, [4, 5, 6, 7]),
    ({"action": ["issue.*", "!issue.comment.*,issue.created"]}, [2]),
    ({"action": r"a\*b.c"}, [7]),
    ({"actor_type": "user"}, [1, 3, 4, 6]),
    ({"actor_type": "!user,agent"}, [5]),
    ({"actor_id": "ann"}, [1, 6]),
    ({"actor_id": "Ann"}, [3]),
    ({"actor_id": "a,b"}, []),
    ({"actor_id": r"a\,b"}, [4]),
    ({"actor_id": r"\!x"}, [5]),
    ({"actor_id": r"back\\slash,\a\n\n"}, [1, 6, 7]),
    ({"actor_id": ["!ann", "!Ann"]}, [2, 4, 5, 7]),
    ({"entity_type": "issue,bug"}, [1, 4]),
    ({"entity_type": "!user"}, [1, 2, 3, 4, 5, 7]),
    ({"entity_id": "i1,eve,none"}, [1, 6]),
    ({"agent_id": "bob,eve"}, [2, 7]),
    ({"agent_id": "!bob"}, [1, 3, 4, 5, 6, 7]),
    ({"run_id": "r1"}, [2, 7]),
    ({"run_id": "!r1,r2"}, [1, 3, 4, 6]),
    ({"task_id": "t1"}, [3]),
    ({"q": "pap-1"}, [1]),
    ({"q": "50%"}, [3]),
    ({"q": "%"}, [3]),
    ({"q": "é_X"}, []),
    ({"q": "É_X"}, [5]),
    ({"q": "STRAße"}, [5]),
    ({"q": "a,b"}, [4]),
    ({"q": "back\\"}, [7]),
    ({"q": "R1"}, [2, 7]),
    ({"q": "!ann"}, [2, 4, 5, 7]),
    ({"q": ["pap-1", "50%"]}, [1, 3]),
    ({"q": ["ann", "!pap"]}, [3, 6]),
    ({"run_id": "r1", "actor_id": "bob"}, [2]),
    ({"run_id": "r1,r2", "actor_type": "!agent"}, [5]),
    ({"action": "issue.*", "actor_id": "ann,bob", "q": "issue"}, [1, 2]),
    ({"entity_id": "nobody"}, []),
]


async def test_each_filter(api: Api) -> None:
    """Values of a filter are alternatives, filters are combined, `!` excludes a list, and only `q` ignores case."""
    (await api.append_all("w", CORPUS)).expect(201)
    for params, expected in FILTERS:
        # After the corpus, the log records the reading of its audit events.
        found = [seq for seq in seqs(await api.get(W, order="asc", **params)) if seq <= len(CORPUS)]
        assert found == expected, params


WORDS = [
    *(
        "a",
        "b",
        "A",
        "ab",
        "a.b",
        "é",
        "É",
        "a,b",
        "!a",
        "*",
        "a*",
        "\\",
        "a\\,b",
        "%",
        "_",
        "a%b",
        "'",
        '"',
        " ",
        "a b ",
    ),
    *(
        "ß",
        "ss",
        "\u0130",
        "\u0131",
        "\u212a",
        "k",
        "\n",
        "0",
        "x" * 512,
        "\U0010ffff",
        "\ufffd",
        "null",
        "[]",
        "$1",
        "?",
        ":a",
    ),
]
ACTIONS = [
    "issue.created",
    "issue.updated",
    "issue.a.b",
    "Issue.created",
    "issue",
    "issue.",
    "issues.x",
    ".",
    "*",
    "issue.*",
    *WORDS[:8],
]


def random_event(rng: random.Random) -> dict[str, object]:
    """Return an event of few, awkward values, so that filters match."""

    def word() -> str:
        return rng.choice(WORDS)

    def maybe() -> str | None:
        return rng.choice([None, word()])

    return {
        "action": rng.choice(ACTIONS),
        "category": rng.choice([None, *CATEGORIES]),
        "actor": {"type": rng.choice(["user", "agent", word()]), "id": word(), "on_behalf_of": maybe()},
        "entity": rng.choice([None, {"type": maybe(), "id": maybe(), "identifier": maybe(), "name": maybe()}]),
        "agent_id": maybe(),
        "run_id": maybe(),
        "task_id": maybe(),
        "description": rng.choice([None, word() + word(), "a\0b"]),
    }


def facets_of(event: Event) -> Facets:
    """Return the values of a stored event that filters use."""
    entity = event["entity"] or {}
    return Facets(
        event["category"], event["action"], event["actor"]["type"], event["actor"]["id"], entity.get("type"),
        entity.get("id"), event["agent_id"], event["run_id"], event["task_id"], event["actor"]["on_behalf_of"],
        issue_of(event), search_text(event),
    )  # fmt: skip


def lists_of(field: str) -> st.SearchStrategy[str]:
    """Return values of one filter parameter, as written in the query."""
    if field == "category":
        items = st.sampled_from(CATEGORIES)
    elif field == "q":
        text = st.sampled_from(WORDS) | st.sampled_from(["ISSUE", "b created", "\n", "A\n"])
        return st.builds(str.__add__, st.sampled_from(["", "!"]), text.filter(lambda value: not value.startswith("!")))
    else:
        words = ACTIONS if field == "action" else ["user", "agent", *WORDS, "nobody"]
        items = st.sampled_from(words).map(lambda value: escape(field, value))
        if field == "action":
            items |= st.sampled_from(["*", "issue.*", "issue.a.*", "Issue.*", "no.*"])
    return st.builds(str.__add__, st.sampled_from(["", "", "!"]), st.lists(items, min_size=1, max_size=3).map(",".join))


QUERIES = st.lists(st.sampled_from(FILTER_FIELDS), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.lists(lists_of(name), min_size=1, max_size=2) for name in names})
)


async def with_the_reading_told(api: Api) -> list[Event]:
    """Return the log in order, including the record of the reading of audit events, so that later readings add no event."""
    (await api.get(W, category="audit")).expect(200)
    return await api.history("w", order="asc", limit=1000)


async def test_sql_and_memory_agree(api: Api) -> None:
    """For any events, filter, range, order and limit, history equals the in-memory filter, page by page."""
    rng = random.Random(7)
    (await api.append_all("w", [random_event(rng) for _ in range(299)])).expect(201)
    corpus = await with_the_reading_told(api)
    assert len(corpus) == 300
    judged = [(event, facets_of(event)) for event in corpus]
    epoch = await epoch_of(api)
    loop = asyncio.get_running_loop()
    bounds = st.none() | st.integers(0, 300)

    def get(**params: Any) -> Answer:
        return asyncio.run_coroutine_threadsafe(api.get(W, **params), loop).result()

    def bound(data: st.DataObject, seq: int | None) -> str | None:
        if seq is None:
            return None
        as_time = data.draw(st.booleans()) and seq > 0
        return str(corpus[seq - 1]["timestamp"]) if as_time else f"{epoch}.{seq}"

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(query=QUERIES, low=bounds, high=bounds, limit=st.sampled_from([1, 2, 7, 100, 1000]),
           order=st.sampled_from(["asc", "desc"]), data=st.data())  # fmt: skip
    def check(  # noqa: PLR0917 - hypothesis names them
        query: Mapping[str, Sequence[str]],
        low: int | None,
        high: int | None,
        limit: int,
        order: str,
        data: st.DataObject,
    ) -> None:
        selection = parse_filter(query)
        expected = [
            event
            for event, facets in judged
            if (low or 0) < event["seq"] < (301 if high is None else high) and selection.matches(facets)
        ]
        if order == "desc":
            expected.reverse()
        kept: Params = {**query, "limit": limit}
        page = get(**kept, order=order, after=bound(data, low), before=bound(data, high)).expect(200)
        for _ in range(3):
            assert page["events"] == expected[:limit]
            assert ("cursor" in page) == (len(expected) >= limit)
            expected = expected[limit:]
            if "cursor" not in page:
                break
            page = get(**kept, cursor=page["cursor"]).expect(200)

    await asyncio.to_thread(check)


async def test_memory_agrees_with_a_naive_reading(api: Api) -> None:
    """Each value of each field selects exactly the events with this value; when excluded, all others."""
    rng = random.Random(11)
    (await api.append_all("w", [random_event(rng) for _ in range(60)])).expect(201)
    corpus = await with_the_reading_told(api)
    for field in FACET_FIELDS:
        for value in sorted({getattr(facets_of(event), field) for event in corpus} - {None}):
            has = [event["seq"] for event in corpus if getattr(facets_of(event), field) == value]
            lacks = [event["seq"] for event in corpus if getattr(facets_of(event), field) != value]
            params: Params = {"order": "asc", "limit": 1000, field: escape(field, value)}
            assert seqs(await api.get(W, **params)) == has, params
            params[field] = "!" + params[field]
            assert seqs(await api.get(W, **params)) == lacks, params


# ---- pages


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(
    ("filters", "runs"),
    [({}, {"r1", "r2", None}), ({"run_id": "r1"}, {"r1"}), ({"run_id": "r1,r2", "action": "!x.*"}, {"r1", "r2"})],
)
async def test_pages_while_events_are_appended(api: Api, order: str, filters: Params, runs: set[str | None]) -> None:
    """While events are appended, paging returns each event once: backward without the new events, forward with them."""
    more: list[Params] = [{"run_id": "r1"}, {"run_id": "r2"}, {"action": "x.y"}]
    (await api.append_all("w", more * 10)).expect(201)
    page = (await api.get(W, order=order, limit=4, **filters)).expect(200)
    position, got = page["position"], list(page["events"])
    pages = 1
    while "cursor" in page:
        if pages <= 5:
            (await api.append_all("w", more)).expect(201)
        page = (await api.get(W, cursor=page["cursor"], limit=4, **filters)).expect(200)
        pages += 1
        got += page["events"]
        assert len(page["events"]) <= 4
        assert order == "asc" or page["position"] == position
    assert pages > 2
    everything = [event for event in await api.history("w", order="asc", limit=1000) if event["run_id"] in runs]
    if order == "desc":
        expected = [event for event in everything if event["seq"] <= 30]
        assert got == expected[::-1]
        got = expected + (await api.get(W, after=position, limit=1000, **filters)).expect(200)["events"]
    assert got == everything


async def test_a_cursor_keeps_the_range(api: Api) -> None:
    """A cursor keeps the order, `after` and `before` of the first page, even if they were timestamps."""
    stored = await fill(api, 40)
    epoch = await epoch_of(api)
    for low, high in ((f"{epoch}.5", f"{epoch}.30"), (stored[4]["timestamp"], stored[29]["timestamp"])):
        for order in ("asc", "desc"):
            got = await api.history("w", order=order, after=low, before=high, limit=7)
            expected = stored[5:29]
            assert got == (expected if order == "asc" else expected[::-1])


async def test_the_position_forwards(api: Api) -> None:
    """In ascending order, the position is the last seq examined, so a client that continues there misses and repeats nothing."""
    await fill(api, 5, run_id="r1")
    await fill(api, 5, run_id="r2")
    epoch = await epoch_of(api)

    async def position(**params: Any) -> int:
        page = (await api.get(W, order="asc", **params)).expect(200)
        assert page["position"].startswith(f"{epoch}.")
        return int(page["position"].split(".")[1])

    assert await position() == 10
    assert await position(limit=3) == 3
    assert await position(limit=3, run_id="r2") == 8
    assert await position(run_id="r1") == 10  # it examined all, though the last five did not match
    assert await position(run_id="nobody") == 10
    assert await position(limit=5, run_id="r1") == 5
    assert await position(before=f"{epoch}.4") == 3
    assert await position(before=f"{epoch}.4", run_id="nobody") == 3
    assert await position(after=f"{epoch}.10") == 10
    assert await position(after=f"{epoch}.7", before=f"{epoch}.3") == 7


async def test_the_position_backwards(api: Api) -> None:
    """In descending order, every page's position is the head at the time of the first page, so it precedes all later events."""
    await fill(api, 10)
    epoch = await epoch_of(api)
    first = (await api.get(W, limit=4)).expect(200)
    assert first["position"] == f"{epoch}.10"
    await fill(api, 3)
    second = (await api.get(W, limit=4, cursor=first["cursor"])).expect(200)
    third = (await api.get(W, limit=4, cursor=second["cursor"])).expect(200)
    assert {second["position"], third["position"]} == {f"{epoch}.10"}
    assert seqs(await api.get(W, after=third["position"])) == [11, 12, 13]
    others: list[Params] = [{"before": f"{epoch}.3"}, {"run_id": "nobody"}, {"after": f"{epoch}.5", "order": "desc"}]
    for params in others:
        assert (await api.get(W, **params)).expect(200)["position"] == f"{epoch}.13"


async def test_a_page_ends_at_its_bytes(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A page holds `STREAMER_MAX_PAGE_BYTES` of events, or one event. Cursor, link and position continue exactly."""
    server = await make_server(max_page_bytes=2048)
    api = Api(http, server.url, ADMIN_KEY)
    rng = random.Random(3)
    blobs = [{"run_id": f"r{n % 2}", "details": {"b": "é" * rng.choice([0, 0, 100, 1000, 9000])}} for n in range(24)]
    stored = (await api.append_all("w", blobs)).expect(201)["events"]
    epoch = await epoch_of(api)
    for order in ("asc", "desc"):
        filters: Params
        for filters in ({}, {"run_id": "r1"}, {"run_id": "r0,r1", "action": "!x"}, {"run_id": "nobody"}):
            expected = [event for event in stored if event["run_id"] in filters.get("run_id", "r0,r1")]
            if order == "desc":
                expected.reverse()
            answer = await api.get(W, order=order, limit=30, **filters)
            got: list[Event] = []
            while True:
                page = answer.expect(200)
                sizes = [len(orjson.dumps(event)) for event in page["events"]]
                assert sum(sizes) <= 2048 or len(sizes) == 1
                got += page["events"]
                if "cursor" not in page:
                    break
                assert page["position"] == f"{epoch}.{got[-1]['seq'] if order == 'asc' else 24}"
                answer = await api.get(W, cursor=page["cursor"], limit=30, **filters)
                if order == "asc":
                    polled = await api.get(W, after=page["position"], limit=30, **filters)
                    assert polled.json["events"] == answer.json["events"]
            assert got == expected
            assert page["position"] == f"{epoch}.24"
    first = await api.get(W, limit=30)
    by_cursor = await api.get(W, limit=30, cursor=first.json["cursor"])
    assert seqs(await api.get(first.headers["Link"].split(">")[0][1:])) == seqs(by_cursor)


async def test_the_cursor_comes_with_a_full_page(api: Api) -> None:
    """A full page has a cursor. The page after the last event is empty and has none."""
    await fill(api, 6)
    assert "cursor" not in (await api.get(W)).expect(200)
    assert "cursor" not in (await api.get(W, limit=7)).expect(200)
    for order in ("asc", "desc"):
        page = (await api.get(W, limit=6, order=order)).expect(200)
        last = (await api.get(W, limit=6, cursor=page["cursor"])).expect(200)
        assert last["events"] == []
        assert "cursor" not in last
    assert re.fullmatch(r"[A-Za-z0-9_-]+", page["cursor"])  # needs no quoting in a URL


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"order": "asc"},
        {"order": "desc", "before": "BEFORE"},
        {"after": "AFTER"},
        {"run_id": "r&=+ %/é,\\,;", "q": "ann", "action": ["issue.*", "!x.*,y.*"]},
    ],
)
async def test_the_link_leads_on(api: Api, params: Params) -> None:
    """`Link: rel="next"` accompanies the cursor, and can be requested unchanged, with its filters and limit."""
    await fill(api, 10, run_id="r&=+ %/é")
    await fill(api, 3)
    epoch = await epoch_of(api)
    query: Params = {n: {"BEFORE": f"{epoch}.9", "AFTER": f"{epoch}.2"}.get(str(v), v) for n, v in params.items()}
    expected = await api.history("w", limit=4, **query)
    answer = await api.get(W, limit=4, **query)
    got = answer.expect(200)["events"]
    while "Link" in answer.headers:
        assert "cursor" in answer.json
        match = re.fullmatch(r'<(/[!-~]+)>; rel="next"', answer.headers["Link"])
        assert match is not None, answer.headers["Link"]
        answer = await api.get(match[1])
        got += answer.expect(200)["events"]
    assert "cursor" not in answer.json
    assert got == expected
    assert len(got) > 4


# ---- refused requests


@on_sqlite
async def test_parameters_are_checked(api: Api) -> None:
    """Unknown, repeated, empty and invalid parameters get 400 with their names and are never ignored."""
    await fill(api, 3)
    epoch = await epoch_of(api)
    cursor = (await api.get(W, limit=1)).expect(200)["cursor"]
    cases: list[tuple[Params, set[str]]] = [
        ({"offset": 5}, {"offset"}),
        ({"Limit": 5, "": "x", "wait": 30}, {"Limit", "", "wait"}),
        ({"order": ["asc", "desc"]}, {"order"}),
        ({"limit": [5, 5]}, {"limit"}),
        ({"cursor": [cursor, cursor]}, {"cursor"}),
        ({"after": [f"{epoch}.1"] * 2, "before": [f"{epoch}.1"] * 2}, {"after", "before"}),
        *(({"order": value}, {"order"}) for value in ("", "up", "ASC", "asc,desc")),
        *(({"limit": v}, {"limit"}) for v in ("", "0", "1001", "-1", "1.5", "1e2", " 5", "٣", "0x5", "9" * 30, "5\0")),
        *(
            ({"after": v}, {"after"})
            for v in ("", "x", "5", f"{epoch}.", f"{epoch}.-1", f"{epoch}.01", "2026-11-21", ".1")
        ),
        *(
            ({"before": v}, {"before"})
            for v in ("", f"{epoch}.{2**63}", f"{epoch}.1 ", "2026-11-21T06:22:04", f"{epoch}.1\n")
        ),
        *(({name: value}, {name}) for name in FILTER_FIELDS for value in ("", "!", "a\0b", "x" * 513)),
        *(({name: v}, {name}) for name in FILTER_FIELDS if name != "q" for v in (",", "a,", ",a", "a,,b", "a\\")),
        *(({"category": value}, {"category"}) for value in ("work", "Audit", "audit,work", "!x")),
        *(({"action": value}, {"action"}) for value in ("a*", "*.b", "a.*.b", "a.*b", "**", "is*ue.x", "a.**")),
        ({"run_id": ",".join("abcde" * 20) + ",f"}, {"filter"}),
        ({"run_id": ",".join("a" * 60), "task_id": ["!" + ",".join("b" * 40), "c"]}, {"filter"}),
        ({"cursor": cursor, "after": f"{epoch}.1"}, {"after"}),
        ({"cursor": cursor, "before": f"{epoch}.1", "x": 1}, {"before", "x"}),
        ({"cursor": cursor, "order": "asc"}, {"order"}),
        (
            {"foo": 1, "limit": 0, "order": "up", "after": "x", "action": ""},
            {"foo", "limit", "order", "after", "action"},
        ),
    ]
    for params, expected in cases:
        assert wrong(await api.get(W, **params)) == expected, params
    assert seqs(await api.get(W, cursor=cursor, order="desc")) == [2, 1]
    (await api.get(W, run_id=",".join("abcde" * 20))).expect(200)
    event_id = (await api.get(W)).json["events"][0]["id"]
    assert wrong(await api.get(f"{W}/{event_id}", fields="id")) == {"fields"}


async def test_cursors_that_this_server_did_not_give(api: Api) -> None:
    """An invalid or truncated cursor gets `invalid_cursor`, and no cursor causes more than a 4xx."""
    stored = await fill(api, 30)
    firsts: list[Params] = [{}, {"order": "asc"}, {"after": stored[1]["timestamp"], "before": stored[25]["timestamp"]}]
    for params in firsts:
        cursor = (await api.get(W, limit=10, **params)).expect(200)["cursor"]
        for length in range(len(cursor)):
            answer = await api.get(W, cursor=cursor[:length])
            assert (answer.status, answer.error) == (400, "invalid_cursor"), cursor[:length]
        for garbage in (
            cursor + "x",
            cursor + "=",
            "x" + cursor,
            cursor + cursor,
            cursor[:9] + "!" + cursor[9:],
            " " + cursor,
        ):
            assert (await api.get(W, cursor=garbage)).error == "invalid_cursor", garbage
    for garbage in ("", "x", "0", "null", "é", "====", "\0", "A" * 4000, stored[0]["id"], "ZC4=", "../..", "' OR 1=1"):
        assert (await api.get(W, cursor=garbage)).error == "invalid_cursor", garbage
    rng = random.Random(3)
    for _ in range(200):
        changed = list(cursor)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.choice(string.ascii_letters + string.digits + "-_")
        assert (await api.get(W, cursor="".join(changed))).status in {200, 400, 410}, "".join(changed)


async def test_positions_that_are_not_in_the_log(api: Api) -> None:
    """A position of another epoch or after the head gets 410 `position_expired` with the start of the log."""
    await fill(api, 3)
    epoch = await epoch_of(api)
    other = "a" * 10 if epoch != "a" * 10 else "b" * 10
    gone: list[Params] = [
        {"after": f"{epoch}.4"},
        {"after": f"{epoch}.{2**63 - 1}"},
        {"after": f"{other}.0"},
        {"after": f"{other}.2"},
        {"before": f"{other}.2"},
        {"before": f"{epoch}.5"},
        {"before": f"{epoch}.{2**63 - 1}"},
        {"after": f"{epoch}.1", "before": f"{other}.2"},
    ]
    for params in gone:
        answer = await api.get(W, **params)
        assert (answer.status, answer.error) == (410, "position_expired"), params
        details = answer.json["error"]["details"]
        assert details == {"earliest": f"{epoch}.0", "head": f"{epoch}.3"}
        assert seqs(await api.get(W, after=details["earliest"])) == [1, 2, 3]
    assert seqs(await api.get(W, before=f"{epoch}.4")) == [3, 2, 1]
    assert seqs(await api.get(W, after=f"{epoch}.3")) == []


async def test_a_log_that_was_created_again(api: Api) -> None:
    """After a workspace is deleted and recreated, old positions and cursors get 410, and no old event is found."""
    stored = await fill(api, 5)
    page = (await api.get(W, limit=2)).expect(200)
    (await api.delete("/v1/workspaces/w")).expect(204)
    assert (await api.get(W, cursor=page["cursor"])).error == "workspace_not_found"
    new = await fill(api, 7)
    assert [event["seq"] for event in new] == [1, 2, 3, 4, 5, 6, 7]
    old: list[Params] = [{"cursor": page["cursor"]}, {"after": page["position"]}, {"before": page["position"]}]
    for params in old:
        assert (await api.get(W, **params)).error == "position_expired", params
    assert (await api.get(f"{W}/{stored[0]['id']}")).error == "event_not_found"
    assert await api.history("w", order="asc") == new


# ---- one event, and access to it


async def test_one_event(api: Api) -> None:
    """An event is found by its id in its workspace, whatever characters the id has. Foreign and unknown ids get 404."""
    for event_id in ("A.b_c:d~e@f-9", "0", "x" * 128, "...", "null"):
        stored = (await api.append("w", id=event_id)).expect(201)
        assert (await api.get(f"{W}/{event_id}")).expect(200) == stored
        escaped = "".join(f"%{ord(char):02X}" for char in event_id)
        assert (await api.get(f"{W}/{escaped}")).expect(200) == stored
    (await api.append("v", id="elsewhere")).expect(201)
    for missing in ("elsewhere", "nothing", "X" * 128, "x" * 129, "%00", "a%2Fb", "%C3%A9", "%FF", "a%20b"):
        answer = await api.get(f"{W}/{missing}")
        assert (answer.status, answer.error) == (404, "event_not_found"), missing
    assert (await api.get(f"{events('nowhere')}/0")).error == "workspace_not_found"


async def test_workspaces_that_cannot_be(api: Api) -> None:
    """A workspace with an impossible id does not exist: it gets 404 on every database."""
    for workspace in ("nowhere", "%00", "a%00b", "%FF", "%ED%A0%80", "a%2Fb", "x" * 500, "%20", "%C3%A9"):
        for path in ("", "/events", "/events/x", "/events/stream", "/keys"):
            answer = await api.get(f"/v1/workspaces/{workspace}{path}")
            assert (answer.status, answer.error) == (404, "workspace_not_found"), (workspace, path)


async def test_audit_events_are_for_who_may_read_them(api: Api) -> None:
    """Without `audit:read`, audit events appear in no page, filter, search or stream, and not by id."""
    for n in range(4):
        (await api.append("w", id=f"open{n}")).expect(201)
        (await api.append("w", id=f"hidden{n}", action="policy_decision", description="a decision")).expect(201)
    epoch = await epoch_of(api)
    plain = api.with_key(await api.create_key("w", scopes=["workspace:read"]))
    auditor = api.with_key(await api.create_key("w", scopes=["workspace:read", "audit:read"]))
    admin = api.with_key(await api.create_key("w", scopes=["admin"]))

    async def found(caller: Api, **params: object) -> int:
        # In addition to the server's own records of the keys and of this reading.
        return sum(event["id"].startswith(("open", "hidden")) for event in await caller.history("w", **params))

    for caller, sees in ((plain, False), (auditor, True), (admin, True), (api, True)):
        assert await found(caller, limit=2) == (8 if sees else 4)
        assert await found(caller, category="audit") == (4 if sees else 0)
        assert await found(caller, action="policy_decision") == (4 if sees else 0)
        assert await found(caller, q="decision") == (4 if sees else 0)
        assert await found(caller, category="!activity") == (4 if sees else 0)
        assert await found(caller, category="audit,activity", order="asc", limit=3) == (8 if sees else 4)
        assert (await caller.get(f"{W}/hidden1")).status == (200 if sees else 404)
        assert (await caller.get(f"{W}/open1")).status == 200
        head = (await api.get("/v1/workspaces/w")).expect(200)["position"]
        page = (await caller.get(W, order="asc", limit=1000)).expect(200)
        assert page["position"] == head  # all were examined, visible or not
        async with await caller.stream("w", after=f"{epoch}.0") as reader:
            got = await reader.events(8 if sees else 4)
            assert {event["category"] for event in got} == ({"activity", "audit"} if sees else {"activity"})
            assert (await reader.next("synced")).json == {"position": head}
    hidden = await plain.get(f"{W}/hidden1")
    never = await plain.get(f"{W}/never")
    assert hidden.json["error"] | {"request_id": ""} == never.json["error"] | {"request_id": ""}


async def test_audit_events_stay_hidden_live(api: Api) -> None:
    """A live stream without `audit:read` continues after an audit event without showing it."""
    (await api.put("/v1/workspaces/w")).expect(201)
    plain = api.with_key(await api.create_key("w", scopes=["workspace:read"]))
    async with await plain.stream("w") as reader, await api.stream("w") as whole:
        await reader.next("synced")
        await whole.next("synced")
        for action in ("policy_decision", "issue.created", "agent.key_created", "issue.updated"):
            (await api.append("w", action=action)).expect(201)
        # The first event of the log records the key.
        assert [event["seq"] for event in await reader.events(2)] == [3, 5]
        assert [event["seq"] for event in await whole.events(4)] == [2, 3, 4, 5]
    assert b"audit" not in reader.raw


async def test_workspaces_are_apart(api: Api) -> None:
    """A workspace's history contains only its own events, with any filter, id or cursor from another workspace."""
    mine, others = await fill(api, 5, "w", run_id="r"), await fill(api, 7, "v", run_id="r")
    assert await api.history("w", run_id="r", order="asc") == mine
    assert await api.history("v", q="ann", order="asc") == others
    cursor = (await api.get(events("v"), limit=2)).expect(200)["cursor"]
    assert (await api.get(W, cursor=cursor)).error == "position_expired"
    assert (await api.get(W, after=f"{await epoch_of(api, 'v')}.1")).error == "position_expired"
    assert (await api.get(f"{W}/{others[0]['id']}")).error == "event_not_found"
