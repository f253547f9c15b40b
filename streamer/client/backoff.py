"""When to come back and when to give up."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """When to come back and when to give up; seconds. `unit` scales them all, for tests."""

    first_delay: float = 0.5
    longest_delay: float = 30
    stable: float = 60
    """A connection that held this long starts the delays anew."""
    silence: float = 45
    """A connection is dead when nothing came for this long: three heartbeats."""
    connect: float = 10
    attempts: int = 4
    """How often a call is tried, streams aside."""
    unit: float = 1


class Backoff:
    """Exponential back-off with full jitter: each delay is drawn from zero to a ceiling that doubles."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._failures = 0

    def delay(self, least: float) -> float:
        """Return the seconds to wait now: the jitter on top of what the server asked for, so that readers still spread."""
        ceiling = min(self._timing.longest_delay, self._timing.first_delay * 2 ** min(self._failures, 32))
        self._failures += 1
        return (least + random.uniform(0, ceiling)) * self._timing.unit  # noqa: S311 - jitter, not a secret

    def reset(self) -> None:
        """Start anew: the last connection was a good one."""
        self._failures = 0
