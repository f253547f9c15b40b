"""Shared by the commands that work on the database itself: settings, failures, progress."""

import contextlib
import signal
import sqlite3
import sys
from collections.abc import Iterator
from types import FrameType

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streamer.core.errors import StreamerError
from streamer.observe.output import takes_escapes
from streamer.settings import PREFIX, Settings, SettingsError, load
from streamer.store.backups.archive import NotIntact
from streamer.store.backups.archive import Progress as OnProgress
from streamer.store.backups.work import Steps
from streamer.store.engine.postgresql import BadDatabaseUrl

data_dir_option = click.option("--data-dir", metavar="PATH", help="Folder of the SQLite database [default: data].")


class Damaged(click.ClickException):
    """A file is not a backup or is damaged, or a database is damaged."""

    exit_code = 8


def settings_of(data_dir: str | None) -> Settings:
    """Return the settings of the server that uses the database."""
    try:
        return load({"data_dir": data_dir})
    except SettingsError as error:
        raise click.UsageError(str(error)) from None


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Report errors in the block as messages with exit codes; SIGTERM ends the block like an error."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except BadDatabaseUrl as error:
        raise click.UsageError(f"{PREFIX}DATABASE_URL: {error}") from None
    except StreamerError as error:
        raise (Damaged if isinstance(error, NotIntact) else click.ClickException)(error.message) from None
    except sqlite3.Error as error:
        raise click.ClickException(f"SQLite: {error}") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def shown_steps() -> Iterator[Steps]:
    """Yield a function that shows progress: a bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not takes_escapes(sys.stderr), transient=True) as bar:
        shown: list[TaskID] = []

        def begin(step: str) -> OnProgress:
            for task in shown:
                bar.remove_task(task)
            shown[:] = [task] = [bar.add_task(step, total=None)]
            return lambda done, total: bar.update(task, completed=done, total=total or None)

        yield begin
