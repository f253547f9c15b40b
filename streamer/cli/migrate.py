"""`streamer migrate`: run database migrations without the server."""

import asyncio

import click

from streamer.cli.offline import data_dir_option, failures, settings_of
from streamer.store.backups.work import accept
from streamer.store.engine.database import Database
from streamer.store.engine.lock import exclusive
from streamer.store.migrate import HEAD, migrate


@click.command()
@data_dir_option
@click.option(
    "--restored",
    is_flag=True,
    help="The database is a backup that was restored by hand: check it, and make every reader start again with a gap.",
)
@click.option(
    "--wal",
    type=click.Choice(["keep", "discard"]),
    help="With --restored: the write-ahead log beside SQLite's file was restored with it (keep), or belongs to the previous database (discard).",
)
def command(*, data_dir: str | None, restored: bool, wal: str | None) -> None:
    """Run database migrations. The server also does this at its start.

    \b
    STREAMER_DATABASE_URL=postgresql://user:password@db/streamer streamer migrate
    streamer migrate --restored               once, after a backup was restored by hand, before the server starts

    With SQLite it is refused while a server uses the database; with PostgreSQL only --restored is.
    """
    settings = settings_of(data_dir)
    with failures():
        database = Database(settings.database)
        if wal is not None and not (restored and database.is_sqlite):
            raise click.UsageError("--wal needs --restored, on SQLite")
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # for its user only, if it is created here
        with exclusive(settings.data_dir, database):
            if restored:
                changed, renewed = asyncio.run(accept(settings.database, wal=wal))
            else:
                changed = asyncio.run(_migrate(database))
    click.echo(f"migrated to {HEAD}" if changed else f"nothing to do: the database is at {HEAD}")
    if restored:
        click.echo(f"{renewed} logs have a new epoch: their readers get a gap, and read them again from the beginning")


async def _migrate(database: Database) -> bool:
    try:
        return await migrate(database)
    finally:
        await database.close()
