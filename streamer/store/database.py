# LEAD: READ NOTE-FROM-LEAD.md IN THIS FOLDER BEFORE YOU EDIT streamer/store/ (do not commit this line)
"""Connections to SQLite or PostgreSQL, and what of the two differs.

SQLite: WAL, one writer connection whose transactions begin IMMEDIATE, a few readers that cannot write. PostgreSQL: writers at READ
COMMITTED, where row locks do the ordering; readers at REPEATABLE READ. So on both a reader sees one moment throughout. Every failure to reach or use the database becomes `StoreUnavailable`.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import ARRAY, BindParameter, ColumnElement, Table, Text, any_, bindparam, event, exc, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from streamer.core.errors import StoreUnavailable
from streamer.observe.tasks import outlasting

SQLITE_READERS = 4
POSTGRESQL_READERS = 8
LOCK_WAIT_SECONDS = 5
"""How long a write waits for another process's lock on an SQLite file."""
COMMAND_SECONDS = 30
"""How long PostgreSQL may take for one statement, waits for row locks included."""
CONNECT_SECONDS = 5

_WRONG_STATEMENT = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)
_OUTAGE_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
"""Classes of SQLSTATE (PostgreSQL's documentation, appendix A) that speak of the server's state, not of the statement:
connection, transaction rollback, resources (a full disk), object state (locks), operator intervention, system."""


