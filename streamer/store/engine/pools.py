"""Pools of connections to SQLite or PostgreSQL: each runs a function as a whole, in one transaction and within a deadline."""

import asyncio
import contextlib
import errno
import math
import os
import random
import sqlite3
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy import (
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
)
from sqlalchemy.ext.asyncio import create_async_engine

from streamer.core.errors import ReadTimeout, StoreUnavailable
from streamer.observe.tasks import detached
from streamer.store.engine.outages import (
    Cause,
    Contended,
    Outage,
    cause_of,
    is_collision,
    is_conflict,
    is_cut_short,
    is_outage,
    refusal_of,
    spoils,
)
from streamer.store.engine.postgresql import Target, misuse

TURN_SECONDS = 5
"""How long a function waits for a connection."""
LOCK_WAIT_SECONDS = 5
"""How long a write waits for another process's lock on an SQLite file."""
LOCK_STEP_MS = 250
WAL_BYTES = 8 * 2**20
"""SQLite's write-ahead log is truncated to this size after a checkpoint: a reader in another program can make it grow without limit."""
LEAVE_SECONDS = 1
"""How long PostgreSQL has to confirm that a connection is closed."""
INTERRUPT_AGAIN_SECONDS = 0.02
"""Time between interrupts of a function on SQLite: an interrupt between two statements has no effect."""
TRIES = 3
"""Attempts for a transaction that conflicted with another one, or for a read whose connection had been closed."""
CONFLICT_PAUSE = 0.05
"""Maximum seconds between two attempts; random, so that two conflicting transactions do not collide again."""
CONFLICT_LOG_SECONDS = 10
"""At most one conflict in this many seconds is logged."""
STOPPING = "the server is stopping; whether this was stored is unknown"

T = TypeVar("T")


