"""The scenario `dialects`: the same long log listed by each API that it is served by, beside the released praisonai-platform."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from bench.check import percentiles
from bench.crowd import Metrics
from bench.events import ACTIONS
from bench.history import OurArchive, at
from bench.http_client import HttpClient, burst
from bench.load import Load
from bench.praisonai import PraisonAI
from bench.sandbox import BenchError, Sandbox
from bench.targets import Streamer
from bench.usage import machine_cpu

LENGTHS = (50, 100)
LONGEST = LENGTHS[-1]
CONNECTIONS = (1, 8)
DEEP = 1000
"""A deep page begins where only this part of the log is left, or just enough for it."""
MAX_PAGE = 1000
"""The most events that the native API answers at once."""
BURST_SECONDS = 0.25
_NEXT = re.compile(rb'\r\nlink: <(?:https?://[^/]*)?([^>]+)>; *rel="?next"?', re.IGNORECASE)


@dataclass(frozen=True)
class Page:
    """What is asked for again and again.

    Attributes:
        target: what it is asked by.
        head: in whose name.
        length: how many events it must hold.
        events: their ids in order, if they are known.
    """

    target: str
    head: str
    length: int
    events: Sequence[str] | None = None

    def check(self, body: bytes) -> None:
        """Check that a response is this page. Raises BenchError."""
        answer = orjson.loads(body)
        ids = ids_of(answer if isinstance(answer, list) else answer["events"])
        wrong = len(ids) != self.length or len(set(ids)) != self.length
        if wrong or (self.events is not None and ids != list(self.events)):
            raise BenchError(f"the page {self.target} is wrong: it holds {ids}, and not {self.events or self.length}")


def dialects(sandbox: Sandbox, target: Streamer | PraisonAI, load: Load) -> Metrics:
    """Fill a log and list it by every API, from one connection and from several."""
    if isinstance(target, PraisonAI):
        filled = target.fill(load)
        pages = {
            f"praisonai_{name}": Page(target.page(length, offset), target.head, length)
            for name, length, offset in _depths(load.events)
        }
    else:
        archive = OurArchive(sandbox, target)
        filled = archive.fill(load)
        pages = dict(_Listed(target, load).pages())
    for page in pages.values():
        with HttpClient(target.port, page.head) as client:
            page.check(client.request(page.target))
    return {"events": load.events, **filled, **_read(sandbox, target, pages, load.seconds)}


def _read(sandbox: Sandbox, target: Streamer | PraisonAI, pages: dict[str, Page], seconds: float) -> Metrics:
    """Ask for the pages in turn, so that whatever else the machine does slows all alike; each at least once by each connection."""
    took = {(name, connections): Counter[int]() for name in pages for connections in CONNECTIONS}
    spent = dict.fromkeys(took, 0.0)
    cpu = dict.fromkeys(pages, 0.0)
    each = min(BURST_SECONDS, seconds / len(took))
    began, machine, ours = time.monotonic(), machine_cpu(), time.process_time() + target.usage.cpu()
    turn = 0
    while time.monotonic() < began + seconds or not turn:
        turn += 1
        for name, connections in took:
            before = target.usage.cpu()
            answers, lasted = burst(
                target.port, pages[name].head, pages[name].target, connections=connections, seconds=each
            )
            cpu[name] += target.usage.cpu() - before
            took[name, connections] += answers
            spent[name, connections] += lasted
            sandbox.tick()
    others = machine_cpu() - machine - (time.process_time() + target.usage.cpu() - ours)
    metrics: Metrics = {
        "pages": sum(answers.total() for answers in took.values()),
        "others": max(round(others / (time.monotonic() - began), 2), 0),
    }
    for name in pages:
        for connections in CONNECTIONS:
            answers = took[name, connections]
            found = percentiles(answers)
            crowd = "" if connections == 1 else f"_by_{connections}"
            metrics |= {f"{name}{crowd}_p50": found["p50"], f"{name}{crowd}_p99": found["p99"]}
            metrics[f"{name}_per_second_{connections}"] = round(answers.total() / spent[name, connections], 3)
        both = sum(took[name, connections].total() for connections in CONNECTIONS)
        metrics[f"cpu_per_page_{name}"] = round(cpu[name] * 1e6 / both, 1)
    return metrics


class _Listed:
    """Our log, and the pages of it by each API."""

    def __init__(self, target: Streamer, load: Load) -> None:
        self._target = target
        self._load = load
        self._name = f"{target.workspace}-0"
        self._member = self._key("workspace:read")
        self._head: str = target.ask("/events?limit=1")["position"]
        self._count = int(self._head.rpartition(".")[2])
        self._oldest = self._ask(f"order=asc&limit={MAX_PAGE}")

    def pages(self) -> Iterator[tuple[str, Page]]:
        """Yield the pages by their names: those of the native API and of the dialects that the server has."""
        yield from self._native()
        listed = {"praisonai": self._praisonai, "paperclip": self._paperclip, "evershell": self._evershell}
        served = self._load.settings.get("dialects", ",".join(listed))
        for dialect, pages in listed.items():
            if dialect in served.split(","):
                yield from pages()

    def _native(self) -> Iterator[tuple[str, Page]]:
        for name, length, offset in _depths(self._count):
            query, events = self._behind(length, offset)
            yield f"native_{name}", self._page(f"/v1/workspaces/{self._name}/events?{query}", events)

    def _praisonai(self) -> Iterator[tuple[str, Page]]:
        path = f"/api/v1/workspaces/{self._name}/activity"
        for name, length, offset in _depths(self._count):
            _, events = self._behind(length, offset)
            yield f"praisonai_{name}", self._page(f"{path}?limit={length}&offset={offset}", events)
        # For a key without audit:read an offset is not the difference of two seqs.
        count = sum(number % len(ACTIONS) != len(ACTIONS) - 1 for number in range(-1, self._load.events))
        oldest = self._ask(f"category=activity&order=asc&limit={MAX_PAGE}")
        *_, (name, length, offset) = _depths(count, LENGTHS[:1])
        events = ids_of(oldest[: count - offset][::-1][:length])
        target = f"{path}?limit={length}&offset={offset}"
        yield f"praisonai_member_{name}", self._page(target, events, self._member)

    def _paperclip(self) -> Iterator[tuple[str, Page]]:
        path = f"/api/companies/{self._name}/activity?limit={LONGEST}"
        for name, length, offset in _depths(self._count, LENGTHS[-1:]):
            _, events = self._behind(length, offset)
            yield f"paperclip_{name}", self._page(f"{path}&offset={offset}" if offset else path, events)
        deep = self._oldest[_rest(self._count, 2 * LONGEST) - 1]
        first = f"{path}&to={deep['timestamp']}"
        with HttpClient(self._target.port, self._target.head) as client:
            head, _ = client.exchange(first)
        link = _NEXT.search(head)
        if link is None:
            raise BenchError(f"{first}: there is no link to the next page")
        _, events = self._behind(LONGEST, self._count - deep["seq"] + LONGEST)
        yield f"paperclip_{LONGEST}_deep_by_link", self._page(link[1].decode(), events)

    def _evershell(self) -> Iterator[tuple[str, Page]]:
        path = f"/v1/workspaces/{self._name}/activity?limit={LONGEST}"
        newest = self._ask(f"category=activity&limit={LONGEST}")
        yield f"evershell_{LONGEST}_newest", self._page(path, ids_of(newest))
        oldest = self._ask(f"category=activity&order=asc&limit={2 * LONGEST + 1}")
        after = f"{path}&after={oldest[0]['timestamp']}"
        yield f"evershell_{LONGEST}_deep_by_after", self._page(after, ids_of(oldest[1 : LONGEST + 1]))
        with HttpClient(self._target.port, self._target.head) as client:
            cursor = orjson.loads(client.request(after))["cursor"]
        behind = self._page(f"{path}&cursor={cursor}", ids_of(oldest[LONGEST + 1 :]))
        yield f"evershell_{LONGEST}_deep_by_cursor", behind

    def _behind(self, length: int, offset: int) -> tuple[str, list[str]]:
        """Return the native query for a page that leaves out so many of the newest events, and the ids of what it holds."""
        last = self._count - offset
        query = f"limit={length}&before={at(self._head, last + 1)}" if offset else f"limit={length}"
        events = self._ask(query)
        if [event["seq"] for event in events] != list(range(last, last - length, -1)):
            raise BenchError(f"the page {query} is wrong: it does not hold the {length} events up to {last}")
        return query, ids_of(events)

    def _ask(self, query: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self._target.ask(f"/events?{query}")["events"]
        return events

    def _page(self, target: str, events: list[str], head: str | None = None) -> Page:
        return Page(target, head or self._target.head, len(events), events)

    def _key(self, *scopes: str) -> str:
        """Return the head of requests by a key that has these scopes."""
        body = orjson.dumps({"name": "bench", "scopes": scopes})
        with HttpClient(self._target.port, self._target.head) as client:
            made = client.request(f"/v1/workspaces/{self._name}/keys", method="POST", body=body)
        return f"Authorization: Bearer {orjson.loads(made)['key']}\r\n"


def ids_of(events: Sequence[dict[str, Any]]) -> list[str]:
    """Return the ids of events."""
    return [event["id"] for event in events]


def _depths(count: int, lengths: Sequence[int] = LENGTHS) -> Iterator[tuple[str, int, int]]:
    """Yield name, length and offset of the pages of a log that has so many events: newest, middle and deep ones."""
    for length in lengths:
        for depth, offset in (("newest", 0), ("middle", count // 2), ("deep", count - _rest(count, length))):
            yield f"{length}_{depth}", length, offset


def _rest(count: int, least: int) -> int:
    """Return how many events are left where a deep page begins."""
    return max(least, min(count // DEEP, MAX_PAGE))
