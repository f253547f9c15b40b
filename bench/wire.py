"""What readers get, byte by byte: streams cut into events, however the network cut them.

Pure. A parser takes what was left over from before and what has come, and says what is in it and what is left over now. The same
bytes always mean the same, so they are parsed once for all the readers that get them.
"""

import re
from array import array
from collections.abc import Callable
from enum import Flag

_DETAILS = re.compile(rb'"details":\{"n":(-?\d+),"due":(\d+)\}')
_ID = re.compile(rb"(?:\A|\n)id: ?([^\n]*)")
_POSITION = re.compile(rb'"position":"([^"]*)"\}\Z')
_TEXT = 1
_LONG, _LONGER = 126, 127


class Mark(Flag):
    """What else is in a stream."""

    SYNCED = 1
    GAP = 2


NOTHING = Mark(0)
_MARKS = {b"synced": Mark.SYNCED, b"gap": Mark.GAP}
_SSE_MARK = re.compile(rb"(?:\A|\n)event: (synced|gap)\n")
_WEBSOCKET_MARK = re.compile(rb'\A\{"type":"(synced|gap)"')


class Blob:
    """Some bytes of a stream and what is in them.

    Attributes:
        data: the bytes, what was left over before them included.
        rest: those that are left over.
        numbers: the events' numbers, as `array("q")` has them in memory.
        dues: when each was to be sent.
        position: the last one that the stream names, None if it names none.
        marks: what else is in them.
        times: when a reader had them, for each one that had.
    """

    __slots__ = ("count", "data", "dues", "marks", "numbers", "position", "rest", "times")

    def __init__(self, data: bytes, rest: bytes, text: bytes, position: bytes | None, marks: Mark) -> None:
        found = _DETAILS.findall(text)
        self.data = data
        self.rest = rest
        self.count = len(found)
        self.numbers = array("q", [int(number) for number, _ in found]).tobytes()
        self.dues = [int(due) for _, due in found]
        self.position = position
        self.marks = marks
        self.times: list[int] = []


Parser = Callable[[bytes], Blob]


def parse_sse(data: bytes) -> Blob:
    """Take the complete blocks of a stream that is not chunked."""
    complete = data[: data.rfind(b"\n\n") + 2] if b"\n\n" in data else b""
    return _sse(data, complete, data[len(complete) :])


def parse_chunked(data: bytes) -> Blob:
    """Take the complete blocks of a chunked stream (RFC 9112, 7.1), whose chunks may end anywhere.

    What is left over is a chunked stream again: a block that is yet to end, and what its last chunk still lacks, as one chunk.
    """
    text, at, lacking, last = [], 0, 0, None
    while last is None and (line := data.find(b"\r\n", at)) >= 0:
        size, start = int(data[at:line].partition(b";")[0], 16), line + 2
        at = start + size + 2
        text.append(data[start : start + size])
        if at > len(data):  # this one is not all there: its line end lacks, at least
            lacking, last = size - len(text[-1]), data[start + size :]
    joined = b"".join(text)
    complete = joined[: joined.rfind(b"\n\n") + 2] if b"\n\n" in joined else b""
    left = joined[len(complete) :]
    if last is None:
        return _sse(data, complete, (_chunk(left) if left else b"") + data[at:])
    return _sse(data, complete, b"%x\r\n%b%b" % (len(left) + lacking, left, last))


def _chunk(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


def _sse(data: bytes, complete: bytes, rest: bytes) -> Blob:
    ids = _ID.findall(complete)
    marks = NOTHING
    for name in _SSE_MARK.findall(complete):
        marks |= _MARKS[name]
    return Blob(data, rest, complete, ids[-1] if ids else None, marks)


def parse_websocket(data: bytes) -> Blob:
    """Take the complete frames of a WebSocket's server (RFC 6455, 5.2): unmasked, each a whole message."""
    at, texts, marks, position = 0, [], NOTHING, None
    while True:
        body, size = at + 2, data[at + 1] if len(data) > at + 1 else -1
        if size == _LONG and len(data) >= at + 4:
            body, size = at + 4, int.from_bytes(data[at + 2 : at + 4])
        elif size == _LONGER and len(data) >= at + 10:
            body, size = at + 10, int.from_bytes(data[at + 2 : at + 10])
        elif size in (_LONG, _LONGER):
            break
        if size < 0 or len(data) < body + size:
            break
        code, payload = data[at] & 15, data[body : body + size]
        if code == _TEXT:
            texts.append(payload)
            for name in _WEBSOCKET_MARK.findall(payload):
                marks |= _MARKS[name]
            found = _POSITION.search(payload)
            position = found[1] if found else position
        at = body + size
    return Blob(data, data[at:], b"\n".join(texts), position, marks)


class Memory:
    """A parser that remembers: readers that get the same bytes share one blob.

    Bytes are told apart by their length and their beginning, which names the first event, and then compared: that costs much less than
    parsing them, or hashing all of them.
    """

    BEGINNING = 96
    LIMIT = 2048
    """So many different ones are remembered; readers are rarely further apart."""

    def __init__(self, parse: Parser) -> None:
        self._parse = parse
        self._known: dict[tuple[int, bytes], Blob] = {}
        self.all: list[Blob] = []
        """Every blob with events in it."""

    def __call__(self, data: bytes) -> Blob:
        """Return what is in these bytes."""
        key = (len(data), data[: self.BEGINNING])
        blob = self._known.get(key)
        if blob is None or blob.data != data:
            blob = self._parse(data)
            if len(self._known) >= self.LIMIT:
                self._known.clear()
            self._known[key] = blob
            if blob.count:
                self.all.append(blob)
        return blob


class Page:
    """A page of the log, oldest first."""

    def __init__(self, seqs: list[int], numbers: list[int], position: str) -> None:
        self.seqs = seqs
        self.numbers = numbers
        self.position = position


_STORED = re.compile(rb'"seq":(\d+),.*?"details":\{"n":(-?\d+),"due":\d+\}')


def log_page(body: bytes) -> Page | None:
    """Read a page of the log; None if it has no events."""
    found = _STORED.findall(body)
    position = _POSITION.search(body)
    if not found or position is None:
        return None
    return Page([int(seq) for seq, _ in found], [int(number) for _, number in found], position[1].decode())
