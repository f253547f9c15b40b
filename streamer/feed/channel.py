"""A workspace's live readers: the tail ring, and cohorts of equal subscriptions that share every byte. Pure but for the sinks.

Invariant: every LIVE reader stands at `flushed`. So a cohort's frames are filtered and joined once, whatever its size, and joining
is a comparison of two numbers.
"""

from collections.abc import Sequence

from streamer.core.filter import Filter
from streamer.core.frame import LiveFrame
from streamer.core.position import LogHead, Position
from streamer.feed.connection import Reader, Wire
from streamer.feed.tail import Tail


class Cohort:
    """The live readers with one filter and one wire format."""

    __slots__ = ("members", "selection", "sent", "wire")

    def __init__(self, selection: Filter, wire: Wire) -> None:
        self.selection = selection
        self.wire = wire
        self.members: set[Reader] = set()
        self.sent = 0
        """The seq of the last frame that passed the filter: the members' resume point."""

    def deliver(self, frames: Sequence[LiveFrame], before: int) -> tuple[int, list[Reader]]:
        """Write frames to all members; those that are not ready leave, at the position `before` these frames.

        Returns:
            how many events were written over all members, and who left.
        """
        judge = self.selection.matches
        passed = [frame for frame in frames if judge(frame.facets)] if self.selection.conditions else frames
        if not passed:
            return 0, []
        data = self.wire.frames(passed)
        late = [reader for reader in self.members if not reader.sink.offer(data)]
        for reader in late:
            self.members.discard(reader)
            reader.session.fall_back(before)
            reader.driver.wake(reader)
        self.sent = passed[-1].seq
        return len(passed) * len(self.members), late


class Channel:
    """One workspace's feed on this node."""

    def __init__(self, workspace: str, log: LogHead, *, ring_bytes: int) -> None:
        self.workspace = workspace
        self.epoch = log.epoch
        self.earliest = log.earliest
        self.flushed = log.head
        """Every LIVE reader has been given everything up to here."""
        self.heard = log.head
        """The highest seq that anybody spoke of; above `tail.last` there is a hole to fill."""
        self.tail = Tail(log.head, ring_bytes)
        self.cohorts: dict[tuple[Wire, Filter], Cohort] = {}
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

    def flush(self) -> tuple[int, int]:
        """Deliver what came since the last flush to all live readers.

        Returns:
            the number of events delivered, over all readers, and the number of readers that fell back.
        """
        before, self.flushed = self.flushed, self.tail.last
        frames = self.tail.after(before) or ()
        delivered = fallen = 0
        if frames:
            for cohort in self.cohorts.values():
                count, late = cohort.deliver(frames, before)
                delivered += count
                fallen += len(late)
            self.tail.trim()
        return delivered, fallen

    def join(self, reader: Reader) -> bool:
        """Make a reader live if it stands where the channel does."""
        if not reader.session.join(self.flushed):
            return False
        key = (reader.wire, reader.selection)
        cohort = self.cohorts.get(key)
        if cohort is None:
            cohort = self.cohorts[key] = Cohort(reader.selection, reader.wire)
        cohort.members.add(reader)
        return True

    def leave(self, reader: Reader) -> None:
        """Forget a reader."""
        self.readers.discard(reader)
        key = (reader.wire, reader.selection)
        cohort = self.cohorts.get(key)
        if cohort is not None:
            cohort.members.discard(reader)
            if not cohort.members:
                del self.cohorts[key]

    def resume_point(self, reader: Reader) -> Position | None:
        """Return the position that a live reader should be told because its filter let nothing through, if there is one."""
        cohort = self.cohorts.get((reader.wire, reader.selection))
        told = max(reader.noted, cohort.sent if cohort else 0)
        if told >= self.flushed:
            return None
        reader.noted = self.flushed
        return Position(self.epoch, self.flushed)
