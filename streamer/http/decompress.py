"""Unpacks request bodies (`Content-Encoding`), in steps that are bounded in size and give way to other clients."""

import asyncio
import zlib
from collections.abc import Iterator

from streamer.core.budget import Hold
from streamer.core.errors import PayloadTooLarge, ValidationError

ENCODINGS = ("gzip", "deflate")
"""The encodings of bodies that are read (RFC 9110, 8.4.1)."""
MAX_MEMBERS = 100
"""Members of one gzip body. Each costs a decompressor, whatever its size."""

_SLICE = 16 * 1024
_STEP = 256 * 1024
"""Bytes unpacked between two turns of the event loop: less than a millisecond."""
_PARTS = 4
"""Parts between two turns: at worst about 5 ms."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""What zlib calls `wbits`."""


async def decompress(data: bytes, encoding: str, limit: int, hold: Hold) -> bytes:
    """Return a body as it was before it was packed.

    A gzip body may have several members (RFC 1952, 2.2). Deflate may come with zlib's header, as the standard says, or without.

    Args:
        data: all of it.
        encoding: one of `ENCODINGS`.
        limit: bytes of the result.
        hold: grows with the result; it holds the packed body already.

    Raises:
        ValidationError: not encoded so; cut off, damaged, or followed by something else.
        PayloadTooLarge: the result is over the limit.
        Overloaded: no memory for the result.
    """
    unpacked = bytearray()
    turn = 0
    try:
        # Also by the number of parts: bytes may decompress to nothing, and take their time.
        for number, part in enumerate(_parts(data, encoding)):
            if len(unpacked) + len(part) > limit:
                raise PayloadTooLarge(f"the body has more than {limit} bytes when it is unpacked")
            hold.resize(len(data) + len(unpacked) + len(part))
            unpacked += part
            if len(unpacked) - turn > _STEP or number % _PARTS == _PARTS - 1:
                turn = len(unpacked)
                await asyncio.sleep(0)
    except zlib.error as error:
        raise ValidationError({"body": f"the body is not {encoding} as its Content-Encoding says: {error}"}) from None
    return bytes(unpacked)


def _parts(data: bytes, encoding: str) -> Iterator[bytes]:
    """Yield what the body unpacks to, in parts of at most `_STEP` bytes. Raises zlib.error."""
    unpacker, members = zlib.decompressobj(_window(data, encoding)), 1
    for first in range(0, len(data), _SLICE):
        rest = data[first : first + _SLICE]
        while rest:
            if unpacker.eof:
                if encoding != "gzip":
                    raise zlib.error("something follows its end")
                if members == MAX_MEMBERS:
                    raise zlib.error(f"it has more than {MAX_MEMBERS} members")
                unpacker, members = zlib.decompressobj(_GZIP), members + 1
            yield unpacker.decompress(rest, _STEP)
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    while not unpacker.eof:  # what zlib keeps back when a part was full
        part = unpacker.decompress(b"", _STEP)
        if not part and not unpacker.eof:
            raise zlib.error("it is cut off")
        yield part


def _window(data: bytes, encoding: str) -> int:
    if encoding == "gzip":
        return _GZIP
    has_header = len(data) > 1 and data[0] & 15 == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
    return _ZLIB if has_header else _RAW
