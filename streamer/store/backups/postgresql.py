"""PostgreSQL: `pg_dump` reads the tables in one snapshot; `pg_restore` and `psql` restore them in one transaction.

The programs get the database's address and password only in their environment, because all users of the machine can
read command lines.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from streamer.core.errors import StoreUnavailable
from streamer.core.ids import new_epoch
from streamer.store.backups.archive import CHUNK, Archive, BackupError, Manifest
from streamer.store.backups.files import stamp
from streamer.store.backups.logs import LOGS, LogState, in_words, read_logs
from streamer.store.engine.outages import is_outage
from streamer.store.engine.postgresql import parse
from streamer.store.records.installation import renew
from streamer.store.schema import metadata, workspaces

TABLES = ("alembic_version", *metadata.tables)
NODE = "streamer"
"""The `application_name` of servers' connections; ours use another one."""
OURS = "streamer command"
ASIDE = "streamer_replaced_"
LOCK_WAIT = "10s"
"""How long a restore waits for other users of the tables."""

_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "database": "PGDATABASE",
    "dbname": "PGDATABASE",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "options": "PGOPTIONS",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "krbsrvname": "PGKRBSRVNAME",
    "gsslib": "PGGSSLIB",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
}
"""Parts of a URL, and libpq's variable for each."""

_NODES = """
SELECT pid, client_addr FROM pg_stat_activity
WHERE datname = current_database() AND application_name = ANY ({names}) AND pid <> pg_backend_pid() ORDER BY pid
"""


@asynccontextmanager
async def session(url: str) -> AsyncIterator[AsyncConnection]:
    """Yield one connection without time limits, in a transaction with one snapshot, which is rolled back at the end.

    Raises: StoreUnavailable.
    """
    arguments = parse(url).connect_arguments({}) | {"command_timeout": None}
    arguments["server_settings"] = {**arguments.get("server_settings", {}), "application_name": OURS}
    engine = create_async_engine(
        "postgresql+asyncpg://", isolation_level="REPEATABLE READ", hide_parameters=True, connect_args=arguments
    )
    try:
        try:
            connection = await engine.connect()
        except Exception as error:
            if isinstance(error, DBAPIError) or is_outage(error):
                raise StoreUnavailable(f"the database cannot be reached: {error.__cause__ or error}") from error
            raise
        try:
            for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
                await connection.execute(text(f"SET LOCAL {limit} = 0"))
            yield connection
        except DBAPIError as error:
            raise StoreUnavailable(f"the database reported an error: {error.orig}") from error
        finally:
            await connection.close()
    finally:
        await engine.dispose()


def _nodes(url: str) -> str:
    """Return the query for servers' connections; a URL can give them another name."""
    names = {NODE, _said(url).get("application_name", NODE)}
    return _NODES.format(names=f"ARRAY[{', '.join(_text(name) for name in sorted(names))}]")


async def refuse_nodes(connection: AsyncConnection, url: str) -> None:
    """Raise BackupError if a server, or another command, is connected to this database."""
    rows = (await connection.exec_driver_sql(_nodes(url))).all()
    if rows:
        pid, address = rows[0].pid, rows[0].client_addr
        where = f" from {address}" if address else ""
        raise BackupError(
            f"the database is in use by a server{where} (PostgreSQL's process {pid}): stop all of its servers first"
        )


async def read_state(connection: AsyncConnection) -> tuple[list[LogState], list[str]]:
    """Return the extent of the logs, and their problems."""
    return read_logs((await connection.execute(text(LOGS))).all())


async def dump(url: str, target: Path, make: Callable[..., Manifest], on_progress: Callable[[int], None]) -> Manifest:
    """Write a dump of the tables into an empty file. Return the manifest of the same snapshot.

    Args:
        url: the database's URL.
        target: the file.
        make: creates the manifest from the database's values.
        on_progress: called with the number of bytes written.

    Raises:
        BackupError: pg_dump is missing, too old or failed, or the logs are not complete.
        StoreUnavailable: the database cannot be reached.
        OSError: the file cannot be written.
    """
    async with session(url) as connection:
        namespace, present = await _find_tables(connection)
        if "alembic_version" not in present:
            raise BackupError("there is nothing to back up: the database has no tables of streamer")
        logs, problems = await read_state(connection)
        if problems:
            raise BackupError(f"the database is damaged: {in_words(problems)}")
        version = await _scalar(connection, "SHOW server_version")
        manifest = make(
            logs=logs,
            revision=await _scalar(connection, "SELECT version_num FROM alembic_version"),
            engine=f"PostgreSQL {version}",
            namespace=namespace,
        )
        program = _program("pg_dump", _major(version))
        snapshot = await _scalar(connection, "SELECT pg_export_snapshot()")
        chosen = [f"--table={_name(namespace)}.{_name(table)}" for table in present]
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", *chosen]
        done = 0
        with target.open("wb") as file, closing(_output([program, *options], _environment(url))) as chunks:
            for chunk in chunks:
                file.write(chunk)
                done += len(chunk)
                on_progress(done)
    return manifest


