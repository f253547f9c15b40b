"""Reading over many workspaces: one position for each of them, and the events in the order of their timestamps."""

import asyncio
import heapq
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from streamer.access.principal import Principal
from streamer.access.visibility import Visibility
from streamer.core.errors import InvalidCursor, ValidationError, WorkspaceNotFound
from streamer.core.filter import Filter
from streamer.core.ports import Bound, Log, Order
from streamer.core.position import LogHead, Position
from streamer.http.paging import PageRange, decode_cursor, encode_cursor
from streamer.http.reading import Pages
from streamer.http.responses import off_loop
from streamer.observe.metrics import Metrics
from streamer.store.records.workspaces import Workspaces

MAX_WORKSPACES = 500
"""Workspaces that one reader reads at once: a cursor, or the `id:` of a stream, holds a position of each."""
OMITTED = "X-Workspaces-Omitted"
AT_ONCE = 8
"""Workspaces that are asked at the same time."""
MANY = 2
"""So many times as long as one read a page over many workspaces may take."""
LEAST = 4
"""The least events that one of them is asked for."""
MOST = 1000
"""The most, of a page that has no more."""

# Times before 1970 are negative. What the positions are is for `parse_positions` to say.
_CURSOR = re.compile(r"([ad]);(-?\d{1,18})?;(-?\d{1,18})?;([^;]*);", re.ASCII)


def positions_text(positions: Mapping[str, int]) -> str:
    """Write positions (epoch to seq): an epoch names its workspace, too."""
    return ",".join([f"{epoch}.{seq}" for epoch, seq in positions.items()])


def parse_positions(text: str) -> dict[str, int]:
    """Read what `positions_text` wrote. Raises ValueError."""
    if len(text) > MAX_WORKSPACES * 64:
        raise ValueError("more positions than one reader has")
    return {one.epoch: one.seq for one in map(Position.parse, text.split(","))}


@dataclass(frozen=True, slots=True)
class MergeCursor:
    """Where a page over many workspaces ended in each of them, and the times that bound the list."""

    order: Order
    after: int | None
    before: int | None
    seqs: Mapping[str, int]
    """By epoch."""

    def __str__(self) -> str:
        bounds = ["" if bound is None else str(bound) for bound in (self.after, self.before)]
        return encode_cursor(";".join([self.order[0], *bounds, positions_text(self.seqs), ""]))

    @classmethod
    def parse(cls, text: str) -> "MergeCursor":
        """Read a cursor. Raises InvalidCursor."""
        return decode_cursor(text, cls._read)

    @classmethod
    def _read(cls, plain: str) -> "MergeCursor":
        match = _CURSOR.fullmatch(plain)
        if match is None:
            raise ValueError("not of this form")
        after, before = (None if digits is None else int(digits) for digits in match.group(2, 3))
        return cls("asc" if match[1] == "a" else "desc", after, before, parse_positions(match[4]) if match[4] else {})


@dataclass(frozen=True, slots=True)
class Found:
    """A page over many workspaces."""

    events: list[dict[str, Any]]
    cursor: str | None
    """Leads on, if there may be more."""
    size: int = 0
    """Bytes of the events."""
    is_cut: bool = False
    """The time was up before the page was full."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What the answer says beside it."""


@dataclass(slots=True)
class _Source:
    """One workspace's part of a list."""

    workspace: str
    log: LogHead
    selection: Filter
    at: int | None
    """The seq of the last event that was taken, or where the list begins; None: not known yet."""
    waiting: deque[tuple[int, int, dict[str, Any]]] = field(default_factory=deque)
    """Events that were read and not taken: seq, bytes, event."""
    is_over: bool = False
    is_cut: bool = False
    """The time was up: behind `at`, or behind what waits, nobody has looked yet."""

    def leave_at(self, order: Order) -> int | None:
        """Return where the next page goes on here: before the first event that was not taken, however far it was looked for."""
        if not self.waiting:
            return self.at
        return self.waiting[0][0] - 1 if order == "asc" else self.waiting[0][0] + 1


