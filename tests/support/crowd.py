"""Thousands of readers in one process, each of which counts its events and checks their order as cheaply as possible."""

import asyncio
import re
import socket
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.api import Api, events
from tests.support.raw import request_head
from tests.support.waiting import eventually

CHUNK = 2**18

_SEQ = re.compile(rb'"seq":(\d+),')
_POSITION = {"sse": (b"\nid: ", b"\n"), "websocket": (b'"position":"', b'"}')}
"""The text before and after a position."""
_END = {"sse": b"\n\n", "websocket": b'"}'}
"""The text at the end of each complete item."""
_SEQS = [b"%d" % number for number in range(100_000)]


class Member:
    """One reader, which reads everything or only a number of bytes."""

    def __init__(self, connection: socket.socket, kind: str) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        (self._before, self._after), self._end = _POSITION[kind], _END[kind]
        self._head_is_over = False
        self._rest = b""
        self._limit: int | None = None
        self._reads = False
        self.bytes = 0
        self.events = 0
        self.position: str | None = None
        """The position of the last complete event."""
        self.is_synced = False
        self.is_in_order = True
        self._last = 0

    def take_until(self, limit: int | None) -> None:
        """Read until this many bytes are read in total, or everything."""
        self._limit = limit
        if not self._reads and (limit is None or self.bytes < limit):
            self._reads = True
            self._loop.add_reader(self._socket, self._read)

    def pause(self) -> None:
        """Stop reading."""
        self._stop()

    def leave(self) -> None:
        """Drop the connection."""
        self._stop()
        self._socket.close()

    def _stop(self) -> None:
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._socket)

    def _read(self) -> None:
        wanted = CHUNK if self._limit is None else min(CHUNK, self._limit - self.bytes)
        try:
            data = self._socket.recv(wanted)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stop()
            return
        self.bytes += len(data)
        if self._limit is not None and self.bytes >= self._limit:
            self._stop()
        self._rest += data
        if not self._head_is_over:
            head, found, rest = self._rest.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")), head
            self._head_is_over, self._rest = True, b"\n" + rest
        # Searching from the end takes a fraction of the time that a regular expression takes for all positions.
        end = self._rest.rfind(self._end) + len(self._end)
        start = self._rest.rfind(self._before, 0, end)
        if start < 0:
            return
        start += len(self._before)
        stop = self._rest.index(self._after, start)
        self.position = self._rest[start:stop].decode()
        if self._end == self._after:  # an event ends with the same text; a position ends a message
            end = stop + len(self._after)
        # The newline at the end of an item is the one before the next position, too.
        whole, self._rest = self._rest[:end], self._rest[end - 1 :]
        self.is_synced = self.is_synced or b"synced" in whole
        seqs = _SEQ.findall(whole)
        if seqs:
            first = self._last + 1 if self._last else int(seqs[0])
            self.is_in_order = self.is_in_order and seqs == _SEQS[first : first + len(seqs)]
            self._last = int(seqs[-1])
            self.events += len(seqs)


class Crowd:
    """Readers of one workspace."""

    def __init__(self, api: Api, workspace: str, kind: str) -> None:
        self._api = api
        self._kind = kind
        headers: dict[str, Any] = dict(api.headers)
        path = f"{events(workspace)}/stream"
        if kind == "websocket":
            path = f"{events(workspace)}/ws"
            headers |= {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            }
        self._request = request_head("GET", path, headers)
        self.members: list[Member] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            member.leave()

    async def join(self, count: int, *, receive_buffer: int | None = None) -> list[Member]:
        """Start this many live readers, and return them when each has caught up; they continue to read."""
        parts = urlsplit(self._api.url)
        loop = asyncio.get_running_loop()
        joined: list[Member] = []
        for _ in range(count):
            connection = socket.socket()
            connection.setblocking(False)
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await loop.sock_connect(connection, (parts.hostname, parts.port))
            await loop.sock_sendall(connection, self._request)
            member = Member(connection, self._kind)
            member.take_until(None)
            joined.append(member)
        self.members += joined
        await eventually(lambda: all(member.is_synced for member in joined))
        return joined