def is_outage(error: BaseException) -> bool:
    """Tell whether an error means that the database is away, full or locked, not that we asked for something wrong."""
    if isinstance(error, exc.DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        if error.connection_invalidated or state is None:
            return error.connection_invalidated or not isinstance(error, _WRONG_STATEMENT)
        return state[:2] in _OUTAGE_CLASSES
    # asyncpg raises its own classes while it connects, before SQLAlchemy can translate them.
    return isinstance(error, OSError | TimeoutError | exc.TimeoutError) or type(error).__module__.startswith("asyncpg")


T = TypeVar("T")


def all_finished(kind: type[T]) -> type[T]:
    """Let the public coroutine methods of a class with a `_database` run to their end, though nobody may wait for them any more.

    A query that is cancelled half-way costs its connection: the pool cannot know in which state it is, and SQLite's driver keeps the file
    open for good. Clients leave at any time, so what was begun for them is finished. What waits for its turn is not begun.
    """
    for name, value in list(vars(kind).items()):
        if not name.startswith("_") and inspect.iscoroutinefunction(value):
            setattr(kind, name, _finished(value))
    return kind


def _finished(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def finish(self: Any, *given: Any, **named: Any) -> Any:
        turns: asyncio.Semaphore = self._database.turns
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await turns.acquire()
        except TimeoutError:
            raise StoreUnavailable("too many requests wait for the database") from None

        async def run() -> Any:
            try:
                return await method(self, *given, **named)
            finally:
                turns.release()

        return await asyncio.shield(outlasting(run()))

    return finish


class BadDatabaseUrl(ValueError):
    """The URL names no database that the store can use; the text says why, without the URL, which may hold a password."""


class Database:
    """The pools of one database: `write()` for transactions, `read()` for queries."""

    def __init__(self, url: str) -> None:
        """Prepare the pools; nothing is opened yet. Raises BadDatabaseUrl."""
        try:
            parsed = make_url(url)
        except (exc.ArgumentError, ValueError):
            raise BadDatabaseUrl("not a database URL, such as postgresql://user:password@host/name") from None
        if parsed.drivername in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+asyncpg")
        elif parsed.drivername == "sqlite":
            parsed = parsed.set(drivername="sqlite+aiosqlite")
        if parsed.drivername not in {"postgresql+asyncpg", "sqlite+aiosqlite"}:
            raise BadDatabaseUrl(f"must begin with sqlite:// or postgresql://, not {parsed.drivername}://")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.turns: asyncio.Semaphore
        """How many may use the database at once: what waits for a turn can be given up, what has one is finished."""
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._file: Path | None = None
        self._identity: tuple[int, int] | None = None
        """Device and inode of SQLite's file, since it was first written to."""
        url = parsed.render_as_string(hide_password=False)
        if self.is_sqlite:
            if parsed.database in {None, "", ":memory:"}:
                raise BadDatabaseUrl(
                    "an SQLite database must be a file: readers and the writer have connections of their own"
                )
            self._file = Path(parsed.database or "")
            self._writers = _sqlite_engine(url, size=1, begin="BEGIN IMMEDIATE", pragmas=("synchronous=FULL",))
            self._readers = _sqlite_engine(url, size=SQLITE_READERS, begin="BEGIN", pragmas=("query_only=1",))
            self.turns = asyncio.Semaphore(SQLITE_READERS + 1)
        else:
            self._writers = _postgresql_engine(url, size=2, isolation="READ COMMITTED")
            self._readers = _postgresql_engine(url, size=POSTGRESQL_READERS, isolation="REPEATABLE READ")
            self.turns = asyncio.Semaphore(POSTGRESQL_READERS + 2)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that may write; it commits on a clean exit. Raises StoreUnavailable."""
        with self._used(), _outages():
            async with self._writers.begin() as connection:
                self._check_file()
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that only reads and sees one moment throughout. Raises StoreUnavailable."""
        with self._used(), _outages():
            async with self._readers.connect() as connection:
                yield connection

    async def ping(self) -> None:
        """Ask the database for an answer. Raises StoreUnavailable."""
        await asyncio.shield(outlasting(self._ping()))

    async def _ping(self) -> None:
        with _outages():
            self._check_file()
        async with self.read() as connection:
            await connection.execute(select(1))

    @contextmanager
    def _used(self) -> Iterator[None]:
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    def _check_file(self) -> None:
        """See that SQLite's file is still the one that is open.

        The system goes on writing to a file that was removed or replaced, and all of it would be gone with this process.
        """
        if self._file is None:
            return
        status = self._file.stat()
        identity = status.st_dev, status.st_ino
        if self._identity not in {None, identity}:
            raise FileNotFoundError(f"{self._file} was replaced")
        self._identity = identity

    async def close(self) -> None:
        """Close all connections, when what was begun is finished."""
        await self._idle.wait()
        await self._readers.dispose()
        await self._writers.dispose()

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Return an INSERT that may say what to do about a conflict; each database has a class of its own for it."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def is_any_of(self, column: ColumnElement[str], name: str) -> ColumnElement[bool]:
        """Return `column IN (list)` with the whole list in one parameter, so that the statement's text never varies.

        The parameter's value is made by `list_value`.
        """
        if self.is_sqlite:
            items = func.json_each(bindparam(name, type_=Text())).table_valued("value")
            return column.in_(select(items.c.value))
        parameter: BindParameter[Any] = bindparam(name, type_=ARRAY(Text()))
        return column == any_(parameter)

    def list_value(self, values: list[str]) -> object:
        """Return a list as the parameter of `is_any_of`."""
        return orjson.dumps(values).decode() if self.is_sqlite else values


class _outages:  # noqa: N801 - reads as a statement
    """Turn failures of the database into StoreUnavailable."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None and is_outage(error):
            raise StoreUnavailable("the database does not answer or cannot write") from error


def _sqlite_engine(url: str, *, size: int, begin: str, pragmas: tuple[str, ...]) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=LOCK_WAIT_SECONDS,
        # isolation_level None: the driver leaves BEGIN to us (otherwise it begins late, and DEFERRED).
        connect_args={"timeout": LOCK_WAIT_SECONDS, "isolation_level": None},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "temp_store=MEMORY", "cache_size=-32768", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgresql_engine(url: str, *, size: int, isolation: str) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        isolation_level=isolation,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": COMMAND_SECONDS,
            "server_settings": {"application_name": "streamer", "jit": "off"},
        },
    )
