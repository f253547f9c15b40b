"""Ranges of a log as SQL: the seqs in them that pass a filter, and the part of them after an offset.

An offset in an unfiltered log is arithmetic on seq. Most callers do not see audit events. These are counted, with a row
for each block of seqs and action that has some, so that an offset costs about the same at any depth there, too.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Connection, case, func, select, true, union, union_all

from streamer.core.filter import NOT_AUDIT, Condition, Filter
from streamer.core.ports import Order
from streamer.store.engine.database import Database
from streamer.store.log.predicate import branches, is_audit, lead, parts_of, predicate
from streamer.store.schema import audit_counts, events

BLOCK = 1024
"""Seqs that are counted together: `BLOCK * n` … `BLOCK * n + BLOCK - 1`. Migration 0007 uses the same blocks."""

Range = tuple[int, int]
"""The seqs above the first number, up to and including the second."""

_ACTIVITY = Condition("category", frozenset({"activity"}))


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of a range, and the number of its events that do not pass; None: not counted yet."""

    low: int
    high: int
    stopped: int | None = None


def within(key: int, low: int, high: int) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a range."""
    return events.c.workspace == key, events.c.seq > low, events.c.seq <= high


def in_order(order: Order) -> ColumnElement[int]:
    """Return the sort key for an order."""
    return events.c.seq.asc() if order == "asc" else events.c.seq.desc()


def count_audit(rows: Iterable[tuple[int, int, str]]) -> list[tuple[object, ...]]:
    """Count audit events (log, seq, action) by log, block and action, as additions to the table of counts."""
    counts = Counter((log, seq // BLOCK, action) for log, seq, action in rows)
    return [(*place, count) for place, count in sorted(counts.items())]


class Ranges:
    """Finds the events of a range that pass a filter."""

    def __init__(self, database: Database) -> None:
        self._is_sqlite = database.is_sqlite

    def seqs(  # noqa: PLR0913, PLR0917 - the parts of one query
        self,
        selection: Filter,
        key: int,
        inside: Range,
        order: Order,
        limit: int,
        combine: Callable[..., CompoundSelect[Any]] = union_all,
    ) -> CompoundSelect[Any]:
        """Return the query for the seqs that pass: the first `limit` of each value of the leading index."""
        leading = lead(selection)
        rest = Filter(tuple(condition for condition in selection.conditions if condition != leading))
        ways = branches(leading) if leading else [true()]
        each = [
            select(events.c.seq)
            .where(*within(key, *inside), way, predicate(rest, is_sqlite=self._is_sqlite))
            .order_by(in_order(order))
            .limit(limit)
            .subquery()
            for way in ways
        ]
        return combine(*(select(found.c.seq) for found in each))

    def count(self, connection: Connection, key: int, selection: Filter, inside: Range, most: int) -> int:
        """Count the events of a range that pass, up to `most`."""
        found = self.seqs(selection, key, inside, "asc", most, union).limit(most).subquery()
        return connection.execute(select(func.count()).select_from(found)).scalar_one()

    def behind(  # noqa: PLR0913, PLR0917 - the parts of one query
        self, connection: Connection, key: int, selection: Filter, inside: Range, order: Order, skip: int
    ) -> Range:
        """Return the rest of a range after its first `skip` events that pass."""
        low, high = inside
        if skip >= high - low:
            return high, high
        if not selection.conditions:
            return (low, high - skip) if order == "desc" else (low + skip, high)
        seen = _audit_actions_seen(selection)
        if seen is None:
            return self._walk(connection, key, selection, inside, order, skip) or (high, high)
        for part in self._stretches(connection, key, seen, inside, order):
            hidden = self._hidden(connection, key, selection, part) if part.stopped is None else []
            passing = part.high - part.low - (len(hidden) if part.stopped is None else part.stopped)
            if skip <= passing:
                if part.stopped:
                    hidden = self._hidden(connection, key, selection, part)
                return (
                    (low, _down(part.high - skip, hidden)) if order == "desc" else (_up(part.low + skip, hidden), high)
                )
            skip -= passing
        return high, high

    def _walk(  # noqa: PLR0913, PLR0917 - as above
        self, connection: Connection, key: int, selection: Filter, inside: Range, order: Order, skip: int
    ) -> Range | None:
        """Return the rest after the skipped events, found one by one; None if there are not enough."""
        # Several values can find the same event.
        found = self.seqs(selection, key, inside, order, skip, union).subquery()
        by_seq = found.c.seq.asc() if order == "asc" else found.c.seq.desc()
        last = connection.execute(select(found.c.seq).order_by(by_seq).offset(skip - 1).limit(1)).scalar_one_or_none()
        if last is None:
            return None
        return (inside[0], last - 1) if order == "desc" else (last, inside[1])

    def _hidden(self, connection: Connection, key: int, selection: Filter, part: _Span) -> Sequence[int]:
        """Return the seqs of the audit events that do not pass, in order."""
        passes = predicate(selection, is_sqlite=self._is_sqlite)
        here = (*within(key, part.low, part.high), is_audit(), case((passes, 0), else_=1) == 1)
        return connection.execute(select(events.c.seq).where(*here).order_by(events.c.seq)).scalars().all()

    def _stretches(
        self, connection: Connection, key: int, seen: frozenset[str], inside: Range, order: Order
    ) -> Iterator[_Span]:
        """Split a range, in its order, into complete blocks with hidden audit events, the parts between them, and its two ends."""
        low, high = inside
        first, last = low // BLOCK + 1, (high + 1) // BLOCK - 1  # the blocks that are completely inside
        if first > last:
            yield _Span(low, high)
            return
        query = (
            select(audit_counts.c.block, func.sum(audit_counts.c.events))
            .where(
                audit_counts.c.workspace == key,
                audit_counts.c.block.between(first, last),
                audit_counts.c.action.not_in(sorted(seen)),
            )
            .group_by(audit_counts.c.block)
            .order_by(audit_counts.c.block)
        )
        rows = connection.execute(query).all()
        begin, end = first * BLOCK - 1, (last + 1) * BLOCK - 1
        middle = list(_cut(rows, begin, end))
        yield from _ordered([_Span(low, begin), *middle, _Span(end, high)], order)


def _down(at: int, hidden: Sequence[int]) -> int:
    """Move a place in a range down by one for each hidden event above it."""
    for seq in reversed(hidden):
        if seq <= at:
            break
        at -= 1
    return at


def _up(at: int, hidden: Sequence[int]) -> int:
    """Move a place in a range up by one for each hidden event up to it."""
    for seq in hidden:
        if seq > at:
            break
        at += 1
    return at


def _cut(rows: Sequence[Any], begin: int, end: int) -> Iterator[_Span]:
    """Split a range of complete blocks at those that have counts."""
    at = begin
    for block, stopped in rows:
        if block * BLOCK - 1 > at:
            yield _Span(at, block * BLOCK - 1, 0)
        at = (block + 1) * BLOCK - 1
        yield _Span(block * BLOCK - 1, at, int(stopped))
    if at < end:
        yield _Span(at, end, 0)


def _ordered(stretches: Sequence[_Span], order: Order) -> Iterator[_Span]:
    found = stretches if order == "asc" else reversed(stretches)
    return (stretch for stretch in found if stretch.low < stretch.high)


def is_scan(selection: Filter) -> bool:
    """Return whether the database may have to examine many events that do not pass, because no index finds exactly the others.

    Conditions that hide audit events do not count, because nearly all events are activity.
    """
    rest = [each for each in selection.conditions if each != _ACTIVITY and _audit_actions_seen(Filter((each,))) is None]
    return bool(rest) and (len(rest) > 1 or lead(Filter(tuple(rest))) is None)


def _audit_actions_seen(selection: Filter) -> frozenset[str] | None:
    """Return the actions whose audit events pass, if every event that is not an audit event passes; otherwise None."""
    if len(selection.conditions) != 1:
        return None
    parts = parts_of(selection.conditions[0])
    others = [part for part in parts if part != NOT_AUDIT]
    if len(others) == len(parts) or any(
        part.field != "action" or part.exclude or part.prefixes or part.suffixes for part in others
    ):
        return None
    return frozenset().union(*(part.values for part in others))
