"""SQLite: copy a file page by page from one snapshot, and swap it in for another one."""

import contextlib
import errno
import itertools
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from streamer.core.ids import new_epoch
from streamer.store.backups.archive import Archive, BackupError, NotIntact, Progress
from streamer.store.backups.files import stamp, sync_folder
from streamer.store.backups.logs import LOGS, LogState, in_words, read_logs

STEP_PAGES = 256
"""Pages that are copied between two progress reports: 1 MiB."""
BUSY_SECONDS = 30
SIDE_FILES = ("-wal", "-shm", "-journal")
"""SQLite's files beside a database. They belong to this database alone, although only their names show it."""
_VERSIONS_AT = 18
"""Offset in SQLite's file that shows whether it is in WAL mode (2, 2), and so needs two more files beside it, or not (1, 1)."""
RESTORING = ".restoring"
REPLACED = ".replaced"


def copy_database(source: Path, target: Path, on_progress: Progress) -> tuple[list[LogState], str]:
    """Copy a database, as it is at one moment, into an empty file. Return the extent of its logs, and its migration.

    One read transaction holds the snapshot throughout. So servers keep appending, and the copy never has to restart.
    Until it is done, SQLite cannot reuse its write-ahead log, which grows with every append meanwhile.

    Raises:
        BackupError: the database is damaged, or there is no space for the copy.
        OSError, sqlite3.Error: a file cannot be read or written.
    """
    with closing(_connect(source)) as live, closing(_connect(target)) as copy:
        copy.execute("PRAGMA journal_mode=OFF")  # the copy is removed if this fails
        copy.execute("PRAGMA synchronous=OFF")  # `seal` syncs the file at the end
        live.execute("PRAGMA query_only=1")
        live.execute("BEGIN")
        logs, problems = read_logs(live.execute(LOGS))
        if problems:
            raise BackupError(f"the database {source} is damaged: {in_words(problems)}")
        revision = _revision(live)
        pages, size = _number(live, "page_count"), _number(live, "page_size")
        check_room(target.parent, pages * size)
        live.backup(
            copy, pages=STEP_PAGES, progress=lambda _, left, total: on_progress(size * (total - left), size * total)
        )
        live.execute("ROLLBACK")
    with target.open("r+b") as file:
        file.seek(_VERSIONS_AT)
        file.write(b"\1\1")
    return logs, revision


def check_file(path: Path, *, in_use: bool = False) -> list[LogState]:
    """Check a database's structure, and that its logs are complete. Return their extent.

    Args:
        path: the database's file.
        in_use: it may have files beside it. Otherwise it is read as it is, without locks.

    Raises:
        NotIntact: it is damaged.
    """
    try:
        with closing(_connect(path, "mode=rw" if in_use else "mode=ro&immutable=1")) as database:
            found = [text for (text,) in database.execute("PRAGMA integrity_check(10)")]
            if found != ["ok"]:
                raise NotIntact(f"{path} is damaged: {in_words(found)}")
            logs, problems = read_logs(database.execute(LOGS))
    except sqlite3.DatabaseError as error:
        raise NotIntact(f"{path} is damaged: {error}") from None
    if problems:
        raise NotIntact(f"{path} is damaged: {in_words(problems)}")
    return logs