class File:
    """SQLite's file, as its path refers to it now and as it was when it was first opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None
        """Device and inode, since its first use."""

    def check(self) -> None:
        """Ensure that the path still refers to the open file.

        The system keeps writing to a file that was removed or replaced, and all of that would be lost with this
        process.

        Raises: FileNotFoundError.
        """
        status = self.path.stat()
        identity = status.st_dev, status.st_ino
        if self._identity not in {None, identity}:
            raise FileNotFoundError(errno.ENOENT, "the file was replaced", str(self.path))
        self._identity = identity

    def create(self) -> None:
        """Create the file before SQLite creates it with the umask's mode; the files beside it get the same mode.

        An existing file must not be opened: closing it would release SQLite's locks on it in this process. A file that
        has disappeared is not created again: it would be an empty database in place of a full one.
        """
        if self._identity is not None:
            self.check()
            return
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path.resolve(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


class Pool(ABC):
    """A set of connections. A function that has one is run to its end, even if its caller is cancelled.

    A function that is cancelled half-way would cost its connection, because its state would be unknown. Clients can
    disconnect at any time, so running functions are finished, and readers have a deadline. Waiting functions are not
    started.
    """

    _locks_rows = True
    """A transaction can wait for another one while the rest of the database is free."""

    def __init__(self, size: int, outage: Outage, seconds: float | None) -> None:
        """Create a pool of `size` connections; `seconds` is the database's time limit for a function, None for no limit."""
        self._size = size
        self._seconds = seconds
        self._outage = outage
        self._only_reads = outage.use == "reads"
        self._conflict_logged_at = float("-inf")
        self._answers: set[asyncio.Future[Any]] = set()
        """The callers' futures."""
        self._under_way: set[asyncio.Task[Any]] = set()
        self._queued = 0
        """Number of functions that wait for a connection."""
        self._given_up = False
        self._turns = asyncio.Semaphore(size)

    async def run(self, function: Callable[[Connection], T], seconds: float | None = None) -> T:
        """Run a function in a transaction; `seconds` replaces the pool's deadline.

        Raises ReadTimeout, StoreUnavailable.
        """
        self._queued += 1
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            self._outage.failed(Cause("TimeoutError", None, "busy", f"no connection was free for {TURN_SECONDS} s"))
            raise StoreUnavailable("too many requests are waiting for the database", reason="busy") from None
        finally:
            self._queued -= 1
        if self._given_up:
            self._turns.release()
            raise StoreUnavailable(STOPPING)
        task = detached(self._finish(function, seconds))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task.add_done_callback(partial(_hand_on, answer))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        return await answer

    async def _finish(self, function: Callable[[Connection], T], seconds: float | None) -> T:
        try:
            return await self._attempt(function, seconds)
        finally:
            self._turns.release()

    async def _attempt(self, function: Callable[[Connection], T], seconds: float | None, tries: int = TRIES) -> T:
        try:
            result = await self._transact(function, seconds)
        except Exception as error:
            if self._seconds is not None and is_cut_short(error):
                raise ReadTimeout from None
            wrong_url = misuse(error)
            if wrong_url is not None:
                raise wrong_url from None
            if tries > 1 and self._can_try_again(error):
                await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE))  # noqa: S311 - no secret
                return await self._attempt(function, seconds, tries - 1)
            if is_outage(error):
                raise self._unavailable(error) from None
            refused = refusal_of(error)
            if refused is None:
                raise
            raise refused from None
        self._outage.worked()
        return result

    def _can_try_again(self, error: Exception) -> bool:
        """Return whether nothing was done, so that the same transaction can be repeated at once."""
        if is_collision(error):
            return True
        # The server closed an idle connection; for a write, it is unknown whether it was committed.
        return self._only_reads and spoils(error) and not isinstance(error, TimeoutError)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        cause = cause_of(error)
        if is_conflict(error) and self._locks_rows:
            # Usually one workspace's row: the database as a whole works.
            if time.monotonic() - self._conflict_logged_at > CONFLICT_LOG_SECONDS:
                self._conflict_logged_at = time.monotonic()
                structlog.get_logger("database").warning("database_conflict", use=self._outage.use, **cause.fields)
            return Contended("another transaction is in the way", reason=cause.reason)
        self._outage.failed(cause)
        return StoreUnavailable(f"the database does not answer or cannot write: {cause.reason}", reason=cause.reason)

    def give_up(self) -> None:
        """Fail all waiting and future functions: the server is stopping, and its time is over."""
        self._given_up = True
        for answer in [*self._answers]:
            if not answer.done():
                answer.set_exception(StoreUnavailable(STOPPING))
        for _ in range(self._queued):
            self._turns.release()

    async def close(self, seconds: float) -> None:
        """Wait at most this long for running functions, then close the connections."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=seconds if seconds < math.inf else None)
            if late:
                self._abort()
                await asyncio.wait(late, timeout=LEAVE_SECONDS)
        await self._dispose()

    @abstractmethod
    def _abort(self) -> None:
        """Abort running functions."""

    @abstractmethod
    async def _transact(self, function: Callable[[Connection], T], seconds: float | None) -> T:
        """Run a function in a transaction on a free connection."""

    @abstractmethod
    async def _dispose(self) -> None:
        """Close the connections."""


class SqlitePool(Pool):
    """SQLite has no server to wait for: a transaction runs in a thread, without a hop between threads for each statement."""

    _locks_rows = False

    def __init__(  # noqa: PLR0913 - what the writer and the readers differ in
        self,
        url: str,
        file: File,
        outage: Outage,
        *,
        size: int,
        begin: str,
        pragmas: tuple[str, ...],
        seconds: float | None = None,
    ) -> None:
        super().__init__(size, outage, seconds)
        self._file = file if begin == "BEGIN IMMEDIATE" else None
        self._opened: set[sqlite3.Connection] = set()
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="sqlite")
        self._engine = create_engine(
            url,
            pool_size=size,
            max_overflow=0,
            hide_parameters=True,
            # isolation_level None: the driver leaves BEGIN to us (otherwise it begins late, and DEFERRED).
            connect_args={"timeout": LOCK_WAIT_SECONDS, "isolation_level": None},
        )

        @event.listens_for(self._engine, "do_connect")
        def _create(*_: object) -> None:
            file.create()

        @event.listens_for(self._engine, "connect")
        def _configure(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            kept = f"journal_size_limit={WAL_BYTES}"
            for pragma in ("journal_mode=WAL", kept, "temp_store=MEMORY", "cache_size=-32768", *pragmas):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.execute(f"PRAGMA busy_timeout={LOCK_STEP_MS}")
            cursor.close()
            self._opened.add(connection)

        @event.listens_for(self._engine, "close")
        def _forget(connection: Any, _record: object) -> None:
            self._opened.discard(connection)
            # An error's traceback may still hold a cursor; SQLite then keeps the connection, and its locks, after close().
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()

        @event.listens_for(self._engine, "begin")
        def _begin(connection: Connection) -> None:
            # Waiting for another process's lock is done in steps, because a step cannot be interrupted.
            until = time.monotonic() + LOCK_WAIT_SECONDS
            try:
                while time.monotonic() < until and not self._given_up:
                    try:
                        connection.connection.cursor().execute(begin)
                    except sqlite3.OperationalError as error:
                        if not is_conflict(error):
                            break
                        outage.waits_for = "locked"
                    else:
                        return
                connection.exec_driver_sql(begin)
            finally:
                outage.waits_for = None

        _drop_spoilt(self._engine)

    async def _transact(self, function: Callable[[Connection], T], seconds: float | None) -> T:
        work = _Interruptible(function)

        def run() -> T:
            with self._engine.begin() as connection:
                if self._file is not None:
                    self._file.check()
                return work.run(connection)

        loop = asyncio.get_running_loop()
        seconds = self._seconds if seconds is None else seconds
        if seconds is None:
            return await loop.run_in_executor(self._threads, run)
        timer = loop.call_later(seconds, work.interrupt, loop)
        try:
            return await loop.run_in_executor(self._threads, run)
        finally:
            timer.cancel()

    def _abort(self) -> None:
        for connection in [*self._opened]:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed already
                connection.interrupt()

    async def _dispose(self) -> None:
        self._engine.dispose()
        self._threads.shutdown()


class _Interruptible(Generic[T]):
    """A function on an SQLite connection that another thread can interrupt, without affecting later functions on the connection."""

    def __init__(self, function: Callable[[Connection], T]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._driver: Any = None
        """The connection while the function runs."""

    def run(self, connection: Connection) -> T:
        """Run the function."""
        with self._lock:
            self._driver = connection.connection.driver_connection
        try:
            return self._function(connection)
        finally:
            with self._lock:
                self._driver = None

    def interrupt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Interrupt the running statement, and each later one, until the function ends."""
        with self._lock:
            if self._driver is not None:
                self._driver.interrupt()
                loop.call_later(INTERRUPT_AGAIN_SECONDS, self.interrupt, loop)


