"""A log in memory, for tests of the feed without a database."""

import asyncio
from collections.abc import Sequence
from itertools import accumulate

from streamer.core.errors import PositionExpired, StoreUnavailable, WorkspaceNotFound
from streamer.core.event import Event, Facets
from streamer.core.filter import Filter
from streamer.core.frame import LiveFrame
from streamer.core.ports import Bound, Order, Page
from streamer.core.position import LogHead, Position

WORKSPACE = "ws"
KEY = 1


class ModelLog:
    """A log in memory with the store's rules, which can be unavailable."""

    def __init__(self) -> None:
        self.epoch = "aaa"
        self.events: list[Event] = []
        self.earliest = 1
        self.away = False

    def append(self) -> LiveFrame:
        seq = len(self.events) + 1
        self.events.append(Event(seq, f"e{seq}", b'{"seq":%d}' % seq))
        return self.frame(seq)

    def frame(self, seq: int) -> LiveFrame:
        return LiveFrame(Position(self.epoch, seq), self.events[seq - 1].body, facets(seq))

    def log_head(self) -> LogHead:
        return LogHead(self.epoch, len(self.events), self.earliest, KEY)

    async def head(self, workspace: str) -> LogHead:
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away")
        if workspace != WORKSPACE:
            raise WorkspaceNotFound
        return self.log_head()

    async def heads(self, workspaces: Sequence[str]) -> dict[str, LogHead]:
        return {workspace: await self.head(workspace) for workspace in workspaces}

    async def changed(self, known: Sequence[LogHead]) -> dict[int, LogHead | None]:
        head = await self.head(WORKSPACE)
        return {log.key: head for log in known if log != head}

    async def resolve(self, workspace: str, bound: Bound) -> Position:
        raise AssertionError

    async def page(
        self,
        workspace: str,
        *,
        selection: Filter,
        order: Order,
        limit: int,
        max_bytes: int,
        after: Bound = None,
        before: Bound = None,
        skip: int = 0,
        seconds: float | None = None,
    ) -> Page:
        head = await self.head(workspace)
        assert order == "asc"
        assert skip == 0
        assert isinstance(after, Position)
        assert isinstance(before, Position)
        if not head.holds(after):
            raise PositionExpired("gone")
        ceiling = min(before.seq - 1, head.head)
        passed = [e for e in self.events[after.seq : ceiling] if selection.matches(facets(e.seq))]
        found = fitting(passed, limit, max_bytes)
        full = len(found) == limit or len(found) < len(passed)
        return Page(head, found, found[-1].seq if full else max(after.seq, ceiling), full, after.seq, ceiling)

    async def position_of(self, workspace: str, event_id: str, selection: Filter) -> Position:
        raise AssertionError("no reader looks up an event's position")

    async def frames(
        self, workspace: str, *, after: int, limit: int, max_bytes: int
    ) -> tuple[LogHead, list[LiveFrame]]:
        head = await self.head(workspace)
        first = max(after, self.earliest - 1)
        return head, [self.frame(event.seq) for event in fitting(self.events[first:], limit, max_bytes)]

    async def event(self, workspace: str, event_id: str, selection: Filter) -> Event:
        raise AssertionError


def fitting(events: Sequence[Event], limit: int, max_bytes: int) -> list[Event]:
    """Return as many of the first events as fit both bounds, but at least one."""
    through = accumulate(len(event.body) for event in events)
    return [event for event, size in zip(events[:limit], through, strict=False) if size <= max_bytes] or list(
        events[:1]
    )


def facets(seq: int) -> Facets:
    """Return the facets of the model's event `seq`: its action is `even` or `odd`."""
    action = "odd" if seq % 2 else "even"
    return Facets("activity", action, "user", "u", None, None, None, None, None, None, None, f"an {action} event")
