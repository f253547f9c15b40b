"""The extent of a database's logs, and whether they are complete.

Used for a database, for its backup and for a restored one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SHOWN = 3
"""Number of problems that a message names, followed by the number of the others."""

LOGS = """
SELECT w.key, w.id, w.epoch, w.head, w.earliest, count(e.seq), min(e.seq), max(e.seq)
FROM workspaces AS w LEFT JOIN events AS e ON e.workspace = w.key
GROUP BY w.key, w.id, w.epoch, w.head, w.earliest
ORDER BY w.id
"""
"""One row for each log, on both databases. (workspace, seq) is unique, so count, min and max prove that no seq is missing."""


@dataclass(frozen=True, slots=True)
class LogState:
    """One log: its record, and the number of its events."""

    key: int
    id: str
    epoch: str
    head: int
    earliest: int
    events: int

    def to_json(self) -> dict[str, Any]:
        """Return it in the manifest's form."""
        return asdict(self)

    @property
    def contents(self) -> tuple[str, int, int, int]:
        """The fields that stay the same when a backup is restored: all except the epoch."""
        return self.id, self.earliest, self.head, self.events


def read_logs(rows: Iterable[Sequence[Any]]) -> tuple[list[LogState], list[str]]:
    """Return the logs for the rows of `LOGS`, and descriptions of their problems."""
    logs, problems = [], []
    for key, workspace, epoch, head, earliest, count, first, last in rows:
        logs.append(LogState(key, workspace, epoch, head, earliest, count))
        held = f"{count} events" + (f", seq {first} to {last}" if count else "")
        if (count, first or earliest, last or head) != (head - earliest + 1, earliest, head):
            problems.append(f"the log of {workspace} should hold seq {earliest} to {head}, but holds {held}")
    return logs, problems


def in_words(problems: Sequence[str]) -> str:
    """Return the first problems as one text."""
    more = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
