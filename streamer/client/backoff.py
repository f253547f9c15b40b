"""Delays between attempts, and when to give up."""

import logging
import random
from dataclasses import dataclass

_logger = logging.getLogger("streamer.client")


@dataclass(frozen=True, slots=True)
class Timing:
    """Delays between attempts, and when to give up, in seconds. `unit` scales all of them, for tests."""

    first_delay: float = 0.5
    longest_delay: float = 30
    stable: float = 60
    """After a connection has lasted this long, the delays start from the beginning."""
    silence: float = 45
    """A connection without data for this long is dead: three heartbeats."""
    connect: float = 10
    longest_wait: float = 300
    """Longest accepted `Retry-After`; after that time the next attempt is made anyway."""
    attempts: int = 4
    """Number of attempts of a call, except for streams."""
    unit: float = 1


class Backoff:
    """Exponential back-off with full jitter: each delay is drawn from zero to a ceiling that doubles."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._failures = 0

    def delay(self, least: float) -> float:
        """Return the seconds to wait: the jitter is added to what the server asked for, so that readers still spread."""
        least = self.granted(least)
        ceiling = min(self._timing.longest_delay, self._timing.first_delay * 2 ** min(self._failures, 32))
        self._failures += 1
        return (least + random.uniform(0, ceiling)) * self._timing.unit  # noqa: S311 - jitter, not a secret

    def granted(self, asked: float) -> float:
        """Return how long to wait when a server asks for some seconds; log a warning if that is less."""
        longest = self._timing.longest_wait
        if asked > longest:
            _logger.warning("the server asks to wait for %.0f s; retrying after %.0f s", asked, longest)
        return min(asked, longest)

    def reset(self) -> None:
        """Start from the beginning: the last connection was a good one."""
        self._failures = 0
