"""Bodies of requests: read within limits of size, time and memory; their media types, and JSON as it comes in.

The parser holds the GIL until it returns, and its time grows with the values in a body more than with its bytes: 8 MB of `[]` take it
100 times as long as 8 MB of text. So the values are counted first, and a body with too many of them is not parsed.
"""

import asyncio
from typing import Any

import orjson
from aiohttp import HttpVersion11, StreamReader, web

from streamer.access.authorize import PRINCIPAL, Gate
from streamer.access.principal import Principal
from streamer.core.budget import ANONYMOUS, REQUEST, SMALL, Budget, Hold
from streamer.core.errors import PayloadTooLarge, RequestTimeout, UnsupportedMediaType, ValidationError
from streamer.http.decompress import ENCODINGS, decompress
from streamer.http.holding import account_of, hold_of

JSON_TYPES = {"application/json"}
NDJSON_TYPES = {"application/x-ndjson", "application/ndjson", "application/jsonl"}
MAX_SMALL_BYTES = 512 * 1024
"""A body, or a message on a socket, that holds no events."""

MAX_TYPE = 256
"""Characters of a `Content-Type`."""

LARGE_BYTES = 128 * 1024
"""A body above this is parsed in a turn of its own: as many values as are allowed take up to 30 ms, and checking them takes time, too."""
PIECE_BYTES = 64 * 1024
"""Bytes of a body that are looked at before other tasks have their turn: less than a millisecond."""


class Bodies:
    """Reads the bodies of requests."""

    def __init__(self, gate: Gate, budget: Budget, *, max_bytes: int, max_values: int, seconds: float) -> None:
        """Make the reader of bodies.

        Args:
            gate: decides on access again when a body took its time.
            budget: of the node's memory.
            max_bytes: of one body.
            max_values: JSON values in one body, or in one line of NDJSON.
            seconds: in which a body must arrive.
        """
        self.max_bytes = max_bytes
        self.max_values = max_values
        self._gate = gate
        self._budget = budget
        self.seconds = seconds

    async def json(self, request: web.Request) -> Any:
        """Read a JSON body that holds no events: a few values."""
        media_type(request, JSON_TYPES)
        data = await self._read(request, min(MAX_SMALL_BYTES, self.max_bytes))
        return await parse_json(data, self.max_values)

    async def events(self, request: web.Request) -> tuple[bytes, Principal]:
        """Read a body that may hold events. Returns the principal, too: its grants may have changed while the body arrived."""
        data = await self._read(request, self.max_bytes)
        return data, request[PRINCIPAL]

    async def _read(self, request: web.Request, limit: int) -> bytes:
        """Read the body within its limits of size and time, and within the node's budget of memory."""
        length, content = request.content_length or 0, request.content
        if length > limit:
            raise PayloadTooLarge(f"the body has {length} bytes; at most {limit} are taken")
        self._need_memory(request, length)
        encoding = content_encoding(request)
        if content.is_eof():  # it came with its head, as nearly all do: no clock is needed
            data = content.read_nowait()
            if len(data) > limit:
                raise PayloadTooLarge(f"the body has more than {limit} bytes")
            return data if encoding is None else await self._unpacked(request, data, encoding, limit)
        if "Expect" in request.headers and request.version >= HttpVersion11:
            # Only now: access and parameters were fine, the body is wanted (RFC 9110, 10.1.1).
            assert request.transport is not None  # noqa: S101 - there was a request a moment ago
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(self.seconds):
                data = await _receive(content, limit, hold_of(request, self._budget))
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {self.seconds:g} seconds") from None
        # That took its time: access may have ended.
        principal = await self._gate.again(request)
        if principal is not None:
            request[PRINCIPAL] = principal
        return data if encoding is None else await self._unpacked(request, data, encoding, limit)

    def _need_memory(self, request: web.Request, length: int) -> None:
        """Refuse a body that there is no memory for, before any of it is taken. Raises Overloaded."""
        if length <= SMALL and not self._budget.is_used:
            return
        account = account_of(request)
        if length > SMALL:
            self._budget.check(REQUEST, account, length)
        elif account != ANONYMOUS:
            self._budget.check_small(REQUEST, account)

    async def _unpacked(self, request: web.Request, data: bytes, encoding: str, limit: int) -> bytes:
        return await decompress(data, encoding, limit, hold_of(request, self._budget))


