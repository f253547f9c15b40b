"""When to come back and when to give up."""

import logging
import random
from dataclasses import dataclass

_logger = logging.getLogger("streamer.client")


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
    longest_wait: float = 300
    """What the server asks for by `Retry-After` is waited for up to this long, then the next attempt is made all the same."""
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
        least = self.granted(least)
        ceiling = min(self._timing.longest_delay, self._timing.first_delay * 2 ** min(self._failures, 32))
        self._failures += 1
        return (least + random.uniform(0, ceiling)) * self._timing.unit  # noqa: S311 - jitter, not a secret

    def granted(self, asked: float) -> float:
        """Return how long to wait for a server that asks for some seconds; say so if that is less."""
        longest = self._timing.longest_wait
        if asked > longest:
            _logger.warning("the server asks to wait for %.0f s; it is tried again after %.0f s", asked, longest)
        return min(asked, longest)

    def reset(self) -> None:
        """Start anew: the last connection was a good one."""
        self._failures = 0
