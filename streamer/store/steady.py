"""A clock for ages, which the setting of the system's clock does not move."""

import time
from collections.abc import Callable

DRIFT_US = 60_000_000
"""By how much two readings may differ and still be taken for drift, not for a clock that was set."""


class SteadyClock:
    """Follows the monotonic clock of this process from a given time, and another clock as long as that is not set."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._time = 0
        self._at = 0.0
        self.runs = False

    def start(self, time_us: int) -> None:
        """Begin at a time in microseconds. The time in which no process ran is not part of it."""
        self._time, self._at, self.runs = time_us, self._monotonic(), True

    def read(self, now: int) -> int:
        """Return the time in microseconds; `now` is what the other clock says."""
        at = self._monotonic()
        steady = self._time + int((at - self._at) * 1_000_000)
        if abs(now - steady) <= DRIFT_US:
            steady = max(now, self._time)
        self._time, self._at = steady, at
        return steady
