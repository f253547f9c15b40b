"""Takes a connection from aiohttp once its answer has begun: it then has no task, no parser and no request any more, only a socket.

The one place that leans on the inside of aiohttp (pinned in pyproject.toml): `release` makes its driver of the connection believe that
the client left, while the transport, with another protocol, goes on. The order matters: aiohttp closes whatever transport it still has.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web


class WriteOnlyProtocol(asyncio.Protocol):
    """A write-only connection: input is ignored, disconnects are detected."""

    __slots__ = ("_drained", "_when_lost")

    def __init__(self) -> None:
        self._drained: asyncio.Future[None] | None = None
        """Done when the transport's buffer is below its mark; None while it is."""
        self._when_lost: list[Callable[[], None]] | None = []
        """To be called at the end; None once there was one."""

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have something called when the connection is gone; at once if it is."""
        if self._when_lost is None:
            call()
        else:
            self._when_lost.append(call)

    async def drain(self) -> None:
        """Wait until the transport's buffer is below its mark. Raises ConnectionError."""
        if self._when_lost is None:
            raise ConnectionResetError("the connection is gone")
        if self._drained is None:
            await asyncio.sleep(0)  # written, but not tried yet: whether it is too much is known when it is
        if self._drained is not None:
            await self._drained

    # ---- what the transport calls

    def pause_writing(self) -> None:
        """Have `drain` wait: the buffer is above its mark."""
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Wake who waits: the buffer is below its mark."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Say that the connection is gone."""
        calls, self._when_lost = self._when_lost or [], None
        self.resume_writing()
        for call in calls:
            call()


class DetachedResponse(web.StreamResponse):
    """The answer of a handler that took the connection: aiohttp is to forget it."""

    protocol: WriteOnlyProtocol | None = None
    """The connection's protocol from now on; None if it was gone before."""

    def take(self, transport: asyncio.Transport) -> WriteOnlyProtocol:
        """Take the connection; all headers are written."""
        self.protocol = WriteOnlyProtocol()
        transport.set_protocol(self.protocol)
        if not transport.is_reading():
            transport.resume_reading()  # the client sent more than was wanted: its leaving is to be noticed all the same
        return self.protocol


def release(driver: web.RequestHandler, request: web.BaseRequest) -> None:
    """Have aiohttp forget a connection that was taken from it, as if the client had left."""
    request._finish()  # noqa: SLF001
    driver._task_handler = None  # noqa: SLF001 - it runs this code, and ends by itself
    driver.transport = None
    driver.connection_lost(None)
