"""A frame: an event encoded once for a wire format, shared by all its readers."""

from collections.abc import Sequence

import orjson

from streamer.core.event import Facets
from streamer.core.position import Position


class Frame:
    """An event on its way to readers: its canonical bytes, and its SSE block once a reader needs it."""

    __slots__ = ("_sse", "body", "position")

    def __init__(self, position: Position, body: bytes) -> None:
        self.position = position
        self.body = body
        self._sse: bytes | None = None

    @property
    def seq(self) -> int:
        """The event's seq."""
        return self.position.seq

    @property
    def sse(self) -> bytes:
        """The event's SSE block: id, event name, data, and the blank line that ends it."""
        if self._sse is None:
            self._sse = b"id: %b\nevent: activity\ndata: %b\n\n" % (str(self.position).encode(), self.body)
        return self._sse


class LiveFrame(Frame):
    """A frame that has not been filtered yet: it carries the facets that filters use."""

    __slots__ = ("facets",)

    def __init__(self, position: Position, body: bytes, facets: Facets) -> None:
        super().__init__(position, body)
        self.facets = facets

    @property
    def size(self) -> int:
        """Approximate memory of the frame in bytes: body, SSE block, search text, objects."""
        return 2 * len(self.body) + len(self.facets.search) + 1000


def page_body(
    bodies: Sequence[bytes], position: Position, cursor: str | None = None, scanned_to: Position | None = None
) -> bytes:
    """Join the bodies of events to the body of a page."""
    return b'{"events":[%b],%b"position":"%b"%b}' % (
        b",".join(bodies),
        b'"cursor":"%b",' % cursor.encode() if cursor else b"",
        str(position).encode(),
        b',"scanned_to":"%b"' % str(scanned_to).encode() if scanned_to else b"",
    )


def sse_frames(frames: Sequence[Frame]) -> bytes:
    """Join the SSE blocks of frames."""
    return b"".join([frame.sse for frame in frames])


def sse_message(event: str, data: object, position: Position | None = None) -> bytes:
    """Encode a message that is not an event of the log, such as `synced` or `gap`.

    With a position, the reader's resume position advances to it.
    """
    block = b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(data))
    return block if position is None else b"id: %b\n%b" % (str(position).encode(), block)


def sse_checkpoint(position: Position) -> bytes:
    """Encode an id-only block: it advances the resume position and fires no event (HTML, 9.2.6)."""
    return b"id: %b\n\n" % str(position).encode()


SSE_HEARTBEAT = b": ping\n"
"""A comment with one newline: with two, a popular client fires an empty message."""
