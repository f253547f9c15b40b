"""The lock that keeps a second process away from a server's data.

It is a POSIX record lock: the system releases it when the process ends, however it ends, and it belongs to the process.
So one process can run several servers on the same data, and must not take the same lock twice: leaving the inner block
would release both.
"""

import contextlib
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from streamer.core.errors import StreamerError
from streamer.store.engine.database import Database

NAME = "streamer.lock"
"""The locked file in the data directory.

It is never removed: otherwise two processes could lock two files of the same name.
"""

_FLOCK = "hhqqi"
"""Linux's `struct flock`: type, whence, start, length, process."""


class InUse(StreamerError):
    """Another process uses the data; the message names the data and, if the system reports it, the process."""


@contextlib.contextmanager
def exclusive(data_dir: Path, database: Database | None = None) -> Iterator[None]:
    """Keep other processes away from a server's data while the block runs.

    Args:
        data_dir: the data directory. If it does not exist, it is neither locked nor created.
        database: the database in use. SQLite's file is locked, too, wherever it is; its folder must exist. Processes with a
            PostgreSQL can share the data directory, which then holds nothing except the admin key.

    Raises:
        InUse: another process holds it.
        OSError: the lock cannot be taken.
    """
    file = database.file if database is not None else None
    with contextlib.ExitStack() as stack:
        if data_dir.exists():
            stack.enter_context(_locked(data_dir / NAME, data_dir, shared=database is not None and file is None))
        if file is not None:
            file = file.resolve()
            stack.enter_context(_locked(lock_of(file), file, shared=False))
        yield


def holder_of(data_dir: Path) -> int | None:
    """Return the process that uses a data directory; None: there is none, or it cannot be seen from here."""
    try:
        descriptor = os.open(data_dir / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _holding(descriptor)
    finally:
        os.close(descriptor)


def lock_of(file: Path) -> Path:
    """Return the file that is locked for an SQLite database, beside it."""
    return file.with_name(f"{file.name}.lock")


@contextlib.contextmanager
def _locked(lock: Path, what: Path, *, shared: bool) -> Iterator[None]:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if shared and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            yield  # this process cannot change anything there
            return
        raise
    try:
        try:
            fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                raise
            raise InUse(
                f"{what} is in use by {_holder(descriptor)}: stop it first; for several processes, use PostgreSQL"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Return the name of the process that holds a lock."""
    pid = _holding(descriptor)
    return f"process {pid}" if pid is not None else "another process"


def _holding(descriptor: int) -> int | None:
    """Return the process that holds a lock; None: there is none, or the system does not name it."""
    if sys.platform != "linux":
        return None
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    # Not a process of another container, whose number would be 0 or less.
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None
