"""Filters as SQL: the same judgement as `Filter.matches`, made by the database."""

from typing import Any

from sqlalchemy import ColumnElement, and_, func, not_, or_

from streamer.core.filter import Condition, Filter
from streamer.store.schema import events

INDEXED = ("entity_id", "run_id", "task_id", "agent_id", "actor_id", "action")
"""The fields with an index (workspace, field, seq), those with the fewest events a value first."""


def predicate(selection: Filter, *, is_sqlite: bool) -> ColumnElement[bool]:
    """Return the condition that an event's row passes the filter."""
    return and_(True, *(_condition(condition, is_sqlite=is_sqlite) for condition in selection.conditions))


def branches(selection: Filter) -> tuple[Filter, Condition] | None:
    """Tell how to split a filter for its index: the rest of it, and the condition whose values want a query each.

    The database can walk an index in seq order for one value of a field, not for several: it would sort all their events. None
    when a single value leads already, or no list is indexed.
    """
    included = {c.field: c for c in selection.conditions if not c.exclude and not c.prefixes and c.field in INDEXED}
    if any(len(condition.values) == 1 for condition in included.values()):
        return None
    for field in INDEXED:
        if field in included:
            lead = included[field]
            return Filter(tuple(c for c in selection.conditions if c is not lead)), lead
    return None


def _condition(condition: Condition, *, is_sqlite: bool) -> ColumnElement[bool]:
    values = sorted(condition.values)
    tests: list[ColumnElement[bool]]
    if condition.field == "q":
        position = func.instr if is_sqlite else func.strpos
        tests = [position(events.c.search, text) > 0 for text in values]
        found = or_(*tests)
        return not_(found) if condition.exclude else found
    column: ColumnElement[Any] = events.c[condition.field]
    tests = [func.substr(column, 1, len(prefix)) == prefix for prefix in condition.prefixes]
    if len(values) == 1:
        tests.append(column == values[0])
    elif values:
        tests.append(column.in_(values))
    found = or_(*tests)
    # An absent value (NULL) is in no list: a list that excludes lets it pass, which SQL's logic would not.
    return or_(column.is_(None), not_(found)) if condition.exclude else found
