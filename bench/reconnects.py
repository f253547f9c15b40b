"""The scenarios with readers that reconnect, are slow or idle, or come and go: `resume`, `slow`, `idle` and `soak`."""

import time
from statistics import median

from bench.check import merged, percentiles
from bench.crowd import Crowd, Metrics
from bench.fanout import MIB, measure, memory
from bench.load import Load
from bench.sandbox import Sandbox
from bench.targets import Streamer, Target

BATCH = 100
FIRST_MINUTE = 60
"""Seconds in which anything may grow; a tenth of a run that is shorter than ten times as long."""
LIVE = 20
"""Events that are appended after a scenario, to check that every connected subscriber is live."""


def resume(sandbox: Sandbox, target: Streamer, load: Load) -> Metrics:
    """Cut all subscribers off, append what they miss, and reconnect all of them at the same moment."""
    crowd = Crowd(sandbox, target, load)
    before = target.usage.rss()
    crowd.join(load.streams())
    connected = target.usage.rss()
    crowd.publish(rate=None, count=LIVE)
    crowd.settle()
    crowd.all("cut")
    missed = crowd.publish(rate=None, count=load.missed, batch=min(BATCH, load.missed))
    reads = target.metric("log_read")
    target.usage.forget_peak()
    crowd.all("begin")
    cpu = target.usage.cpu()
    returned = crowd.all("return", wave=load.subscribers)
    crowd.settle()
    used = target.usage.cpu() - cpu
    peak = target.usage.peak()
    metrics, more = crowd.report(missed["first"])
    crowd.publish(rate=None, count=LIVE)
    crowd.settle()
    exact, _ = crowd.report(0)
    seconds = (more["last"] - min(each["began"] for each in returned)) / 1e9
    return {
        "deliveries": metrics["deliveries"],
        "catch_up_seconds": round(seconds, 3),
        "deliveries_per_second": round((metrics["deliveries"] or 0) / seconds, 1),
        # From the connection until the server said that the subscriber has all there is.
        **percentiles(merged([more["synced_after"]])),
        **{name: exact[name] for name in ("lost", "doubled", "out_of_order", "unexpected", "gaps", "ended")},
        "failed": missed["failed"],
        "readers_busy": metrics["readers_busy"],
        "cpu": round(used / seconds, 3),
        "cpu_per_delivery": round(used * 1e6 / max(metrics["deliveries"] or 0, 1), 2),
        **{name: value - reads.get(name, 0) for name, value in target.metric("log_read").items()},
        **memory(before, connected, load.subscribers),
        "rss_peak": round(peak / MIB, 1),
    }


def slow(sandbox: Sandbox, target: Target, load: Load) -> Metrics:
    """Measure a fan-out, then the same again beside slow subscribers; in the end these must be exact, too."""
    crowd = Crowd(sandbox, target, load)
    streams = load.streams()
    late = max(round(len(streams) * load.slow), 1) if load.slow else 0
    before = target.usage.rss()
    crowd.join(streams[late:])
    connected = target.usage.rss()
    if load.warmup:
        crowd.publish(rate=load.rate, seconds=load.warmup)
        crowd.settle()
    alone = measure(crowd)
    crowd.join_slow(streams[:late])
    beside = measure(crowd)
    peak = target.usage.peak()
    crowd.all("release")
    crowd.settle()
    exact, _ = crowd.report(0)
    p99, p99_alone = beside["p99"] or 0, alone["p99"] or 0
    return {
        "slow": late,
        **{f"alone_{name}": alone[name] for name in ("p50", "p99", "cpu_per_delivery", "rss_peak")},
        **beside,
        "p99_by_alone": round(p99 / p99_alone, 2) if p99_alone else None,
        **{name: exact[name] for name in ("lost", "doubled", "out_of_order", "unexpected", "gaps", "ended")},
        **memory(before, connected, len(streams) - late),
        "rss_peak": round(peak / MIB, 1),
    }


def idle(sandbox: Sandbox, target: Target, load: Load) -> Metrics:
    """Open streams, and measure their cost while nothing happens."""
    crowd = Crowd(sandbox, target, load)
    usage = target.usage
    before, files = usage.rss(), usage.files()
    tasks = _gauge(target, "tasks")
    began = time.monotonic()
    crowd.join(load.streams())
    connecting = time.monotonic() - began
    sandbox.until(lambda: time.monotonic() > began + connecting + 1, "a pause", pause=0.1)
    connected, cpu, began = usage.rss(), usage.cpu(), time.monotonic()
    sandbox.until(lambda: time.monotonic() >= began + load.seconds, "idling", load.seconds + 10, pause=0.1)
    used = (usage.cpu() - cpu) / (time.monotonic() - began)
    opened, more_tasks = usage.files() - files, _gauge(target, "tasks")
    sent = crowd.publish(rate=20, count=LIVE)
    crowd.settle()
    metrics, _ = crowd.report(sent["first"])
    return {
        "connections": load.subscribers,
        "connections_per_second": round(load.subscribers / connecting, 1),
        **memory(before, connected, load.subscribers),
        "rss_connected": round(connected / MIB, 1),
        "files": opened,
        "tasks": None if tasks is None or more_tasks is None else more_tasks - tasks,
        "cpu_idle": round(used, 4),
        "failed": sent["failed"],
        **metrics,
    }


def soak(sandbox: Sandbox, target: Streamer, load: Load) -> Metrics:
    """Let streams come and go beside those that stay, with events all the while; nothing may grow after the first minute."""
    crowd = Crowd(sandbox, target, load)
    crowd.join(load.streams())
    samples: list[dict[str, float]] = []
    visitors, part = 0, max(min(2.0, load.seconds / 20), 0.1)
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < load.seconds:
        visitors += crowd.churn(load.churn, part, load.rate or 0)
        samples.append({"at": elapsed, **_state(target)})
    crowd.settle()
    metrics, _ = crowd.report(0)
    settled = _state(target)
    begun = min(FIRST_MINUTE, load.seconds / 10)
    steady = [sample for sample in samples if sample["at"] >= begun] or samples[-1:]
    few = max(len(steady) // 10, 1)
    early, late = steady[:few], steady[-few:]
    growth = {
        f"{name}_growth": round(median(each[name] for each in late) - median(each[name] for each in early), 1)
        for name in settled
    }
    return {
        "visitors": visitors,
        **growth,
        **{name: round(value, 1) for name, value in settled.items()},
        **metrics,
    }


def _state(target: Target) -> dict[str, float]:
    """Return what may grow."""
    state = {"rss": target.usage.rss() / MIB, "files": target.usage.files()}
    tasks = _gauge(target, "tasks")
    return state if tasks is None else {**state, "tasks": tasks}


def _gauge(target: Target, part: str) -> float | None:
    """Return a metric of our server whose name contains `part`, None if it has none."""
    found = target.metric(part) if isinstance(target, Streamer) else {}
    return sum(found.values()) if found else None
