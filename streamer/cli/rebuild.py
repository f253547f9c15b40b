"""`streamer rebuild`: rebuild entities from the logs."""

import asyncio
import sys
from collections.abc import AsyncIterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streamer.cli.offline import data_dir_option, failures, settings_of
from streamer.core.errors import WorkspaceNotFound
from streamer.observe.output import takes_escapes
from streamer.store.engine.database import Database
from streamer.store.engine.lock import exclusive
from streamer.store.log.entities import Entities
from streamer.store.migrate import migrate
from streamer.store.records.workspaces import Workspaces

PAGE = 1000


@click.command()
@click.option("--workspace", metavar="WS", help="Only this workspace [default: all].")
@data_dir_option
def command(*, workspace: str | None, data_dir: str | None) -> None:
    """Rebuild the entities (issues, runs and others) from the logs.

    With PostgreSQL servers may run and append meanwhile; with SQLite it is refused while a server uses the database. It is needed
    once after an upgrade from a version that kept none.

    \b
    streamer rebuild
    streamer rebuild --workspace my
    STREAMER_DATABASE_URL=postgresql://user:password@db/streamer streamer rebuild
    """
    settings = settings_of(data_dir)
    with failures():
        database = Database(settings.database)
        if not database.exists():
            raise click.ClickException(f"there is no database in {settings.data_dir}: name its folder with --data-dir")
        with exclusive(settings.data_dir, database):
            try:
                asyncio.run(_rebuild(database, workspace))
            except WorkspaceNotFound:
                raise click.ClickException(f"there is no workspace {workspace}") from None


async def _rebuild(database: Database, wanted: str | None) -> None:
    escapes = takes_escapes(sys.stdout)
    console = Console(soft_wrap=True, highlight=False, color_system="auto" if escapes else None)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeRemainingColumn(),
        console=console,
        disable=not escapes,
        transient=True,
    )
    try:
        await migrate(database)
        entities, count = Entities(database), 0
        with bar:
            async for workspace in _workspaces(database, wanted):
                task = bar.add_task(workspace, total=None)

                def show(reached: int, head: int, task: TaskID = task) -> None:
                    bar.update(task, completed=reached, total=head)

                try:
                    await entities.rebuild(workspace, show)
                except WorkspaceNotFound:
                    if wanted is not None:
                        raise
                    continue  # it was deleted meanwhile
                finally:
                    bar.remove_task(task)
                count += 1
                console.print(f"{workspace}: rebuilt", markup=False)
        console.print("1 workspace" if count == 1 else f"{count} workspaces")
    finally:
        await database.close()


async def _workspaces(database: Database, wanted: str | None) -> AsyncIterator[str]:
    """Yield the ids of the workspaces, in order."""
    if wanted is not None:
        yield wanted
        return
    records, after = Workspaces(database), ""
    while page := await records.listing(None, after=after, limit=PAGE):
        for workspace in page:
            yield workspace.id
        after = page[-1].id
