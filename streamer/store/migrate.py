"""Runs database migrations under a lock: any number of nodes can start at once."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from streamer.core.errors import StreamerError
from streamer.store.engine.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0012"
"""The newest migration; a test compares it with the scripts. This constant spares most starts the import of alembic."""

_LOCK = 0x73747265616D6572  # "streamer"


class DatabaseTooNew(StreamerError):
    """The database was made by a newer version of the server."""


class DatabaseUnfit(StreamerError):
    """The database cannot store what clients send."""


async def migrate(database: Database) -> bool:
    """Run the missing migrations. Return whether there were any.

    Raises:
        DatabaseUnfit: the database's encoding is not UTF8.
        DatabaseTooNew: the database has a migration that this version does not know.
        StoreUnavailable: the database cannot be reached.
    """
    if await database.read(_version) == HEAD:
        return False
    return await database.write(lambda connection: _upgrade(connection, is_sqlite=database.is_sqlite))


def _version(connection: Connection) -> str | None:
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            raise DatabaseUnfit(
                f"the database's encoding is {encoding}; streamer needs UTF8 (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
            )
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _upgrade(connection: Connection, *, is_sqlite: bool) -> bool:
    from alembic import command  # noqa: PLC0415 - slow to import, and most starts have nothing to migrate

    # SQLite is locked by BEGIN IMMEDIATE already. The lock ends with the transaction, even if this process dies.
    if not is_sqlite:
        # Another node can take long, and so can a migration.
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    found = _version(connection)
    if found == HEAD:  # another node was faster
        return False
    if found is not None and found > HEAD:
        raise DatabaseTooNew(
            f"the database is at migration {found}, this version of streamer knows only {HEAD}: start a newer version"
        )
    command.upgrade(_config(connection), "head")
    return True


def _config(connection: Connection) -> "Config":
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
