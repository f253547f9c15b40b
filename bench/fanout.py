"""The scenario `fanout`: events at a rate, to many subscribers."""

from bench.crowd import Crowd, Metrics
from bench.load import Load
from bench.sandbox import Sandbox
from bench.targets import Streamer, Target
from bench.usage import machine_cpu

MIB = 2**20


def fanout(sandbox: Sandbox, target: Target, load: Load) -> Metrics:
    """Measure one server under the load."""
    crowd = Crowd(sandbox, target, load)
    before = target.usage.rss()
    crowd.join(load.streams())
    connected = target.usage.rss()
    if load.warmup:
        crowd.publish(rate=load.rate, seconds=load.warmup)
        crowd.settle()
    return {
        **memory(before, connected, load.subscribers),
        **measure(crowd),
    }


def memory(before: int, connected: int, connections: int) -> Metrics:
    """Return what open connections cost, from the bytes of memory before and after they were opened."""
    return {
        "rss_before": round(before / MIB, 1),
        "rss_per_connection": round((connected - before) / max(connections, 1) / 1024, 1),
    }


def measure(crowd: Crowd) -> Metrics:
    """Append for the time of the load, and measure until all is delivered."""
    usage, load = crowd.target.usage, crowd.load
    usage.forget_peak()
    crowd.begin()
    bus = crowd.target.bus() if isinstance(crowd.target, Streamer) else (0.0, 0.0)
    cpu, machine = usage.cpu(), machine_cpu()
    sent = crowd.publish(rate=load.rate, seconds=load.seconds, batch=load.batch)
    crowd.settle()
    used, machine = usage.cpu() - cpu, machine_cpu() - machine
    metrics, more = crowd.report(sent["first"])
    seconds = (max(more["last"], sent["ended"]) - sent["began"]) / 1e9
    deliveries, stored = metrics["deliveries"] or 0, sent["sent"] - sent["failed"]
    return {
        **metrics,
        "events": stored,
        "events_per_second": round(stored / seconds, 1),
        "deliveries_per_second": round(deliveries / seconds, 1),
        "megabytes_per_second": round(more["bytes"] / seconds / 1e6, 2),
        "failed": sent["failed"],
        "waited": sent["waited"],
        "cpu": round(used / seconds, 3),
        "others": max(round((machine - used - more["cpu"] - sent["cpu"]) / seconds, 2), 0),
        "cpu_per_delivery": round(used * 1e6 / deliveries, 2) if deliveries else None,
        "cpu_per_append": round(used * 1e6 / stored, 1) if stored else None,
        "rss_peak": round(usage.peak() / MIB, 1),
        **_bus(crowd.target, bus, stored),
    }


def _bus(target: Target, before: tuple[float, float], events: int) -> Metrics:
    """Return what crossed the bus between nodes for each event."""
    if not isinstance(target, Streamer) or len(target.ports) == 1 or not events:
        return {}
    messages, size = target.bus()
    return {
        "bus_messages_per_event": round((messages - before[0]) / events, 2),
        "bus_bytes_per_event": round((size - before[1]) / events, 1),
    }