def check_dump(path: Path) -> None:
    """Read a dump to its end with pg_restore. Raises BackupError."""
    for _ in _output([_program("pg_restore"), "--file=-", str(path)], os.environ):
        pass


async def restore(url: str, archive: Archive, *, replace: bool) -> str | None:
    """Put a backup's tables into a database, with a new epoch for each log, in one transaction.

    Tables that are not empty are moved to their own schema. No server may run: this is checked before, and again just
    before the commit.

    Args:
        url: the database's URL.
        archive: the backup.
        replace: whether tables that are not empty can be replaced.

    Returns: the schema with the previous tables; None: they were empty.

    Raises:
        BackupError: a program is missing or failed, servers run, or the database is not empty and must not be replaced.
        StoreUnavailable: the database cannot be reached.
    """
    manifest = archive.manifest
    async with session(url) as connection:
        await refuse_nodes(connection, url)
        namespace, present = await _find_tables(connection)
        version = _major(await _scalar(connection, "SHOW server_version"))
        filled = False
        for table in {"workspaces", "credentials"}.intersection(present):
            filled = filled or await _scalar(connection, f"SELECT EXISTS (SELECT 1 FROM {table})")  # noqa: S608
    if namespace != manifest.namespace:
        raise BackupError(
            f"the backup's tables are in the schema {manifest.namespace}, this user's are in {namespace}: "
            f"set the user's search_path to {manifest.namespace}"
        )
    if filled and not replace:
        raise BackupError("the database is not empty: restore into an empty one, or replace this one with --force")
    aside = f"{ASIDE}{stamp().lower()}" if filled else None
    reading = [_program("pg_restore", version), "--no-owner", "--no-privileges", "--exit-on-error", "--file=-"]
    # No --single-transaction: psql would commit when its input ends, even if it ended because this process was killed.
    writing = [_program("psql", version), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse"]

    def script() -> Generator[bytes]:
        yield _before(namespace, present, aside).encode()
        with closing(_output([*reading, str(archive.path)], os.environ)) as chunks:
            yield from chunks
        yield _after(manifest, _nodes(url)).encode()

    with closing(script()) as statements:
        _feed(writing, _environment(url), statements)
    return aside


async def begin_epochs(url: str) -> int:
    """Check the logs of a database that was restored by other means, and give each a new epoch. Return their number.

    Raises:
        BackupError: servers run, there are no tables, or a log is not complete.
        StoreUnavailable: the database cannot be reached.
    """
    async with session(url) as connection:
        await refuse_nodes(connection, url)
        _, present = await _find_tables(connection)
        if "workspaces" not in present:
            raise BackupError("there is no log in the database: restore the backup first")
        logs, problems = await read_state(connection)
        if problems:
            raise BackupError(f"the database is damaged: {in_words(problems)}")
        if "installation" in present:
            await connection.run_sync(renew)
        for log in logs:
            new = update(workspaces).where(workspaces.c.key == log.key).values(epoch=new_epoch())
            await connection.execute(new)
        await connection.execute(text("SELECT pg_stat_clear_snapshot()"))
        await refuse_nodes(connection, url)
        await connection.commit()
    return len(logs)


def _before(namespace: str, present: list[str], aside: str | None) -> str:
    """Return the statements that make room for the tables."""
    lines = ["BEGIN;", f"SET LOCAL lock_timeout = '{LOCK_WAIT}';"]
    if present:
        tables = [f"{_name(namespace)}.{_name(table)}" for table in present]
        lines.append(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE;")
        if aside is None:
            lines.append(f"DROP TABLE {', '.join(tables)};")
        else:
            lines.append(f"CREATE SCHEMA {_name(aside)};")
            lines += [f"ALTER TABLE {table} SET SCHEMA {_name(aside)};" for table in tables]
    return "\n".join(lines) + "\n"


def _after(manifest: Manifest, nodes: str) -> str:
    """Return the statements that set new epochs, check the restored data, and commit it."""
    epochs = [f"UPDATE workspaces SET epoch = '{new_epoch()}' WHERE key = {log.key:d};" for log in manifest.logs]  # noqa: S608
    return f"""
SET LOCAL search_path = {_name(manifest.namespace)}, pg_catalog;
{chr(10).join(epochs)}
DO $$ BEGIN
  IF (SELECT count(*) || ' ' || coalesce(sum(count), 0) FROM ({_CONTIGUOUS}) AS whole)
    <> '{len(manifest.logs)} {manifest.events}' THEN
    RAISE EXCEPTION 'the backup holds other logs than its manifest says';
  END IF;
  PERFORM pg_stat_clear_snapshot();
  IF EXISTS ({nodes}) THEN
    RAISE EXCEPTION 'a server was started meanwhile: stop it first';
  END IF;
END $$;
COMMIT;
"""  # noqa: S608


_CONTIGUOUS = f"""
SELECT l.count FROM ({LOGS}) AS l (key, id, epoch, head, earliest, count, first, last)
WHERE count = head - earliest + 1 AND coalesce(first, earliest) = earliest AND coalesce(last, head) = head
"""  # noqa: S608


async def _find_tables(connection: AsyncConnection) -> tuple[str, list[str]]:
    """Return the schema of our tables, or the one where they would be created, and the existing ones."""
    query = "SELECT coalesce((SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = {}), {})"
    namespace = await _scalar(connection, query.format("to_regclass('alembic_version')", "current_schema()"))
    if namespace is None:
        raise BackupError("this user has no schema to create tables in: set its search_path")
    return namespace, [
        table for table in TABLES if await _scalar(connection, f"SELECT to_regclass('{table}') IS NOT NULL")
    ]


async def _scalar(connection: AsyncConnection, query: str) -> Any:
    return (await connection.execute(text(query))).scalar_one()


def _name(text_: str) -> str:
    """Quote any name for SQL."""
    return '"' + text_.replace('"', '""') + '"'


def _text(value: str) -> str:
    """Quote any text for SQL."""
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _said(url: str) -> dict[str, str]:
    """Return the parts of a URL, by libpq's names."""
    arguments = parse(url).arguments
    query = dict(parse_qsl(urlsplit(str(arguments["dsn"])).query))
    return query | {name: str(value) for name, value in arguments.items() if name in _VARIABLES}


def _environment(url: str) -> dict[str, str]:
    """Return the environment with which libpq's programs find the database."""
    said = {_VARIABLES[name]: value for name, value in _said(url).items() if name in _VARIABLES}
    return {**os.environ, **said, "PGAPPNAME": OURS, "LC_MESSAGES": "C"}


def _program(name: str, at_least: int = 0) -> str:
    """Return the path of one of PostgreSQL's programs. Raises BackupError if there is none, or only an older one."""
    found = shutil.which(name)
    if found is None:
        raise BackupError(
            f"{name} is not on the PATH: install PostgreSQL's client programs"
            f"{f', version {at_least} or newer' if at_least else ''} (Debian: apt install postgresql-client)"
        )
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    if at_least and _major(said.partition("PostgreSQL)")[2]) < at_least:
        raise BackupError(
            f"{said.strip()} is older than the server, which is version {at_least}: "
            f"put {name} {at_least} or newer first on the PATH"
        )
    return found


def _major(version: str) -> int:
    found = re.search(r"[0-9]+", version)
    return int(found[0]) if found else 0


def _output(command: list[str], environment: Mapping[str, str]) -> Generator[bytes]:
    """Run a program and yield its output.

    Raises BackupError with its own message if it fails; it is killed if the caller stops reading.
    """
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(  # noqa: S603
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            assert process.stdout is not None  # noqa: S101
            try:
                while chunk := process.stdout.read(CHUNK):
                    yield chunk
            except BaseException:
                process.kill()
                raise
        _check_end(process, errors)


def _feed(command: list[str], environment: Mapping[str, str], chunks: Iterable[bytes]) -> None:
    """Run a program on an input.

    Raises BackupError with its own message if it fails; it is killed if the input fails.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
        )
        # A broken pipe: the program ended before its input did, and reports why.
        with contextlib.suppress(BrokenPipeError), process:
            assert process.stdin is not None  # noqa: S101
            try:
                for chunk in chunks:
                    process.stdin.write(chunk)
            except BaseException:
                process.kill()
                raise
        _check_end(process, errors)


def _check_end(process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
    if process.returncode:
        errors.seek(0)
        assert isinstance(process.args, list)  # noqa: S101
        program = Path(process.args[0]).name
        raise BackupError(f"{program} failed: {_reason(errors.read().decode(errors='replace'))}")


def _reason(said: str) -> str:
    """Return the first error in a program's output."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    error = next(
        (line for line in lines if re.search(r"error:|ERROR:|FATAL:", line)), lines[-1] if lines else "it says nothing"
    )
    return re.sub(r"^(psql:<stdin>:[0-9]+: |pg_\w+: |psql: )?((error|ERROR|FATAL): *)+", "", error)
