"""The live readers of one channel, as one listener of it. Pure except for the sinks.

A pass brings one cohort after another to where the channel was flushed, in steps between which the event loop serves others. A live reader
stands where its cohort does: at `flushed` or, before its turn, where an earlier pass went.
"""

import time
from collections import deque
from collections.abc import Callable

from streamer.fanout.cohort import COHORT_READERS, Cohort
from streamer.fanout.connection import Reader
from streamer.fanout.pace import Paces
from streamer.feed.channel import Channel
from streamer.feed.reasons import Reason
from streamer.observe.metrics import Metrics

STEP_SECONDS = 0.005
STEP_DELIVERIES = 1000
"""A step takes no further turn after so long, or after that many events written: the event loop writes to the sockets when the step is over."""

Key = tuple[object, object]
CloseAll = Callable[[list[Reader], Reason], None]


class Audience:
    """A channel's readers: those that are live, in cohorts, and those that catch up."""

    def __init__(self, channel: Channel, metrics: Metrics, paces: Paces, close_all: CloseAll) -> None:
        """Make an empty audience, which listens to the channel.

        Args:
            channel: whose frames it delivers.
            metrics: counts deliveries and catch-ups.
            paces: how much accounts can search, over all channels.
            close_all: closes readers, in bounded parts.
        """
        self.channel = channel
        self.cohorts: dict[Key, list[Cohort]] = {}
        """By what their readers have in common: wire format and filter."""
        self.readers: set[Reader] = set()
        """All readers, whatever their state."""
        self.late_until: float | None = None
        """When the first of the cohorts that this pass left out, because their account has searched too much, can be served."""
        self._metrics = metrics
        self._paces = paces
        self._close_all = close_all
        self._waiting: deque[Cohort] = deque()
        """Cohorts that this pass has yet to serve."""
        self._arrived: dict[Key, Cohort] = {}
        """The last cohort of each kind that this pass served: smaller ones join it."""
        channel.listeners.append(self)

    # ---- readers

    def add(self, reader: Reader) -> None:
        """Count a reader in; it catches up until it can `join`."""
        self.readers.add(reader)

    def join(self, reader: Reader) -> bool:
        """Make a reader live if it stands where the channel does."""
        flushed = self.channel.flushed
        if not reader.session.join(flushed):
            return False
        kind = self.cohorts.setdefault((reader.encoder, reader.selection), [])
        for cohort in reversed(kind):
            if cohort.at == flushed and len(cohort.members) < COHORT_READERS:
                break
        else:
            cohort = Cohort(reader.selection, reader.encoder, flushed)
            kind.append(cohort)
        cohort.add(reader)
        return True

    def leave(self, reader: Reader) -> None:
        """Count a reader out."""
        self.readers.discard(reader)
        cohort = reader.cohort
        if isinstance(cohort, Cohort):
            cohort.leave(reader)
            if not cohort.members:
                self._drop(cohort)

    def close(self, reason: Reason) -> None:
        """End all readers: the channel is closed."""
        self._close_all(list(self.readers), reason)

    # ---- passes

    @property
    def has_more(self) -> bool:
        """Whether the pass has cohorts to serve yet."""
        return bool(self._waiting)

    def start_pass(self) -> None:
        """Begin a pass, or lead the one under way further."""
        flushed = self.channel.flushed
        self._waiting = deque([cohort for kind in self.cohorts.values() for cohort in kind if cohort.at < flushed])
        self._arrived = {}
        self.late_until = None

    def step(self, now: float) -> None:
        """Do a bounded part of the pass. `now` is the time, for what accounts can search."""
        delivered = fallen = 0
        started = time.perf_counter()
        while self._waiting and delivered < STEP_DELIVERIES:
            cohort = self._waiting.popleft()
            if cohort.members:
                count, late = self._serve(cohort, now)
                delivered += count
                fallen += late
            if time.perf_counter() - started > STEP_SECONDS:
                break
        if not self._waiting:
            self._arrived = {}
        if delivered:
            self._metrics.deliveries.inc(delivered)
        if fallen:
            self._metrics.catch_ups.inc(fallen)

    def _serve(self, cohort: Cohort, now: float) -> tuple[int, int]:
        """Give a cohort its turn. Returns the events delivered, over all readers, and the number of readers that fell back."""
        if cohort.searches and self._is_early(cohort, now):
            return 0, 0
        flushed = self.channel.flushed
        frames = self.channel.tail.between(cohort.at, flushed)
        if frames is None:  # it was left out until the ring had moved on
            return 0, self._fall_back(cohort)
        part, searched = cohort.take(frames)
        if searched:
            self._paces.charge(_account_of(cohort), searched, now)
        if not part:  # too much to search: the log is read instead
            return 0, self._fall_back(cohort)
        delivered, late, rest = cohort.deliver(part)
        if rest is not None:
            self.cohorts[cohort.key].append(rest)
            self._waiting.append(rest)
        if not cohort.members:
            self._drop(cohort)
        elif cohort.at < flushed:
            self._waiting.append(cohort)
        else:
            self._arrive(cohort)
        return delivered, len(late)

    def _fall_back(self, cohort: Cohort) -> int:
        late = cohort.fall_back()
        self._drop(cohort)
        return len(late)

    def _is_early(self, cohort: Cohort, now: float) -> bool:
        """Leave a cohort out of this pass if its account has searched too much."""
        ready_at = self._paces.ready_at(_account_of(cohort))
        if ready_at <= now:
            return False
        self.late_until = min(ready_at, self.late_until or ready_at)
        return True

    def _arrive(self, cohort: Cohort) -> None:
        """Note that a cohort was served, and join it with another one that was, if both are small."""
        other = self._arrived.get(cohort.key)
        if other is not None and len(other.members) + len(cohort.members) <= COHORT_READERS:
            other.absorb(cohort)
            self._drop(cohort)
        else:
            self._arrived[cohort.key] = cohort

    def _drop(self, cohort: Cohort) -> None:
        kind = self.cohorts.get(cohort.key, [])
        if cohort in kind:
            kind.remove(cohort)
        if not kind:
            self.cohorts.pop(cohort.key, None)


def _account_of(cohort: Cohort) -> str:
    """Return the account that a cohort's searches count for: of its readers' accounts, any."""
    return next(iter(cohort.members)).subscription.account
