"""A reader's place in a log: `epoch.seq`, opaque to clients, the SSE `id:`."""

import re
from dataclasses import dataclass

from streamer.core.errors import PositionExpired

MAX_SEQ = 2**63 - 1

POSITION = re.compile(r"([a-z0-9]{1,32})\.(0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to and including `seq` of the log with this `epoch` has been seen; 0 is before the first event."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Parse a position.

        Raises:
            ValueError: the text is not a position.
        """
        match = POSITION.fullmatch(text)
        if match is None or int(match[2]) > MAX_SEQ:
            raise ValueError("not a position in this server's format")
        return cls(match[1], int(match[2]))


@dataclass(frozen=True, slots=True)
class LogHead:
    """The extent of a log at one moment: the seqs `earliest` … `head` of `epoch` (none if earliest is head + 1)."""

    epoch: str
    head: int
    earliest: int
    key: int
    """The log's number in this database; never reused. The feed and the bus name logs by it."""
    previous: Position | None = None
    """The end of the epoch before, if the database lost what followed: positions up to there are still valid."""

    @property
    def position(self) -> Position:
        """The position of a reader that has seen everything."""
        return Position(self.epoch, self.head)

    def translated(self, position: Position) -> Position:
        """Return a position in this epoch, if it is in the part of the previous one that survived; else the same position."""
        before = self.previous
        if before is not None and position.epoch == before.epoch and position.seq <= before.seq:
            return Position(self.epoch, position.seq)
        return position

    def holds(self, position: Position) -> bool:
        """Return whether a reader at `position` can continue without a gap."""
        return position.epoch == self.epoch and self.earliest - 1 <= position.seq <= self.head


def expired(head: LogHead) -> PositionExpired:
    """Return the error for a position that is not in the log."""
    return PositionExpired(
        "the position is not in the log: its events were removed, or the log was re-created",
        earliest=str(Position(head.epoch, head.earliest - 1)),
        head=str(head.position),
    )


UNKNOWN = Position("unknown", 0)
"""A position of no log: a reader that starts there gets a gap, then the whole log."""
