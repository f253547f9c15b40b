"""Carries messages over PostgreSQL's LISTEN and NOTIFY, for installations without Redis.

Only heads are sent, and in transactions of their own: a NOTIFY in the writing transaction would take a lock that all commits share. The connection
never opens a longer transaction, because a listener in one fills the server's queue until commits fail.
"""

import asyncio
import contextlib
import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from streamer.bus.link import CarrierError, Receiver

MAX_PAYLOAD: Final = 7999
"""Bytes of one notification (PostgreSQL's documentation of NOTIFY)."""
_MAX_PACKED = MAX_PAYLOAD // 4 * 3
_ENTRY = struct.Struct(">BH")


class PostgresCarrier:
    """One connection that notifies and listens. All messages use one channel, because each listener is woken by every notification anyway."""

    name = "postgres"
    takes_frames = False

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Create it. `arguments` are those of `asyncpg.connect`; the connection must not go through a pooler."""
        self._arguments = arguments
        self._connection: asyncpg.Connection | None = None
        self._channel = ""
        self._receiver: Receiver | None = None
        self._ended = asyncio.Event()
        self._early: list[str] = []
        """Topics that were followed before `receive`."""

    async def connect(self, instance: str) -> None:
        """Connect, and listen on the channel `streamer_<instance>`."""
        self._channel = f"streamer_{instance}"
        self._ended, self._early, self._receiver = asyncio.Event(), [], None
        try:
            connection = self._connection = await asyncpg.connect(**self._arguments)
            connection.add_termination_listener(lambda _connection: self._ended.set())
            await connection.add_listener(self._channel, self._take)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CarrierError(str(error)) from None

    def _take(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if self._receiver is not None:
            for topic, data in unpacked(str(payload)):
                self._receiver.take(topic, data)

    async def receive(self, receiver: Receiver) -> None:
        """Pass on what arrives."""
        self._receiver = receiver
        receiver.confirmed(self._early)
        await self._ended.wait()

    async def follow(self, topics: Sequence[str]) -> None:
        """Confirm topics at once: all messages arrive here."""
        if self._receiver is None:
            self._early += topics
        else:
            self._receiver.confirmed(topics)

    async def leave(self, topics: Sequence[str]) -> None:
        """Do nothing: all messages arrive here."""

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Notify all nodes, with as many messages in a notification as fit, and all in one transaction."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - connected before
        try:
            await connection.execute(
                "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload",
                self._channel,
                list(packed(messages)),
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CarrierError(str(error)) from None

    async def is_current(self) -> bool:
        """Return True: there is no other server."""
        return True

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.terminate()


def packed(messages: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """Yield payloads that hold the messages. One that is too long for a payload is left out: only heads and beacons are sent, which are short."""
    parts: list[bytes] = []
    size = 0
    for topic, data in messages:
        name = topic.encode()
        entry = _ENTRY.pack(len(name), len(data)) + name + data
        if len(entry) > _MAX_PACKED:
            continue
        if size + len(entry) > _MAX_PACKED:
            yield b64encode(b"".join(parts)).decode()
            parts, size = [], 0
        parts.append(entry)
        size += len(entry)
    if parts:
        yield b64encode(b"".join(parts)).decode()


def unpacked(payload: str) -> Iterator[tuple[str, bytes]]:
    """Yield the messages in a payload; what others sent on the channel is ignored."""
    with contextlib.suppress(Base64Error, struct.error, UnicodeDecodeError, ValueError):
        data, at = b64decode(payload, validate=True), 0
        while at < len(data):
            name, size = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            yield data[at : at + name].decode(), data[at + name : at + name + size]
            at += name + size
