"""Requests over one keep-alive connection, as cheap as they can be: the time they take is the server's."""

import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from bench.check import BUCKET_NS
from bench.sandbox import BenchError

ANSWER_SECONDS = 30.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def complete(data: bytes) -> int:
    """Return the length of the response that `data` begins with, 0 if it is not all there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    length = _LENGTH.search(data, 0, end + 2)
    size = end + 4 + (int(length[1]) if length else 0)
    return size if len(data) >= size else 0


class HttpClient:
    """One keep-alive connection to a server on 127.0.0.1."""

    def __init__(self, port: int, head: str, *, seconds: float = ANSWER_SECONDS) -> None:
        self._head = head
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def request(self, target: str, *, method: str = "GET", body: bytes = b"") -> bytes:
        """Return the body of a response.

        Raises:
            BenchError: it is not a success.
            OSError: there is none.
        """
        return self.exchange(target, method=method, body=body)[1]

    def exchange(self, target: str, *, method: str = "GET", body: bytes = b"") -> tuple[bytes, bytes]:
        """Return the head and the body of a response. Raises as `request`."""
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self._socket.sendall(f"{method} {target} HTTP/1.1\r\nHost: bench\r\n{self._head}{length}\r\n".encode() + body)
        data = b""
        while not (size := complete(data)):
            more = self._socket.recv(2**18)
            if not more:
                raise ConnectionResetError("the server hung up")
            data += more
        if data[9:10] != b"2":
            raise BenchError(f"{method} {target}: {data[:500].decode(errors='replace')}")
        end = data.find(b"\r\n\r\n") + 4
        return data[:end], data[end:size]


def burst(port: int, head: str, target: str, *, connections: int, seconds: float) -> tuple[Counter[int], float]:
    """Ask for the same again and again over so many connections, at least once over each.

    Returns:
        How long the answers took, in buckets, and the seconds that all of it took.
    """

    def ask(client: HttpClient) -> Counter[int]:
        took: Counter[int] = Counter()
        while not took or time.monotonic() < until:
            asked = time.monotonic_ns()
            client.request(target)
            took[(time.monotonic_ns() - asked) // BUCKET_NS] += 1
        return took

    with ExitStack() as stack, ThreadPoolExecutor(connections) as pool:
        # Alone it may be quick, in a crowd it waits for all of them.
        clients = [
            stack.enter_context(HttpClient(port, head, seconds=ANSWER_SECONDS * connections))
            for _ in range(connections)
        ]
        began = time.monotonic()
        until = began + seconds
        took = sum(pool.map(ask, clients), Counter[int]())
        return took, time.monotonic() - began
