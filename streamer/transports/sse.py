"""Server-sent events (HTML standard, section 9.2) over HTTP/1.1 chunks or, for HTTP/1.0, until the connection ends.

aiohttp makes the handshake and hands the connection over; from then on the feed hands bytes to the transport: no task, no queue and no
copy a reader. (aiohttp-sse would add a ping task a reader.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import HttpVersion11, web

from streamer.core.frame import SSE_HEARTBEAT, Frame, sse_checkpoint, sse_frames, sse_message
from streamer.core.position import Position
from streamer.fanout.connection import Connection, Reader
from streamer.fanout.subscribers import Subscribers
from streamer.feed.reasons import Reason
from streamer.feed.session import Gap
from streamer.server.detached import DetachedResponse
from streamer.transports.sink import SocketSink, ending, retry_ms

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    # no-transform: a proxy that compresses would also buffer.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, slots=True)
class SseEncoder:
    """The feed's messages as SSE blocks, each write one HTTP chunk if the connection is chunked."""

    chunked: bool

    def frames(self, frames: Sequence[Frame]) -> bytes:
        """Encode events."""
        return self.chunk(sse_frames(frames))

    def synced(self, position: Position) -> bytes:
        """Encode: the reader has all there is."""
        return self.chunk(sse_message("synced", {"position": str(position)}, position))

    def gap(self, gap: Gap) -> bytes:
        """Encode: these events are gone."""
        data = {"from": gap.first, "to": gap.last, "reason": gap.reason, "position": str(gap.position)}
        return self.chunk(sse_message("gap", data, gap.position))

    def checkpoint(self, position: Position) -> bytes:
        """Encode: nothing for this reader up to here."""
        return self.chunk(sse_checkpoint(position))

    @property
    def end(self) -> bytes:
        """What ends the response."""
        return b"0\r\n\r\n" if self.chunked else b""

    def chunk(self, data: bytes) -> bytes:
        """Return what goes over the connection for these bytes."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data


class SseSink(SocketSink):
    """A stream's connection."""

    __slots__ = ("_encoder", "heartbeat")

    transport = "sse"

    def __init__(self, *args: Any, encoder: SseEncoder, **options: Any) -> None:
        super().__init__(*args, **options)
        self._encoder = encoder
        self.heartbeat = encoder.chunk(SSE_HEARTBEAT)

    def close(self, reason: Reason) -> None:
        """Announce why the stream ends, and when to reconnect."""
        retry = b"retry: %d\n" % retry_ms() if reason.reconnect else b""
        self.end(retry + sse_message("closed", ending(reason)))

    def end(self, farewell: bytes = b"") -> None:
        """End the stream behind its last bytes."""
        self.finish((self._encoder.chunk(farewell) if farewell else b"") + self._encoder.end)
        self._transport.close()  # once all is sent


async def open_connection(  # noqa: PLR0913 - a stream's parts
    request: web.Request,
    feed: Subscribers,
    chain: Sequence[str],
    *,
    encoder: SseEncoder,
    sink_class: type[SseSink] = SseSink,
    max_seconds: float = math.inf,
    opening: bytes = b"",
    **options: Any,
) -> tuple[DetachedResponse, Connection | None]:
    """Answer a request with the head of a stream, and take its connection; None if the client has gone meanwhile.

    Args:
        request: the request, checked and parsed.
        feed: the connection is opened in it, and leaves it when it is lost.
        chain: the ids of the credentials by which it is open.
        encoder: how events are written.
        sink_class: how it beats and ends, if not as ours.
        max_seconds: after which the stream is closed, if nothing closes it before.
        opening: lines of the first block, after the line with the reconnection time.
        options: of the sink (`SocketSink`), `unread` among them.
    """
    response = DetachedResponse(headers=HEADERS)
    # A client that should reconnect must not use this connection again: another node may be meant.
    response.force_close()
    try:
        writer = await response.prepare(request)
    except ConnectionError:
        writer = None
    transport = request.transport
    if writer is None or transport is None:  # gone during the handshake
        return response, None
    writer.send_headers()
    protocol = response.take(transport)
    sink = sink_class(transport, protocol.drain, encoder=encoder, **options)
    # A line of the first block, whichever that will be: a block of its own makes some clients fire an empty message.
    sink.write(encoder.chunk(b"retry: %d\n%b" % (retry_ms(), opening)))
    connection = feed.connect(sink, chain, max_seconds)
    protocol.when_lost(partial(feed.leave_connection, connection))
    return response, connection


async def stream(
    request: web.Request, feed: Subscribers, reader: Reader, chain: Sequence[str], encoder: SseEncoder, **options: Any
) -> web.StreamResponse:
    """Answer a request with a workspace's events until either side ends it; returns when the stream has begun.

    Args:
        request: the request, checked and parsed.
        feed: moves the reader on.
        reader: what the request asks for; it is forgotten when the stream ends.
        chain: the ids of the credentials by which it is open.
        encoder: how events are written.
        options: as `open_connection` takes them.
    """
    connection: Connection | None = None
    try:
        response, connection = await open_connection(request, feed, chain, encoder=encoder, **options)
    finally:
        if connection is None:
            feed.leave(reader)
    if connection is not None:
        feed.start(reader, connection, encoder, connection.close)
    return response


def is_chunked(request: web.Request) -> bool:
    """Tell whether the answer to a request comes in chunks (RFC 9112, 7.1); else it goes on until the connection ends."""
    return request.version >= HttpVersion11
