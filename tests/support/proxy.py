"""A TCP proxy between a client and a server that can disconnect, refuse and stall."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class Proxy:
    """Forwards bytes until told otherwise. Created by `proxy_to`."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.connections = 0
        """Number of connections so far."""
        self.cut_after: int | None = None
        """Close each connection after this many bytes to the client."""
        self.cuts = 0
        """Number of connections closed for this reason."""
        self.heads: list[bytes] = []
        """The first bytes that the client sent on each connection."""

    @property
    def url(self) -> str:
        """Return the proxy's URL for the target's URL."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def open(self) -> int:
        """Return the number of open connections."""
        return len(self._open) // 2

    async def listen(self) -> None:
        """Accept connections, always on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Stop accepting connections, and close the existing ones."""
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Close all connections."""
        for writer in self._open:
            writer.transport.abort()

    def reset(self) -> None:
        """Reset all connections, so that data in transit is lost."""
        for writer in self._open:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()

    def freeze(self) -> None:
        """Stop forwarding to the clients without closing."""
        self._flows.clear()

    def thaw(self) -> None:
        """Forward the data that was held back."""
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._up(reader, far_writer), self._down(far_reader, writer))
        for each in (writer, far_writer):
            self._open.discard(each)
            each.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = True
        while data := await reader.read(2**16):
            if first:
                self.heads.append(data)
                first = False
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        brought = 0
        while data := await reader.read(2**16):
            await self._flows.wait()
            if self.cut_after is not None and brought + len(data) >= self.cut_after:
                writer.write(data[: self.cut_after - brought])
                await writer.drain()
                writer.close()
                self.cuts += 1
                return
            brought += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def proxy_to(target: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a server."""
    proxy = Proxy(target)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.thaw()
        await proxy.refuse()
