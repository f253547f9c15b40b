"""The lock that keeps a second process away from a server's data.

It is a POSIX record lock: the system releases it when the process ends, however it ends, and it belongs to the process. So one process
may run several servers on the same data, and must not take the same lock twice: leaving the inner block would release both.
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
from streamer.store.database import Database

NAME = "streamer.lock"
"""The file in the data directory that is locked. It stays: removing it would let two processes lock two files of one name."""

_FLOCK = "hhqqi"
"""Linux's `struct flock`: type, whence, start, length, process."""


class InUse(StreamerError):
    """Another process uses the data; the text names what and, if the system tells it, which process."""


@contextlib.contextmanager
def exclusive(data_dir: Path, database: Database | None = None) -> Iterator[None]:
    """Keep other processes away from a server's data while the block runs.

    Args:
        data_dir: the data directory. One that does not exist is not locked, and not made.
        database: what is used. SQLite's file is locked too, wherever it is; it need not exist, but its folder must. Processes that
            use a PostgreSQL may share the data directory, which holds nothing but the admin key then.

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


def lock_of(file: Path) -> Path:
    """Return the file that is locked for a database of SQLite, which lies beside it."""
    return file.with_name(f"{file.name}.lock")


@contextlib.contextmanager
def _locked(lock: Path, what: Path, *, shared: bool) -> Iterator[None]:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if shared and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            yield  # this process can change nothing there
            return
        raise
    try:
        try:
            fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                raise
            raise InUse(f"{what} is in use by {_holder(descriptor)}: stop it first") from None
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Name the process that holds a lock."""
    if sys.platform == "linux":
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        if pid > 0:  # not one of another container
            return f"process {pid}"
    return "another process"
