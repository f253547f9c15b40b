"""What `streamer doctor` asks the database, beyond what a server needs to know."""

import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, inspect, text

from streamer.core.clock import now_us
from streamer.store.engine.database import Database, reads, writes
from streamer.store.engine.postgresql import SESSION
from streamer.store.engine.readiness import NEEDED, NO_WORKSPACE
from streamer.store.schema import idempotency

_KEPT = "idle_in_transaction_session_timeout"
"""A setting of our sessions, by which a pooler that drops them is noticed."""

_OLDEST = text(
    """
    SELECT what, end_it, seconds FROM (
        SELECT format('process %s (user %s, application %s)', pid, usename, application_name) AS what,
            format('SELECT pg_terminate_backend(%s)', pid) AS end_it,
            extract(epoch FROM clock_timestamp() - xact_start) AS seconds
        FROM pg_stat_activity
        WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND xact_start IS NOT NULL
            AND datname = current_database() AND pid <> pg_backend_pid()
        UNION ALL
        SELECT format('the prepared transaction %s (user %s)', gid, owner), format('ROLLBACK PREPARED %L', gid),
            extract(epoch FROM clock_timestamp() - prepared)
        FROM pg_prepared_xacts WHERE database = current_database()
    ) AS holders ORDER BY seconds DESC LIMIT 1
    """
)


@dataclass(frozen=True, slots=True)
class About:
    """A database."""

    product: str
    """Name and version of the program."""
    name: str
    encoding: str
    seconds: float
    """How long a round trip takes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on PostgreSQL: rows that died after it was taken cannot be removed."""

    what: str
    """What holds it."""
    end_it: str
    """The statement that ends it."""
    seconds: float
    """Its age."""


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots that this user may see."""

    oldest: Snapshot | None
    are_all: bool
    """Whether those of other users are among them."""


@dataclass(frozen=True, slots=True)
class Pooler:
    """What is between us and PostgreSQL."""

    present: bool
    keeps_settings: bool
    """Whether our settings of the session are in effect."""


@dataclass(frozen=True, slots=True)
class Skew:
    """A comparison of the database's clock with ours."""

    us: int
    """Microseconds that the database's clock is ahead."""
    error_us: int
    """How inexact that can be."""


class Health:
    """Asks a database. Each method raises StoreUnavailable; those about sessions and clocks are for PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @reads
    def about(self, connection: Connection) -> About:
        """Describe the database."""
        if self._database.is_sqlite:
            query = "SELECT 'SQLite ' || sqlite_version(), '', encoding FROM pragma_encoding"
        else:
            query = "SELECT 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1), 'database ' || current_database(),"
            query += " current_setting('server_encoding')"
        product, name, encoding = connection.execute(text(query)).one()
        before = time.perf_counter()
        connection.execute(text("SELECT 1"))
        seconds = time.perf_counter() - before
        return About(str(product), name or str(self._database.file), str(encoding), seconds)

    @reads
    def migration(self, connection: Connection) -> str | None:
        """Return the newest migration of the tables; None: there are none."""
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()

    @writes
    def write(self, connection: Connection) -> None:
        """Write and remove a row, in a transaction that is committed and has all that an append needs."""
        self._database.hurry(connection)
        for statement in NEEDED:
            connection.execute(statement)
        key = f"doctor:{secrets.token_hex(8)}"
        row = {"workspace": NO_WORKSPACE, "key": key, "fingerprint": "", "seqs": "", "expires_at": now_us()}
        connection.execute(insert(idempotency).values(**row))
        connection.execute(delete(idempotency).where(idempotency.c.workspace == NO_WORKSPACE, idempotency.c.key == key))

    @reads
    def snapshots(self, connection: Connection) -> Snapshots:
        """Return the oldest snapshot of a transaction in this database."""
        row = connection.execute(_OLDEST).one_or_none()
        sees_all = connection.execute(text("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")).scalar_one()
        oldest = None if row is None else Snapshot(row.what, row.end_it, float(row.seconds))
        return Snapshots(oldest, bool(sees_all))

    @reads
    def pooler(self, connection: Connection) -> Pooler:
        """Find out what the connection goes through."""
        # A pooler gives its clients process numbers of its own, by which they can cancel statements.
        announced = connection.connection.driver_connection.get_server_pid()  # type: ignore[union-attr]
        pid, kept = connection.execute(text(f"SELECT pg_backend_pid(), current_setting('{_KEPT}')")).one()
        return Pooler(announced != pid, kept == SESSION[_KEPT])

    @reads
    def skew(self, connection: Connection) -> Skew:
        """Compare the clocks."""
        query = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        before = now_us()
        theirs = connection.execute(query).scalar_one()
        after = now_us()
        return Skew(int(theirs) - (before + after) // 2, abs(after - before) // 2)

    def unfinished_bytes(self) -> int:
        """Return the size of SQLite's write-ahead log, which grows while a program holds an old snapshot."""
        file = self._database.file
        log = file.with_name(f"{file.name}-wal") if file is not None else None
        return log.stat().st_size if log is not None and log.exists() else 0
