"""Inserts many rows with one statement whose text is fixed: the writer's path for each group."""

from collections.abc import Callable, Sequence
from itertools import chain

from sqlalchemy import Connection, Integer, Table

from streamer.store.engine.database import Database

INSERT_ROWS = (256, 64, 16, 4, 1)
"""Rows that SQLite takes with one statement.

Its driver acquires the GIL after each statement, or each row of many: while the event loop prepares the next batch,
each of these would be a wait of some milliseconds. With few statements the two run side by side.
"""

Insert = Callable[[Connection, Sequence[tuple[object, ...]]], object]


def inserter(database: Database, table: Table, names: Sequence[str], *, on_conflict: str = "") -> Insert:
    """Return a function that inserts rows into a table.

    Args:
        database: the database.
        table: the table.
        names: its columns, in the order of the rows' values.
        on_conflict: the statement's last clause, if rows may exist already.
    """
    into = f"INSERT INTO {table.name} ({', '.join(names)})"
    if database.is_sqlite:
        marks = f"({', '.join('?' * len(names))})"
        sizes = [(size, f"{into} VALUES {', '.join([marks] * size)} {on_conflict}") for size in INSERT_ROWS]

        def some_at_once(connection: Connection, rows: Sequence[tuple[object, ...]]) -> object:
            start = 0
            for size, sql in sizes:
                while len(rows) - start >= size:
                    connection.exec_driver_sql(sql, tuple(chain.from_iterable(rows[start : start + size])))
                    start += size
            return None

        return some_at_once

    sql = f"{into} SELECT * FROM unnest({arrays(table, names)}) {on_conflict}"  # noqa: S608 - our own column names

    def by_column(connection: Connection, rows: Sequence[tuple[object, ...]]) -> object:
        return connection.exec_driver_sql(sql, columns(rows))

    return by_column


def arrays(table: Table, names: Sequence[str]) -> str:
    """Return PostgreSQL's parameters for some columns' values: an array for each column."""
    types = ("bigint" if isinstance(table.c[name].type, Integer) else "text" for name in names)
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))


def columns(rows: Sequence[tuple[object, ...]]) -> tuple[list[object], ...]:
    """Convert rows into the values of such parameters."""
    return tuple(list(column) for column in zip(*rows, strict=True))
