"""A parser for server-sent events, without I/O (HTML, 9.2.6 "Interpreting an event stream").

However the bytes are split into chunks, the items are the same. The parser drops what the specification drops:
comments, unknown fields, an id with U+0000, a `retry` that is not all digits, and a block that is truncated by the end
of the stream.
"""

import re
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")
_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Message:
    """A block with data: `event` is its type, `last_event_id` the resume position once it is handled."""

    event: str
    data: str
    last_event_id: str


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A block without data that advanced the resume position."""

    last_event_id: str


@dataclass(frozen=True, slots=True)
class Retry:
    """A new reconnection time, in milliseconds."""

    milliseconds: int


Item = Message | ResumePoint | Retry


class EventStreamParser:
    """Parses the bytes of one connection into items, in the order in which they take effect."""

    def __init__(self, last_event_id: str = "") -> None:
        """Start a stream; `last_event_id` is the resume position that it was requested with."""
        self._last_event_id = last_event_id
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []
        self._line: list[bytes] = []
        self._start: bytes | None = b""
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[Item]:
        """Parse the next bytes and return the items that they complete."""
        chunk = self._without_bom(chunk)
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # a CR LF that was split; its line was handled at the CR
        self._after_cr = chunk.endswith(b"\r")
        items: list[Item] = []
        first, *others = _LINE_END.split(chunk)
        self._line.append(first)
        for following in others:
            self._take(b"".join(self._line).decode("utf-8", "replace"), items)
            self._line = [following]
        return items

    def _without_bom(self, chunk: bytes) -> bytes:
        """Hold back the stream's first bytes until it is known whether they are a byte order mark."""
        if self._start is None:
            return chunk
        start = self._start + chunk
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(_BOM)

    def _take(self, line: str, items: list[Item]) -> None:
        if not line:
            self._dispatch(items)
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and _DIGITS.fullmatch(value):
            items.append(Retry(int(value)))

    def _dispatch(self, items: list[Item]) -> None:
        moved = self._id != self._last_event_id
        self._last_event_id = self._id
        if self._data:
            items.append(Message(self._event or "message", "\n".join(self._data), self._id))
        elif moved:
            items.append(ResumePoint(self._id))
        self._event = ""
        self._data = []
