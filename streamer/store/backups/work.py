"""The steps of the commands: make a backup, verify it, restore it, accept a database that was restored by other means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy.engine import URL

from streamer import __version__
from streamer.store.backups import postgresql, sqlite
from streamer.store.backups.archive import Archive, BackupError, Manifest, NotIntact, Progress, open_archive, seal
from streamer.store.backups.files import appearing
from streamer.store.engine.database import Database
from streamer.store.engine.lock import NAME as LOCK
from streamer.store.engine.lock import lock_of
from streamer.store.migrate import HEAD, migrate
from streamer.store.records.workspaces import Workspaces

KEY_FILE = "admin.key"
"""The file in the data directory with the admin key that the server created."""

Steps = Callable[[str], Progress]
"""Called with the step that begins; returns a function for its progress. An unknown total is 0."""


@dataclass(frozen=True)
class Restored:
    """A restored backup."""

    manifest: Manifest
    kept: Sequence[str]
    """The databases that this restore, and an earlier killed one, replaced: paths, or a schema."""
    migrated: bool


async def make(url: str, target: Path, *, data_dir: Path, replace: bool, steps: Steps) -> Manifest:
    """Back up a database while servers run, into one file, and verify it.

    Args:
        url: the database's URL.
        target: the file. It must not be one of the server's own.
        data_dir: the server's data directory.
        replace: whether a file of that name can be replaced.
        steps: shows the progress.

    Raises:
        BackupError: it cannot be made; nothing is left of it.
        StoreUnavailable, BadDatabaseUrl: the database cannot be reached.
        OSError, sqlite3.Error: a file cannot be read or written.
    """
    file = _file(Database(url))
    _refuse_own(file, data_dir, target)
    made_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    describe = partial(
        Manifest, database="postgresql" if file is None else "sqlite", made_at=made_at, streamer=__version__
    )
    with appearing(target, replace=replace) as partial_file:
        if file is None:
            written = steps("dump")
            manifest = await postgresql.dump(url, partial_file, describe, lambda done: written(done, 0))
        else:
            logs, revision = sqlite.copy_database(file, partial_file, steps("copy"))
            manifest = describe(logs=logs, revision=revision, engine=sqlite.engine())
        seal(partial_file, manifest, steps("checksum"))
        try:
            await _check_contents(open_archive(partial_file, steps("verify")))
        except NotIntact as error:
            raise BackupError(f"the copy is damaged, and most likely the database, too: {error.message}") from None
    return manifest


def _refuse_own(file: Path | None, data_dir: Path, target: Path) -> None:
    """Raise BackupError if a backup would replace the database, a file beside it, a lock or the key.

    The file need not exist yet.
    """
    own = [data_dir / LOCK, data_dir / KEY_FILE]
    if file is not None:
        own += [file, lock_of(file), *(file.with_name(file.name + end) for end in sqlite.SIDE_FILES)]
    for path in own:
        same = target.exists() and path.exists() and target.samefile(path)
        if same or target.resolve() == path.resolve():
            what = "the database itself" if path == file else "a file of the server"
            raise BackupError(f"{target} is {what}: choose another name")


async def verify(path: Path, steps: Steps) -> Manifest:
    """Check all of a backup. Raises NotIntact, OSError."""
    archive = open_archive(path, steps("verify"))
    await _check_contents(archive)
    return archive.manifest


async def _check_contents(archive: Archive) -> None:
    manifest = archive.manifest
    if manifest.database == "postgresql":
        postgresql.check_dump(archive.path)
    elif sqlite.check_file(archive.path) != manifest.logs:
        raise NotIntact(f"{archive.path} has other logs than its manifest")


async def restore(url: str, path: Path, *, replace: bool, steps: Steps) -> Restored:
    """Replace a database by a backup, with a new epoch for each log. The caller holds the lock.

    Raises:
        NotIntact: the file is not a backup, or it is damaged.
        BackupError: it does not fit, or the database is not empty and must not be replaced.
        StoreUnavailable, BadDatabaseUrl: the database cannot be reached.
        OSError, sqlite3.Error: a file cannot be read or written.
    """
    archive = open_archive(path, steps("verify"))
    database = Database(url)
    kind = "sqlite" if database.is_sqlite else "postgresql"
    if archive.manifest.database != kind:
        raise BackupError(f"{path} is a backup of {archive.manifest.database}, the database to restore is {kind}")
    if archive.manifest.revision > HEAD:
        raise BackupError(
            f"{path} is at migration {archive.manifest.revision}, this version of streamer knows only {HEAD}: "
            "restore it with a newer version"
        )
    file = _file(database)
    if file is None:
        aside = await postgresql.restore(url, archive, replace=replace)
        return Restored(archive.manifest, [aside] if aside else [], await _migrate(url))
    earlier = sqlite.finish_earlier(file)
    if not replace and not sqlite.is_empty(file):
        raise BackupError(f"{file} is not empty: --force replaces it by the backup, and keeps it under another name")
    with sqlite.unpacked(archive, file, steps("copy")) as fresh:
        migrated = await _migrate(URL.create("sqlite", database=str(fresh)).render_as_string())
        sqlite.begin_epochs(fresh, archive.manifest.logs)
        replaced = sqlite.exchange(fresh, file)
    return Restored(archive.manifest, [str(path) for path in (earlier, replaced) if path], migrated)


async def accept(url: str, *, wal: str | None) -> tuple[bool, int]:
    """Check a database that was restored by other means, migrate it, and give each log a new epoch.

    The caller holds the lock.

    Args:
        url: the database's URL.
        wal: what to do with SQLite's write-ahead log beside the file: `keep` or `discard`.

    Returns: whether there were migrations to run; the number of logs.

    Raises:
        BackupError: it is damaged, or has a write-ahead log beside it and `wal` is not given.
        StoreUnavailable, BadDatabaseUrl: the database cannot be reached.
    """
    database = Database(url)
    file = _file(database)
    if file is None:
        count = await postgresql.begin_epochs(url)
        return await _migrate(url), count
    if not file.exists() or not file.stat().st_size:
        raise BackupError(f"there is no database at {file}: put the backup there first")
    beside = sqlite.side_files(file)
    if beside and wal is None:
        raise BackupError(
            f"{beside[0]} is beside the database. If it belongs to the previous database, it would destroy the backup: "
            f"use --wal discard, which renames it. If it was restored together with {file.name}: use --wal keep"
        )
    if wal == "discard":
        sqlite.set_side_files_aside(file)
    sqlite.check_file(file, in_use=True)
    try:
        changed = await migrate(database)
        return changed, await Workspaces(database).renew_epochs()
    finally:
        await database.close()


def _file(database: Database) -> Path | None:
    """Return SQLite's file under the name that SQLite uses: a link's target. The files beside it are there, too."""
    return database.file.resolve() if database.file is not None else None


async def _migrate(url: str) -> bool:
    database = Database(url)
    try:
        return await migrate(database)
    finally:
        await database.close()
