"""Reads one page of a log within a time budget.

The first statement covers the whole range: for nearly every filter an index answers it at once. If the database does
not finish it in time, the rest is read in windows of seqs. A window shrinks until it finishes in time, and grows while
it is fast. Events for which the smallest window is too slow are filtered in memory, which never takes long: neither
database searches long texts for long ones in linear time, and neither can be interrupted during such a search. So each
page makes progress, for every filter and event.
"""

import asyncio
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, select

from streamer.core.errors import ReadTimeout, StoreUnavailable
from streamer.core.event import Event, Facets
from streamer.core.filter import Filter
from streamer.core.ports import Bound, Order, Page
from streamer.core.position import LogHead, Position, expired
from streamer.store.engine.database import Database
from streamer.store.engine.pools import TURN_SECONDS
from streamer.store.log.lookup import FACETS, SIZED, find, fitting, seq_of
from streamer.store.log.predicate import branches, lead, predicate
from streamer.store.log.ranges import Range, Ranges, in_order, within
from streamer.store.schema import events

FIRST_WINDOW = 4096
"""Seqs of the first window, when the whole range took too long."""
SHRINK, GROW = 64, 4
"""Factors by which a window shrinks if it takes too long, and grows if it takes less than a fifth of its time."""
JUDGED = 16
"""Events that are filtered in memory, one by one, before a window is tried again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The parameters of a page."""

    workspace: str
    selection: Filter
    order: Order
    limit: int
    max_bytes: int
    after: Bound
    before: Bound
    skip: int


@dataclass(frozen=True, slots=True)
class _Opened:
    """The log as it was when the page started, and the requested range."""

    key: int
    head: LogHead
    floor: int
    ceiling: int


