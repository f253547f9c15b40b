"""What the kernel knows of a connection's peer."""

import asyncio
import contextlib
import socket
import struct

_INFO_BYTES = 148
_UNACKED, _ACKED, _UNSENT = 24, 120, 144
"""Offsets in Linux's `struct tcp_info`: segments in flight, bytes acknowledged so far, bytes not sent."""


def progress(transport: asyncio.Transport, tcp: socket.socket | None) -> int | None:
    """Return how much a connection's peer has acknowledged; None if nothing waits for it."""
    pending = transport.get_write_buffer_size()
    info = b""
    if tcp is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # not TCP, not Linux, or closed
            info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < _INFO_BYTES:
        return pending or None
    (in_flight,), (unsent,) = struct.unpack_from("I", info, _UNACKED), struct.unpack_from("I", info, _UNSENT)
    acknowledged: int = struct.unpack_from("Q", info, _ACKED)[0]
    return acknowledged if pending or in_flight or unsent else None
