"""Carries messages over Redis' publish and subscribe (redis-py).

The library's own reconnecting is not used, because it re-subscribes without a word (its connections are used one by one, without retries): after
each failure both connections are made again.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from streamer.bus.link import CarrierError, Receiver

TURN_MESSAGES: Final = 256
"""Messages that are passed on before other tasks run."""


class RedisCarrier:
    """One connection that publishes, and one that receives."""

    name = "redis"
    takes_frames = True

    def __init__(self, url: str) -> None:
        """Create it for a URL: `redis://`, `rediss://` (TLS) or `unix://`, with options as redis-py reads them. Raises ValueError."""
        self._pool = ConnectionPool.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), health_check_interval=0)
        self._prefix = ""
        self._out: AbstractConnection | None = None
        self._in: AbstractConnection | None = None

    async def connect(self, instance: str) -> None:
        """Connect both. Channels are named `streamer:<instance>:<topic>`."""
        self._prefix = f"streamer:{instance}:"
        self._out, self._in = self._pool.make_connection(), self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await asyncio.gather(self._out.connect(), self._in.connect())
        except RedisError as error:
            raise CarrierError(str(error)) from None

    async def receive(self, receiver: Receiver) -> None:
        """Pass on what arrives."""
        connection, start = self._in, len(self._prefix)
        assert connection is not None  # noqa: S101 - connected before
        count = 0
        try:
            while True:
                reply: Any = await connection.read_response(disable_decoding=True)
                kind, channel, data = reply
                if kind == b"message":
                    receiver.take(channel[start:].decode(), data)
                elif kind == b"subscribe":
                    receiver.confirmed([channel[start:].decode()])
                count += 1
                if count % TURN_MESSAGES == 0:
                    await asyncio.sleep(0)
        except RedisError as error:
            raise CarrierError(str(error)) from None

    async def follow(self, topics: Sequence[str]) -> None:
        """Subscribe to topics."""
        await self._command("SUBSCRIBE", topics)

    async def leave(self, topics: Sequence[str]) -> None:
        """Unsubscribe from topics."""
        await self._command("UNSUBSCRIBE", topics)

    async def _command(self, command: str, topics: Sequence[str]) -> None:
        assert self._in is not None  # noqa: S101 - connected before
        try:
            await self._in.send_command(command, *[self._prefix + topic for topic in topics])
        except RedisError as error:
            raise CarrierError(str(error)) from None

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> Sequence[int]:
        """Publish messages with one write; return how many connections received each."""
        connection = self._out
        assert connection is not None  # noqa: S101 - connected before
        commands = [("PUBLISH", self._prefix + topic, data) for topic, data in messages]
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await connection.read_response() for _ in commands]
        except RedisError as error:
            raise CarrierError(str(error)) from None

    async def close(self) -> None:
        """Close both."""
        connections, self._out, self._in = (self._out, self._in), None, None
        for connection in connections:
            if connection is not None:
                with contextlib.suppress(Exception):
                    await connection.disconnect(nowait=True)
