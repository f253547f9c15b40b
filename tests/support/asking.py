"""A GET on a raw socket with an endless response: the start of every stream and WebSocket."""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from tests.support.waiting import SECONDS


@dataclass
class Asked:
    """A connection and the head of the response; header names are in lower case."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int
    headers: dict[str, str]


async def ask(
    url: str, params: Mapping[str, object] | None, headers: Mapping[str, str], receive_buffer: int | None
) -> Asked:
    """Connect, send a GET and read the head of the response.

    Args:
        url: The URL.
        params: Parameters of the query string; those that are None are left out.
        headers: Headers besides `Host`, which they may replace.
        receive_buffer: The size of the kernel's buffer; with a small one, an idle reader soon blocks the server.
    """
    parts = urlsplit(url)
    assert parts.hostname
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (parts.hostname, parts.port or 80))
    except BaseException:
        connection.close()
        raise
    reader, writer = await asyncio.open_connection(sock=connection, limit=receive_buffer or 2**16)
    query = urlencode({name: value for name, value in (params or {}).items() if value is not None}, doseq=True)
    lines = [f"GET {parts.path}{'?' if query else ''}{query} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {"Host": parts.netloc, **headers}.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        async with asyncio.timeout(SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except BaseException:
        writer.close()
        raise
    found = [line.partition(":") for line in head[1:] if line]
    return Asked(reader, writer, int(head[0].split()[1]), {name.lower(): value.strip() for name, _, value in found})
