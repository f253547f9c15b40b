"""The ring of a workspace's most recent frames, bounded in bytes once they are delivered."""

from collections import deque
from collections.abc import Sequence

from streamer.core.frame import LiveFrame


class Tail:
    """Frames `first` … `last` without a gap; empty when first is last + 1."""

    __slots__ = ("_frames", "_limit", "_size", "last")

    def __init__(self, last: int, limit: int) -> None:
        self.last = last
        self._limit = limit
        self._size = 0
        self._frames: deque[LiveFrame] = deque()

    @property
    def first(self) -> int:
        """The seq of the oldest frame that is still here."""
        return self.last - len(self._frames) + 1

    def offer(self, frames: Sequence[LiveFrame]) -> bool:
        """Take frames (contiguous among themselves) that go on where the ring ends; skip those it has.

        Returns:
            False if there is a gap between the ring and the frames: nothing was taken.
        """
        if frames and frames[0].seq > self.last + 1:
            return False
        for frame in frames:
            if frame.seq > self.last:
                self._frames.append(frame)
                self._size += frame.size
                self.last = frame.seq
        return True

    def trim(self) -> None:
        """Drop the oldest frames beyond the limit. For when all have been delivered: what comes at once may be more than the limit."""
        while self._size > self._limit:
            self._size -= self._frames.popleft().size

    def after(self, seq: int) -> list[LiveFrame] | None:
        """Return the frames after `seq`, or None if the ring has moved past it (or has not come to it)."""
        return self.between(seq, self.last)

    def between(self, seq: int, last: int) -> list[LiveFrame] | None:
        """Return the frames after `seq` up to `last`; None as in `after`."""
        count = self.last - seq
        if not 0 <= count <= len(self._frames):
            return None
        return [self._frames[index] for index in range(-count, last - self.last)]