async def _receive(content: StreamReader, limit: int, hold: Hold) -> bytes:
    """Return a body once all of it is there. Raises PayloadTooLarge, Overloaded."""
    content.set_read_chunk_size(SMALL)
    data = bytearray()
    while chunk := await content.readany():
        if len(data) + len(chunk) > limit:
            raise PayloadTooLarge(f"the body has more than {limit} bytes")
        hold.resize(len(data) + len(chunk))
        data += chunk
    return bytes(data)


def content_encoding(request: web.Request) -> str | None:
    """Return how the body is packed, None if it is not. Raises UnsupportedMediaType."""
    if "Content-Encoding" not in request.headers:
        return None
    encoding = ",".join(request.headers.getall("Content-Encoding")).strip().lower()
    if encoding == "identity":
        return None
    if encoding not in ENCODINGS:
        raise UnsupportedMediaType(f"send the body as it is, or with `Content-Encoding: {' or '.join(ENCODINGS)}`")
    return encoding


def media_type(request: web.Request, known: set[str]) -> str:
    """Return the body's media type, one of those known. Raises UnsupportedMediaType."""
    # The framework parses it in quadratic time.
    if len(request.headers.get("Content-Type", "")) > MAX_TYPE:
        raise UnsupportedMediaType(f"the header Content-Type has more than {MAX_TYPE} characters")
    kind = request.content_type if "Content-Type" in request.headers else ""
    charset = (request.charset or "utf-8").lower()
    if kind not in known or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType(f"send `Content-Type: {' or '.join(sorted(known))}`, in UTF-8")
    return kind


async def parse_json(data: bytes, max_values: int, where: str = "body") -> Any:
    """Parse JSON (RFC 8259): UTF-8, no NaN, no lone surrogates; integers beyond 64 bits become floats.

    Args:
        data: the text.
        max_values: values (texts, numbers, objects and so on) that it may hold.
        where: what errors call it.

    Raises: ValidationError, PayloadTooLarge.
    """
    if len(data) > max_values:
        await _check_values(data, max_values, where)
    if len(data) <= LARGE_BYTES:
        return loads(data, where)
    # What came before and what comes after takes its time, too.
    await asyncio.sleep(0)
    parsed = loads(data, where)
    await asyncio.sleep(0)
    return parsed


def loads(data: bytes, where: str) -> Any:
    """Parse JSON whose values were counted, or that is too short to hold many. Raises ValidationError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValidationError({where: f"not valid JSON: {error}"}) from None


async def split_ndjson(data: bytes, *, max_lines: int, max_values: int) -> list[bytes]:
    """Return the lines of newline-delimited JSON, unparsed; blank lines are left out.

    Raises:
        ValidationError: more lines than `max_lines`.
        PayloadTooLarge: a line holds more than `max_values` values.
    """
    lines: list[bytes] = []
    start = 0
    while start < len(data):
        end = data.find(b"\n", start + PIECE_BYTES)
        end = end if end >= 0 else len(data)
        lines += [line for line in data[start:end].split(b"\n") if line and not line.isspace()]
        if len(lines) > max_lines:
            raise ValidationError({"events": f"more than {max_lines} events, the most in one batch"})
        start = end + 1
        if start < len(data):
            await asyncio.sleep(0)
    for index, line in enumerate(lines):
        if len(line) > max_values:
            await _check_values(line, max_values, f"events[{index}]")
    return lines


async def _check_values(data: bytes, most: int, where: str) -> None:
    """Refuse JSON with too many values. Raises PayloadTooLarge."""
    if _marks(data) <= most:
        return
    count = await _count_values(data)
    if count > most:
        raise PayloadTooLarge(
            f"{where} has {count} JSON values; at most {most} are taken at once: send the events as NDJSON, or in smaller batches",
            fields={where: f"over {most} values"},
        )


async def _count_values(data: bytes) -> int:
    """Count the values of JSON by what stands outside of its strings; an empty array or object counts twice. Other tasks have their turns."""
    count, start, within = 0, 0, False
    while start < len(data):
        end = start + PIECE_BYTES
        piece = data[start:end]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # it ends in the middle of an escape
            end += 1
            piece = data[start:end]
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        count += _marks(b"".join(parts[within::2]))
        within ^= len(parts) % 2 == 0
        start = end
        await asyncio.sleep(0)
    return count


def _marks(data: bytes) -> int:
    """Count what stands before each value but the outermost."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")
