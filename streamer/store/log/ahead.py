"""Detects logs whose timestamps are ahead of the clock: an append with a wrong clock moved them, and time in a log never goes back."""

import time
from collections.abc import Iterable

import structlog

from streamer.observe.metrics import Metrics
from streamer.store.log.statements import LockedLog

AHEAD_US = 5_000_000
"""A smaller difference is normal: simultaneous events are one microsecond apart."""
WARN_SECONDS = 3600
"""Time between two warnings about one workspace."""
KEPT = 1000
"""Number of workspaces that were warned about; when there are more, all are forgotten, and so warned about again."""


class Ahead:
    """Warns about such logs when they are appended to, and tracks how far ahead the furthest of them still is."""

    def __init__(self, metrics: Metrics) -> None:
        self._ends = 0.0
        """When, by the monotonic clock, the clock catches up with the last of these logs."""
        self._warned: dict[str, float] = {}
        metrics.log_ahead_seconds.set_function(lambda: max(self._ends - time.monotonic(), 0))

    def note(self, logs: Iterable[LockedLog], now: int) -> None:
        """Check logs that were appended to at a time, in microseconds since 1970."""
        for log in logs:
            if log.last_timestamp - now > AHEAD_US:
                self._warn(log, (log.last_timestamp - now) / 1_000_000)

    def _warn(self, log: LockedLog, seconds: float) -> None:
        clock = time.monotonic()
        self._ends = max(self._ends, clock + seconds)
        if clock < self._warned.get(log.id, 0):
            return
        if len(self._warned) >= KEPT:
            self._warned.clear()
        self._warned[log.id] = clock + WARN_SECONDS
        structlog.get_logger("writer").warning("log_ahead_of_clock", workspace=log.id, seconds=round(seconds, 3))
