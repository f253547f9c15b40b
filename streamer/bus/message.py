"""The message between nodes, version 1. Pure.

Big endian: version u8, kind u8, flags u8, length of the epoch u8, node u64, time sent in microseconds u64, first seq u64, count u16, epoch; then
the payload. This head never changes: a node that does not know the version or the kind of a message reads first seq and count, and gets the
events from the log. So nodes of two versions can work together.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import orjson

from streamer.core.event import Facets
from streamer.core.frame import LiveFrame
from streamer.core.position import Position

VERSION: Final = 1
COMPRESSED: Final = 1
"""The flag of a payload that zlib compressed."""
COMPRESS_FRAMES = 4
COMPRESS_BYTES = 2048
"""From so many frames or bytes on, a payload is compressed: for less it costs more time than it saves."""
MAX_FRAMES_BYTES = 64 * 1024
"""Above this size a message names the head only: readers get the events from the log."""
MAX_UNPACKED_BYTES = 2 * 2**20
"""No node sends more than that, compressed or not."""
MAX_COUNT = 0xFFFF

_HEAD = struct.Struct(">BBBBQQQH")
_FRAME = struct.Struct(">II")


class Kind(IntEnum):
    """What a message is about."""

    FRAMES = 0
    """Events: first seq and count, and the events themselves."""
    HEAD = 1
    """A log has come to a seq: first seq, count 1."""
    BEACON = 2
    """A node is alive; the payload is JSON that describes it."""
    ECHO = 3
    """A node's message to itself, by which it knows that the bus works both ways."""


class BadMessage(Exception):
    """The bytes are not a message."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was received."""

    version: int
    kind: int
    node: int
    sent_us: int
    first: int
    count: int
    epoch: str
    payload: bytes
    is_compressed: bool

    @property
    def head(self) -> int:
        """The seq to which the log has come."""
        return self.first + self.count - 1

    def frames(self) -> list[LiveFrame] | None:
        """Return the events; None if this version cannot read them, so that the log must be read. Raises BadMessage."""
        if self.version != VERSION or self.kind != Kind.FRAMES:
            return None
        payload = _unpacked(self.payload) if self.is_compressed else self.payload
        frames: list[LiveFrame] = []
        at = 0
        try:
            for seq in range(self.first, self.first + self.count):
                facets_size, body_size = _FRAME.unpack_from(payload, at)
                start = at + _FRAME.size
                at = start + facets_size + body_size
                facets = orjson.loads(payload[start : start + facets_size])
                if len(facets) < len(Facets._fields):
                    return None
                body = payload[start + facets_size : at]
                frames.append(LiveFrame(Position(self.epoch, seq), body, Facets(*facets[: len(Facets._fields)])))
        except (struct.error, orjson.JSONDecodeError, TypeError):
            raise BadMessage("the events are incomplete") from None
        if at != len(payload):
            raise BadMessage("the events are incomplete, or there are more")
        return frames


def encode(  # noqa: PLR0913 - the parts of a message
    kind: Kind, node: int, sent_us: int, *, first: int = 0, count: int = 0, epoch: str = "", payload: bytes = b""
) -> bytes:
    """Write a message."""
    return _encode(kind, 0, node, sent_us, first, count, epoch, payload)


def encode_frames(frames: Sequence[LiveFrame], epoch: str, node: int, sent_us: int) -> bytes:
    """Write the message of a commit: its frames, or the head if they are too many or too long."""
    first, last = frames[0].seq, frames[-1].seq
    if len(frames) <= MAX_COUNT and sum([len(frame.body) for frame in frames]) <= MAX_UNPACKED_BYTES // 2:
        parts: list[bytes] = []
        for frame in frames:
            facets = orjson.dumps([*frame.facets])
            parts += (_FRAME.pack(len(facets), len(frame.body)), facets, frame.body)
        payload, flags = b"".join(parts), 0
        if len(frames) >= COMPRESS_FRAMES or len(payload) >= COMPRESS_BYTES:
            payload, flags = zlib.compress(payload, 1), COMPRESSED
        if len(payload) <= MAX_FRAMES_BYTES:
            return _encode(Kind.FRAMES, flags, node, sent_us, first, len(frames), epoch, payload)
    return encode(Kind.HEAD, node, sent_us, first=last, count=1, epoch=epoch)


def decode(data: bytes) -> Message:
    """Read a message. Raises BadMessage."""
    try:
        version, kind, flags, size, node, sent_us, first, count = _HEAD.unpack_from(data)
        epoch = data[_HEAD.size : _HEAD.size + size].decode("ascii")
    except (struct.error, UnicodeDecodeError):
        raise BadMessage("no message of a node") from None
    if len(data) < _HEAD.size + size:
        raise BadMessage("the message is incomplete")
    payload = data[_HEAD.size + size :]
    return Message(version, kind, node, sent_us, first, count, epoch, payload, bool(flags & COMPRESSED))


def _encode(  # noqa: PLR0913, PLR0917 - the fields in their order
    kind: Kind, flags: int, node: int, sent_us: int, first: int, count: int, epoch: str, payload: bytes
) -> bytes:
    name = epoch.encode("ascii")
    return b"".join((_HEAD.pack(VERSION, kind, flags, len(name), node, sent_us, first, count), name, payload))


def _unpacked(payload: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        unpacked = decompressor.decompress(payload, MAX_UNPACKED_BYTES)
    except zlib.error:
        raise BadMessage("the events cannot be decompressed") from None
    if not decompressor.eof or decompressor.unused_data:
        raise BadMessage("the events are incomplete, or too long")
    return unpacked