class PostgresqlPool(Pool):
    """PostgreSQL with asyncpg: a transaction runs on the event loop, below SQLAlchemy's greenlet."""

    def __init__(  # noqa: PLR0913 - what the writers and the readers differ in
        self,
        target: Target,
        outage: Outage,
        *,
        size: int,
        isolation: str,
        session: Mapping[str, str],
        seconds: float | None = None,
    ) -> None:
        super().__init__(size, outage, seconds)
        session = {**session, **_deadline(seconds)}
        self._local: Mapping[str, str] = session if target.pooled else {}
        """Settings for each transaction, if a session cannot keep them."""
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            pool_size=size,
            max_overflow=0,
            hide_parameters=True,
            isolation_level=isolation,
            connect_args=target.connect_arguments(session),
        )
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()

        @event.listens_for(self._engine.sync_engine, "connect")
        def _note(connection: Any, _record: object) -> None:
            self._opened.add(connection.driver_connection)

        _drop_spoilt(self._engine.sync_engine)

    async def _transact(self, function: Callable[[Connection], T], seconds: float | None) -> T:
        async with self._engine.begin() as connection:
            local = {**self._local, **_deadline(seconds)}
            if local:
                values = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in local.items())
                await connection.exec_driver_sql(f"SELECT {values}")
            return await connection.run_sync(function)

    def _abort(self) -> None:
        for connection in [*self._opened]:
            connection.terminate()

    async def _dispose(self) -> None:
        # A frozen server would not confirm.
        await asyncio.wait([closing := asyncio.ensure_future(self._engine.dispose())], timeout=LEAVE_SECONDS)
        is_over = closing.done()
        self._abort()  # including those that an outage removed from the pool
        if not is_over:
            await asyncio.wait([closing], timeout=LEAVE_SECONDS)


def _hand_on(answer: asyncio.Future[T], task: asyncio.Task[T]) -> None:
    """Copy a task's outcome to a future. `asyncio.shield` would fail if `give_up` has just set it."""
    if answer.done():
        return
    if task.cancelled():
        answer.cancel()
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


def _deadline(seconds: float | None) -> Mapping[str, str]:
    """Return PostgreSQL's settings for a statement's time limit, which the server itself enforces; 0 would be no limit."""
    return {} if seconds is None else {"statement_timeout": str(max(int(seconds * 1000), 1))}


def _drop_spoilt(engine: Engine) -> None:
    """Close connections, and others of the same age, after an error that concerns the session or the server."""

    @event.listens_for(engine, "handle_error")
    def _judge(context: ExceptionContext) -> None:
        context.is_disconnect = context.is_disconnect or spoils(
            context.sqlalchemy_exception or context.original_exception
        )
