"""The scenario `history`: pages of a long log, at its newest end, at its deepest, and by every index."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from bench.check import BUCKET_NS, percentiles
from bench.crowd import Metrics, Writers
from bench.events import ACTIONS, ACTORS, ENTITIES, RUNS, VARIED
from bench.http_client import HttpClient, burst
from bench.load import Load
from bench.praisonai import PraisonAI
from bench.sandbox import BenchError, Sandbox
from bench.targets import Streamer
from bench.usage import Usage

PAGE = 50
BATCH = 1000
MANY = 16
"""Concurrent connections of the second measurement; the first has one connection."""
FILTERS: dict[str, Sequence[str]] = {
    "actor_id": [f"agent_{number}" for number in range(ACTORS)],
    "entity_id": [f"issue_{number}" for number in range(ENTITIES)],
    "agent_id": [f"agent_{number}" for number in range(ACTORS)],
    "run_id": [f"run_{number}" for number in range(RUNS)],
    "task_id": [f"task_{number}" for number in range(ENTITIES)],
    "action": ACTIONS,
    "category": ("activity", "audit"),
}
"""The filters that have an index, and their values."""


class Archive(Protocol):
    """A log that can be filled and read."""

    head: str
    port: int
    usage: Usage

    def fill(self, load: Load) -> Metrics:
        """Fill it; return what that showed."""
        ...

    def questions(self, load: Load) -> dict[str, list[str]]:
        """Return what is asked for each kind of page; several of a kind are asked in turn."""
        ...


class OurArchive:
    """The log of a workspace of ours."""

    def __init__(self, sandbox: Sandbox, target: Streamer) -> None:
        self._sandbox = sandbox
        self._target = target
        self.head, self.port, self.usage = target.head, target.port, target.usage

    def fill(self, load: Load) -> Metrics:
        """Append the events in batches."""
        writers = Writers(self._sandbox, self._target, load, VARIED)
        filled = writers.publish(rate=None, count=load.events, batch=min(BATCH, load.events))
        if filled["failed"]:
            raise BenchError(f"the log could not be filled: {filled['why']}")
        return {"fill_per_second": round(filled["sent"] * 1e9 / (filled["ended"] - filled["began"]), 1)}

    def questions(self, load: Load) -> dict[str, list[str]]:
        """Return what is asked: by cursor, by `after`, and by each filter that has an index."""
        head = self._target.ask("")["position"]
        kinds = {
            "newest": [""],
            "next": [self._behind("")],
            "middle": [self._behind(f"before={at(head, load.events // 2)}")],
            "deepest": [self._behind(f"before={at(head, 2 * PAGE + 2)}")],
            "after_newest": [f"after={at(head, load.events - PAGE)}"],
            "after_middle": [f"after={at(head, load.events // 2 + step)}" for step in range(16)],
            "after_deepest": [f"after={at(head, 1)}"],
        }
        for name, values in FILTERS.items():
            kinds[f"{name}_newest"] = [f"{name}={value}" for value in values]
            kinds[f"{name}_deepest"] = [f"{name}={value}&order=asc" for value in values]
        path = f"/v1/workspaces/{self._target.workspace}-0/events?limit={PAGE}&"
        return {kind: [path + query for query in queries] for kind, queries in kinds.items()}

    def _behind(self, query: str) -> str:
        """Return what asks for the page behind this one."""
        page = self._target.ask(f"/events?limit={PAGE}&{query}")
        check(query, page["events"])
        return f"cursor={page['cursor']}"


def history(sandbox: Sandbox, target: Streamer | PraisonAI, load: Load) -> Metrics:
    """Fill a log and read it, from one connection and then from several."""
    archive: Archive = target if isinstance(target, PraisonAI) else OurArchive(sandbox, target)
    filled = archive.fill(load)
    kinds = archive.questions(load)
    took: dict[str, Counter[int]] = {kind: Counter() for kind in kinds}
    pages = turn = 0
    with HttpClient(archive.port, archive.head) as client:
        for kind, forms in kinds.items():
            page = orjson.loads(client.request(forms[0]))
            check(kind, page if isinstance(page, list) else page["events"])
        until, cpu = time.monotonic() + load.seconds, archive.usage.cpu()
        while time.monotonic() < until or not turn:
            # In turn, so that whatever else the machine does slows all kinds alike.
            for kind, forms in kinds.items():
                asked = time.monotonic_ns()
                client.request(forms[turn % len(forms)])
                took[kind][(time.monotonic_ns() - asked) // BUCKET_NS] += 1
                pages += 1
            turn += 1
            sandbox.tick()
    used = archive.usage.cpu() - cpu
    found = {kind: percentiles(buckets) for kind, buckets in took.items()}
    metrics: Metrics = {"events": load.events, **filled, "pages": pages}
    for kind, numbers in found.items():
        metrics |= {f"{kind}_p50": numbers["p50"], f"{kind}_p99": numbers["p99"]}
    return {
        **metrics,
        "worst_p50": max(numbers["p50"] or 0 for numbers in found.values()),
        "deepest_by_newest": deepest_by_newest(found),
        "cpu_per_page": round(used * 1e6 / pages, 1),
        "pages_per_second_1": rate(archive, kinds["newest"][0], 1),
        f"pages_per_second_{MANY}": rate(archive, kinds["newest"][0], MANY),
    }


def at(head: str, seq: int) -> str:
    """Return the position of a seq in the log whose head this is."""
    return f"{head.rpartition('.')[0]}.{max(seq, 0)}"


def check(kind: str, events: list[dict[str, Any]]) -> None:
    """Check the length and the order of a page, and that nothing is in it twice. Raises BenchError."""
    seqs = [event.get("seq", place) for place, event in enumerate(events)]
    if not seqs or seqs not in (sorted(set(seqs)), sorted(set(seqs), reverse=True)):
        raise BenchError(f"the page {kind} is wrong: it holds {seqs}")


def deepest_by_newest(found: dict[str, dict[str, float | None]]) -> float:
    """Return the worst ratio of a deepest page's median to that of the newest page of its kind."""
    return round(
        max(
            (found[kind]["p50"] or 0) / (found[kind.replace("deepest", "newest")]["p50"] or 1)
            for kind in found
            if kind.endswith("deepest")
        ),
        2,
    )


def rate(archive: Archive, page: str, connections: int, seconds: float = 1.0) -> float:
    """Return how many pages a second so many connections get together."""
    took, spent = burst(archive.port, archive.head, page, connections=connections, seconds=seconds)
    return round(took.total() / spent, 1)
