"""WebSocket (RFC 6455): the same unmasked frame for all readers with one subscription, written past aiohttp's own writer.

aiohttp makes the handshake and reads what the client sends. Nothing is compressed: a frame is made once
for all its readers, and a compressor for each of them would cost more than the network does.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from aiohttp import WSMsgType, web

from streamer.core.budget import Hold
from streamer.core.errors import ValidationError
from streamer.core.frame import Frame
from streamer.core.position import Position
from streamer.fanout.connection import Connection
from streamer.fanout.subscribers import Subscribers
from streamer.feed.reasons import Reason
from streamer.feed.session import Gap
from streamer.server.unfinished import Unfinished
from streamer.transports.sink import SocketSink, ending, retry_ms

MESSAGE_BYTES = 256 * 1024
"""About the longest message; one event may be longer. Common clients refuse messages above one MiB."""

_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A
_FRAMES = frozenset({WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG})
"""What may go on; all else is the end."""


def frame(payload: bytes) -> bytes:
    """Return a text frame (RFC 6455, 5.2): final, unmasked, not compressed."""
    size = len(payload)
    if size < 126:  # noqa: PLR2004 - what the RFC says
        return bytes((_TEXT, size)) + payload
    if size < 2**16:
        return bytes((_TEXT, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_TEXT, 127)) + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame (RFC 6455, 5.5.1)."""
    payload = code.to_bytes(2, "big") + reason.encode()
    return bytes((_CLOSE, len(payload))) + payload


def message(kind: str, **fields: object) -> bytes:
    """Return a message of the server in its frame; fields that are None are left out."""
    return frame(orjson.dumps({"type": kind} | {name: value for name, value in fields.items() if value is not None}))


@dataclass(frozen=True, slots=True)
class WebSocketEncoder:
    """The feed's messages for the subscription `sub`."""

    sub: str

    def frames(self, frames: Sequence[Frame]) -> bytes:
        """Encode events, in as many messages as it takes."""
        return b"".join([self._events(part, part[-1].position) for part in _parts(frames)])

    def synced(self, position: Position) -> bytes:
        """Encode: the reader has all there is."""
        return message("synced", sub=self.sub, position=str(position))

    def gap(self, gap: Gap) -> bytes:
        """Encode: these events are gone."""
        fields = {"from": gap.first, "to": gap.last, "reason": gap.reason, "position": str(gap.position)}
        return frame(orjson.dumps({"type": "gap", "sub": self.sub, **fields}))

    def checkpoint(self, position: Position) -> bytes:
        """Encode: nothing for this reader up to here."""
        return self._events((), position)

    def _events(self, frames: Sequence[Frame], position: Position) -> bytes:
        bodies = b",".join([event.body for event in frames])
        return frame(
            b'{"type":"events","sub":%b,"events":[%b],"position":"%b"}'
            % (orjson.dumps(self.sub), bodies, str(position).encode())
        )


def _parts(frames: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
    """Cut events into runs of about `MESSAGE_BYTES`."""
    first = size = 0
    for index, event in enumerate(frames):
        if size and size + len(event.body) > MESSAGE_BYTES:
            yield frames[first:index]
            first, size = index, 0
        size += len(event.body)
    yield frames[first:]


class WebSocketSink(SocketSink):
    """A socket's connection."""

    __slots__ = ()

    transport = "websocket"
    heartbeat = bytes((_PING, 0))

    def close(self, reason: Reason) -> None:
        """Say why the socket ends, in a message and in the close frame."""
        retry = retry_ms() if reason.reconnect else None
        self.finish(message("closed", **ending(reason), retry_ms=retry) + close_frame(reason.code, reason.word))


class Conversation(Protocol):
    """What happens on a socket: the transport's caller."""

    async def begin(self, connection: Connection, sink: WebSocketSink) -> None:
        """Begin: the socket is open."""

    async def take(self, text: str) -> None:
        """Take a text message of the client; the next one waits until this returns."""

    def refuse_binary(self) -> None:
        """Answer a binary message."""


async def serve(  # noqa: PLR0913 - what a socket is served with
    request: web.Request,
    feed: Subscribers,
    conversation: Conversation,
    chain: Sequence[str],
    *,
    sink_type: type[WebSocketSink] = WebSocketSink,
    max_message_bytes: int,
    messages_per_second: int,
    message_seconds: float,
    hold: Hold,
    **options: Any,
) -> web.StreamResponse:
    """Answer a request with a socket until either side ends it.

    Args:
        request: the request, checked; `check` said that it is an upgrade.
        feed: forgets the connection's readers at the end.
        conversation: what happens on it.
        chain: the ids of the credentials by which it is open.
        sink_type: how the connection is written to; another kind says its farewell in another way.
        max_message_bytes: the longest message that the client may send.
        messages_per_second: how many frames are read in a second; what comes faster waits, in the end at the client.
        message_seconds: in which a message must be complete once it has begun.
        hold: counts the messages that are unfinished or not handled yet; the connection is closed if there is no room for them.
        options: of the sink (`SocketSink`), `unread` among them.
    """
    # Closing is ours: aiohttp would send its own close frame, and not wait for the peer's.
    # So are pings: it would answer a flood of them without ever giving way to others.
    response = web.WebSocketResponse(compress=False, autoclose=False, autoping=False, max_msg_size=max_message_bytes)
    try:
        writer = await response.prepare(request)
    except ConnectionError:
        writer = None
    transport = request.transport
    if writer is None or transport is None:  # gone during the handshake
        return response
    sink = sink_type(transport, writer.drain, **options)
    connection = feed.connect(sink, chain)
    meter = request.protocol._payload_parser  # noqa: SLF001 - `server.connection` put it there
    assert isinstance(meter, Unfinished)  # noqa: S101 - as above
    meter.watch(hold, message_seconds, transport.is_reading, connection.close)
    clock, due = asyncio.get_running_loop().time, 0.0
    try:
        await conversation.begin(connection, sink)
        while True:
            await sink.drain()  # who sends without reading gets no further
            received = await response.receive()
            if received.type not in _FRAMES:
                break
            # A client that sends much must not keep others waiting: a second's worth may come at once, then each has its time.
            due = max(due, clock() - 1) + 1 / messages_per_second
            await asyncio.sleep(max(due - clock(), 0))
            if connection.closed:
                continue  # the peer is yet to answer our close frame
            if received.type is WSMsgType.TEXT:
                await conversation.take(received.data)
            elif received.type is WSMsgType.BINARY:
                conversation.refuse_binary()
            elif received.type is WSMsgType.PING:
                sink.write(bytes((_PONG, len(received.data))) + received.data)
            meter.handled()
        if not connection.closed:
            sink.write(close_frame(1000, ""))
    except ConnectionError:
        pass  # gone
    finally:
        meter.stop()
        feed.leave_connection(connection)
        transport.close()  # once all is sent; aiohttp then finds nothing left to say
    return response


def check(request: web.Request) -> None:
    """Require that a request asks for a WebSocket. Raises ValidationError."""
    if not web.WebSocketResponse(compress=False).can_prepare(request):
        raise ValidationError(
            {"Upgrade": "this is a WebSocket: connect with a WebSocket client (RFC 6455, version 13)"}
        )
