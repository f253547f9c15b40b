"""`streamer restore`: replace the database by a backup."""

import asyncio
from pathlib import Path

import click

from streamer.cli.offline import data_dir_option, failures, settings_of, shown_steps
from streamer.store.backups.work import restore
from streamer.store.engine.database import Database
from streamer.store.engine.lock import exclusive


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@data_dir_option
@click.option("--force", is_flag=True, help="Replace a database that is not empty; it is kept under another name.")
def command(*, file: Path, data_dir: str | None, force: bool) -> None:
    """Replace the database by a backup. Stop the server first.

    FILE was made by `streamer backup`. Each log gets a new epoch: readers get a gap, and read the log again.

    \b
    streamer restore data/backups/streamer-20260101T040000Z.db
    STREAMER_DATABASE_URL=postgresql://user:password@db/streamer streamer restore streamer.dump

    With PostgreSQL it needs pg_restore and psql. Exit code 8: the file is not a backup, or it is damaged; nothing was changed.
    """
    settings = settings_of(data_dir)
    with failures(), shown_steps() as steps:
        database = Database(settings.database)
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # for its user only, if it is created here
        with exclusive(settings.data_dir, database):
            done = asyncio.run(restore(settings.database, file, replace=force, steps=steps))
    logs, events = len(done.manifest.logs), done.manifest.events
    click.echo(
        f"restored {logs:,} log{'s' * (logs != 1)} with {events:,} event{'s' * (events != 1)}, as of {done.manifest.made_at}"
    )
    if done.migrated:
        click.echo("migrated to this version's tables")
    for place in done.kept:
        click.echo(f"the previous database is kept: {place}")
    click.echo("each log has a new epoch: readers get a gap, and read it again from the beginning")
