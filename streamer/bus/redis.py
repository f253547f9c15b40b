"""Carries messages over Redis' publish and subscribe (redis-py).

The library's own reconnecting is not used, because it re-subscribes without a word (its connections are used one by one, without retries): after
each failure both connections are made again.
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from streamer.bus.link import CarrierError, Receiver

TURN_MESSAGES: Final = 256
"""Messages that are passed on before other tasks run."""


_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,  # with 3, redis-py formats each message for a debug line
    "retry": Retry(NoBackoff(), 0),
    "health_check_interval": 0,
}
_SENTINEL = re.compile(r"redis(s?)\+sentinel://(?:([^:@/]*):([^@/]*)@)?([^/@]+)/([^/?]+)(?:/(\d+))?")


class Refused(CarrierError):
    """Redis answered a command with an error."""


def carrier_of(url: str) -> "RedisCarrier":
    """Return the carrier for a URL (`STREAMER_REDIS_URL`). Raises ValueError: it is not one."""
    return SentinelCarrier(url) if "+sentinel://" in url else RedisCarrier(url)


class RedisCarrier:
    """One connection that publishes, and one that receives."""

    name = "redis"
    takes_frames = True

    def __init__(self, url: str) -> None:
        """Create it for a URL: `redis://`, `rediss://` (TLS) or `unix://`, with options as redis-py reads them. Raises ValueError."""
        self._pool = self._pool_of(url)
        self._prefix = ""
        self._out: AbstractConnection | None = None
        self._in: AbstractConnection | None = None

    def _pool_of(self, url: str) -> ConnectionPool:
        return ConnectionPool.from_url(url, **_OPTIONS)

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

    async def ask(self, *command: str) -> Any:
        """Return the reply to one command, over a connection of its own. Raises CarrierError, Refused, OSError."""
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            await connection.send_command(*command)
            return await connection.read_response()
        except ResponseError as error:
            raise Refused(str(error)) from None
        except RedisError as error:
            raise CarrierError(str(error)) from None
        finally:
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)

    async def is_current(self) -> bool:
        """Return True: the URL names one server."""
        return True

    async def close(self) -> None:
        """Close both."""
        connections, self._out, self._in = (self._out, self._in), None, None
        for connection in connections:
            if connection is not None:
                with contextlib.suppress(Exception):
                    await connection.disconnect(nowait=True)


class SentinelCarrier(RedisCarrier):
    """The same, on the master that Redis Sentinel names."""

    def _pool_of(self, url: str) -> ConnectionPool:
        match = _SENTINEL.fullmatch(url)
        if match is None:
            raise ValueError("write it as redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DATABASE")
        tls, user, password, hosts, service, number = match.groups()
        named = [host.rpartition(":") for host in hosts.split(",")]
        if not all(host and port.isdecimal() for host, _, port in named):
            raise ValueError("each sentinel is written as HOST:PORT")
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            [(host, int(port)) for host, _, port in named], sentinel_kwargs={"socket_timeout": 0.5, **_OPTIONS}
        )
        login = {"username": unquote(user) or None, "password": unquote(password)} if password else {}
        self._service = service
        options = {"db": int(number or 0), "ssl": bool(tls), **login, **_OPTIONS}
        return SentinelConnectionPool(service, self._sentinel, **options)  # type: ignore[no-untyped-call]

    async def is_current(self) -> bool:
        """Ask the sentinels whether the master is still the same. An old master answers for some seconds after a failover."""
        if self._out is None or self._in is None:
            return True
        try:
            master = await self._sentinel.discover_master(self._service)
        except RedisError as error:
            raise CarrierError(str(error)) from None
        return all((connection.host, connection.port) == tuple(master) for connection in (self._out, self._in))  # type: ignore[attr-defined]

    async def close(self) -> None:
        """Close all connections."""
        await super().close()
        for sentinel in self._sentinel.sentinels:
            with contextlib.suppress(Exception):
                await sentinel.connection_pool.disconnect()
