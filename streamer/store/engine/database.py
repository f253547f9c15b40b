"""Connections to SQLite or PostgreSQL, and the differences between the two.

SQLite: a file for its user only, WAL, one writer connection whose transactions begin IMMEDIATE, a few readers that
cannot write. PostgreSQL: writers at READ COMMITTED, ordered by row locks; readers at REPEATABLE READ. So on both a
reader has one snapshot throughout. Every failure to reach or use the database becomes `StoreUnavailable`.

Reads have a deadline that the database itself enforces. Pages of events, which can take long, have their own
connections, so that sign-in, tickets, positions and readiness never wait for them.
"""

import asyncio
import functools
import math
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import orjson
from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Connection,
    Table,
    Text,
    any_,
    bindparam,
    exc,
    false,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url

from streamer.store.engine.outages import (
    Outage,
)
from streamer.store.engine.pools import File, Pool, PostgresqlPool, SqlitePool
from streamer.store.engine.postgresql import SESSION, WRITING, BadDatabaseUrl, parse
from streamer.store.schema import credentials, events, workspaces

SQLITE_READERS = 2
SQLITE_PAGES = 4
POSTGRESQL_READERS = 4
POSTGRESQL_PAGES = 6
POSTGRESQL_WRITERS = 2
READ_SECONDS = 5.0
"""Default time limit for one read."""
WINDOW_SECONDS = 0.25
"""Time limit for one statement for a page of events: a page that needs more is read in parts (`store.log.scan`)."""
CHECK_LOCK_MS = "800"
"""Milliseconds that a check of the database waits for a lock on PostgreSQL: less than the second in which it must answer."""

T = TypeVar("T")
P = ParamSpec("P")
Of = TypeVar("Of", bound="_Store")


class _Store(Protocol):
    _database: "Database"


def reads(
    method: Callable[Concatenate[Of, Connection, P], T],
) -> Callable[Concatenate[Of, P], Coroutine[Any, Any, T]]:
    """Turn a method that takes a connection into a coroutine method, which `Database.read` runs as a whole."""

    @functools.wraps(method)
    async def run(self: Of, /, *given: P.args, **named: P.kwargs) -> T:
        return await self._database.read(lambda connection: method(self, connection, *given, **named))

    return run


def writes(
    method: Callable[Concatenate[Of, Connection, P], T],
) -> Callable[Concatenate[Of, P], Coroutine[Any, Any, T]]:
    """Turn a method that takes a connection into a coroutine method, which `Database.write` runs as a whole."""

    @functools.wraps(method)
    async def run(self: Of, /, *given: P.args, **named: P.kwargs) -> T:
        return await self._database.write(lambda connection: method(self, connection, *given, **named))

    return run


