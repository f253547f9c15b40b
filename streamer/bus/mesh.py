"""Carries messages between the workers of one machine, over Unix sockets: each worker has a socket in a common folder, and writes to all of them."""

import asyncio
import contextlib
import os
import secrets
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from streamer.bus.link import CarrierError, Receiver

UNSENT_BYTES: Final = 4 * 2**20
"""Bytes that a worker may leave unread before it gets no more; it finds what it missed by its poll."""
MAX_BYTES: Final = 4 * 2**20
"""Bytes of one message."""
LOOK_SECONDS = 0.2
"""Time between looks for new workers."""

_HEAD = struct.Struct(">IB")


class MeshCarrier:
    """A socket that receives from all workers, and one connection to each, itself included."""

    name = "workers"
    takes_frames = True

    def __init__(self, folder: Path) -> None:
        """Create it. Only the workers' user can open the folder."""
        self._folder = folder
        self._path: Path | None = None
        self._server: asyncio.Server | None = None
        self._peers: dict[str, asyncio.Transport] = {}
        self._inlets: set[_Inlet] = set()
        self._receiver: Receiver | None = None
        self._ended = asyncio.Event()
        self._looked_at = 0.0

    async def connect(self, instance: str) -> None:  # noqa: ARG002 - the folder is the installation's
        """Open the socket, and connect to all workers."""
        self._ended, self._receiver = asyncio.Event(), None
        self._path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Inlet(self), str(self._path))
        await self._look()
        if self._path.name not in self._peers:
            raise CarrierError("the socket does not answer")

    async def receive(self, receiver: Receiver) -> None:
        """Pass on what arrives."""
        self._receiver = receiver
        await self._ended.wait()

    def take(self, topic: str, data: bytes) -> None:
        """Pass on a message."""
        if self._receiver is not None:
            self._receiver.take(topic, data)

    async def follow(self, topics: Sequence[str]) -> None:
        """Confirm topics at once: all messages arrive here."""
        if self._receiver is not None:
            self._receiver.confirmed(topics)

    async def leave(self, topics: Sequence[str]) -> None:
        """Do nothing: all messages arrive here."""

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Write messages to all workers; to one that does not read, no more than `UNSENT_BYTES`."""
        if time.monotonic() >= self._looked_at + LOOK_SECONDS:
            await self._look()
        packed = b"".join([_HEAD.pack(len(data), len(topic)) + topic.encode() + data for topic, data in messages])
        for peer in list(self._peers.values()):
            if peer.get_write_buffer_size() <= UNSENT_BYTES:
                peer.write(packed)

    async def _look(self) -> None:
        """Connect to new workers, and remove the sockets of those that ended."""
        self._looked_at = time.monotonic()
        for path in sorted(self._folder.iterdir()):
            name = path.name
            if name in self._peers:
                continue
            try:
                transport, _ = await asyncio.get_running_loop().create_unix_connection(
                    lambda name=name: _Outlet(self, name),  # type: ignore[misc]
                    str(path),
                )
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    path.unlink()
            except OSError:
                continue
            else:
                self._peers[name] = transport

    def met(self, inlet: "_Inlet") -> None:
        """Take a connection, perhaps of a new worker: it is connected before the next message is sent."""
        self._inlets.add(inlet)
        self._looked_at = 0.0

    def parted(self, inlet: "_Inlet") -> None:
        """Forget a connection."""
        self._inlets.discard(inlet)

    def lost(self, name: str) -> None:
        """Forget a worker."""
        self._peers.pop(name, None)
        if self._path is not None and name == self._path.name:
            self._ended.set()

    async def is_current(self) -> bool:
        """Return True: there is no other server."""
        return True

    async def close(self) -> None:
        """Close everything."""
        path, self._path = self._path, None
        if self._server is not None:
            self._server.close()
        for transport in [*self._peers.values(), *(inlet.transport for inlet in self._inlets)]:
            if transport is not None:
                transport.abort()
        self._peers.clear()
        self._ended.set()
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


class _Outlet(asyncio.Protocol):
    """The connection to a worker: it brings nothing."""

    def __init__(self, carrier: MeshCarrier, name: str) -> None:
        self._carrier = carrier
        self._name = name

    def connection_lost(self, _error: Exception | None) -> None:
        self._carrier.lost(self._name)


class _Inlet(asyncio.Protocol):
    """The connection of a worker."""

    def __init__(self, carrier: MeshCarrier) -> None:
        self._carrier = carrier
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        self._carrier.met(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._carrier.parted(self)

    def data_received(self, data: bytes) -> None:
        """Take the messages that are complete."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _HEAD.size:
            size, name = _HEAD.unpack_from(self._buffer, at)
            if size > MAX_BYTES and self.transport is not None:
                self.transport.abort()
                return
            end = at + _HEAD.size + name + size
            if end > len(self._buffer):
                break
            topic = self._buffer[at + _HEAD.size : at + _HEAD.size + name].decode()
            self._carrier.take(topic, bytes(self._buffer[end - size : end]))
            at = end
        del self._buffer[:at]
