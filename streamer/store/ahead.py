"""Logs whose time is ahead of the clock: an append that met a wrong clock moved them there, and time in a log never goes back."""

import time
from collections.abc import Iterable

import structlog

from streamer.observe.metrics import Metrics
from streamer.store.statements import LockedLog

AHEAD_US = 5_000_000
"""What is less is no wrong clock: many events of one moment are a microsecond apart each."""
WARN_SECONDS = 3600
"""Time between two warnings about one workspace."""
KEPT = 1000
"""Workspaces that were warned about; with more of them all are forgotten, and so warned about again."""


class Ahead:
    """Warns about such logs as they are appended to, and knows how far the one furthest ahead still is."""

    def __init__(self, metrics: Metrics) -> None:
        self._ends = 0.0
        """When, by the monotonic clock, the last of these logs is caught up with."""
        self._warned: dict[str, float] = {}
        metrics.log_ahead_seconds.set_function(lambda: max(self._ends - time.monotonic(), 0))

    def note(self, logs: Iterable[LockedLog], now: int) -> None:
        """Look at logs that were appended to at a time, in microseconds since 1970."""
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
