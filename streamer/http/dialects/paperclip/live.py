"""The socket of live events: one message for each event, and nothing else but pings and what is missing. Clients say nothing on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from streamer.core.frame import Frame
from streamer.core.position import Position
from streamer.fanout.connection import Connection, Reader
from streamer.fanout.subscribers import Subscribers
from streamer.feed.reasons import Reason
from streamer.feed.session import Gap
from streamer.http.dialects.paperclip.shape import live
from streamer.transports.websocket import WebSocketSink, close_frame, frame


@dataclass(frozen=True, slots=True)
class LiveEncoder:
    """The feed's messages as a company's socket has them."""

    company: str

    def frames(self, frames: Sequence[Frame]) -> bytes:
        """Encode events, each in a message of its own."""
        return b"".join([frame(orjson.dumps(live(orjson.loads(event.body)))) for event in frames])

    def synced(self, _position: Position) -> bytes:
        """Encode nothing: clients do not know such a message."""
        return b""

    def gap(self, gap: Gap) -> bytes:
        """Encode: these events are gone."""
        payload = {"from": gap.first, "to": gap.last, "reason": gap.reason, "position": str(gap.position)}
        head = {"id": gap.position.seq, "companyId": self.company, "type": "activity.gap", "createdAt": None}
        return frame(orjson.dumps(head | {"payload": payload}))

    def checkpoint(self, _position: Position) -> bytes:
        """Encode nothing: a client that reconnects names the last event that it has."""
        return b""


class LiveSink(WebSocketSink):
    """A socket that ends with a close frame, and no word before it."""

    __slots__ = ()

    def close(self, reason: Reason) -> None:
        """Say by the close frame why the socket ends."""
        self.finish(close_frame(reason.code, reason.word))


class Listener:
    """What happens on the socket: one subscription, and what the client sends is passed over."""

    def __init__(self, feed: Subscribers, reader: Reader) -> None:
        self._feed = feed
        self._reader = reader

    async def begin(self, connection: Connection, _sink: WebSocketSink) -> None:
        """Start the subscription; the socket ends with it."""
        encoder = LiveEncoder(self._reader.subscription.workspace)
        self._feed.start(self._reader, connection, encoder, connection.close)

    async def take(self, text: str) -> None:
        """Pass over a text message."""

    def refuse_binary(self) -> None:
        """Pass over a binary message."""
