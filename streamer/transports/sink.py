"""A socket as the feed writes to it: shared bytes straight to the transport, and what the kernel knows of the peer's progress."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from streamer.core.unread import SMALL, Hold
from streamer.feed.reasons import Reason
from streamer.observe.tasks import detached
from streamer.server.tcp import progress

GRACE_SECONDS = 10
"""How long a connection that was closed may take to bring what was written before."""
RETRY_MS = (1000, 4000)
"""The range of the reconnection time that readers get: spread, so that they do not all reconnect at once."""


class SocketSink:
    """The part of a sink that is the same for all transports over a socket."""

    __slots__ = (
        "_drain",
        "_draining",
        "_free",
        "_high_water",
        "_looks",
        "_own",
        "_reserved",
        "_tcp",
        "_transport",
        "_unread",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        drain: Callable[[], Coroutine[Any, Any, None]],
        *,
        unread: Hold,
        high_water: int,
        stall_seconds: float,
    ) -> None:
        """Make the sink of a connection.

        Args:
            transport: the connection's.
            drain: waits until the transport's buffer, if it is above its mark, is below it again.
            unread: counts the bytes that the peer has not taken.
            high_water: bytes in the buffer above which the reader is slow.
            stall_seconds: how long the peer may take nothing.
        """
        self._transport = transport
        self._drain = drain
        self._unread = unread
        self._high_water = high_water
        self._free = min(SMALL, high_water)
        """Bytes in the buffer that are not counted."""
        self._own = 0
        """At most this much of the buffer counts for this reader: what it has alone, and its share of what it has with others."""
        self._reserved = 0
        """Bytes that the block of `room` can write."""
        self._looks = False
        """A look at the buffer is due."""
        self._draining: asyncio.Task[None] | None = None
        self._tcp: socket.socket | None = transport.get_extra_info("socket")
        transport.set_write_buffer_limits(high=self._free)
        self._bound_kernel(high_water, stall_seconds)

    def _bound_kernel(self, high_water: int, stall_seconds: float) -> None:
        """Let the kernel keep no more unsent than we do, and give up on a peer that is gone without a word."""
        if self._tcp is None:
            return
        with contextlib.suppress(OSError, AttributeError):  # not TCP, or not Linux
            # Otherwise some megabytes a slow reader, which nobody counts.
            self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, high_water)
            # Later than our own close, which says why (RFC 5482).
            patience = int((stall_seconds + 2 * GRACE_SECONDS) * 1000)
            self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)

    def is_ready(self) -> bool:
        """Tell whether the buffer is below its mark."""
        return self._transport.get_write_buffer_size() <= self._high_water

    def offer(self, data: bytes, share: int) -> bool:
        """Hand bytes to the transport unless its buffer is above its mark, or the node has no memory for the share of them."""
        transport = self._transport
        pending = transport.get_write_buffer_size()
        if pending > self._high_water:
            return False
        own = min(self._own, pending) + share if pending else share
        if own > self._free:
            if not self._unread.has_room(own + self._reserved):
                return False
            self._unread.resize(own + self._reserved)
            self._look_soon()
        self._own = own
        if not transport.is_closing():
            transport.write(data)
        return True

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; one that is closing ignores them."""
        if not self._transport.is_closing():
            self._own = min(self._own, self._transport.get_write_buffer_size()) + len(data)
            self._transport.write(data)

    @contextlib.asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Wait until the node has memory for that many more unread bytes, which the block can write. One block at a time."""
        granted = asyncio.get_running_loop().create_future()

        def grant() -> None:
            self._reserved = size
            if not granted.done():  # not cancelled
                granted.set_result(None)

        self._own = min(self._own, self._transport.get_write_buffer_size())
        try:
            if self._unread.reserve(self._own + size, grant):
                self._reserved = size
            else:
                await granted
            yield
        finally:
            self._unread.withdraw()
            self._reserved = 0
            self._look_soon()

    async def drain(self) -> None:
        """Wait until the buffer is below its mark. Several may wait at once. Raises ConnectionError."""
        if self.is_ready() and not self._transport.is_closing():
            return
        draining = self._start_draining()
        await asyncio.wait([draining])
        if draining.cancelled() or draining.exception() is not None or self._transport.is_closing():
            raise ConnectionResetError("the connection is gone")

    def _start_draining(self) -> asyncio.Task[None]:
        """Return the one task that waits for the buffer: a caller that is cancelled does not take it from the others."""
        if self._draining is None or self._draining.done():
            self._draining = detached(self._drain())
            self._draining.add_done_callback(self._look)
        return self._draining

    def _look_soon(self) -> None:
        """Look at the buffer when the event loop has tried to empty it."""
        if not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self, _drained: object = None) -> None:
        """Hold what the peer has left in the buffer, until the peer has taken it, and what is reserved."""
        self._looks = False
        self._own = min(self._own, self._transport.get_write_buffer_size())
        self._unread.resize(self._own + self._reserved)
        if self._own > self._free:
            self._start_draining()

    def progress(self) -> int | None:
        """Return how much the peer has acknowledged; None if nothing waits for it."""
        return progress(self._transport, self._tcp)

    def finish(self, farewell: bytes) -> None:
        """Write the last bytes, and cut the connection if the peer does not take them."""
        self.write(farewell)
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._cut)

    def _cut(self) -> None:
        # asyncio's transports fail when they are aborted after their end, which was as late as the peer wanted.
        if self._tcp is None or self._tcp.fileno() >= 0:
            self._transport.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()


def retry_ms() -> int:
    """Return a reconnection time for one reader, in milliseconds."""
    return random.randint(*RETRY_MS)  # noqa: S311 - jitter, not a secret


def ending(reason: Reason) -> dict[str, object]:
    """Return what announces the end of a connection to a reader."""
    return {"reason": reason.word, "reconnect": reason.reconnect}
