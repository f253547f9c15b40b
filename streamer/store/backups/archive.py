"""The format of a backup: the output of the database's own tool, followed by a manifest and a checksum over both.

    SQLite's file, or pg_dump's archive      its own tools can open the backup: they ignore what follows their data
    {"format":1,"database":"sqlite",…}       one line: the contents of the backup
    streamer-backup 1 <length> <sha256>      one line: bytes of the line above, checksum of all bytes above this line

So every byte of the file is covered: a changed one is detected, and so is a missing end.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from streamer.core.errors import StreamerError
from streamer.store.backups.logs import LogState

CHUNK = 2**20
MAGIC = b"streamer-backup 1 "
_LAST_LINE = re.compile(rb"streamer-backup 1 ([0-9]{20}) ([0-9a-f]{64})\n")
_LAST_LINE_BYTES = len(MAGIC) + 20 + 1 + 64 + 1

Progress = Callable[[int, int], None]
"""Called with the completed amount and the total."""


class BackupError(StreamerError):
    """A backup cannot be made or restored; the message names the next step."""


class NotIntact(BackupError):
    """The file is not a backup, or it is damaged."""


@dataclass(frozen=True)
class Manifest:
    """The contents of a backup."""

    database: str
    """`sqlite` or `postgresql`."""
    made_at: str
    """Time in UTC."""
    streamer: str
    """Version of the program that made it."""
    revision: str
    """The newest migration of its tables."""
    engine: str
    """The database's own version."""
    logs: Sequence[LogState]
    namespace: str = ""
    """PostgreSQL: the schema of the tables."""

    @property
    def events(self) -> int:
        """Events in all logs."""
        return sum(log.events for log in self.logs)

    def to_line(self) -> bytes:
        """Return the manifest as one line."""
        values = {"format": 1, **vars(self), "logs": [log.to_json() for log in self.logs]}
        return orjson.dumps(values) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Manifest":
        """Parse the result of `to_line`. Raises ValueError, KeyError, TypeError."""
        values = orjson.loads(line)
        if values.pop("format") != 1:
            raise ValueError("another format")
        return cls(**values | {"logs": [LogState(**log) for log in values["logs"]]})


@dataclass(frozen=True)
class Archive:
    """A backup with a correct checksum."""

    path: Path
    manifest: Manifest
    payload_bytes: int
    """Length of the database's part, at the start of the file."""

    def copy(self, target: BinaryIO, on_progress: Progress) -> None:
        """Write the database's part to another file."""
        done = 0
        with self.path.open("rb") as source:
            while done < self.payload_bytes:
                chunk = source.read(min(CHUNK, self.payload_bytes - done))
                if not chunk:
                    raise NotIntact(f"{self.path} became shorter while it was read")
                target.write(chunk)
                done += len(chunk)
                on_progress(done, self.payload_bytes)


def seal(path: Path, manifest: Manifest, on_progress: Progress) -> None:
    """Append a manifest and the checksum to the output of a database's tool."""
    line = b"\n" + manifest.to_line()
    with path.open("ab") as file:
        file.write(line)
    size = path.stat().st_size
    digest = _digest(path, size, on_progress)
    with path.open("ab") as file:
        file.write(b"%s%020d %s\n" % (MAGIC, len(line), digest.encode()))
        file.flush()
        os.fsync(file.fileno())


def open_archive(path: Path, on_progress: Progress) -> Archive:
    """Check a backup's checksum and read its manifest.

    Raises:
        NotIntact: it is not a backup, or it is damaged.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block until its other end is opened
        raise NotIntact(f"{path} is not a regular file")
    size = status.st_size
    with path.open("rb") as file:
        file.seek(max(size - _LAST_LINE_BYTES, 0))
        last = _LAST_LINE.fullmatch(file.read())
        covered = size - _LAST_LINE_BYTES
        if last is None or int(last[1]) > covered:
            raise NotIntact(f"{path} is not a backup made by `streamer backup`, or its end is missing or damaged")
        payload_bytes = covered - int(last[1])
        if _digest(path, covered, on_progress) != last[2].decode():
            raise NotIntact(f"{path} is damaged: its checksum is wrong")
        file.seek(payload_bytes)
        try:
            manifest = Manifest.from_line(file.read(int(last[1])))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NotIntact(f"{path} has no manifest that this version of streamer can read") from None
    return Archive(path, manifest, payload_bytes)


def _digest(path: Path, size: int, on_progress: Progress) -> str:
    """Return the SHA-256 of a file's first bytes."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while done < size and (chunk := file.read(min(CHUNK, size - done))):
            digest.update(chunk)
            done += len(chunk)
            on_progress(done, size)
    return digest.hexdigest()
