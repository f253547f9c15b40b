"""A clock for ages that ignores changes of the system's clock."""

import time
from collections.abc import Callable

DRIFT_US = 60_000_000
"""Two readings that differ by up to this much are treated as drift, not as a changed clock."""


class SteadyClock:
    """Follows this process's monotonic clock from a given time, and another clock as long as that is not changed."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._time = 0
        self._at = 0.0
        self.runs = False

    def start(self, time_us: int) -> None:
        """Start at a time in microseconds. The time in which no process ran does not count."""
        self._time, self._at, self.runs = time_us, self._monotonic(), True

    def read(self, now: int) -> int:
        """Return the time in microseconds; `now` is the other clock's time."""
        at = self._monotonic()
        steady = self._time + int((at - self._at) * 1_000_000)
        if abs(now - steady) <= DRIFT_US:
            steady = max(now, self._time)
        self._time, self._at = steady, at
        return steady
