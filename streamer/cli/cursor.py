"""A position that survives the process: `--cursor-file`."""

import os
import re
import time
from pathlib import Path

from streamer.cli.remote import Failure

SYNC_SECONDS = 1.0

_POSITION = re.compile(r"[a-z0-9]{1,32}\.\d{1,19}", re.ASCII)
_WIDTH = 64
"""Of the file's one line: room for any position, and well within a disk's sector, which is written whole or not at all."""


class CursorFile:
    """A position in a file, written after each event.

    The file appears whole, by a rename; from then on its line is written over in place. A process that is killed has lost
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
        try:
            text = self._path.read_text("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._failure(error) from None
        if not _POSITION.fullmatch(text):
            raise Failure(
                f"{self._path} holds no position", hint="Remove it to begin anew, or name another --cursor-file."
            )
        return text

    def write(self, position: str) -> None:
        """Replace the position."""
        if position == self._written:
            return
        line = position.ljust(_WIDTH - 1).encode() + b"\n"
        try:
            if self._descriptor is None:
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

    def _create(self, line: bytes) -> int:
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.write(descriptor, line)
        self._sync(descriptor)
        temporary.replace(self._path)
        return descriptor

    def _sync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        self._synced_at = time.monotonic()

    def _failure(self, error: Exception) -> Failure:
        reason = getattr(error, "strerror", None) or error
        return Failure(f"--cursor-file {self._path}: {reason}", hint="Name a file that can be read and written.")
