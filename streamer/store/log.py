"""Reading a log: pages in either direction, one event, how far it goes."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    case,
    select,
)

from streamer.core.errors import EventNotFound, PositionExpired, WorkspaceNotFound
from streamer.core.event import Event, Facets
from streamer.core.filter import Condition, Either, Filter
from streamer.core.frame import LiveFrame
from streamer.core.ports import Bound, Order, Page
from streamer.core.position import LogHead, Position
from streamer.store.database import Database, reads
from streamer.store.predicate import branches, lead, predicate
from streamer.store.ranges import Ranges, in_order, within
from streamer.store.schema import events, workspaces

SMALL_BYTES = 4 * 2**10
"""A body up to this size is read together with its row, without asking whether it fits."""

_FACETS = [events.c[name] for name in Facets._fields]
# Of a long body only the size is read. Rows of many events are unpacked, not asked by name: that is quicker.
_SIZED = [events.c.seq, events.c.size, case((events.c.size <= bindparam("small"), events.c.body))]
_HEAD = [workspaces.c.key, workspaces.c.epoch, workspaces.c.head, workspaces.c.earliest]

_ONE_HEAD = select(*_HEAD).where(workspaces.c.id == bindparam("id"))


class SqlLog:
    """The log as `core.ports.Log` describes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ranges = Ranges(database)
        self._many_heads = select(workspaces.c.id, *_HEAD).where(database.is_any_of(workspaces.c.id, "ids"))

    @reads
    def head(self, connection: Connection, workspace: str) -> LogHead:
        """Return what the log holds."""
        return _find(connection, workspace)[1]

    @reads
    def heads(self, connection: Connection, workspaces: Sequence[str]) -> dict[str, LogHead]:
        """Return what these logs hold; those that do not exist are absent."""
        rows = connection.execute(self._many_heads, {"ids": self._database.list_value(list(workspaces))})
        return {row.id: _log_head(row) for row in rows}

    @reads
    def resolve(self, connection: Connection, workspace: str, bound: Bound) -> Position:
        """Return the position of a reader that has seen everything up to and including `bound` (open: nothing)."""
        key, head = _find(connection, workspace)
        return Position(head.epoch, _seq_of(connection, key, head, bound, default=head.earliest - 1))

    @reads
    def page(  # noqa: PLR0913 - one query, each part of it named
        self,
        connection: Connection,
        workspace: str,
        *,
        selection: Filter,
        order: Order,
        limit: int,
        max_bytes: int,
        after: Bound = None,
        before: Bound = None,
        skip: int = 0,
    ) -> Page:
        """Return the events strictly between two bounds, at one moment of the log."""
        key, head = _find(connection, workspace)
        if isinstance(after, Position) and not head.holds(after):
            raise expired(head)
        if isinstance(before, Position) and (before.epoch != head.epoch or before.seq > head.head + 1):
            raise expired(head)
        floor = _seq_of(connection, key, head, after, default=head.earliest - 1)
        if isinstance(before, int):
            # Everything up to the microsecond before it: timestamps are whole and each stands once.
            before = Position(head.epoch, _seq_of(connection, key, head, before - 1, default=0) + 1)
        ceiling = min(before.seq - 1 if before else head.head, head.head)
        page: list[Event] = []
        full = False
        low, high = floor, ceiling
        if skip and floor < ceiling:
            low, high = self._ranges.behind(connection, key, selection, (floor, ceiling), order, skip)
        if low < high:
            query = self._between(selection, key, low, high, order, limit)
            rows, long, full = _fitting(connection, key, query, limit, max_bytes)
            page = [Event(seq, id_, (body or long[seq]).encode()) for seq, _, body, id_ in rows]
        if full:
            examined = page[-1].seq
        else:
            examined = max(floor, ceiling) if order == "asc" else min(floor + 1, ceiling)
        return Page(head, page, examined, full, floor, ceiling)

    @reads
    def frames(
        self, connection: Connection, workspace: str, *, after: int, limit: int, max_bytes: int
    ) -> tuple[LogHead, list[LiveFrame]]:
        """Return the events behind seq `after`, oldest first and unfiltered, for the hub."""
        key, head = _find(connection, workspace)
        query = (
            select(*_SIZED, *_FACETS)
            .where(events.c.workspace == key, events.c.seq > after, events.c.seq <= head.head)
            .order_by(events.c.seq)
            .limit(limit)
        )
        rows, long, _ = _fitting(connection, key, query, limit, max_bytes)
        return head, [
            LiveFrame(Position(head.epoch, seq), (body or long[seq]).encode(), Facets(*facets))
            for seq, _, body, *facets in rows
        ]

    @reads
    def position_of(self, connection: Connection, workspace: str, event_id: str, selection: Filter) -> Position:
        """Return where an event stands, if the filter lets it be seen."""
        key, head = _find(connection, workspace)
        this = (events.c.workspace == key, events.c.id == event_id, self._passes(selection))
        seq = connection.execute(select(events.c.seq).where(*this)).scalar_one_or_none()
        if seq is None:
            raise EventNotFound
        return Position(head.epoch, seq)

    @reads
    def event(self, connection: Connection, workspace: str, event_id: str, selection: Filter) -> Event:
        """Return one event, if the filter lets it be seen."""
        key, _ = _find(connection, workspace)
        this = (events.c.workspace == key, events.c.id == event_id, self._passes(selection))
        query = select(events.c.seq, events.c.id, events.c.body).where(*this)
        row = connection.execute(query).one_or_none()
        if row is None:
            raise EventNotFound
        return Event(row.seq, row.id, row.body.encode())

    def _passes(self, selection: Filter, leading: Condition | Either | None = None) -> ColumnElement[bool]:
        return predicate(selection, is_sqlite=self._database.is_sqlite, leading=leading)

    def _between(  # noqa: PLR0913, PLR0917 - the parts of one query
        self, selection: Filter, key: int, floor: int, ceiling: int, order: Order, limit: int
    ) -> Select[Any]:
        query = select(*_SIZED, events.c.id).where(events.c.workspace == key).order_by(in_order(order)).limit(limit)
        leading = lead(selection)
        ways = branches(leading) if leading else []
        if len(ways) > 1:
            return query.where(events.c.seq.in_(self._ranges.seqs(selection, key, (floor, ceiling), order, limit)))
        return query.where(*within(key, floor, ceiling), self._passes(selection, leading))