def check_room(folder: Path, needed: int) -> None:
    """Raise BackupError if a folder's disk has too little free space."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BackupError(f"no space in {folder}: {needed:,} bytes are needed, {free:,} are free")


def is_empty(path: Path) -> bool:
    """Return whether a database can be replaced without losing data: it does not exist, or has neither workspaces nor keys."""
    if not path.exists() or not path.stat().st_size:
        return True
    try:
        with closing(_connect(path)) as database:
            tables = ("workspaces", "credentials")
            return not any(database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in tables)  # noqa: S608
    except sqlite3.Error:
        return False


@contextlib.contextmanager
def unpacked(archive: Archive, database: Path, on_progress: Progress) -> Iterator[Path]:
    """Yield a copy of a backup's database, beside the database to replace.

    It is removed if it still exists at the end.
    """
    fresh = database.with_name(database.name + RESTORING)
    _remove(fresh)
    try:
        check_room(database.parent, archive.payload_bytes)
        with open(fresh, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            archive.copy(file, on_progress)
        yield fresh
    finally:
        _remove(fresh)


def _remove(path: Path) -> None:
    for name in (path.name, *(path.name + end for end in SIDE_FILES)):
        path.with_name(name).unlink(missing_ok=True)


def begin_epochs(path: Path, expected: Sequence[LogState]) -> None:
    """Give each log of a database a new epoch, check it, and leave it in one file on the disk."""
    with closing(_connect(path)) as database:
        database.execute("BEGIN IMMEDIATE")
        for (key,) in database.execute("SELECT key FROM workspaces").fetchall():
            database.execute("UPDATE workspaces SET epoch = ? WHERE key = ?", (new_epoch(), key))
        database.execute("COMMIT")
    settle(path)
    found = check_file(path)
    if [log.contents for log in found] != [log.contents for log in expected]:
        raise NotIntact("the backup's logs differ from its manifest")
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def settle(path: Path) -> None:
    """Checkpoint a database: merge the files beside it into it, and remove them. Raises sqlite3.Error."""
    with closing(_connect(path)) as database:
        database.execute("PRAGMA journal_mode=DELETE")


def finish_earlier(database: Path) -> Path | None:
    """Finish a restore that was killed. Return the path of the database that it replaced, if it did."""
    old = database.with_name(database.name + REPLACED)
    if not old.exists():
        return None
    if database.exists() and old.samefile(database):  # killed before the swap
        old.unlink()
        return None
    return _set_aside(old, database)


def exchange(fresh: Path, database: Path) -> Path | None:
    """Replace a database by another one. Return the new path of the previous one; None: there was none.

    At any moment the name refers to one of the two, complete: the old one is checkpointed first, then the new file
    takes its name in one step.

    Raises: OSError.
    """
    old = database.with_name(database.name + REPLACED)
    if database.exists():
        with contextlib.suppress(sqlite3.Error):  # too damaged: it is kept as it is
            settle(database)
        try:
            os.link(database, old)
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}:
                raise
            database.rename(old)  # a file system without hard links
    for end in SIDE_FILES:  # of a damaged or missing database
        with contextlib.suppress(FileNotFoundError):
            database.with_name(database.name + end).rename(old.with_name(old.name + end))
    sync_folder(database.parent)
    fresh.replace(database)
    sync_folder(database.parent)
    return _set_aside(old, database) if old.exists() else None


def _set_aside(old: Path, database: Path) -> Path:
    """Give the replaced database its final name, with the files beside it."""
    aside = _free_name(database, "before-restore")
    for end in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            old.with_name(old.name + end).rename(aside.with_name(aside.name + end))
    old.rename(aside)
    return aside


def side_files(database: Path) -> list[Path]:
    """Return the files beside a database that contain transactions not yet in it."""
    found = [database.with_name(database.name + end) for end in ("-wal", "-journal")]
    return [path for path in found if path.exists() and path.stat().st_size]


def set_side_files_aside(database: Path) -> list[Path]:
    """Rename the files beside a database, so that SQLite does not read them. Return their new paths."""
    moved = []
    name = _free_name(database, "discarded").name
    for end in SIDE_FILES:
        beside = database.with_name(database.name + end)
        if beside.exists():
            moved.append(beside.rename(database.with_name(name + end)))
    sync_folder(database.parent)
    return moved


def _free_name(database: Path, what: str) -> Path:
    """Return an unused name with the time in it, also unused for files beside it."""
    first = f"{database.name}.{what}-{stamp()}"
    taken = [path.name for path in database.parent.iterdir()]
    names = (first if number == 1 else f"{first}-{number}" for number in itertools.count(1))
    return database.with_name(next(name for name in names if not any(other.startswith(name) for other in taken)))


def engine() -> str:
    """Return the database's own version."""
    return f"SQLite {sqlite3.sqlite_version}"


def _connect(path: Path, how: str = "mode=rw") -> sqlite3.Connection:
    """Open an existing file; a `?` or `%` in its name is part of the name."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, timeout=BUSY_SECONDS)


def _revision(database: sqlite3.Connection) -> str:
    (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(revision)


def _number(database: sqlite3.Connection, pragma: str) -> int:
    (number,) = database.execute(f"PRAGMA {pragma}").fetchone()
    return int(number)
