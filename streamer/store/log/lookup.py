"""Finds a log, a place in it, and events whose bodies fit."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, case, select

from streamer.core.errors import WorkspaceNotFound
from streamer.core.event import Facets
from streamer.core.ports import Bound
from streamer.core.position import LogHead, Position
from streamer.store.schema import events, workspaces

SMALL_BYTES = 4 * 2**10
"""A body up to this size is read together with its row, without checking whether it fits."""

FACETS = [events.c[name] for name in Facets._fields]
# Of a long body only the size is read. Rows of many events are unpacked by position, which is faster than by name.
SIZED = [events.c.seq, events.c.size, case((events.c.size <= bindparam("small"), events.c.body))]
HEAD = [
    *(workspaces.c.key, workspaces.c.epoch, workspaces.c.head, workspaces.c.earliest),
    *(workspaces.c.previous_epoch, workspaces.c.fork),
]

_ONE_HEAD = select(*HEAD).where(workspaces.c.id == bindparam("id"))


def bodies(
    connection: Connection, key: int, *, after: int, limit: int, max_bytes: int
) -> tuple[list[tuple[int, int, str]], bool]:
    """Return seq, timestamp and body of the events after seq `after`, oldest first, and whether there may be more.

    Bounded like a page.
    """
    query = (
        select(*SIZED, events.c.timestamp)
        .where(events.c.workspace == key, events.c.seq > after)
        .order_by(events.c.seq)
        .limit(limit)
    )
    rows, long, full = fitting(connection, key, query, limit, max_bytes)
    return [(seq, timestamp, body or long[seq]) for seq, _, body, timestamp in rows], full


def log_head(row: Row[Any]) -> LogHead:
    """Return the extent in a row of `HEAD`."""
    previous = None if row.previous_epoch is None else Position(row.previous_epoch, row.fork)
    return LogHead(row.epoch, row.head, row.earliest, row.key, previous)


def find(connection: Connection, workspace: str) -> tuple[int, LogHead]:
    """Return a log's key and extent. Raises WorkspaceNotFound."""
    row = connection.execute(_ONE_HEAD, {"id": workspace}).one_or_none()
    if row is None:
        raise WorkspaceNotFound
    return row.key, log_head(row)


def fitting(  # noqa: PLR0913, PLR0917 - the parts of one query
    connection: Connection, key: int, query: Select[Any], limit: int, max_bytes: int, least: int = 1
) -> tuple[Sequence[Any], Mapping[int, str], bool]:
    """Run a query for `SIZED` and more columns; keep the first rows whose bodies together have at most `max_bytes`, but always `least`.

    A small body is read with its row. A longer one is fetched once it is known to fit. So at most `max_bytes` (or
    `limit` small bodies) are read, and small events, the usual case, need one statement.

    Returns:
        The rows, their missing bodies by seq, and whether there may be more rows.
    """
    small = max(max_bytes // limit, SMALL_BYTES)
    found = connection.execute(query, {"small": small}).all()
    through = list(accumulate([row[1] for row in found]))
    rows = found[: max(bisect_right(through, max_bytes), least)]
    long: dict[int, str] = {}
    absent = [row[0] for row in rows if row[2] is None]
    if absent:
        bodies = select(events.c.seq, events.c.body).where(events.c.workspace == key, events.c.seq.in_(absent))
        long = dict(connection.execute(bodies).all())
    return rows, long, len(found) == limit or len(rows) < len(found)


def seq_of(connection: Connection, key: int, head: LogHead, bound: Bound, *, default: int) -> int:
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
