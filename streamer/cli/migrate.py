"""`streamer migrate`: the tables, without the server."""

import asyncio

import click

from streamer.core.errors import StreamerError
from streamer.settings import PREFIX, SettingsError, load
from streamer.store.database import BadDatabaseUrl, Database
from streamer.store.migrate import HEAD, migrate


@click.command()
@click.option("--data-dir", metavar="PATH", help="Folder of the SQLite database [default: data].")
def command(data_dir: str | None) -> None:
    """Bring the database to this version's tables. The server does it by itself at its start.

    \b
    STREAMER_DATABASE_URL=postgresql://user:password@db/streamer streamer migrate
    """
    try:
        settings = load({"data_dir": data_dir})
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    try:
        changed = asyncio.run(_migrate(settings.database))
    except BadDatabaseUrl as error:
        raise click.UsageError(f"{PREFIX}DATABASE_URL: {error}") from None
    except StreamerError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"migrated to {HEAD}" if changed else f"nothing to do: the database is at {HEAD}")


async def _migrate(url: str) -> bool:
    database = Database(url)
    try:
        return await migrate(database)
    finally:
        await database.close()
