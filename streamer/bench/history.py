"""The scenario `history`: pages of a long log, at its newest end, at its deepest, and by every index."""

import threading
import time
from collections import Counter
from statistics import median
from typing import Any

import orjson

from streamer.bench.asking import Asking
from streamer.bench.check import BUCKET_NS, percentiles
from streamer.bench.crowd import Crowd, Metrics
from streamer.bench.events import ACTIONS, ACTORS, ENTITIES, RUNS, VARIED
from streamer.bench.ground import BenchError, Ground
from streamer.bench.load import Load
from streamer.bench.targets import Streamer

PAGE = 50
BATCH = 1000
MANY = 16
"""Connections that ask at the same time, after the one that asks alone."""
FILTERS = {
    "actor_id": ("agent_", ACTORS),
    "entity_id": ("issue_", ENTITIES),
    "agent_id": ("agent_", ACTORS),
    "run_id": ("run_", RUNS),
    "task_id": ("task_", ENTITIES),
    "action": ("", len(ACTIONS)),
    "category": ("", 2),
}
"""The filters that have an index: what their values begin with, and how many there are."""


def history(ground: Ground, target: Streamer, load: Load) -> Metrics:
    """Fill a log and read it."""
    crowd = Crowd(ground, target, load, VARIED)
    filled = crowd.publish(rate=None, count=load.events, batch=min(BATCH, load.events))
    if filled["failed"]:
        raise BenchError(f"the log could not be filled: {filled['why']}")
    head = target.ask("")["position"]
    kinds = questions(head, load.events)
    took: dict[str, Counter[int]] = {kind: Counter() for kind in kinds}
    path = f"/v1/workspaces/{target.workspace}-0/events?limit={PAGE}&"
    until = time.monotonic() + load.seconds
    cpu, pages, turn = target.usage.cpu(), 0, 0
    with Asking(target.port) as asking:
        for kind, forms in kinds.items():
            check(kind, orjson.loads(asking.ask(path + forms[0]))["events"])
        cursors = [
            f"cursor={orjson.loads(asking.ask(path + place))['cursor']}"
            for place in ("", f"before={at(head, 2 * PAGE + 2)}")
        ]
        kinds |= {"cursor_newest": [cursors[0]], "cursor_deepest": [cursors[1]]}
        took |= {kind: Counter() for kind in ("cursor_newest", "cursor_deepest")}
        while time.monotonic() < until or not turn:
            for kind, forms in kinds.items():
                question = path + forms[turn % len(forms)]
                asked = time.monotonic_ns()
                asking.ask(question)
                took[kind][(time.monotonic_ns() - asked) // BUCKET_NS] += 1
                pages += 1
            turn += 1
            ground.tick()
    used = target.usage.cpu() - cpu
    found = {kind: percentiles(buckets) for kind, buckets in sorted(took.items())}
    metrics: Metrics = {"events": load.events, "fill_per_second": filled_rate(filled), "pages": pages}
    for kind, numbers in found.items():
        metrics |= {f"{kind}_p50": numbers["p50"], f"{kind}_p99": numbers["p99"]}
    return {
        **metrics,
        "page_p50": median(numbers["p50"] or 0 for numbers in found.values()),
        "page_p50_worst": max(numbers["p50"] or 0 for numbers in found.values()),
        "deepest_by_newest": deepest_by_newest(found),
        "cpu_per_page": round(used * 1e6 / pages, 1),
        "pages_per_second_1": rate(target.port, path, 1),
        f"pages_per_second_{MANY}": rate(target.port, path, MANY),
    }


def questions(head: str, events: int) -> dict[str, list[str]]:
    """Return the queries of each kind of page; several of a kind are asked in turn."""
    kinds = {
        "newest": [""],
        "after_newest": [f"after={at(head, events - PAGE)}"],
        "after_middle": [f"after={at(head, events // 2 + step * PAGE)}" for step in range(16)],
        "after_deepest": [f"after={at(head, 1)}"],
    }
    for name, (prefix, count) in FILTERS.items():
        values = (
            ACTIONS
            if name == "action"
            else ("activity", "audit")
            if name == "category"
            else [f"{prefix}{each}" for each in range(count)]
        )
        kinds[f"{name}_newest"] = [f"{name}={value}" for value in values]
        kinds[f"{name}_deepest"] = [f"{name}={value}&order=asc" for value in values]
    return kinds


def at(head: str, seq: int) -> str:
    """Return the position of a seq in the log whose head this is."""
    return f"{head.rpartition('.')[0]}.{max(seq, 0)}"


def check(kind: str, events: list[dict[str, Any]]) -> None:
    """See that a page is one. Raises BenchError."""
    seqs = [event["seq"] for event in events]
    ordered = sorted(set(seqs), reverse=seqs[0] > seqs[-1]) if seqs else []
    if not seqs or seqs != ordered:
        raise BenchError(f"the page {kind} is wrong: seqs {seqs}")


def filled_rate(filled: dict[str, Any]) -> float:
    """Return how many events a second the log was filled with."""
    return round(filled["sent"] * 1e9 / (filled["ended"] - filled["began"]), 1)


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


def rate(port: int, path: str, connections: int, seconds: float = 1.0) -> float:
    """Return how many newest pages a second so many connections get together."""
    counts = [0] * connections
    until = time.monotonic() + seconds

    def ask(number: int) -> None:
        with Asking(port) as asking:
            while time.monotonic() < until:
                asking.ask(path)
                counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(connections)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(counts) / (time.monotonic() - began), 1)
