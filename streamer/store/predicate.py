"""Filters as SQL: the same judgement as `Filter.matches`, made by the database."""

from typing import Any

from sqlalchemy import ColumnElement, Text, and_, bindparam, func, not_, or_

from streamer.core.filter import Condition, Filter
from streamer.store.schema import events

INDEXED = ("entity_id", "run_id", "task_id", "agent_id", "actor_id", "action", "category", "actor_type")
"""The fields with an index (workspace, field, seq), those with the fewest events a value first. Of categories only audit has one."""


def predicate(selection: Filter, *, is_sqlite: bool, leading: Condition | None = None) -> ColumnElement[bool]:
    """Return the condition that an event's row passes the filter.

    SQLite knows nothing of how often a value occurs, and so may walk through all events of a common one to find a rare one among them.
    There no condition but the leading one may use its index.
    """
    return and_(
        True,
        *(
            _condition(condition, is_sqlite=is_sqlite, by_index=condition == leading or not is_sqlite)
            for condition in selection.conditions
        ),
    )


def lead(selection: Filter) -> Condition | None:
    """Return the condition whose index finds the events soonest; None if no index helps.

    If it has several values, each wants a query of its own: the database can walk an index in seq order for one value of a field, not for
    several: it would sort all their events.
    """
    included = {c.field: c for c in selection.conditions if not c.exclude and not c.prefixes}
    if "category" in included and included["category"].values != {"audit"}:
        del included["category"]
    found = [included[field] for field in INDEXED if field in included]
    return min(found, key=lambda condition: len(condition.values) > 1, default=None)


def _condition(condition: Condition, *, is_sqlite: bool, by_index: bool) -> ColumnElement[bool]:
    values = sorted(condition.values)
    tests: list[ColumnElement[bool]]
    if condition.field == "q":
        position = func.instr if is_sqlite else func.strpos
        tests = [position(events.c.search, text) > 0 for text in values]
        found = or_(*tests)
        return not_(found) if condition.exclude else found
    # What is computed is in no index.
    column: ColumnElement[Any] = (
        events.c[condition.field] if by_index else func.coalesce(events.c[condition.field], None)
    )
    tests = [func.substr(column, 1, len(prefix)) == prefix for prefix in condition.prefixes]
    if len(values) == 1:
        # A partial index is used only where the statement's text has its condition.
        literal = condition.field == "category"
        tests.append(column == bindparam(None, values[0], Text(), literal_execute=literal))
    elif values:
        tests.append(column.in_(values))
    found = or_(*tests)
    # An absent value (NULL) is in no list: a list that excludes lets it pass, which SQL's logic would not.
    return or_(column.is_(None), not_(found)) if condition.exclude else found
