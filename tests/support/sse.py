"""A reader of server-sent events on a raw socket: it sees every byte, can read slowly and can drop the connection."""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.asking import ask
from tests.support.waiting import SECONDS


@dataclass
class Block:
    """The text between two empty lines."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: int | None = None
    comments: list[str] = field(default_factory=list)

    @property
    def json(self) -> Any:
        """Return the data, decoded."""
        assert self.data is not None, self
        return json.loads(self.data)


class StreamEnded(AssertionError):
    """The server ended the stream."""


class SseReader:
    """One connection, created by `open`. It reads only when asked to, so it can be a slow reader."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names are in lower case."""
        self.position: str | None = None
        """The last id seen, which an EventSource sends as `Last-Event-ID` when it reconnects."""
        self.raw = b""
        """The body so far, without chunk framing."""
        self._lines = b""

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        params: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> Self:
        """Connect, send the GET and read the head of the response.

        Args:
            url: The stream's URL.
            params: Parameters of the query string.
            headers: Headers besides `Host` and `Accept`.
            receive_buffer: The size of the kernel's buffer; with a small one, an idle reader soon blocks the server.
        """
        asked = await ask(url, params, {"Accept": "text/event-stream", **(headers or {})}, receive_buffer)
        self = cls(asked.reader, asked.writer)
        self.status, self.headers = asked.status, asked.headers
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def body(self) -> bytes:
        """Read to the end of the response: an error's body, or the rest of a stream."""
        async with asyncio.timeout(SECONDS):
            while await self._fill():
                pass
        return self.raw

    async def next(self, event: str | None = None, *, timeout: float = SECONDS) -> Block:
        """Return the next block; with `event`, skip to the next one of that type.

        Raises:
            StreamEnded: The server has closed the stream.
            TimeoutError: None arrived in time.
        """
        async with asyncio.timeout(timeout):
            while True:
                block = await self._block()
                if event is None or block.event == event:
                    return block

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Return the next `count` stored events."""
        return [(await self.next("activity")).json for _ in range(count)]

    async def ended(self) -> None:
        """Read until the server has closed the stream."""
        await self.body()

    def close(self) -> None:
        """Close the connection normally."""
        self._writer.close()

    def abort(self) -> None:
        """Drop the connection: the kernel resets it when the server sends more."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _block(self) -> Block:
        while b"\n\n" not in self._lines:
            if not await self._fill():
                raise StreamEnded(f"the server closed the stream; it had sent {self.raw[-500:]!r}")
        text, self._lines = self._lines.split(b"\n\n", 1)
        block = Block()
        data: list[str] = []
        for line in text.decode().split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "":
                block.comments.append(value)
            elif name == "data":
                data.append(value)
            elif name == "retry":
                block.retry = int(value)
            elif name == "id":
                block.id = self.position = value
            elif name == "event":
                block.event = value
            else:
                raise AssertionError(f"not a line of server-sent events: {line!r}")
        block.data = "\n".join(data) if data else None
        return block

    async def _fill(self) -> bool:
        """Read part of the body; return False at its end."""
        if self.headers.get("transfer-encoding") == "chunked":
            data = await self._chunk()
        elif "content-length" in self.headers:
            data = await self._reader.read(int(self.headers["content-length"]) - len(self.raw))
        else:
            data = await self._reader.read(2**16)
        self.raw += data
        self._lines += data
        if not data:
            self.close()
        return bool(data)

    async def _chunk(self) -> bytes:
        size = await self._reader.readline()
        if not size:  # disconnected in the middle
            return b""
        data = await self._reader.readexactly(int(size, 16))
        assert await self._reader.readexactly(2) == b"\r\n"
        return data
