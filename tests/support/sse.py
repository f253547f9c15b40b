"""A reader of server-sent events on a raw socket: it sees every byte, can be as slow as it likes and can vanish without a word."""

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
    """What stands between two empty lines."""

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
    """One connection. Made by `open`; reads only when asked to, so not asking makes it a slow reader."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        """By their names in lower case."""
        self.position: str | None = None
        """The last id seen: what an EventSource sends as `Last-Event-ID` when it comes back."""
        self.raw = b""
        """The body so far, without the chunks' frames."""
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
        """Connect, send the GET and read the answer's head.

        Args:
            url: of the stream.
            params: for the query string.
            headers: beside `Host` and `Accept`.
            receive_buffer: bytes that the kernel takes for a reader that does not read; a small number makes it slow soon.
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
        """Read to the end of the answer: an error's body, or what is left of a stream."""
        async with asyncio.timeout(SECONDS):
            while await self._fill():
                pass
        return self.raw

    async def next(self, event: str | None = None, *, timeout: float = SECONDS) -> Block:
        """Return the next block; with `event`, the next one of that type, passing over all others.

        Raises:
            StreamEnded: there is none, the server has closed the stream.
            TimeoutError: there is none in time.
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
        """Wait until the server has closed the stream, reading on."""
        await self.body()

    def close(self) -> None:
        """Hang up, as a client that ends in good order does."""
        self._writer.close()

    def abort(self) -> None:
        """Vanish: the kernel answers with a reset to whatever the server still sends."""
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
        """Read some of the body; False at its end."""
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
        if not size:  # cut off in the middle
            return b""
        data = await self._reader.readexactly(int(size, 16))
        assert await self._reader.readexactly(2) == b"\r\n"
        return data
