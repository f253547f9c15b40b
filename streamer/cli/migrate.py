"""`streamer migrate`: the tables, without the server."""

import asyncio

import click

from streamer.core.errors import StreamerError
from streamer.settings import PREFIX, Settings, SettingsError, load
from streamer.store.database import Database
from streamer.store.lock import exclusive
from streamer.store.migrate import HEAD, migrate
from streamer.store.postgresql import BadDatabaseUrl
from streamer.store.workspaces import Workspaces


@click.command()
@click.option("--data-dir", metavar="PATH", help="Folder of the SQLite database [default: data].")
@click.option(
    "--restored",
    is_flag=True,
    help="The database is a restored backup: have every reader told that its position is of the past.",
)
def command(*, data_dir: str | None, restored: bool) -> None:
    """Bring the database to this version's tables. The server does it by itself at its start.

    \b
    STREAMER_DATABASE_URL=postgresql://user:password@db/streamer streamer migrate
    streamer migrate --restored               once, after a backup was restored, before the server starts

    With SQLite it is refused while a server uses the database.
    """
    try:
        settings = load({"data_dir": data_dir})
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # for its user only, if it is made here
    try:
        changed, renewed = asyncio.run(_migrate(settings, restored=restored))
    except BadDatabaseUrl as error:
        raise click.UsageError(f"{PREFIX}DATABASE_URL: {error}") from None
    except StreamerError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"migrated to {HEAD}" if changed else f"nothing to do: the database is at {HEAD}")
    if restored:
        click.echo(f"{renewed} logs have a new epoch: their readers are told, and read them again from the beginning")


async def _migrate(settings: Settings, *, restored: bool) -> tuple[bool, int]:
    database = Database(settings.database)
    with exclusive(settings.data_dir, database):
        try:
            changed = await migrate(database)
            return changed, await Workspaces(database).renew_epochs() if restored else 0
        finally:
            await database.close()
