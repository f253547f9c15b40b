"""Server-sent events (HTML standard, section 9.2) over HTTP/1.1 chunks or, for HTTP/1.0, until the connection ends.

aiohttp makes the handshake; from then on the feed hands bytes to the transport: no task, no queue and no copy a reader. aiohttp's own
handler stays parked meanwhile, and its cancellation is how a vanished client is noticed. (aiohttp-sse would add a ping task a reader.)
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from streamer.core.frame import SSE_HEARTBEAT, Frame, sse_checkpoint, sse_frames, sse_message
from streamer.core.position import Position
from streamer.feed.channel import Channel
from streamer.feed.feed import Feed, Subscription
from streamer.feed.session import Gap

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    # no-transform: a proxy that compresses would also buffer.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
RETRY_MS = (1000, 4000)
"""The range of the reconnection time that readers are told: spread, so that they do not all come back at once."""


@dataclass(frozen=True, slots=True)
class SseWire:
    """The feed's messages as SSE blocks, each write one HTTP chunk if the connection is chunked."""

    chunked: bool

    @property
    def transport(self) -> str:
        """The transport's name in the metrics."""
        return "sse"

    def frames(self, frames: Sequence[Frame]) -> bytes:
        """Encode events."""
        return self._chunk(sse_frames(frames))

    def synced(self, position: Position) -> bytes:
        """Encode: the reader has all there is."""
        return self._chunk(sse_message("synced", {"position": str(position)}, position))

    def gap(self, gap: Gap) -> bytes:
        """Encode: these events are gone."""
        data = {"from": gap.first, "to": gap.last, "reason": gap.reason, "position": str(gap.position)}
        return self._chunk(sse_message("gap", data, gap.position))

    def checkpoint(self, position: Position) -> bytes:
        """Encode: nothing for this reader up to here."""
        return self._chunk(sse_checkpoint(position))

    def heartbeat(self) -> bytes:
        """Encode a sign of life."""
        return self._chunk(SSE_HEARTBEAT)

    def closed(self, reason: str, *, reconnect: bool) -> bytes:
        """Encode the stream's end."""
        return self._chunk(sse_message("closed", {"reason": reason, "reconnect": reconnect}))

    def retry(self) -> bytes:
        """Encode the reconnection time: a line of the first block, whichever that will be."""
        return self._chunk(b"retry: %d\n" % random.randint(*RETRY_MS))  # noqa: S311 - jitter, not a secret

    def _chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data


class SocketSink:
    """A connection as the feed writes to it."""

    __slots__ = ("_high_water", "_transport", "_writer")

    def __init__(self, transport: asyncio.Transport, writer: AbstractStreamWriter, high_water: int) -> None:
        self._transport = transport
        self._writer = writer
        self._high_water = high_water
        transport.set_write_buffer_limits(high=high_water)

    def is_ready(self) -> bool:
        """Tell whether the buffer is below its mark."""
        return self._transport.get_write_buffer_size() <= self._high_water

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; one that is closing ignores them."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the buffer is below its mark."""
        await self._writer.drain()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()


async def stream(
    request: web.Request, feed: Feed, channel: Channel, subscription: Subscription, *, write_buffer: int
) -> web.StreamResponse:
    """Answer a request with a workspace's events until either side ends it.

    Args:
        request: the request, checked and parsed.
        feed: drives the reader.
        channel: the workspace's channel, held open by the caller.
        subscription: what the reader asked for.
        write_buffer: bytes in the connection's buffer above which a reader counts as slow.
    """
    response = web.StreamResponse(headers=HEADERS)
    writer = await response.prepare(request)
    transport = request.transport
    if writer is None or transport is None:  # gone during the handshake
        return response
    wire = SseWire(chunked=request.version >= HttpVersion11)
    sink = SocketSink(transport, writer, write_buffer)
    writer.send_headers()
    sink.write(wire.retry())
    try:
        await feed.run(subscription, channel, wire, sink)
    except Exception:  # noqa: BLE001 - logged with its traceback
        # An answer has begun, so no error response can follow: the reader sees a cut and comes back.
        structlog.get_logger("sse").exception("stream_failed", workspace=subscription.workspace)
        sink.abort()
    # A reader that was closed is not to send its next request here: another node may be meant.
    response.force_close()
    return response
