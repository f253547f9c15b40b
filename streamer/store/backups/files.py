"""Files that appear complete or not at all, and the rotation of older ones."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from streamer.store.backups.archive import BackupError

PARTIAL = ".partial"
_OURS = re.compile(r"streamer-[0-9]{8}T[0-9]{6}Z\.(db|dump)")


def stamp() -> str:
    """Return the time in UTC, in the format of file names."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def default_name(*, is_sqlite: bool) -> str:
    """Return the name for a new backup in a folder."""
    return f"streamer-{stamp()}.{'db' if is_sqlite else 'dump'}"


@contextlib.contextmanager
def appearing(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield the path of an empty file for this user only (mode 0600).

    At the end of the block it gets its final name in one step.

    Until then it is called `NAME.partial`; it is removed if the block fails. A partial file of a killed process is
    removed first.

    Args:
        target: its final path.
        replace: whether a file of that name can be replaced.

    Raises:
        BackupError: there is a file of that name, or it is not a regular file (a device, a pipe), or another process is writing it.
        OSError: it cannot be written.
    """
    if not replace and (target.exists() or target.is_symlink()):
        raise BackupError(f"{target} exists: choose another name, or replace it with --force")
    if target.exists() and not target.is_file():
        raise BackupError(f"{target} is not a regular file: choose another name")
    partial = target.with_name(target.name + PARTIAL)
    descriptor = _claim(partial)
    try:
        yield partial
        _put(partial, target, replace=replace)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)
        os.close(descriptor)


def _claim(partial: Path) -> int:
    """Create the file and lock it, to distinguish it from files of killed processes. Return its descriptor."""
    with contextlib.suppress(FileNotFoundError):
        if not _is_left(partial):
            raise BackupError(f"{partial} is being written by another process")
        partial.unlink()
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _is_left(partial: Path) -> bool:
    """Return whether no process is writing a partial file any more."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _put(partial: Path, target: Path, *, replace: bool) -> None:
    if not replace:
        with contextlib.suppress(OSError):  # a file system without hard links
            try:
                os.link(partial, target)
            except FileExistsError:
                raise BackupError(f"{target} was made meanwhile: choose another name") from None
            return
    partial.replace(target)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that its names survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(folder: Path, keep: int) -> list[Path]:
    """Remove all except the newest backups of a folder, and partial files of killed processes.

    Return the removed backups.
    """
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        partial = folder / name
        if name.endswith(PARTIAL) and _OURS.fullmatch(name.removesuffix(PARTIAL)) and _is_left(partial):
            partial.unlink(missing_ok=True)
    old = [folder / name for name in names if _OURS.fullmatch(name)][:-keep]
    for path in old:
        path.unlink(missing_ok=True)
    return old
