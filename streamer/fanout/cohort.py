"""Live readers that share every byte: one filter, one wire format, one position. Pure except for the sinks.

A delivery is done in turns, so that no fan-out holds the event loop for long, whatever the number of readers, the length of the events or
the filter: each turn is bounded in readers, in bytes, and in characters that a filter searches.
"""

from collections.abc import Sequence
from itertools import accumulate

from streamer.core.filter import Filter
from streamer.core.frame import LiveFrame
from streamer.fanout.connection import Encoder, Reader

COHORT_READERS = 1000
"""Readers in one cohort: a write takes some microseconds, so that a turn takes some milliseconds."""
TURN_BYTES = 8 * 2**20
"""Bytes written in one turn over all readers: the kernel copies them, about a millisecond for each MiB."""
TURN_FRAME_BYTES = 256 * 1024
"""Bytes of events encoded in one turn, or one event: a dialect writes each event in a form of its own."""
TURN_SEARCH = 5_000_000
"""Work of a filter's `q` in one turn, in steps of about a nanosecond. An event that takes more is left to the log, which is searched on
other threads."""
QUADRATIC_BELOW = 30_000
"""Characters of a text below which Python may take as many steps as the text and what is looked for have characters, multiplied."""
LINEAR_STEPS = 4
"""Steps for each character of a longer text, whatever is looked for."""


class Cohort:
    """Some live readers at one position."""

    __slots__ = ("_searched", "at", "encoder", "members", "searches", "selection", "sent")

    def __init__(self, selection: Filter, encoder: Encoder, at: int, sent: int = 0) -> None:
        self.selection = selection
        texts = selection.searched()
        self.searches = len(texts)
        """How many texts the filter looks for, and (`_searched`) their characters together."""
        self._searched = sum(map(len, texts))
        self.encoder = encoder
        self.at = at
        """Its readers have been given everything up to here."""
        self.sent = sent
        """The seq of the last frame that passed the filter: the readers' resume point."""
        self.members: set[Reader] = set()

    @property
    def key(self) -> tuple[Encoder, Filter]:
        """What its readers have in common."""
        return self.encoder, self.selection

    def add(self, reader: Reader) -> None:
        """Take a reader that stands where the cohort does."""
        self.members.add(reader)
        reader.cohort = self

    def leave(self, reader: Reader) -> None:
        """Let a reader go."""
        self.members.discard(reader)
        reader.cohort = None

    def absorb(self, other: "Cohort") -> None:
        """Take all readers of a cohort at the same position."""
        for reader in other.members:
            reader.cohort = self
        self.members |= other.members
        other.members = set()
        self.sent = max(self.sent, other.sent)

    def split(self, count: int) -> "Cohort":
        """Part with all readers but `count`, into a cohort at the same position."""
        rest = Cohort(self.selection, self.encoder, self.at, self.sent)
        while len(self.members) > count:
            rest.add(self.members.pop())
        return rest

    def fall_back(self) -> list[Reader]:
        """Send all readers back to the log; returns them."""
        late = list(self.members)
        for reader in late:
            self._send_back(reader)
        return late

    def take(self, frames: Sequence[LiveFrame]) -> tuple[Sequence[LiveFrame], int]:
        """Return as many frames as one turn can deliver, and the steps that its filter's searches take.

        At least one frame; none if the first one takes too many steps.
        """
        count = _within([len(frame.body) for frame in frames], TURN_FRAME_BYTES)
        if not self.searches:
            return frames[:count], 0
        steps = [search_steps(len(frame.facets.search), self.searches, self._searched) for frame in frames[:count]]
        if steps[0] > TURN_SEARCH:
            return (), 0
        count = _within(steps, TURN_SEARCH)
        return frames[:count], sum(steps[:count])

    def deliver(self, frames: Sequence[LiveFrame]) -> tuple[int, list[Reader], "Cohort | None"]:
        """Write frames to the readers; those that are not ready leave, at the position before these frames.

        Returns:
            how many events were written over all readers, who left, and if the bytes are too many for one turn a cohort of those that
            are still to be given them.
        """
        judge = self.selection.matches
        passed = [frame for frame in frames if judge(frame.facets)] if self.selection.conditions else frames
        if not passed:
            self.at = frames[-1].seq
            return 0, [], None
        data = self.encoder.frames(passed)
        count = max(TURN_BYTES // (len(data) or 1), 1)
        rest = self.split(count) if len(self.members) > count else None
        share = len(data) // (len(self.members) or 1)
        late = [reader for reader in self.members if not reader.sink.offer(data, share)]
        for reader in late:
            self._send_back(reader)
        self.at, self.sent = frames[-1].seq, passed[-1].seq
        return len(passed) * len(self.members), late, rest

    def _send_back(self, reader: Reader) -> None:
        self.leave(reader)
        reader.session.fall_back(self.at)
        reader.driver.wake(reader)


def search_steps(characters: int, texts: int, together: int) -> int:
    """Return about how many steps it takes to look for texts in an event's search text.

    Args:
        characters: of the search text.
        texts: how many are looked for.
        together: their characters.
    """
    return characters * (together if characters < QUADRATIC_BELOW else LINEAR_STEPS * texts)


def _within(sizes: Sequence[int], most: int) -> int:
    """Return how many of the first sizes together are at most `most`, but at least one."""
    count = 0
    for total in accumulate(sizes):
        if total > most:
            break
        count += 1
    return max(count, 1)
