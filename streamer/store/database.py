# LEAD: READ NOTE-FROM-LEAD.md IN THIS FOLDER BEFORE YOU EDIT streamer/store/ (do not commit this line)
"""Connections to SQLite or PostgreSQL, and what of the two differs.

SQLite: WAL, one writer connection whose transactions begin IMMEDIATE, a few readers that cannot write. PostgreSQL: writers at READ
COMMITTED, where row locks do the ordering; readers at REPEATABLE READ. So on both a reader sees one moment throughout. Every failure to
reach or use the database becomes `StoreUnavailable`.

A transaction is a plain function of a connection. On SQLite the whole of it runs on a thread, so that the event loop is left and come
back to once, not for every statement; on PostgreSQL it runs beside the loop and waits there for the network.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson
from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    Table,
    Text,
    any_,
    bindparam,
    create_engine,
    event,
    exc,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from streamer.core.errors import StoreUnavailable

SQLITE_READERS = 4
POSTGRESQL_READERS = 8
POSTGRESQL_WRITERS = 2
LOCK_WAIT_SECONDS = 5
"""How long a write waits for another process's lock on an SQLite file."""
COMMAND_SECONDS = 30
"""How long PostgreSQL may take for one statement, waits for row locks included."""
CONNECT_SECONDS = 5

T = TypeVar("T")

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


class BadDatabaseUrl(ValueError):
    """The URL names no database that the store can use; the text says why, without the URL, which may hold a password."""


class Database:
    """The pools of one database: `write` for transactions, `read` for queries."""

    def __init__(self, url: str) -> None:
        """Prepare the pools; nothing is opened yet. Raises BadDatabaseUrl."""
        try:
            parsed = make_url(url)
        except (exc.ArgumentError, ValueError):
            raise BadDatabaseUrl("not a database URL, such as postgresql://user:password@host/name") from None
        if parsed.drivername not in {"sqlite", "sqlite+aiosqlite", "postgresql", "postgres", "postgresql+asyncpg"}:
            raise BadDatabaseUrl(f"must begin with sqlite:// or postgresql://, not {parsed.drivername}://")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._file: Path | None = None
        self._identity: tuple[int, int] | None = None
        """Device and inode of SQLite's file, since it was first written to."""
        url = parsed.set(drivername="sqlite" if self.is_sqlite else "postgresql+asyncpg").render_as_string(
            hide_password=False
        )
        if self.is_sqlite:
            if parsed.database in {None, "", ":memory:"}:
                raise BadDatabaseUrl(
                    "an SQLite database must be a file: readers and the writer have connections of their own"
                )
            self._file = Path(parsed.database or "")
            self._writers = _Pool(_Sqlite(url, size=1, begin="BEGIN IMMEDIATE", pragmas=("synchronous=FULL",)), 1)
            self._readers = _Pool(
                _Sqlite(url, size=SQLITE_READERS, begin="BEGIN", pragmas=("query_only=1",)), SQLITE_READERS
            )
        else:
            self._writers = _Pool(
                _Postgresql(url, size=POSTGRESQL_WRITERS, isolation="READ COMMITTED"), POSTGRESQL_WRITERS
            )
            self._readers = _Pool(
                _Postgresql(url, size=POSTGRESQL_READERS, isolation="REPEATABLE READ"), POSTGRESQL_READERS
            )

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that may write, and return what it returns; it commits unless `work` raises.

        Clients leave at any time. What waits for its turn then is not begun; what was begun is finished, though nobody may wait for it
        any more: the pool could not know in which state a connection is that was left half-way. Raises StoreUnavailable.
        """

        def checked(connection: Connection) -> T:
            self._check_file()
            return work(connection)

        return await self._writers.run(checked)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that only reads and sees one moment throughout. Else as `write`."""
        return await self._readers.run(work)

    async def ping(self) -> None:
        """Ask the database for an answer. Raises StoreUnavailable."""
        with _outages():
            self._check_file()
        await self.read(lambda connection: connection.execute(select(1)))

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
        await self._readers.close()
        await self._writers.close()

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


class _Connections(Protocol):
    """Some connections; each takes one transaction at a time."""

    def start(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Begin a transaction and run `work` in it, to the end."""

    async def close(self) -> None:
        """Close them."""


class _Pool:
    """Connections and the turns at them."""

    def __init__(self, connections: _Connections, size: int) -> None:
        self._connections = connections
        self._size = size
        self._turns = asyncio.Semaphore(size)

    async def run(self, work: Callable[[Connection], T]) -> T:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable("too many requests wait for the database") from None
        running = self._connections.start(work)
        running.add_done_callback(self._finished)
        with _outages():
            return await asyncio.shield(running)

    def _finished(self, running: asyncio.Future[Any]) -> None:
        self._turns.release()
        if not running.cancelled():
            running.exception()  # taken note of, though nobody may wait for it any more; asyncio would log it otherwise

    async def close(self) -> None:
        for _ in range(self._size):
            await self._turns.acquire()
        await self._connections.close()


class _Sqlite:
    """Connections to an SQLite file, with as many threads."""

    def __init__(self, url: str, *, size: int, begin: str, pragmas: tuple[str, ...]) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="sqlite")
        self._engine = _sqlite_engine(url, size=size, begin=begin, pragmas=pragmas)

    def start(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, self._transact, work)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._engine.dispose)
        self._threads.shutdown()


class _Postgresql:
    """Connections to PostgreSQL."""

    def __init__(self, url: str, *, size: int, isolation: str) -> None:
        self._engine = create_async_engine(
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

    def start(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        return asyncio.create_task(self._transact(work))

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


def _sqlite_engine(url: str, *, size: int, begin: str, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        url,
        pool_size=size,
        max_overflow=0,
        # isolation_level None: the driver leaves BEGIN to us (otherwise it begins late, and DEFERRED). A connection is used by one
        # thread at a time, not always the same one.
        connect_args={"timeout": LOCK_WAIT_SECONDS, "isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "temp_store=MEMORY", "cache_size=-32768", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
