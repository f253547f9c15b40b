"""`streamer backup`: copy the database of a running server into one verified file."""

import asyncio
from pathlib import Path

import click

from streamer.cli.offline import data_dir_option, failures, settings_of, shown_steps
from streamer.store.backups.archive import Manifest
from streamer.store.backups.files import default_name, rotate
from streamer.store.backups.work import make, verify
from streamer.store.engine.database import Database


@click.command()
@click.argument("target", required=False, type=click.Path())  # a Path would lose a trailing slash
@data_dir_option
@click.option("--verify", "verify_only", is_flag=True, help="Check the backup TARGET instead of making one.")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="Then remove all except the newest N backups in the folder.",
)
@click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
def command(*, target: str | None, data_dir: str | None, verify_only: bool, keep: int | None, force: bool) -> None:
    """Back up the database into one file, and verify it. The server can keep running.

    TARGET is a file, or a folder in which the backup is named by the time [default: backups in the data directory].

    \b
    streamer backup
    streamer backup /mnt/backups/ --keep 14
    streamer backup --verify /mnt/backups/streamer-20260101T040000Z.db

    With PostgreSQL it needs pg_dump, of the server's version or newer. Exit code 8: the file is not a backup, or it is damaged.
    """
    if verify_only:
        if target is None or keep is not None or force:
            raise click.UsageError("--verify needs one backup, and no other option")
        with failures(), shown_steps() as steps:
            manifest = asyncio.run(verify(Path(target), steps))
        click.echo(f"{target} is intact: {_contents(manifest)}")
        return
    settings = settings_of(data_dir)
    with failures():
        database = Database(settings.database)
        if not database.exists():
            raise click.ClickException(f"there is no database in {settings.data_dir}: name its folder with --data-dir")
        folder = settings.data_dir / "backups" if target is None else Path(target)
        if target is None or target.endswith("/"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not folder.is_dir():
            if keep is not None:
                raise click.UsageError("--keep needs a folder: name an existing one, or add a trailing /")
            file = folder
        else:
            file = folder / default_name(is_sqlite=database.is_sqlite)
        with shown_steps() as steps:
            manifest = asyncio.run(
                make(settings.database, file, data_dir=settings.data_dir, replace=force, steps=steps)
            )
        click.echo(f"{file}: {_contents(manifest)}, {file.stat().st_size:,} bytes, verified")
        for old in rotate(folder, keep) if keep else ():
            click.echo(f"removed {old}")


def _contents(manifest: Manifest) -> str:
    logs, events = len(manifest.logs), manifest.events
    return f"{logs:,} log{'s' * (logs != 1)} with {events:,} event{'s' * (events != 1)}, as of {manifest.made_at}"
