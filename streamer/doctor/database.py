"""Checks of the database."""

import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from streamer.core.errors import StoreUnavailable
from streamer.doctor.clocks import judge_skew
from streamer.doctor.findings import CannotCheck, Check, Finding, fail, ok, warn
from streamer.settings import MiB, Settings
from streamer.store.engine.database import Database
from streamer.store.engine.health import Health, Snapshots
from streamer.store.engine.outages import Outage
from streamer.store.engine.postgresql import BadDatabaseUrl
from streamer.store.migrate import HEAD
from streamer.store.records.installation import Installation

SLOW_SECONDS = 0.02
"""A round trip that takes longer makes every append slow."""
SNAPSHOT_SECONDS = 300
"""Age above which a snapshot is unusual: no read of a server lasts as long."""
WAL_BYTES = 64 * MiB

ENCODINGS = {"UTF8", "UTF-8"}

FIXES = {
    "unreachable": "start the database; check STREAMER_DATABASE_URL, the network and the certificate",
    "timeout": "the database is frozen or overloaded, or its disk is slow: see its log and its disk",
    "busy": "too many reads or writes run at once: see what keeps the database busy",
    "read_only": "connect to the primary (target_session_attrs=read-write), turn off default_transaction_read_only, or make SQLite's file and folder writable",
    "disk_full": "free some space on the database's disk",
    "locked": "end the program or the DDL statement that holds a lock on the tables",
    "access_denied": "check user and password in STREAMER_DATABASE_URL, the role's rights and the file's permissions",
    "database_missing": "create the database, or correct its name in STREAMER_DATABASE_URL",
    "file_missing": "put SQLite's file back, or correct the path",
    "schema": "run `streamer migrate`",
    "corrupt": "restore a backup: `streamer restore FILE`",
    "io_error": "check the disk, then restore a backup: `streamer restore FILE`",
    "out_of_resources": "raise max_connections or the memory of PostgreSQL",
    "out_of_descriptors": "raise the limit of open files",
}
"""The next step for each reason of `StoreUnavailable`."""


