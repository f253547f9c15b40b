"""A reader's place in a log: `epoch.seq`, opaque to clients, the SSE `id:`."""

import re
from dataclasses import dataclass

from streamer.core.errors import PositionExpired

MAX_SEQ = 2**63 - 1

_POSITION = re.compile(r"([a-z0-9]{1,32})\.(0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to and including `seq` of the log with this `epoch` has been seen; 0 is before the first."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read a position.

        Raises:
            ValueError: the text is not a position.
        """
        match = _POSITION.fullmatch(text)
        if match is None or int(match[2]) > MAX_SEQ:
            raise ValueError("not a position as this server gives them")
        return cls(match[1], int(match[2]))


@dataclass(frozen=True, slots=True)
class LogHead:
    """What a log holds at one moment: the seqs `earliest` … `head` of `epoch` (none when earliest is head + 1)."""

    epoch: str
    head: int
    earliest: int

    @property
    def position(self) -> Position:
        """The position of a reader that has seen everything."""
        return Position(self.epoch, self.head)

    def holds(self, position: Position) -> bool:
        """Tell whether a reader at `position` can go on without a gap."""
        return position.epoch == self.epoch and self.earliest - 1 <= position.seq <= self.head


def expired(head: LogHead) -> PositionExpired:
    """Make the error for a position that does not lie in the log."""
    return PositionExpired(
        "the position is not in the log: its events were removed, or the log was made anew",
        earliest=str(Position(head.epoch, head.earliest - 1)),
        head=str(head.position),
    )


UNKNOWN = Position("unknown", 0)
"""A position of no log: a reader that comes from there is told of a gap, then gets all that the log holds."""