def bodies(
    connection: Connection, key: int, *, after: int, limit: int, max_bytes: int
) -> tuple[list[tuple[int, int, str]], bool]:
    """Return seq, timestamp and body of the events behind seq `after`, oldest first, and whether there may be more.

    Bounded as a page is.
    """
    query = (
        select(*_SIZED, events.c.timestamp)
        .where(events.c.workspace == key, events.c.seq > after)
        .order_by(events.c.seq)
        .limit(limit)
    )
    rows, long, full = _fitting(connection, key, query, limit, max_bytes)
    return [(seq, timestamp, body or long[seq]) for seq, _, body, timestamp in rows], full


def expired(head: LogHead) -> PositionExpired:
    """Make the error for a position that does not lie in the log."""
    return PositionExpired(
        "the position is not in the log: its events were removed, or the log was made anew",
        earliest=str(Position(head.epoch, head.earliest - 1)),
        head=str(head.position),
    )


def _log_head(row: Row[tuple[int, str, int, int]]) -> LogHead:
    return LogHead(row.epoch, row.head, row.earliest)


def _find(connection: Connection, workspace: str) -> tuple[int, LogHead]:
    row = connection.execute(_ONE_HEAD, {"id": workspace}).one_or_none()
    if row is None:
        raise WorkspaceNotFound
    return row.key, _log_head(row)


def _fitting(
    connection: Connection, key: int, query: Select[Any], limit: int, max_bytes: int
) -> tuple[Sequence[Any], Mapping[int, str], bool]:
    """Run a query for `_SIZED` and more; keep the first rows whose bodies together have at most `max_bytes`, but always one.

    A body that fits however many there are comes with its row. A longer one is fetched when it is known to be kept. So what is
    read never has more than `max_bytes` (or `limit` small bodies), and small events, which is most of them, take one statement.

    Returns:
        The rows, the bodies that they lack by seq, and whether there may be more of them.
    """
    small = max(max_bytes // limit, SMALL_BYTES)
    found = connection.execute(query, {"small": small}).all()
    through = list(accumulate([row[1] for row in found]))
    rows = found[: max(bisect_right(through, max_bytes), 1)]
    long: dict[int, str] = {}
    absent = [row[0] for row in rows if row[2] is None]
    if absent:
        bodies = select(events.c.seq, events.c.body).where(events.c.workspace == key, events.c.seq.in_(absent))
        long = dict(connection.execute(bodies).all())
    return rows, long, len(found) == limit or len(rows) < len(found)


def _seq_of(connection: Connection, key: int, head: LogHead, bound: Bound, *, default: int) -> int:
    """Return the seq of the last event up to and including `bound`."""
    if bound is None:
        return default
    if isinstance(bound, Position):
        return bound.seq
    query = (
        select(events.c.seq)
        .where(events.c.workspace == key, events.c.timestamp <= bound)
        .order_by(events.c.timestamp.desc())
        .limit(1)
    )
    found = connection.execute(query).scalar_one_or_none()
    return head.earliest - 1 if found is None else found
