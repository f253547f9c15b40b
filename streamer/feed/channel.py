"""A workspace's live readers: the tail ring, and cohorts of equal subscriptions that share every byte. Pure but for the sinks.

Events are delivered in passes. A pass sets its aim, `flushed`, to the end of the ring, and brings one cohort after another there, in steps
between which the event loop serves others. A live reader stands where its cohort does, at `flushed` or, before its turn, at an earlier aim.
"""

import time
from collections import deque
from collections.abc import Sequence

from streamer.core.frame import LiveFrame
from streamer.core.position import LogHead, Position
from streamer.feed.cohort import COHORT_READERS, Cohort
from streamer.feed.connection import Reader
from streamer.feed.pace import Paces
from streamer.feed.tail import Tail

STEP_SECONDS = 0.005
STEP_DELIVERIES = 1000
"""A step takes no further turn after so long, or after so many events written: the event loop writes to the sockets when the step is over."""

Key = tuple[object, object]


class Channel:
    """One workspace's feed on this node."""

    def __init__(self, workspace: str, log: LogHead, *, ring_bytes: int, paces: Paces | None = None) -> None:
        self.workspace = workspace
        self.epoch = log.epoch
        self.earliest = log.earliest
        self.flushed = log.head
        """Where the pass under way, or the last one, brings every live reader."""
        self.heard = log.head
        """The highest seq that anybody spoke of; above `tail.last` there is a hole to fill."""
        self.tail = Tail(log.head, ring_bytes)
        self.cohorts: dict[Key, list[Cohort]] = {}
        """By what their readers have in common: wire format and filter."""
        self._waiting: deque[Cohort] = deque()
        """Cohorts that this pass has yet to bring to its aim."""
        self._arrived: dict[Key, Cohort] = {}
        """The last cohort of each kind that this pass brought there: smaller ones join it."""
        self._paces = paces or Paces()
        self.late_until: float | None = None
        """When the first of the cohorts that this pass left out, because their account has searched too much, may be served."""
        self.is_open = True
        """It stands for the workspace here. One that does not gets nothing more."""
        self.followers = 0
        """Who holds the channel open: readers, and those about to become one."""
        self.readers: set[Reader] = set()
        """All of the workspace's readers, whatever their state."""

    @property
    def log(self) -> LogHead:
        """What this node's readers can be given."""
        return LogHead(self.epoch, self.flushed, self.earliest)

    def offer(self, frames: Sequence[LiveFrame]) -> bool:
        """Take news of a commit. Returns False if there is a hole before it, to be filled from the log."""
        if frames:
            self.heard = max(self.heard, frames[-1].seq)
        return self.tail.offer(frames)

    def aim(self) -> None:
        """Begin a pass, or lead the one under way further: to the end of the ring."""
        self.flushed = self.tail.last
        self._waiting = deque(cohort for kind in self.cohorts.values() for cohort in kind if cohort.at < self.flushed)
        self._arrived = {}
        self.late_until = None

    def step(self, now: float) -> tuple[int, int]:
        """Do a bounded part of the pass; `has_more` tells whether it goes on.

        Args:
            now: the time, for what accounts may search.

        Returns:
            the number of events delivered, over all readers, and the number of readers that fell back.
        """
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
            self.tail.trim()
        return delivered, fallen

    @property
    def has_more(self) -> bool:
        """Tell whether the pass has cohorts to serve yet."""
        return bool(self._waiting)

    def _serve(self, cohort: Cohort, now: float) -> tuple[int, int]:
        """Give a cohort its turn."""
        if cohort.searches and self._is_early(cohort, now):
            return 0, 0
        frames = self.tail.between(cohort.at, self.flushed)
        if frames is None:  # it was left out for so long that the ring has moved on
            late = cohort.fall_back()
            self._drop(cohort)
            return 0, len(late)
        part, searched = cohort.take(frames)
        if searched:
            self._paces.charge(_account_of(cohort), searched, now)
        if not part:  # too much to search for: the log is read instead
            late = cohort.fall_back()
            self._drop(cohort)
            return 0, len(late)
        delivered, late, rest = cohort.deliver(part)
        if rest is not None:
            self.cohorts[cohort.key].append(rest)
            self._waiting.append(rest)
        if not cohort.members:
            self._drop(cohort)
        elif cohort.at < self.flushed:
            self._waiting.append(cohort)
        else:
            self._arrive(cohort)
        return delivered, len(late)

    def _is_early(self, cohort: Cohort, now: float) -> bool:
        """Leave a cohort out of this pass if its account has searched too much."""
        ready_at = self._paces.ready_at(_account_of(cohort))
        if ready_at <= now:
            return False
        self.late_until = min(ready_at, self.late_until or ready_at)
        return True

    def _arrive(self, cohort: Cohort) -> None:
        """Note that a cohort stands at the aim, and join it with another one that does, if both are small."""
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

    def join(self, reader: Reader) -> bool:
        """Make a reader live if it stands where the channel does."""
        if not reader.session.join(self.flushed):
            return False
        kind = self.cohorts.setdefault((reader.wire, reader.selection), [])
        for cohort in reversed(kind):
            if cohort.at == self.flushed and len(cohort.members) < COHORT_READERS:
                break
        else:
            cohort = Cohort(reader.selection, reader.wire, self.flushed)
            kind.append(cohort)
        cohort.add(reader)
        return True

    def leave(self, reader: Reader) -> None:
        """Forget a reader."""
        self.readers.discard(reader)
        cohort = reader.cohort
        if cohort is not None:
            cohort.leave(reader)
            if not cohort.members:
                self._drop(cohort)

    def resume_point(self, reader: Reader) -> Position | None:
        """Return the position that a live reader should be told because its filter let nothing through, if there is one."""
        cohort = reader.cohort
        if cohort is None or max(reader.noted, cohort.sent) >= cohort.at:
            return None
        reader.noted = cohort.at
        return Position(self.epoch, cohort.at)


def _account_of(cohort: Cohort) -> str:
    """Return the account that a cohort's searches count for: of those who share it, any."""
    return next(iter(cohort.members)).subscription.account
