"""The server's metrics, in their own registry: many servers can run in one process."""

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from streamer.observe.output import dropped_lines

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # no event loop: nothing runs
        return 0


class _DroppedLines(Collector):
    """Counts for the whole process, which shares its streams."""

    def collect(self) -> Iterator[Metric]:
        """Yield the only metric."""
        text = "Log lines that were dropped because they could not be written."
        yield CounterMetricFamily("streamer_log_lines_dropped", text, value=dropped_lines())


class Metrics:
    """All metrics, named by what they count."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"streamer_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"streamer_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"streamer_{name}", text, labels, registry=registry, buckets=_SECONDS)

        self.requests = counter("requests_total", "HTTP requests answered.", "route", "method", "status")
        self.request_seconds = histogram(
            "request_seconds", "Time to answer an HTTP request; streams are not counted.", "route"
        )
        self.events_appended = counter("events_appended_total", "Events stored.")
        self.appends_refused = counter("appends_refused_total", "Appends answered 503 overloaded: the queue was full.")
        self.append_skipped = counter(
            "append_skipped_total", "Workspaces that a group of appends skipped because another transaction held them."
        )
        self.append_queue = gauge("append_queue_events", "Events waiting to be stored.")
        self.memory = gauge("memory_bytes", "Memory held for requests, unread responses and socket messages.", "kind")
        self.memory_limit = gauge("memory_limit_bytes", "The limit for all kinds of `streamer_memory_bytes` together.")
        self.memory_refused = counter(
            "memory_refused_total", "Times work was refused because no memory was left.", "kind"
        )
        self.commit_seconds = histogram("commit_seconds", "Time to store one group of appends, including retries.")
        self.log_ahead_seconds = gauge(
            "log_ahead_seconds",
            "How far the newest timestamp is ahead of the clock, for the log that is furthest ahead.",
        )
        self.redactions = counter("redactions_total", "Secrets replaced before storage, each counted once.")
        self.subscribers = gauge("subscribers", "Open subscriptions.", "transport")
        self.connections_ended = counter(
            "connections_ended_total",
            "Ended connections of readers, by the server's reason or `left`.",
            "transport",
            "reason",
        )
        self.deliveries = counter("deliveries_total", "Events written to streams, counted for each reader.")
        self.catch_ups = counter("catch_ups_total", "Times a slow reader had to read from the log again.")
        self.fills = counter("feed_fills_total", "Times a gap in a feed was filled from the log.")
        self.bus_state = gauge(
            "bus_state", "A link to other nodes: 0 down, 1 connected, 2 proven by a probe that returned.", "carrier"
        )
        self.bus_lag = gauge("bus_lag_seconds", "How long the last probe took over the link and back.", "carrier")
        self.bus_messages = counter("bus_messages_total", "Messages, by `way`: `in` or `out`.", "carrier", "way")
        self.bus_bytes = counter("bus_bytes_total", "Bytes of messages, by `way`.", "carrier", "way")
        self.bus_dropped = counter(
            "bus_dropped_total", "Messages that were reduced to a head or dropped, by `why`.", "carrier", "why"
        )
        self.bus_reconnects = counter(
            "bus_reconnects_total", "Times a link was dropped and connected again.", "carrier"
        )
        self.log_reads = counter(
            "log_reads_total",
            "Reads of the log for readers that catch up; one read serves all readers that need the same range.",
        )
        self.scans = gauge("scans", "Running reads of history that no index covers.")
        self.scans_refused = counter("scans_refused_total", "Scans answered 429 because the key had reached its limit.")
        self.scans_cut = counter("scans_cut_total", "Pages that ended early, with the events found so far.")
        self.feeds = gauge("feeds", "Workspaces with readers on this node.")
        self.store_up = gauge("store_up", "1 while the database answers the readiness check, else 0.")
        self.store_writable = gauge("store_writable", "1 while the database can be written, else 0.")
        self.jwks_keys = gauge("jwks_keys", "The token issuer's keys in use.")
        self.jwks_fetches = counter("jwks_fetches_total", "Fetches of the token issuer's keys.", "outcome")
        registry.register(_DroppedLines())
        gauge("tasks", "Tasks of the event loop.").set_function(_tasks)
        self.loop_stalls = histogram(
            "loop_stall_seconds", "CPU time of single steps of the event loop that took at least 10 ms."
        )
        self.loop_lag = histogram(
            "loop_lag_seconds", "How late a timer of the event loop fired; measured once a second."
        )
        self.loop_last_turn = gauge(
            "background_last_turn_seconds", "Seconds since a background loop last finished a turn.", "loop"
        )
        self.loop_failures = counter("background_failures_total", "Failed turns of background loops.", "loop")

    def render(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def names(self) -> list[str]:
        """Return the names of the server's own metrics, as they appear in the text."""
        return sorted(
            family.name + ("_total" if family.type == "counter" else "")
            for family in self.registry.collect()
            if family.name.startswith("streamer_")
        )