class DatabaseChecks:
    """The checks of one database, one after the other."""

    def __init__(self, settings: Settings) -> None:
        """Prepare them. Raises BadDatabaseUrl."""
        self._settings = settings
        self.database = Database(settings.database)
        self._health = Health(self.database)
        self._problem = "the database was not reached"
        """Why nothing can be asked; empty: it can."""
        self._no_tables = ""
        self._encoding = ""

    @property
    def checks(self) -> list[Check]:
        """The checks in their order."""
        late = partial(fail, "the database does not answer in time", FIXES["timeout"])
        return [
            Check("database", self._reach, late),
            Check("encoding", self._check_encoding, late),
            Check("migrations", self._check_migrations, late),
            Check("writes", self._write, late),
            Check("snapshots", self._check_snapshots, late),
            Check("pooler", self._check_pooler, late),
            Check("database clock", self._compare_clocks, late),
        ]

    async def instance(self) -> str | None:
        """Return the installation's name; None if the database cannot tell it."""
        if self._problem or self._no_tables:
            return None
        with contextlib.suppress(StoreUnavailable):
            return await Installation(self.database).name()
        return None

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Ask in the block. If it fails in an unexpected way, or is cancelled, nothing more is asked."""
        if self._problem:
            raise CannotCheck(self._problem)
        self._problem = "the database does not answer"
        yield
        self._problem = ""

    async def _reach(self) -> Finding:
        if not self.database.exists():
            return fail(f"there is no database {self.database.file}", "start the server, or run `streamer migrate`")
        try:
            about = await self._health.about()
        except BadDatabaseUrl as error:
            return fail(str(error), "correct STREAMER_DATABASE_URL")
        except StoreUnavailable as error:
            return _failed(error, self.database.reading)
        self._problem, self._encoding = "", about.encoding
        text = f"{about.product}, {about.name}, answers in {1000 * about.seconds:.1f} ms"
        if about.seconds > SLOW_SECONDS:
            return warn(text, "move the server closer to its database: each append needs several round trips")
        return ok(text)

    async def _check_encoding(self) -> Finding:
        if self._problem:
            raise CannotCheck(self._problem)
        if self._encoding in ENCODINGS:
            return ok(self._encoding)
        self._no_tables = "the encoding is wrong"
        return fail(
            f"{self._encoding} cannot store all texts",
            "create a database with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
        )

    async def _check_migrations(self) -> Finding:
        if self._no_tables:
            raise CannotCheck(self._no_tables)
        async with self._asking():
            found = await self._health.migration()
        if found == HEAD:
            return ok(f"at {HEAD}, the newest")
        self._no_tables = "the tables are not those of this version"
        if found is None:
            return fail("the database has no tables of streamer", "start the server, or run `streamer migrate`")
        if found > HEAD:
            return fail(
                f"the database is at {found}, this version knows only {HEAD}", "run a newer version of streamer"
            )
        return fail(f"the database is at {found}, this version needs {HEAD}", "run `streamer migrate`")

    async def _write(self) -> Finding:
        if self._no_tables:
            raise CannotCheck(self._no_tables)
        async with self._asking():
            started = time.perf_counter()
            try:
                await self._health.write()
            except StoreUnavailable as error:
                return _failed(error, self.database.writing)
            return ok(f"a row was committed in {1000 * (time.perf_counter() - started):.1f} ms")

    async def _check_snapshots(self) -> Finding:
        async with self._asking():
            if self.database.is_sqlite:
                return judge_wal(self._health.unfinished_bytes())
            return judge_snapshots(await self._health.snapshots())

    async def _check_pooler(self) -> Finding:
        if self.database.is_sqlite:
            raise CannotCheck("SQLite has none")
        async with self._asking():
            pooler = await self._health.pooler()
        says_pooled = self.database.listening is None
        if not pooler.present:
            if says_pooled:
                return warn(
                    "there is none", "remove pgbouncer=true from STREAMER_DATABASE_URL: it makes appends slower"
                )
            return ok("there is none")
        if not says_pooled and not pooler.keeps_settings:
            return fail(
                "a pooler drops the settings of our sessions, such as time limits",
                "add pgbouncer=true to STREAMER_DATABASE_URL",
            )
        if says_pooled and self._settings.carrier == "postgres":
            return warn(
                "notifications do not pass the pooler, so there is no bus: events of other nodes arrive up to a second later",
                "set STREAMER_REDIS_URL; with a single node, STREAMER_BUS=none",
            )
        return ok("there is one, and the URL says so" if says_pooled else "there is one that keeps sessions")

    async def _compare_clocks(self) -> Finding:
        if self.database.is_sqlite:
            raise CannotCheck("SQLite uses the clock of this machine")
        async with self._asking():
            skew = await self._health.skew()
        return judge_skew("PostgreSQL's clock", skew.us, skew.error_us)


def judge_snapshots(found: Snapshots) -> Finding:
    """Judge the oldest snapshot on PostgreSQL."""
    oldest = found.oldest
    if oldest is None or oldest.seconds <= SNAPSHOT_SECONDS:
        text = "there is none" if oldest is None else f"the oldest is {oldest.seconds:.0f} s old"
        return ok(text if found.are_all else f"{text}; those of other users need GRANT pg_read_all_stats")
    return warn(
        f"{oldest.what} has held one for {_span(oldest.seconds)}: dead rows cannot be removed, and reads slow down",
        f"wait if it is a backup; otherwise end it: {oldest.end_it}",
    )


def judge_wal(size: int) -> Finding:
    """Judge the size of SQLite's write-ahead log."""
    text = f"the write-ahead log has {size / MiB:.0f} MiB"
    if size <= WAL_BYTES:
        return ok(text)
    return warn(f"{text}: a program holds an old snapshot", "end what reads the file: a shell, or a backup that hangs")


def _failed(error: StoreUnavailable, outage: Outage) -> Finding:
    reason = str(error.details.get("reason", "error"))
    known = outage.cause.text if outage.cause is not None else None
    return fail(f"{reason}: {known}" if known else reason, FIXES.get(reason, "see the database's log"))


def _span(seconds: float) -> str:
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
