"""Changes or finds many rows with one statement whose text is fixed: the writer's path for each group."""

from collections.abc import Collection, Sequence
from functools import cache
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import Connection, Integer, Table

from streamer.store.engine.database import Database

INSERT_ROWS = (256, 64, 16, 4, 1)
"""Rows that SQLite takes with one statement.

Its driver acquires the GIL after each statement, or each row of many: while the event loop prepares the next batch,
each of these would be a wait of some milliseconds. With few statements the two run side by side.
"""

Row = tuple[object, ...]


class Insert:
    """Inserts rows into a table."""

    def __init__(self, table: Table, names: Sequence[str], *, on_conflict: str = "") -> None:
        """Prepare the statements.

        Args:
            table: the table.
            names: its columns, in the order of the rows' values.
            on_conflict: the statement's last clause, if rows may exist already.
        """
        self._table, self.names, self._on_conflict = table, names, on_conflict
        self._into = f"INSERT INTO {table.name} ({', '.join(names)})"
        marks = f"({', '.join('?' * len(names))})"
        self._some = [(size, f"{self._into} VALUES {', '.join([marks] * size)} {on_conflict}") for size in INSERT_ROWS]

    def by_column(self, first: int) -> str:
        """Return PostgreSQL's statement; its parameters begin with this number."""
        rows = f"unnest({arrays(self._table, self.names, first)})"
        return f"{self._into} SELECT * FROM {rows} {self._on_conflict}"  # noqa: S608 - our own names

    def run(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Insert the rows on SQLite."""
        start = 0
        for size, sql in self._some:
            while len(rows) - start >= size:
                connection.exec_driver_sql(sql, tuple(chain.from_iterable(rows[start : start + size])))
                start += size


class Update:
    """Updates rows of a table, found by the first column."""

    def __init__(self, table: Table, names: Sequence[str]) -> None:
        """Prepare the statements for these columns."""
        self._table, self.names = table, names
        key, *changed = names
        self._each = f"UPDATE {table.name} SET {', '.join(f'{name} = ?' for name in changed)} WHERE {key} = ?"  # noqa: S608 - our own names

    def by_column(self, first: int) -> str:
        """Return PostgreSQL's statement; its parameters begin with this number."""
        key, *changed = self.names
        to = ", ".join(f"{name} = new.{name}" for name in changed)
        new = f"unnest({arrays(self._table, self.names, first)}) AS new ({', '.join(self.names)})"
        return f"UPDATE {self._table.name} AS old SET {to} FROM {new} WHERE old.{key} = new.{key}"  # noqa: S608

    def run(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Update the rows on SQLite."""
        connection.exec_driver_sql(self._each, [(*values, key) for key, *values in rows])


class Changes:
    """The changes to rows in one transaction. On PostgreSQL, those of several tables become one statement.

    Each statement is a round trip, during which the logs stay locked.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._is_sqlite = connection.dialect.name == "sqlite"
        self._waiting: dict[Insert | Update, Sequence[Row]] = {}

    def add(self, change: Insert | Update, rows: Sequence[Row]) -> None:
        """Make a change, at the latest with `send`; the order of changes to different tables is undefined."""
        if not rows:
            return
        if self._is_sqlite:
            change.run(self.connection, rows)
            return
        if change in self._waiting:
            self.send()
        self._waiting[change] = rows

    def send(self) -> None:
        """Make the changes that wait."""
        if self._waiting:
            values = chain.from_iterable(columns(rows) for rows in self._waiting.values())
            self.connection.exec_driver_sql(_together(tuple(self._waiting)), tuple(values))
            self._waiting = {}


@cache
def _together(changes: tuple[Insert | Update, ...]) -> str:
    """Return one statement that makes all of these changes."""
    statements: list[str] = []
    first = 1
    for change in changes:
        statements.append(change.by_column(first))
        first += len(change.names)
    *before, last = statements
    named = ", ".join(f"part{number} AS ({statement})" for number, statement in enumerate(before))
    return f"WITH {named} {last}" if named else last


class Find:
    """Finds rows of a table by their values in some columns."""

    def __init__(self, database: Database, table: Table, by: Sequence[str], names: Sequence[str]) -> None:
        """Prepare the statement.

        Args:
            database: the database.
            table: the table.
            by: the columns that are known, an index's first ones.
            names: the columns to read.
        """
        self._is_sqlite = database.is_sqlite
        found = f"SELECT {', '.join(f'found.{name}' for name in names)} FROM"
        if self._is_sqlite:
            same = " AND ".join(f"found.{name} = json_extract(value, '$[{at}]')" for at, name in enumerate(by))
            self._sql = f"{found} json_each(?) CROSS JOIN {table.name} AS found ON {same}"
        else:
            wanted = f"unnest({arrays(table, by)}) AS wanted ({', '.join(by)})"
            self._sql = f"{found} {wanted} JOIN {table.name} AS found USING ({', '.join(by)})"

    def run(self, connection: Connection, wanted: Collection[Row]) -> Sequence[Any]:
        """Return the rows found for these values, all different; some may have none."""
        if not wanted:
            return ()
        values = (orjson.dumps(list(wanted)).decode(),) if self._is_sqlite else columns(list(wanted))
        return connection.exec_driver_sql(self._sql, values).all()


def arrays(table: Table, names: Sequence[str], first: int = 1) -> str:
    """Return PostgreSQL's parameters for some columns' values, an array for each column; they begin with this number."""
    types = ("bigint" if isinstance(table.c[name].type, Integer) else "text" for name in names)
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, first))


def columns(rows: Sequence[Row]) -> tuple[list[Any], ...]:
    """Convert rows into the values of such parameters."""
    return tuple(list(column) for column in zip(*rows, strict=True))
