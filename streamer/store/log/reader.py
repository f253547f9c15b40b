"""Reads a log: pages in both directions, single events, its extent."""

import asyncio
from collections.abc import Sequence

import orjson
from sqlalchemy import ColumnElement, Connection, select

from streamer.core.errors import EventNotFound
from streamer.core.event import Event, Facets
from streamer.core.filter import Filter
from streamer.core.frame import LiveFrame
from streamer.core.ports import Bound, Order, Page
from streamer.core.position import LogHead, Position
from streamer.store.engine.database import Database, reads
from streamer.store.log.lookup import FACETS, HEAD, SIZED, find, fitting, log_head, seq_of
from streamer.store.log.predicate import predicate
from streamer.store.log.ranges import Ranges, is_scan
from streamer.store.log.rows import arrays, columns
from streamer.store.log.scan import Scan, Wanted
from streamer.store.schema import events, workspaces


class SqlLog:
    """The log as `core.ports.Log` describes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ranges = Ranges(database)
        self._changed = _changed(database)
        self._many_heads = select(workspaces.c.id, *HEAD).where(database.is_any_of(workspaces.c.id, "ids"))
        # Half of the readers are always free for pages that an index answers.
        self._scan_turns = asyncio.Semaphore(max(database.page_readers // 2, 1))

    @reads
    def head(self, connection: Connection, workspace: str) -> LogHead:
        """Return the extent of the log."""
        return find(connection, workspace)[1]

    @reads
    def heads(self, connection: Connection, workspaces: Sequence[str]) -> dict[str, LogHead]:
        """Return the extents of these logs; those that do not exist are absent."""
        rows = connection.execute(self._many_heads, {"ids": self._database.list_value(list(workspaces))})
        return {row.id: log_head(row) for row in rows}

    @reads
    def changed(self, connection: Connection, known: Sequence[LogHead]) -> dict[int, LogHead | None]:
        """Return, by key, the logs whose extent differs from what is known; None: the log was deleted."""
        logs = [(log.key, log.epoch, log.head, log.earliest) for log in known]
        parameters = (orjson.dumps(logs).decode(),) if self._database.is_sqlite else columns(logs)
        rows = connection.exec_driver_sql(self._changed, parameters)
        return {
            # The epoch before does not matter to a channel: it ends when the epoch changes.
            key: None if epoch is None else LogHead(epoch, head, earliest, key)
            for key, epoch, head, earliest in rows
        }

    @reads
    def resolve(self, connection: Connection, workspace: str, bound: Bound) -> Position:
        """Return the position of a reader that has seen everything up to and including `bound` (open: nothing)."""
        key, head = find(connection, workspace)
        bound = head.translated(bound) if isinstance(bound, Position) else bound
        return Position(head.epoch, seq_of(connection, key, head, bound, default=head.earliest - 1))

    async def page(  # noqa: PLR0913 - one query, each part of it named
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
        """Return the events strictly between two bounds, as many as the time allows."""
        wanted = Wanted(workspace, selection, order, limit, max_bytes, after, before, skip)
        scan = Scan(self._database, self._ranges, self._scan_turns, wanted, is_scan=is_scan(selection))
        return await scan.page(self._database.read_seconds if seconds is None else seconds)

    @reads
    def frames(
        self, connection: Connection, workspace: str, *, after: int, limit: int, max_bytes: int
    ) -> tuple[LogHead, list[LiveFrame]]:
        """Return the events after seq `after`, oldest first and unfiltered, for a channel."""
        key, head = find(connection, workspace)
        query = (
            select(*SIZED, *FACETS)
            .where(events.c.workspace == key, events.c.seq > after, events.c.seq <= head.head)
            .order_by(events.c.seq)
            .limit(limit)
        )
        rows, long, _ = fitting(connection, key, query, limit, max_bytes)
        return head, [
            LiveFrame(Position(head.epoch, seq), (body or long[seq]).encode(), Facets(*facets))
            for seq, _, body, *facets in rows
        ]

    @reads
    def position_of(self, connection: Connection, workspace: str, event_id: str, selection: Filter) -> Position:
        """Return an event's position, if it passes the filter."""
        key, head = find(connection, workspace)
        this = (events.c.workspace == key, events.c.id == event_id, self._passes(selection))
        seq = connection.execute(select(events.c.seq).where(*this)).scalar_one_or_none()
        if seq is None:
            raise EventNotFound
        return Position(head.epoch, seq)

    @reads
    def event(self, connection: Connection, workspace: str, event_id: str, selection: Filter) -> Event:
        """Return one event, if it passes the filter."""
        key, _ = find(connection, workspace)
        this = (events.c.workspace == key, events.c.id == event_id, self._passes(selection))
        query = select(events.c.seq, events.c.id, events.c.body).where(*this)
        row = connection.execute(query).one_or_none()
        if row is None:
            raise EventNotFound
        return Event(row.seq, row.id, row.body.encode())

    def _passes(self, selection: Filter) -> ColumnElement[bool]:
        return predicate(selection, is_sqlite=self._database.is_sqlite)


def _changed(database: Database) -> str:
    """Return the statement that compares logs with their rows; only what differs crosses the network."""
    names = ("key", "epoch", "head", "earliest")
    if database.is_sqlite:
        known = [f"json_extract(k.value, '$[{at}]')" for at in range(len(names))]
        source = "json_each(?) AS k"
    else:
        known = [f"k.{name}" for name in names]
        source = f"unnest({arrays(workspaces, names)}) AS k ({', '.join(names)})"
    differs = " OR ".join(f"w.{name} <> {value}" for name, value in zip(names[1:], known[1:], strict=True))
    return (
        f"SELECT {known[0]}, w.epoch, w.head, w.earliest FROM {source} "  # noqa: S608 - our own column names
        f"LEFT JOIN workspaces AS w ON w.key = {known[0]} WHERE w.key IS NULL OR {differs}"
    )