class Database:
    """One database. It runs functions that take a connection, each in its own transaction."""

    def __init__(
        self,
        url: str,
        *,
        read_seconds: float = READ_SECONDS,
        window_seconds: float = WINDOW_SECONDS,
        is_lossless: bool = False,
    ) -> None:
        """Prepare the pools; nothing is opened yet.

        Args:
            url: the database's URL.
            read_seconds: time limit for a read, and for a whole page of events.
            window_seconds: time limit for one statement for a page.
            is_lossless: a failover of the database never loses a commit, so logs keep their epochs.

        Raises: BadDatabaseUrl.
        """
        driver = url.partition("://")[0]
        if driver not in {"postgresql", "postgres", "postgresql+asyncpg", "sqlite"} or "://" not in url:
            raise BadDatabaseUrl("must begin with sqlite:// or postgresql://, as postgresql://user:password@host/name")
        self.is_sqlite = driver == "sqlite"
        self._is_lossless = self.is_sqlite or is_lossless
        self.reading, self.writing = Outage("reads"), Outage("writes")
        self._file: File | None = None
        self.listening: Mapping[str, Any] | None = None
        """Arguments of the driver's `connect` for a connection that listens to notifications; None: there can be none."""
        self.read_seconds = read_seconds
        self.window_seconds = min(window_seconds, read_seconds)
        self._readers: Pool
        self._pages: Pool
        self._writers: Pool
        if self.is_sqlite:
            if "?" in url:
                raise BadDatabaseUrl("an SQLite URL takes no parameters; in a file's name write %3F for ?")
            try:
                parsed = make_url(url)
            except (exc.ArgumentError, ValueError):
                raise BadDatabaseUrl("not a database URL, such as sqlite:///FILE") from None
            if parsed.database in {None, "", ":memory:"}:
                raise BadDatabaseUrl(
                    "an SQLite database must be a file, because readers and the writer use separate connections"
                )
            self._file = file = File(Path(parsed.database or ""))
            self._writers = SqlitePool(
                url, file, self.writing, size=1, begin="BEGIN IMMEDIATE", pragmas=("synchronous=FULL",)
            )
            reading = functools.partial(SqlitePool, url, file, begin="BEGIN", pragmas=("query_only=1",))
            self._readers = reading(self.reading, size=SQLITE_READERS, seconds=read_seconds)
            self._pages = reading(self.reading, size=SQLITE_PAGES, seconds=self.window_seconds)
        else:
            target = parse(url)
            self._writers = PostgresqlPool(
                target,
                self.writing,
                size=POSTGRESQL_WRITERS,
                isolation="READ COMMITTED",
                session=SESSION | WRITING,
            )
            looking = functools.partial(
                PostgresqlPool, target, self.reading, isolation="REPEATABLE READ", session=SESSION
            )
            self._readers = looking(size=POSTGRESQL_READERS, seconds=read_seconds)
            self._pages = looking(size=POSTGRESQL_PAGES, seconds=self.window_seconds)
            # A pooler in transaction mode swallows notifications.
            self.listening = None if target.pooled else target.connect_arguments(SESSION)
        self._pools = self._pages, self._readers, self._writers
        self.page_readers = SQLITE_PAGES if self.is_sqlite else POSTGRESQL_PAGES

    @property
    def file(self) -> Path | None:
        """SQLite's file; None: PostgreSQL."""
        return None if self._file is None else self._file.path

    @property
    def runs_on_loop(self) -> bool:
        """Whether functions run in the event loop's thread (which runs other tasks while they wait for the database), not in another one."""
        return not self.is_sqlite

    def exists(self) -> bool:
        """Return whether SQLite's file exists; the first use creates it. For PostgreSQL only a connection can tell."""
        return self._file is None or self._file.path.exists()

    async def write(self, function: Callable[[Connection], T]) -> T:
        """Run a function in a transaction that can write; it is committed when this returns.

        Raises StoreUnavailable.
        """
        return await self._writers.run(function)

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run a function in a read-only transaction with one snapshot.

        For queries that an index answers at once. Raises ReadTimeout, StoreUnavailable.
        """
        return await self._readers.run(function)

    async def page(self, function: Callable[[Connection], T], seconds: float | None = None) -> T:
        """Run a read for a page of events, or a part of one, with this time limit for each statement; None: `window_seconds`.

        Raises: ReadTimeout, StoreUnavailable.
        """
        return await self._pages.run(function, seconds)

    async def ping(self) -> None:
        """Read the tables that every reader needs, with all their columns. Raises StoreUnavailable."""

        def ask(connection: Connection) -> None:
            if self._file is not None:
                self._file.check()
            self.hurry(connection)
            for table in (workspaces, events, credentials):
                connection.execute(select(table).where(false()))

        await self.read(ask)
        self.reading.proved()

    def hurry(self, connection: Connection) -> None:
        """Make this transaction give up on a lock early enough for a check of the database to report the reason."""
        if not self.is_sqlite:
            connection.execute(select(func.set_config("lock_timeout", CHECK_LOCK_MS, True)))  # noqa: FBT003 - SQL

    def give_up(self) -> None:
        """Answer all callers that wait for the database with StoreUnavailable; running functions may still finish."""
        for pool in self._pools:
            pool.give_up()

    async def close(self, seconds: float = math.inf) -> None:
        """Close all connections after running functions have finished, or were ended after this many seconds."""
        await asyncio.gather(*(pool.close(seconds) for pool in self._pools))

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Return an INSERT that supports a conflict clause; each database has its own class for it."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def timeline(self, connection: Connection) -> str | None:
        """Return the timeline that the database writes on; each failover begins another one. None: it cannot tell, or loses nothing.

        A server that takes writes keeps its timeline, so it is asked once for each connection.
        """
        if self._is_lossless:
            return None
        if "timeline" not in connection.info:
            connection.info["timeline"] = _timeline(connection)
        found: str | None = connection.info["timeline"]
        return found

    def is_any_of(self, column: ColumnElement[str], name: str) -> ColumnElement[bool]:
        """Return `column IN (list)` with the whole list in one parameter, so that the statement's text never varies.

        `list_value` creates the parameter's value.
        """
        if self.is_sqlite:
            items = func.json_each(bindparam(name, type_=Text())).table_valued("value")
            return column.in_(select(items.c.value))
        parameter: BindParameter[Any] = bindparam(name, type_=ARRAY(Text()))
        return column == any_(parameter)

    def list_value(self, values: list[str]) -> object:
        """Return a list as the parameter of `is_any_of`."""
        return orjson.dumps(values).decode() if self.is_sqlite else values


def _timeline(connection: Connection) -> str | None:
    try:
        with connection.begin_nested():
            found: str = connection.exec_driver_sql(
                "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
            ).scalar_one()
            return found
    except exc.DBAPIError:  # some compatible databases lack these functions
        return None
