"""HTTP/1.1 by hand, for requests that no client library would send."""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.waiting import SECONDS


def request_head(method: str, target: str, headers: Mapping[str, str | int] | None = None) -> bytes:
    """Return a request's head. Texts are encoded as Latin-1, so that any byte is possible."""
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {"Host": "tests", **(headers or {})}.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class RawAnswer:
    """A response: its head, and its body by `Content-Length`."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        """Names are in lower case."""
        self.body = body

    @property
    def error(self) -> str:
        """Return the error code; the response must be an error."""
        code = json.loads(self.body)["error"]["code"]
        assert isinstance(code, str)
        return code

    @property
    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(self.body)


class RawConnection:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, *, has_body: bool = True) -> RawAnswer:
        """Read the next response. An interim response (1xx) and the response to a HEAD have no body."""
        async with asyncio.timeout(SECONDS):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            pairs = (line.partition(":") for line in lines[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            length = int(headers.get("content-length", 0)) if has_body else 0
            return RawAnswer(status, headers, await self._reader.readexactly(length))

    async def until(self, end: bytes) -> bytes:
        """Read up to some bytes, and return everything read."""
        text = bytearray()
        looked = 0
        async with asyncio.timeout(SECONDS):
            while text.find(end, looked) < 0:
                looked = max(len(text) - len(end), 0)
                text += await self._reader.read(2**16)
        return bytes(text)

    async def some(self, seconds: float) -> bytes:
        """Return the next bytes, or nothing if none arrive soon."""
        try:
            async with asyncio.timeout(seconds):
                return await self._reader.read(2**16)
        except TimeoutError:
            return b""

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(SECONDS):
            return await self._reader.read()

    def finish(self) -> None:
        """Send no more: the server sees the end, and may still respond."""
        self._writer.write_eof()

    def abort(self) -> None:
        """Drop the connection: the kernel resets it when the server sends more."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
