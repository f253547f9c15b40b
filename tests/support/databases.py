"""Fresh databases: a file for SQLite, a clone of a template for PostgreSQL. Both are migrated once per run."""

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psutil
from sqlalchemy import Connection, Engine, delete, event, text, update

from streamer.store.engine.database import Database
from streamer.store.migrate import migrate
from streamer.store.schema import events as event_rows
from streamer.store.schema import workspaces
from tests.support.run_dir import forget_pid, note_pid, run_dir

TEMPLATE = "streamer_template"

_SETTINGS = """
listen_addresses = ''
max_connections = 300
shared_buffers = 64MB
fsync = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
"""


@contextmanager
def _once(name: str) -> Iterator[bool]:
    """Let one process of the run do something while the others wait. Yields whether this is the one."""
    done = run_dir() / f"{name}.done"
    with (run_dir() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


def _migrate(url: str) -> None:
    """Migrate a database in a thread, because a test's event loop may be running in this one."""

    async def run() -> None:
        database = Database(url)
        await migrate(database)
        await database.close()

    failures: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure


def sqlite_url(folder: Path) -> str:
    """Create a migrated SQLite database in `folder` and return its URL."""
    template = run_dir() / "template.db"
    with _once("sqlite") as first:
        if first:
            _migrate(f"sqlite:///{template}")
    file = folder / "streamer.db"
    shutil.copyfile(template, file)
    return f"sqlite:///{file}"


class _Admin:
    """A connection that creates and drops databases. Its event loop has a thread, because a test's may be running in this one."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="admin of PostgreSQL", daemon=True)
        self._thread.start()
        self._connection = self._run(asyncpg.connect(url))

    def execute(self, statement: str) -> None:
        """Run a statement outside of a transaction."""
        self._run(self._connection.execute(statement))

    def close(self) -> None:
        """Close the connection and end the thread."""
        self._run(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class Cluster:
    """A PostgreSQL cluster of the tests, on a Unix socket, that keeps nothing after a crash of the machine."""

    settings = ""
    """Further lines of its configuration."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs = programs
        self.folder = folder
        self._admin: _Admin | None = None

    def clone(self, name: str) -> None:
        """Create a database from the template."""
        # The other strategy, by the write-ahead log, takes four times as long here. Before version 15, only this one
        # exists.
        strategy = "STRATEGY file_copy" if self._version >= 15 else ""
        self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} {strategy}")

    def drop(self, name: str) -> None:
        """Drop a database and its connections, if it exists."""
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        """Close this process's connection; the cluster keeps running."""
        if self._admin:
            self._admin.close()
            self._admin = None

    def _execute(self, statement: str) -> None:
        self._admin = self._admin or _Admin(self.url("postgres"))
        self._admin.execute(statement)

    def start(self) -> None:
        """Create the cluster and start it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o755)
        if os.geteuid() == 0:
            owner = unprivileged()
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        data = self.folder / "data"
        # A language's collation, as on most servers, because the tables must not depend on it.
        icu = ["--locale-provider=icu", "--icu-locale=en-US"] if self._version >= 15 else []
        flags = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", *icu]
        self._run("initdb", "-D", data, *flags)
        with (data / "postgresql.conf").open("a") as file:
            file.write(f"{_SETTINGS}{self.settings}unix_socket_directories = '{self.folder}'\n")
        self._run("pg_ctl", "start", "--wait", "-D", data, "-l", self.folder / "log")
        note_pid(int((data / "postmaster.pid").read_text().split()[0]))

    def url(self, name: str) -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement outside of a transaction; return what psql prints, without decoration."""
        return self._run(
            "psql",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            self.folder,
            "-U",
            "postgres",
            "-d",
            database,
            "-c",
            statement,
        )

    @cached_property
    def _version(self) -> int:
        return int(self._run("initdb", "--version").split()[2].split(".")[0])

    def _run(self, program: str, *arguments: object) -> str:
        options: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = unprivileged()
            options = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        # A file instead of a pipe, because the server started by pg_ctl would keep the pipe open.
        with (run_dir() / f"{program}.{uuid.uuid4().hex}").open("w+") as output:
            done = subprocess.run(
                [str(self.programs / program), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                check=False,
                **options,
            )
            output.seek(0)
            text = output.read()
            Path(output.name).unlink()
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{text}")
        return text.strip()


class OwnCluster(Cluster):
    """A PostgreSQL cluster that a test may stop."""

    def stop(self) -> None:
        """Stop it without a shutdown, as a crash does."""
        forget_pid(self.pid)
        self._run("pg_ctl", "stop", "--wait", "-m", "immediate", "-D", self.folder / "data")

    def restart(self) -> None:
        """Start it again with the same data."""
        self._run("pg_ctl", "start", "--wait", "-D", self.folder / "data", "-l", self.folder / "log")

    @property
    def pid(self) -> int:
        """Return its main process."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def processes(self) -> list[psutil.Process]:
        """Return all of its processes."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def freeze(self) -> None:
        """Stop all of its processes without closing their connections."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its processes continue."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # a session can end meanwhile
                process.send_signal(number)


class Primary(OwnCluster):
    """A PostgreSQL cluster with a standby."""

    settings = "wal_level = replica\nmax_wal_senders = 4\nwal_keep_size = 256MB\n"

    def make_standby(self, folder: Path) -> "Standby":
        """Copy it to a standby, which follows it. The standby acknowledges nothing: replication is asynchronous."""
        standby = Standby(self.programs, folder)
        standby.prepare()
        self._run(
            "pg_basebackup",
            "-h",
            self.folder,
            "-U",
            "postgres",
            "-D",
            folder / "data",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
        )
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{folder}'\n")
        standby.restart()
        note_pid(standby.pid)
        return standby


class Standby(OwnCluster):
    """A PostgreSQL that follows a primary."""

    def prepare(self) -> None:
        """Create its folder."""
        self.folder.mkdir(mode=0o755)
        if os.geteuid() == 0:
            owner = unprivileged()
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)

    def promote(self) -> None:
        """Make it the primary."""
        self._run("pg_ctl", "promote", "--wait", "-D", self.folder / "data")


def unprivileged() -> pwd.struct_passwd:
    """Return the user that runs PostgreSQL when the tests run as root, which it refuses."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def shared_cluster(programs: Path) -> Cluster:
    """Return the cluster of this run; the first caller starts it."""
    cluster = Cluster(programs, run_dir() / "postgresql")
    with _once("postgresql") as first:
        if first:
            cluster.start()
            cluster.sql(f"CREATE DATABASE {TEMPLATE}")
            _migrate(cluster.url(TEMPLATE))
    return cluster


@contextmanager
def fresh_database(cluster: Cluster) -> Iterator[str]:
    """Create a migrated PostgreSQL database for the block. Yields its URL."""
    name = f"test_{uuid.uuid4().hex}"
    cluster.clone(name)
    try:
        yield cluster.url(name)
    finally:
        cluster.drop(name)


async def trim(database: Database, below: int) -> None:
    """Remove the events below a seq, as retention does."""

    def remove(connection: Connection) -> None:
        connection.execute(update(workspaces).values(earliest=below))
        connection.execute(delete(event_rows).where(event_rows.c.seq < below))

    await database.write(remove)


@asynccontextmanager
async def nothing_written(url: str) -> AsyncIterator[None]:
    """Hold the locks that every write needs while the block runs."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
        return
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE workspaces IN EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def run_sql(database: Database, *statements: str) -> list[Any]:
    """Run statements in one transaction without the server; return the rows of the last one, if any."""

    def run(connection: Connection) -> list[Any]:
        results = [connection.execute(text(statement)) for statement in statements]
        return list(results[-1].all()) if results[-1].returns_rows else []

    return await database.write(run)


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Record every statement sent to a database while the block runs, with its parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)
