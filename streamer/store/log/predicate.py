"""Filters as SQL: the same result as `Filter.matches`, computed by the database."""

from typing import Any

from sqlalchemy import ColumnElement, Text, and_, bindparam, false, func, not_, or_, select

from streamer.core.filter import AUDIT_ONLY, Condition, Either, Filter
from streamer.store.schema import events

INDEXED = (
    *("entity_id", "issue_id", "run_id", "task_id", "agent_id", "on_behalf_of", "actor_id"),
    *("action", "category", "actor_type"),
)
"""The fields with an index (workspace, field, seq), those with the fewest events per value first.

Of the categories only audit has one.
"""


def predicate(selection: Filter, *, is_sqlite: bool, leading: Condition | Either | None = None) -> ColumnElement[bool]:
    """Return the condition that an event's row passes the filter.

    SQLite does not know how often a value occurs, and so may walk all events of a common value to find a rare one among
    them. There, only the leading condition can use its index.
    """
    return and_(
        True,
        *(
            or_(
                *(
                    _condition(part, is_sqlite=is_sqlite, by_index=condition == leading or not is_sqlite)
                    for part in parts_of(condition)
                )
            )
            for condition in selection.conditions
        ),
    )


def lead(selection: Filter) -> Condition | Either | None:
    """Return the condition whose index finds the events fastest; None if no index helps.

    If it has several values, each needs its own query: the database can walk an index in seq order for one value of a
    field, but would sort the events of several.
    """
    found = [condition for condition in selection.conditions if all(map(_is_indexed, parts_of(condition)))]
    return min(found, key=_cost, default=None)


def branches(leading: Condition | Either) -> list[ColumnElement[bool]]:
    """Return the conditions of the queries for a leading condition, each for one value of one index."""
    return [
        _condition(Condition(part.field, frozenset({value})), is_sqlite=False, by_index=True)
        for part in parts_of(leading)
        for value in sorted(part.values)
    ]


def parts_of(condition: Condition | Either) -> tuple[Condition, ...]:
    """Return the conditions of which at least one must pass."""
    return condition.conditions if isinstance(condition, Either) else (condition,)


def is_audit() -> ColumnElement[bool]:
    """Return the condition for audit events, in the form that uses their index."""
    return _condition(AUDIT_ONLY, is_sqlite=False, by_index=True)


def _is_indexed(condition: Condition) -> bool:
    if condition.exclude or condition.prefixes or condition.suffixes or condition.field not in INDEXED:
        return False
    if not condition.values:
        return False
    return condition.field != "category" or condition.values == {"audit"}


def _cost(condition: Condition | Either) -> tuple[bool, int]:
    """Return a sort key that is lower for the better index: one value before several, then the field with rarer values."""
    parts = parts_of(condition)
    return sum(len(part.values) for part in parts) > 1, max(INDEXED.index(part.field) for part in parts)


def _condition(condition: Condition, *, is_sqlite: bool, by_index: bool) -> ColumnElement[bool]:
    values = sorted(condition.values)
    tests: list[ColumnElement[bool]]
    if condition.field == "q":
        position = func.instr if is_sqlite else func.strpos
        tests = [position(events.c.search, text) > 0 for text in values]
        if not is_sqlite and len(tests) > 1:
            # PostgreSQL checks its time limit between subqueries, but not between the terms of an expression.
            tests = [select(test).correlate(events).scalar_subquery() for test in tests]
        found = or_(*tests)
        return not_(found) if condition.exclude else found
    # Computed values are in no index.
    column: ColumnElement[Any] = (
        events.c[condition.field] if by_index else func.coalesce(events.c[condition.field], None)
    )
    tests = [func.substr(column, 1, len(prefix)) == prefix for prefix in condition.prefixes]
    tests += [_ending(column, len(suffix), is_sqlite=is_sqlite) == suffix for suffix in condition.suffixes]
    if len(values) == 1:
        # A partial index is used only if the statement's text contains its condition.
        literal = condition.field == "category"
        tests.append(column == bindparam(None, values[0], Text(), literal_execute=literal))
    elif values:
        tests.append(column.in_(values))
    found = or_(false(), *tests)  # nothing is in an empty list
    # An absent value (NULL) is in no list, so an excluding list lets it pass; SQL's logic would not.
    return or_(column.is_(None), not_(found)) if condition.exclude else found


def _ending(column: ColumnElement[Any], length: int, *, is_sqlite: bool) -> ColumnElement[Any]:
    """Return the last characters of a text."""
    return func.substr(column, -length) if is_sqlite else func.right(column, length)
