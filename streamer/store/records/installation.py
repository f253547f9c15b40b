"""The name of the installation: the same on all its nodes, and different from that of a copy of its database."""

import secrets

from sqlalchemy import Connection, select, update

from streamer.store.engine.database import Database, reads
from streamer.store.schema import installation


class Installation:
    """Reads and renews the name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @reads
    def name(self, connection: Connection) -> str:
        """Return the name: 12 hexadecimal digits. Raises StoreUnavailable."""
        return str(connection.execute(select(installation.c.id)).scalar_one())


def renew(connection: Connection) -> None:
    """Give the installation a new name: its database was restored, and the original may still run."""
    connection.execute(update(installation).values(id=secrets.token_hex(6)))
