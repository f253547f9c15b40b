"""A position that survives a restart: `--cursor-file`."""

import errno
import os
import time
from pathlib import Path

from streamer.cli.remote import Failure
from streamer.core.position import POSITION

SYNC_SECONDS = 1.0

_IN_PLACE = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS})
"""Errors of a rename over a file that may still be writable."""
_WIDTH = 64
"""Width of the file's only line: enough for any position, and less than a disk's sector, which is written completely or not at all."""


class CursorFile:
    """A position in a file, written after each event.

    A rename creates the file, so it appears complete; after that its line is overwritten in place. A file that cannot
    be replaced by a rename, because it is a mount point, is written in place from the start. A file that was removed or
    replaced is created again. A killed process loses nothing, because the kernel holds what it wrote. A power failure
    can undo the last second, and those events are repeated. Syncing after each event would cost milliseconds each time
    and delay a busy stream.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        self._descriptor: int | None = None
        self._written: str | None = None
        self._synced_at = 0.0

    def read(self) -> str | None:
        """Return the position, or None if there is no file yet."""
        if self._path.exists() and not self._path.is_file():  # reading a pipe or a device may block indefinitely
            raise Failure(f"--cursor-file {self._path} is not a regular file")
        try:
            text = self._path.read_text("utf-8-sig")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._failure(error) from None
        # Without its line end it may be a truncated position, which looks like an earlier one.
        if not text.endswith("\n") or not POSITION.fullmatch(text.strip()):
            raise Failure(
                f"{self._path} holds no position", hint="Remove it to start again, or name another --cursor-file."
            )
        return text.strip()

    def write(self, position: str) -> None:
        """Replace the position."""
        if position == self._written:
            return
        line = position.ljust(_WIDTH - 1).encode() + b"\n"
        try:
            if self._descriptor is None or not self._is_there(self._descriptor):
                self.close()
                self._descriptor = self._create(line)
            else:
                os.pwrite(self._descriptor, line, 0)
                if time.monotonic() - self._synced_at >= SYNC_SECONDS:
                    self._sync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from None
        self._written = position

    def close(self) -> None:
        """Sync the last position to the disk."""
        if self._descriptor is not None:
            self._sync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _is_there(self, descriptor: int) -> bool:
        """Return whether the open file is still the one with this name."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _create(self, line: bytes) -> int:
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        descriptor: int | None = None
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            os.write(descriptor, line)
            self._sync(descriptor)
            temporary.replace(self._path)
        except OSError as error:
            if descriptor is not None:
                os.close(descriptor)
                temporary.unlink(missing_ok=True)
            if error.errno not in _IN_PLACE or not self._path.exists():
                raise
            return self._write_over(line)
        return descriptor

    def _write_over(self, line: bytes) -> int:
        """Overwrite a file that cannot be replaced: its name is a mount point, or its folder is not writable."""
        descriptor = os.open(self._path, os.O_RDWR)
        try:
            os.pwrite(descriptor, line, 0)
            os.ftruncate(descriptor, len(line))
            self._sync(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _sync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        self._synced_at = time.monotonic()

    def _failure(self, error: Exception) -> Failure:
        reason = getattr(error, "strerror", None) or error
        return Failure(f"--cursor-file {self._path}: {reason}", hint="Name a file that can be read and written.")
