"""The rate of each account: one token bucket per account, in this process's memory, and so for this node alone."""

import math
import time
from collections.abc import Callable

from streamer.core.errors import RateLimited

KEPT_BUCKETS = 1000
"""Above this number of buckets, full ones are removed; a full bucket has the same effect as none."""

_ROUNDING = 1e-6
"""Tokens that rounding can lose: a caller that waited as long as it was told must not be refused because of them."""


class AppendRate:
    """Token buckets for appends, or for something else that is counted: an event costs a token, and `rate` tokens are added per second, up to `burst`.

    More events at once than `burst` are accepted when the bucket is full, and leave it below empty by the excess.
    Otherwise two limits would contradict each other, and such a batch could never be stored. Over any time t no account
    appends more than `burst + rate * t` events, or its largest batch in place of `burst` if that is larger.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        what: str = "events per second can be appended",
    ) -> None:
        """Create the buckets, all full.

        Args:
            rate: events per second for each account; 0: no limit.
            burst: tokens of a full bucket.
            clock: seconds, monotonic.
            what: the text for the rate in errors.
        """
        self._rate = rate
        self._burst = burst
        self._what = what
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """An account's remaining tokens, and their time; accounts that are absent have a full bucket."""
        self._look_at = KEPT_BUCKETS

    def check(self, account: str, events: int = 1) -> None:
        """Require that an account can append this many events now. Raises RateLimited."""
        if not self._rate:
            return
        missing = min(events, self._burst) - self._left(account)
        if missing > _ROUNDING:
            wait = max(math.ceil((missing - _ROUNDING) / self._rate), 1)
            raise RateLimited(
                f"{self._rate:g} {self._what}, up to {self._burst} at once; retry in {wait} s",
                retry_after=wait,
            )

    def take(self, account: str, events: int) -> None:
        """Charge an account for all of these events, or none. Raises RateLimited."""
        if not self._rate:
            return
        self.check(account, events)
        if len(self._buckets) >= self._look_at and account not in self._buckets:
            self._buckets = {each: kept for each, kept in self._buckets.items() if self._left(each) < self._burst}
            self._look_at = max(KEPT_BUCKETS, 2 * len(self._buckets))
        self._buckets[account] = (self._left(account) - events, self._clock())

    def headers(self, account: str, wait: str | None = None) -> dict[str, str]:
        """Return the response headers for the limit (draft-ietf-httpapi-ratelimit-headers-10); none if there is no limit.

        Args:
            account: the account of the response.
            wait: the response's `Retry-After`, which `t` then repeats; else `t` is the time until the bucket is full.
        """
        if not self._rate:
            return {}
        left = self._left(account)
        return {
            "RateLimit-Policy": f'"append";q={self._burst};w={math.ceil(self._burst / self._rate)}',
            "RateLimit": f'"append";r={max(math.floor(left + _ROUNDING), 0)}'
            f";t={wait or math.ceil((self._burst - left) / self._rate)}",
        }

    def _left(self, account: str) -> float:
        """Return the account's tokens; negative after a batch larger than `burst`."""
        left, then = self._buckets.get(account, (self._burst, 0))
        return min(left + (self._clock() - then) * self._rate, self._burst)
