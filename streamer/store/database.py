"""Connections to SQLite or PostgreSQL, and what of the two differs.

SQLite: a file for its user only, WAL, one writer connection whose transactions begin IMMEDIATE, a few readers that cannot write.
PostgreSQL: writers at READ COMMITTED, where row locks do the ordering; readers at REPEATABLE READ. So on both a reader sees one moment
throughout. Every failure to reach or use the database becomes `StoreUnavailable`.
"""

import asyncio
import contextlib
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
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
from streamer.observe.tasks import outlasting

SQLITE_READERS = 4
POSTGRESQL_READERS = 8
POSTGRESQL_WRITERS = 2
TURN_SECONDS = 5
"""How long a function waits for one of them."""
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
P = ParamSpec("P")
Of = TypeVar("Of", bound="_Store")


class _Store(Protocol):
    _database: "Database"


def reads(
    method: Callable[Concatenate[Of, Connection, P], T],
) -> Callable[Concatenate[Of, P], Coroutine[Any, Any, T]]:
    """Make a coroutine method of one that is given a connection: it is run whole, by `Database.read`."""

    @functools.wraps(method)
    async def run(self: Of, /, *given: P.args, **named: P.kwargs) -> T:
        return await self._database.read(lambda connection: method(self, connection, *given, **named))

    return run


def writes(
    method: Callable[Concatenate[Of, Connection, P], T],
) -> Callable[Concatenate[Of, P], Coroutine[Any, Any, T]]:
    """Make a coroutine method of one that is given a connection: it is run whole, by `Database.write`."""

    @functools.wraps(method)
    async def run(self: Of, /, *given: P.args, **named: P.kwargs) -> T:
        return await self._database.write(lambda connection: method(self, connection, *given, **named))

    return run


class BadDatabaseUrl(ValueError):
    """The URL names no database that the store can use; the text says why, without the URL, which may hold a password."""


class Database:
    """One database: functions that are given a connection read or write it, each in a transaction of its own."""

    def __init__(self, url: str) -> None:
        """Prepare the pools; nothing is opened yet. Raises BadDatabaseUrl."""
        try:
            parsed = make_url(url)
        except (exc.ArgumentError, ValueError):
            raise BadDatabaseUrl("not a database URL, such as postgresql://user:password@host/name") from None
        if parsed.drivername in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+asyncpg")
        if parsed.drivername not in {"postgresql+asyncpg", "sqlite"}:
            raise BadDatabaseUrl(f"must begin with sqlite:// or postgresql://, not {parsed.drivername}://")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._file: Path | None = None
        self._identity: tuple[int, int] | None = None
        """Device and inode of SQLite's file, since it was first written to."""
        self._readers: _Pool
        self._writers: _Pool
        url = parsed.render_as_string(hide_password=False)
        if self.is_sqlite:
            if parsed.database in {None, "", ":memory:"}:
                raise BadDatabaseUrl(
                    "an SQLite database must be a file: readers and the writer have connections of their own"
                )
            self._file = Path(parsed.database or "")
            self._writers = _SqlitePool(url, size=1, begin="BEGIN IMMEDIATE", pragmas=("synchronous=FULL",))
            self._readers = _SqlitePool(url, size=SQLITE_READERS, begin="BEGIN", pragmas=("query_only=1",))
        else:
            self._writers = _PostgresqlPool(url, size=POSTGRESQL_WRITERS, isolation="READ COMMITTED")
            self._readers = _PostgresqlPool(url, size=POSTGRESQL_READERS, isolation="REPEATABLE READ")

    @property
    def file(self) -> Path | None:
        """SQLite's file; None: PostgreSQL."""
        return self._file

    def exists(self) -> bool:
        """Tell whether SQLite's file is there, which the first use makes; of PostgreSQL only a connection can tell."""
        return self._file is None or self._file.exists()

    async def write(self, function: Callable[[Connection], T]) -> T:
        """Run a function in a transaction that may write; it is committed when this returns. Raises StoreUnavailable."""

        def checked(connection: Connection) -> T:
            self._check_file()
            return function(connection)

        return await self._writers.run(checked)

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run a function in a transaction that only reads and sees one moment throughout. Raises StoreUnavailable."""
        return await self._readers.run(function)

    async def ping(self) -> None:
        """Ask the database for an answer. Raises StoreUnavailable."""

        def ask(connection: Connection) -> None:
            self._check_file()
            connection.execute(select(1))

        await self.read(ask)

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


class _Pool(ABC):
    """Some connections. A function that has got one is run to its end, though its caller may leave.

    What is cancelled half-way costs its connection: the pool cannot know in which state it is. Clients leave at any time, so what was
    begun for them is finished. What waits for its turn is not begun.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._turns = asyncio.Semaphore(size)

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run a function in a transaction. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable("too many requests wait for the database") from None
        return await asyncio.shield(outlasting(self._finish(function)))

    async def _finish(self, function: Callable[[Connection], T]) -> T:
        try:
            return await self._transact(function)
        except Exception as error:
            if is_outage(error):
                raise StoreUnavailable("the database does not answer or cannot write") from error
            raise
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Wait for what was begun, then close the connections."""
        for _ in range(self._size):
            await self._turns.acquire()
        await self._dispose()

    @abstractmethod
    async def _transact(self, function: Callable[[Connection], T]) -> T:
        """Run a function in a transaction of a connection that nobody uses."""

    @abstractmethod
    async def _dispose(self) -> None:
        """Close the connections."""


class _SqlitePool(_Pool):
    """SQLite has no server to wait for: a transaction runs on a thread, at once, without a hop between threads for each statement."""

    def __init__(self, url: str, *, size: int, begin: str, pragmas: tuple[str, ...]) -> None:
        super().__init__(size)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="sqlite")
        self._engine = create_engine(
            url,
            pool_size=size,
            max_overflow=0,
            # isolation_level None: the driver leaves BEGIN to us (otherwise it begins late, and DEFERRED).
            connect_args={"timeout": LOCK_WAIT_SECONDS, "isolation_level": None},
        )

        @event.listens_for(self._engine, "do_connect")
        def _create(_dialect: object, _record: object, arguments: list[str], _parameters: object) -> None:
            # Before SQLite does it with the umask's mode; the files beside this one get its mode. One that exists must not be opened:
            # closing it would take away the locks that SQLite has on it in this process.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(Path(arguments[0]).resolve(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

        @event.listens_for(self._engine, "connect")
        def _configure(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "temp_store=MEMORY", "cache_size=-32768", *pragmas):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(self._engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql(begin)

    async def _transact(self, function: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._engine.begin() as connection:
                return function(connection)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def _dispose(self) -> None:
        self._engine.dispose()
        self._threads.shutdown()


class _PostgresqlPool(_Pool):
    def __init__(self, url: str, *, size: int, isolation: str) -> None:
        super().__init__(size)
        self._engine = create_async_engine(
            url,
            pool_size=size,
            max_overflow=0,
            isolation_level=isolation,
            connect_args={
                "timeout": CONNECT_SECONDS,
                "command_timeout": COMMAND_SECONDS,
                "server_settings": {"application_name": "streamer", "jit": "off"},
            },
        )

    async def _transact(self, function: Callable[[Connection], T]) -> T:
        async with self._engine.begin() as connection:
            return await connection.run_sync(function)

    async def _dispose(self) -> None:
        await self._engine.dispose()
