"""One reader's progress through one log: a state machine without I/O.

    REPLAY ───────► LIVE ◄──────► CATCH_UP
       │             │               │
       └─────────────┴──────►  CLOSED ◄┘

REPLAY    reads what the reader missed, from the log or the ring.
LIVE      stands where its channel stands; the channel delivers to it.
CATCH_UP  was too slow for the channel: reads on from where it was left, then joins again.
CLOSED    gets nothing more.

Invariant: `position` never moves past an event that the reader's filter lets through and that was not handed out, unless a `Gap`
says so; it never moves back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, TypeVar

from streamer.core.frame import Frame
from streamer.core.position import LogHead, Position

AnyFrame = TypeVar("AnyFrame", bound=Frame)


class State(Enum):
    """Where a session is; see the module's docstring."""

    REPLAY = auto()
    LIVE = auto()
    CATCH_UP = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that this reader will never get: the seqs `first` … `last`, None where nobody knows.

    `retention`: they were removed. `reset`: the reader's position is of another epoch, or beyond the head (the log was restored
    from a backup, say); what it has seen there is not in this log.
    """

    first: int | None
    last: int | None
    reason: Literal["retention", "reset"]
    position: Position
    """Where the reader goes on."""


class Session:
    """A reader's state and position. The driver calls; the session decides what the reader may get."""

    __slots__ = ("epoch", "position", "state")

    def __init__(self, log: LogHead) -> None:
        """Begin at the head: only what comes from now on."""
        self.state = State.REPLAY
        self.epoch = log.epoch
        self.position = log.head

    def resume(self, log: LogHead, start: Position) -> list[Gap]:
        """Begin where the reader left, or as near as the log allows; says what lies between."""
        start, before = log.translated(start), log.previous
        if before is not None and start.epoch == before.epoch:
            # The database lost what the reader has seen after the fork; these seqs were given to other events.
            self.position = before.seq
            return [Gap(before.seq + 1, start.seq, "reset", self._at(before.seq)), *self.trimmed(log)]
        if start.epoch != log.epoch:
            # Nothing of this log has been seen. What followed in the old one is unknown.
            self.position = 0
            return [Gap(start.seq + 1, None, "reset", self._at(0)), *self.trimmed(log)]
        if start.seq > log.head:
            self.position = log.head
            return [Gap(log.head + 1, start.seq, "reset", self._at(log.head))]
        self.position = start.seq
        return self.trimmed(log)

    def trimmed(self, log: LogHead) -> list[Gap]:
        """Step over what the log does not hold any more, if the reader had not come past it."""
        if self.position >= log.earliest - 1:
            return []
        gap = Gap(self.position + 1, log.earliest - 1, "retention", self._at(log.earliest - 1))
        self.position = log.earliest - 1
        return [gap]

    def read(self, frames: Sequence[AnyFrame], through: int) -> list[AnyFrame]:
        """Take what a source (log or ring) holds between the position and `through`; returns what to hand out.

        The source says by `through` that it left out nothing up to there but what the filter stops.
        """
        if self.state is State.CLOSED:
            return []
        fresh = [frame for frame in frames if self.position < frame.seq <= through]
        self.position = max(self.position, through)
        return fresh

    def join(self, flushed: int) -> bool:
        """Go live if the reader stands exactly where the channel does."""
        if self.state is State.CLOSED or self.position != flushed:
            return False
        self.state = State.LIVE
        return True

    def fall_back(self, position: int) -> None:
        """Leave the channel at `position`, the last that was delivered there, and catch up."""
        if self.state is State.LIVE:
            self.position = position
            self.state = State.CATCH_UP

    def close(self) -> None:
        """End: nothing is handed out from now on."""
        self.state = State.CLOSED

    def _at(self, seq: int) -> Position:
        return Position(self.epoch, seq)
