"""A WebSocket client on a raw socket: it sees every byte, can read slowly, send invalid frames and drop the connection."""

import asyncio
import base64
import hashlib
import json
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.support.api import Answer, Api, events
from tests.support.asking import ask
from tests.support.sse import StreamEnded
from tests.support.waiting import SECONDS

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

CUT = 1006
"""The close code of a connection that ended without a close frame (RFC 6455, 7.1.5)."""

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True)
class Frame:
    """The content of one frame."""

    opcode: int
    final: bool
    payload: bytes


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
"""The headers of a handshake, for requests that must not become a socket."""


def encode_frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """Return a client's frame (RFC 6455, 5.2). The mask is zero, so the payload stays unchanged."""
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask | len(payload)])
    elif len(payload) < 2**16:
        head += bytes([mask | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", len(payload))
    return head + (b"\0\0\0\0" if masked else b"") + payload


class WsReader:
    """One connection, created by `open`. It reads only when asked to, so it can be a slow reader."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names are in lower case."""
        self.positions: dict[str, str] = {}
        """The last position of each subscription."""
        self.messages: list[Any] = []
        """Everything received so far."""
        self.pings = 0
        """Number of pings received and answered."""
        self.pongs: list[bytes] = []
        """The server's answers to our pings."""
        self.close_code: int | None = None
        self.close_reason = ""
        self._left: dict[str | None, list[dict[str, Any]]] = {}

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        params: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> Self:
        """Connect, request the upgrade and read the head of the response; `status` is 101 after an upgrade.

        Compression is always offered. This function and every frame check that the server declines it.

        Args:
            url: The socket's URL, with `http:`.
            params: Parameters of the query string.
            headers: Headers besides those of the handshake.
            receive_buffer: The size of the kernel's buffer; with a small one, an idle reader soon blocks the server.
        """
        key = base64.b64encode(os.urandom(16)).decode()
        sent = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
            **(headers or {}),
        }
        asked = await ask(url, params, sent, receive_buffer)
        self = cls(asked.reader, asked.writer)
        self.status, self.headers = asked.status, asked.headers
        if self.status == 101:
            accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
            assert self.headers["sec-websocket-accept"] == accept
            assert self.headers["upgrade"].lower() == "websocket"
            assert "sec-websocket-extensions" not in self.headers, "compression was negotiated"
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def answer(self) -> Answer:
        """Return the response of a server that did not upgrade."""
        assert self.status != 101, "the server did upgrade"
        async with asyncio.timeout(SECONDS):
            body = await self._reader.readexactly(int(self.headers["content-length"]))
        self.close()
        return Answer(self.status, self.headers, body)

    async def next(self, kind: str | None = None, *, timeout: float = SECONDS, **having: object) -> Any:
        """Return the next message; with `kind` and `having`, skip to the next one of that type with those fields.

        Raises:
            StreamEnded: The socket was closed; see `close_code`.
            TimeoutError: None arrived in time.
        """
        async with asyncio.timeout(timeout):
            while True:
                message = await self._message()
                if (kind is None or message["type"] == kind) and having.items() <= message.items():
                    return message

    async def events(self, count: int, sub: str | None = None) -> list[dict[str, Any]]:
        """Return the next `count` stored events, of one subscription or of any. Further events of a message are kept."""
        left = self._left.setdefault(sub, [])
        while len(left) < count:
            message = await self.next("events")
            if sub in {None, message["sub"]}:
                left += message["events"]
        taken = left[:count]
        del left[:count]
        return taken

    async def send(self, message: object) -> None:
        """Send a message as JSON."""
        await self.send_frame(TEXT, json.dumps(message).encode())

    async def ask(self, message: object, *kinds: str) -> Any:
        """Send a message and return the next one of these types, or an error."""
        await self.send(message)
        while True:
            answer = await self.next()
            if answer["type"] in {*kinds, "error"}:
                return answer

    async def send_frame(self, opcode: int, payload: bytes, **options: Any) -> None:
        """Send a frame; keywords as in `encode_frame`."""
        await self.send_bytes(encode_frame(opcode, payload, **options))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes, and wait while the server reads none."""
        self._writer.write(data)
        await self._writer.drain()

    async def pinged(self) -> None:
        """Wait for a ping of the server on an otherwise idle socket, and answer it."""
        async with asyncio.timeout(SECONDS):
            while (frame := await self.frame()).opcode != PING:
                assert frame.opcode == PONG, f"expected a ping on an idle socket: {frame}"
        self.pings += 1
        await self.send_frame(PONG, frame.payload)

    async def closed(self) -> tuple[int, str]:
        """Read to the end. Return the close frame's code and reason, or `CUT` without one."""
        async with asyncio.timeout(SECONDS):
            try:
                while True:
                    await self._message()
            except (StreamEnded, ConnectionError, asyncio.IncompleteReadError):
                pass
        assert self.close_code is not None
        return self.close_code, self.close_reason

    async def frame(self) -> Frame:
        """Return the next frame of any kind, without acting on it.

        Raises:
            asyncio.IncompleteReadError: There is none.
        """
        head = await self._reader.readexactly(2)
        assert not head[0] & 0x70, "a reserved bit is set: this frame is compressed"
        assert not head[1] & 0x80, "a server's frames are not masked"
        length = head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", await self._reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self._reader.readexactly(8))
        return Frame(head[0] & 0x0F, bool(head[0] & 0x80), await self._reader.readexactly(length))

    def finish(self) -> None:
        """Send no more: the server sees the end, and may still respond."""
        self._writer.write_eof()

    def close(self) -> None:
        """Close the connection without a close frame."""
        self._writer.close()

    def abort(self) -> None:
        """Drop the connection: the kernel resets it when the server sends more."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _message(self) -> Any:
        data = b""
        while True:
            try:
                frame = await self.frame()
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                self.close()
                if self.close_code is None:
                    self.close_code = CUT
                raise StreamEnded(
                    f"the server dropped the connection; the last messages: {self.messages[-3:]}"
                ) from error
            if frame.opcode == PING:
                self.pings += 1
                self._writer.write(encode_frame(PONG, frame.payload))
            elif frame.opcode == PONG:
                self.pongs.append(frame.payload)
            elif frame.opcode == CLOSE:
                self.close_code = struct.unpack(">H", frame.payload[:2])[0] if frame.payload else 1005
                self.close_reason = frame.payload[2:].decode()
                self._writer.write(encode_frame(CLOSE, frame.payload[:2]))
                self.close()
                raise StreamEnded(f"closed with {self.close_code} {self.close_reason}")
            else:
                assert frame.opcode in {TEXT, CONTINUATION}, f"not a text frame: {frame.opcode}"
                data += frame.payload
                if frame.final:
                    break
        message = json.loads(data.decode())
        assert isinstance(message, dict)
        if "position" in message:
            self.positions[message["sub"]] = message["position"]
        self.messages.append(message)
        return message


async def open_socket(
    api: Api, workspace: str | None = None, *, receive_buffer: int | None = None, headers: Any = None, **params: Any
) -> WsReader:
    """Open a workspace's socket, or the multiplexed one; keywords are its parameters."""
    path = "/v1/ws" if workspace is None else f"{events(workspace)}/ws"
    return await WsReader.open(
        api.url + path, params=params, headers={**api.headers, **(headers or {})}, receive_buffer=receive_buffer
    )
