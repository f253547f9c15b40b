"""A position that survives the process: `--cursor-file`."""

import errno
import os
import re
import time
from pathlib import Path

from streamer.cli.remote import Failure

SYNC_SECONDS = 1.0

_POSITION = re.compile(r"[a-z0-9]{1,32}\.\d{1,19}", re.ASCII)
_IN_PLACE = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS})
"""Errors of a rename over a file that may be written to all the same."""
_WIDTH = 64
"""Of the file's one line: room for any position, and well within a disk's sector, which is written whole or not at all."""


class CursorFile:
    """A position in a file, written after each event.

    The file appears whole, by a rename; from then on its line is written over in place. A file that cannot be renamed over, because it
    is a mount point, is written in place from the beginning; one that was removed or replaced is made again. A process that is killed has lost
    nothing: what it wrote is the kernel's. A power cut may take the last second back, and those events come again. To sync for
    each event would cost milliseconds a time and hold a busy stream up.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        self._descriptor: int | None = None
        self._written: str | None = None
        self._synced_at = 0.0

    def read(self) -> str | None:
        """Return the position, None if there is no file yet."""
        if self._path.exists() and not self._path.is_file():  # to read a pipe or a device may never end
            raise Failure(f"--cursor-file {self._path} is not a regular file")
        try:
            text = self._path.read_text("utf-8-sig")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._failure(error) from None
        # Without its end it may be half a position, which is an earlier one.
        if not text.endswith("\n") or not _POSITION.fullmatch(text.strip()):
            raise Failure(
                f"{self._path} holds no position", hint="Remove it to begin anew, or name another --cursor-file."
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
        """Bring the last position to the disk."""
        if self._descriptor is not None:
            self._sync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _is_there(self, descriptor: int) -> bool:
        """Tell whether the open file is still the one of this name."""
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
        """Replace what a file holds that must stay: its name is a mount point, or its folder cannot be written to."""
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