class _Newer(tuple[str, str, int]):
    """A place in the list that comes first if it is newer."""

    __slots__ = ()

    def __lt__(self, other: Any) -> bool:
        return tuple.__gt__(self, other)


class Merge:
    """Reads many workspaces as one."""

    def __init__(  # noqa: PLR0913 - what it reads with
        self,
        log: Log,
        workspaces: Workspaces,
        visibility: Visibility,
        pages: Pages,
        metrics: Metrics,
        *,
        read_seconds: float,
    ) -> None:
        """Make the reader; `read_seconds` is what one read may take."""
        self._log = log
        self._workspaces = workspaces
        self._visibility = visibility
        self._pages = pages
        self._metrics = metrics
        self._read_seconds = read_seconds

    async def workspaces_of(self, principal: Principal, among: Collection[str] | None) -> tuple[list[str], int]:
        """Return the workspaces to be read, these or all (None), the preferred ones first; and how many memberships are left out.

        Memberships beyond `MAX_WORKSPACES` are left out: others add a person to workspaces, and must not be able to end the person's
        routes.

        Raises: ValidationError: the workspaces that the credential itself grants are too many.
        """
        everywhere = among is None
        if among is None:
            listed = await self._workspaces.listing(None, after="", limit=MAX_WORKSPACES + 1)
            among = [workspace.id for workspace in listed]
        rank = principal.rank()
        found = sorted(among, key=lambda workspace: (rank(workspace), workspace))
        if len(found) > MAX_WORKSPACES and (everywhere or rank(found[MAX_WORKSPACES]) == 0):
            raise ValidationError(
                {"workspaces": f"more than {MAX_WORKSPACES}: read them one by one, or use a key with fewer grants"}
            )
        return found[:MAX_WORKSPACES], len(found[MAX_WORKSPACES:])

    async def newest(
        self, principal: Principal, selection: Filter, page_range: PageRange, limit: int, cursor: str | None
    ) -> Found:
        """Return a page over all workspaces that a principal may read. Raises ValidationError, InvalidCursor."""
        workspaces, left_out = await self.workspaces_of(principal, principal.readable())
        found = await self.read(principal, workspaces, selection, page_range, limit, cursor)
        return replace(found, headers=said_of(left_out))

    async def read(  # noqa: PLR0913, PLR0917 - a page's parts, and the workspaces
        self,
        principal: Principal,
        workspaces: Sequence[str],
        selection: Filter,
        page_range: PageRange,
        limit: int,
        cursor: str | None,
    ) -> Found:
        """Return a page over workspaces, by the events' timestamps; of equal ones by their ids.

        Args:
            principal: the reader, which can read in each of them.
            workspaces: which ones.
            selection: what to let through.
            page_range: its order, `skip`, and times as its bounds; with a cursor its order alone counts, which is the cursor's.
            limit: events in the page.
            cursor: of the page before.

        Raises: InvalidCursor, RateLimited, StoreUnavailable.
        """
        async with self._pages.turn(principal.account, None):
            found = await self._read(principal, workspaces, selection, page_range, limit, cursor)
        if found.is_cut:
            self._metrics.scans_cut.inc()
        return found

    async def _read(  # noqa: PLR0913, PLR0917 - as above
        self,
        principal: Principal,
        workspaces: Sequence[str],
        selection: Filter,
        page_range: PageRange,
        limit: int,
        cursor: str | None,
    ) -> Found:
        previous = None if cursor is None else MergeCursor.parse(cursor)
        if previous is not None:
            page_range = PageRange(previous.order, previous.after, previous.before)
        ends = time.monotonic() + MANY * self._read_seconds
        logs = await self._log.heads(workspaces)
        if previous is not None and previous.seqs and not {log.epoch for log in logs.values()} & previous.seqs.keys():
            raise InvalidCursor("no log has the cursor's positions any more; start again without one")
        sources = [
            _Source(workspace, log, selection, None if previous is None else previous.seqs[log.epoch])
            for workspace, log in sorted(logs.items())
            if previous is None or log.epoch in previous.seqs  # it was made since: it is in no page of this list
        ]
        for some in _slices(sources):
            await asyncio.gather(*(self._narrow(principal, source) for source in some))
        parts = max(len(sources), 1)
        # What is skipped is read, too: a small page far behind must not take a query for each event before it.
        share = min(max(LEAST, (limit + page_range.skip) // parts + 1), max(limit, MOST))
        share_bytes = self._pages.max_bytes // parts
        for some in _slices(sources):
            await asyncio.gather(*(self._fill(source, page_range, share, share_bytes, ends) for source in some))
        place = _Newer if page_range.order == "desc" else tuple[str, str, int]
        heap = [_place(place, source, index) for index, source in enumerate(sources) if source.waiting]
        heapq.heapify(heap)
        found: list[dict[str, Any]] = []
        size, left = 0, page_range.skip
        # Which event comes next is known as long as each workspace has one that waits, or has no more.
        is_stuck = any(source.is_cut for source in sources)
        while heap and len(found) < limit and size < self._pages.max_bytes and not is_stuck:
            index = heapq.heappop(heap)[2]
            source = sources[index]
            source.at, length, event = source.waiting.popleft()
            if left:
                left -= 1
            else:
                found.append(event)
                size += length
            if not source.waiting and not source.is_over:
                await self._fill(source, page_range, share, share_bytes, ends)
                is_stuck = source.is_cut
            if source.waiting:
                heapq.heappush(heap, _place(place, source, index))
        if not heap and not is_stuck:
            return Found(found, None, size)
        is_cut = is_stuck and len(found) < limit and size < self._pages.max_bytes
        left_at = {source.log.epoch: source.leave_at(page_range.order) for source in sources}
        seqs = {epoch: at for epoch, at in left_at.items() if at is not None}
        after, before = (bound if isinstance(bound, int) else None for bound in (page_range.after, page_range.before))
        return Found(found, str(MergeCursor(page_range.order, after, before, seqs)), size, is_cut)

    async def _narrow(self, principal: Principal, source: _Source) -> None:
        """See to it that a source brings only what the caller may see; a workspace that is deleted just now brings nothing."""
        try:
            source.selection = await self._visibility.authorize(principal, source.workspace, source.selection)
        except WorkspaceNotFound:
            source.is_over = True

    async def _fill(self, source: _Source, page_range: PageRange, limit: int, max_bytes: int, ends: float) -> None:
        """Read on in one workspace: one event at least, if there is one and the time suffices."""
        if source.is_over:
            return
        after, before = page_range.after, page_range.before
        here: Bound = None if source.at is None else Position(source.log.epoch, source.at)
        if here is not None and page_range.order == "asc":
            after = here
        elif here is not None:
            before = here
        try:
            page = await self._log.page(
                source.workspace,
                selection=source.selection,
                order=page_range.order,
                limit=limit,
                max_bytes=max_bytes,
                after=after,
                before=before,
                seconds=max(ends - time.monotonic(), 0),
            )
        except WorkspaceNotFound:
            source.is_over = True
            return
        if source.at is None:
            source.at = page.floor if page_range.order == "asc" else page.ceiling + 1
        sizes = [len(event.body) for event in page.events]
        decoded = await off_loop(sum(sizes), lambda: [orjson.loads(event.body) for event in page.events])
        source.waiting.extend(zip([event.seq for event in page.events], sizes, decoded, strict=True))
        source.is_over = not page.full and not page.is_cut
        source.is_cut = page.is_cut and not source.waiting
        if source.is_cut:
            source.at = page.examined


async def encoded(found: Found, shape: Callable[[dict[str, Any]], Any]) -> list[bytes]:
    """Return the events in another shape, each encoded."""
    return await off_loop(found.size, lambda: [orjson.dumps(shape(event)) for event in found.events])


def said_of(left_out: int) -> dict[str, str]:
    """Return the header that says how many workspaces a page leaves out."""
    return {OMITTED: str(left_out)} if left_out else {}


def _place(place: Any, source: _Source, index: int) -> Any:
    event = source.waiting[0][2]
    return place((event["timestamp"], event["id"], index))


def _slices(sources: Sequence[_Source]) -> list[Sequence[_Source]]:
    return [sources[start : start + AT_ONCE] for start in range(0, len(sources), AT_ONCE)]