class Scan:
    """Reads one page; each step runs in its own transaction."""

    def __init__(
        self, database: Database, ranges: Ranges, turns: asyncio.Semaphore, wanted: Wanted, *, is_scan: bool
    ) -> None:
        """Prepare a page.

        Args:
            database: the log's database.
            ranges: finds the events of a range.
            turns: limits the concurrent windows of all scans of this node.
            wanted: the parameters of the page.
            is_scan: no index answers it, so its first statement takes a turn, too.
        """
        self._database = database
        self._ranges = ranges
        self._turns = turns
        self._wanted = wanted
        self._is_scan = is_scan
        self._opened: _Opened | None = None
        self._left: Range = 0, 0
        """The part of the range that is not examined yet."""
        self._skip = wanted.skip
        self._events: list[Event] = []
        self._bytes = 0
        self._full = False
        self._has_moved = False
        self._judged = 0
        self._took = 0.0
        """Seconds that the database worked for the last step."""
        self._ends = 0.0
        """When the last step must begin, by the monotonic clock."""

    async def page(self, seconds: float) -> Page:
        """Read the page, or as much of it as the time allows; with 0 seconds only its bounds.

        Raises: WorkspaceNotFound, PositionExpired, ReadTimeout (the bounds were not found in time), StoreUnavailable.
        """
        if seconds <= 0:
            return self._page(await self._database.page(self._open))
        self._ends = time.monotonic() + seconds - self._database.window_seconds
        width: int | None = None
        while True:
            async with self._turn(width):
                if width == 1:
                    await self._judge()
                    # From time to time a window is tried again, because events differ.
                    width = SHRINK if self._judged % JUDGED == 0 else 1
                else:
                    width = await self._step(width)
            low, high = self._left
            is_over = self._full or low >= high or (self._has_moved and time.monotonic() >= self._ends)
            if is_over and self._opened is not None:
                return self._page(self._opened)

    async def _step(self, width: int | None) -> int | None:
        """Read a window of this many seqs (None: the whole rest).

        Return the width of the next one. Raises ReadTimeout: the bounds were not found in time.
        """
        time_out = self._database.window_seconds
        try:
            await self._database.page(partial(self._read, width=width))
        except ReadTimeout:
            if self._opened is None:  # a lock or a busy machine: finding the bounds takes no time by itself
                if time.monotonic() >= self._ends:
                    raise
                return width
            # Far beyond its time limit: it could not be interrupted, because it was busy with a single event.
            if self._took > 4 * time_out:
                return 1
            low, high = self._left
            return max(min(width or FIRST_WINDOW * SHRINK, high - low) // SHRINK, 1)
        return width * GROW if width is not None and self._took < time_out / 5 else width

    def _turn(self, width: int | None) -> AbstractAsyncContextManager[object]:
        return _Turn(self._turns) if self._is_scan or width is not None else nullcontext()

    def _page(self, opened: _Opened) -> Page:
        low, high = self._left
        if self._full:
            examined = self._events[-1].seq
        elif self._wanted.order == "asc":
            examined = low if low < high else max(opened.floor, opened.ceiling)
        else:
            examined = high + 1 if low < high else min(opened.floor + 1, opened.ceiling)
        is_cut = low < high and not self._full
        return Page(opened.head, self._events, examined, self._full, opened.floor, opened.ceiling, is_cut)

    # ---- in a transaction

    def _open(self, connection: Connection) -> _Opened:
        """Find the log and the range; in later steps, require that the log is still the same."""
        key, head = find(connection, self._wanted.workspace)
        after, before, known = self._wanted.after, self._wanted.before, self._opened
        if known is not None:
            is_trimmed = self._wanted.order == "asc" and head.earliest > self._left[0] + 1
            if key != known.key or head.epoch != known.head.epoch or is_trimmed:
                raise expired(head)
            return known
        after = head.translated(after) if isinstance(after, Position) else after
        before = head.translated(before) if isinstance(before, Position) else before
        if isinstance(after, Position) and not head.holds(after):
            raise expired(head)
        if isinstance(before, Position) and (before.epoch != head.epoch or before.seq > head.head + 1):
            raise expired(head)
        floor = seq_of(connection, key, head, after, default=head.earliest - 1)
        if isinstance(before, int):
            # Everything up to the microsecond before: timestamps are whole and unique.
            before = Position(head.epoch, seq_of(connection, key, head, before - 1, default=0) + 1)
        ceiling = min(before.seq - 1 if before else head.head, head.head)
        self._left = floor, ceiling
        self._opened = _Opened(key, head, floor, ceiling)
        return self._opened

    def _read(self, connection: Connection, width: int | None) -> None:
        """Read the next window of this many seqs."""
        began = time.perf_counter()
        try:
            self._read_window(connection, self._open(connection), width)
        finally:
            self._took = time.perf_counter() - began

    def _read_window(self, connection: Connection, opened: _Opened, width: int | None) -> None:
        wanted, skip = self._wanted, self._skip
        window = low, high = self._next(width)
        if skip and low < high and window != self._left:
            skipped = self._ranges.count(connection, opened.key, wanted.selection, window, skip)
            if skipped < skip:
                low = high
                skip -= skipped
        if skip and low < high:
            low, high = self._ranges.behind(connection, opened.key, wanted.selection, window, wanted.order, skip)
            skip = 0
        found: list[Event] = []
        full = False
        if low < high:
            limit, room = wanted.limit - len(self._events), wanted.max_bytes - self._bytes
            query = self._between(opened.key, low, high, limit)
            rows, long, full = fitting(connection, opened.key, query, limit, room, least=0 if self._events else 1)
            found = [Event(seq, id_, (body or long[seq]).encode()) for seq, _, body, id_ in rows]
        # Set at the end, so that an interrupted step has no effect.
        self._skip = skip
        self._take(found)
        self._full = full
        self._move(window)

    def _row(self, connection: Connection) -> tuple[Event, Facets] | None:
        """Return the next event, whether or not it passes."""
        _, seq = self._next(1)
        here = events.c.workspace == self._open(connection).key, events.c.seq == seq
        row = connection.execute(select(events.c.id, events.c.body, *FACETS).where(*here)).one_or_none()
        return row and (Event(seq, row[0], row[1].encode()), Facets(*row[2:]))

    def _between(self, key: int, low: int, high: int, limit: int) -> Select[Any]:
        selection, order = self._wanted.selection, self._wanted.order
        query = select(*SIZED, events.c.id).where(events.c.workspace == key).order_by(in_order(order)).limit(limit)
        leading = lead(selection)
        ways = branches(leading) if leading else []
        if len(ways) > 1:
            return query.where(events.c.seq.in_(self._ranges.seqs(selection, key, (low, high), order, limit)))
        passes = predicate(selection, is_sqlite=self._database.is_sqlite, leading=leading)
        return query.where(*within(key, low, high), passes)

    # ---- progress

    def _next(self, width: int | None) -> Range:
        low, high = self._left
        if width is None or width >= high - low:
            return self._left
        return (low, low + width) if self._wanted.order == "asc" else (high - width, high)

    def _move(self, window: Range) -> None:
        """Remove a window from the rest."""
        low, high = self._left
        self._left = (window[1], high) if self._wanted.order == "asc" else (low, window[0])
        self._has_moved = True

    def _take(self, found: list[Event]) -> None:
        self._events += found
        self._bytes += sum([len(event.body) for event in found])

    async def _judge(self) -> None:
        """Filter the next event in memory, in a thread, because it may be long."""
        row = await self._database.page(self._row, seconds=self._database.read_seconds)
        if row is not None and await asyncio.to_thread(self._wanted.selection.matches, row[1]):
            if self._skip:
                self._skip -= 1
            elif self._events and self._bytes + len(row[0].body) > self._wanted.max_bytes:
                self._full = True
                return
            else:
                self._take([row[0]])
                self._full = len(self._events) >= self._wanted.limit
        self._move(self._next(1))
        self._judged += 1


class _Turn:
    """A turn of a scan, with a bounded wait."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable("too many scans are waiting for the database") from None

    async def __aexit__(self, *_exception: object) -> None:
        self._turns.release()
