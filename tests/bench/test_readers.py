"""The reader process against a server that misbehaves: every fault and the arrival times are counted."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bench.check import percentiles
from bench.events import DETAILS
from bench.sandbox import BenchError, Worker, sandbox
from streamer.core.frame import Frame
from streamer.core.position import Position
from streamer.transports.sse import SseEncoder
from streamer.transports.websocket import WebSocketEncoder

LATE_NS = 50_000_000
"""The delay between an event's due time and its sending."""
HEADS = {
    "sse": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "websocket": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
}


def body(transport: str, parts: Sequence[Sequence[int]]) -> list[bytes]:
    """Return what the server sends: `synced`, then these numbers, with one write per part."""
    encoder = SseEncoder(chunked=True) if transport == "sse" else WebSocketEncoder("default")
    due = time.monotonic_ns() - LATE_NS
    frames = [
        [Frame(Position("e", n), b"{%b}" % (DETAILS % {"n": n, "due": due}).encode()) for n in part] for part in parts
    ]
    return [encoder.synced(Position("e", 0)), *(encoder.frames(part) for part in frames)]


@contextlib.contextmanager
def liar(head: bytes, parts: Sequence[bytes], *, pause: float = 0, hangs_up: bool = False) -> Iterator[int]:
    """Send the same data to every client; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as open_ones:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener is closed
                while True:
                    connection, _ = listener.accept()
                    open_ones.enter_context(connection)
                    connection.recv(2**16)
                    for part in (head, *parts):
                        connection.sendall(part)
                        time.sleep(pause)  # the writes must arrive separately
                    if hangs_up:
                        connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def seen(port: int, expected: Sequence[int], *, readers: int = 2, **connect: Any) -> Any:
    """Read with this many readers until they have all events or nothing arrives; return their report."""
    with sandbox() as place:
        worker = Worker(place, "bench.readers", "readers")
        streams = [["stream", "/"]] * readers
        worker.call("connect", port=port, streams=streams, head="", resume=["", ""], before={}, **connect)
        worker.call("settle", counts={"stream": len(expected)}, patience=0.3)
        return worker.call("report", expected={"stream": list(expected)}, since=0)


WRONG = {
    "exact": ([[1, 2], [3, 4]], {}),
    "lost": ([[1, 2], [4]], {"lost": 1}),
    "doubled": ([[1, 2], [2, 3, 4]], {"doubled": 1}),
    "reordered": ([[1, 3], [2, 4]], {"out_of_order": 1}),
    "another's": ([[1, 2, 9], [3, 4]], {"unexpected": 1}),
    "doubled at the end": ([[1, 2, 3, 4], [4]], {"doubled": 1}),
}


@pytest.mark.parametrize("transport", ["sse", "websocket"])
@pytest.mark.parametrize(("parts", "wrong"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_counted_for_each_reader(
    transport: str, parts: list[list[int]], wrong: dict[str, int]
) -> None:
    """Each fault is counted as its kind, once for every reader that saw it."""
    with liar(HEADS[transport], body(transport, parts), pause=0.01) as port:
        report = seen(port, [1, 2, 3, 4])
    assert {name: count for name, count in report["tally"].items() if count} == {
        name: 2 * count for name, count in wrong.items()
    }
    assert report["deliveries"] == 2 * sum(map(len, parts))


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_streams_may_come_in_pieces(transport: str) -> None:
    """The network may split a stream anywhere: in the head, in frames and in events."""
    data = HEADS[transport] + b"".join(body(transport, [[1, 2], [3, 4]]))
    size = len(data) // 12
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    with liar(b"", pieces, pause=0.01) as port:
        report = seen(port, [1, 2, 3, 4])
    assert not any(report["tally"].values())
    assert report["deliveries"] == 8


def test_latency_is_from_the_intended_time() -> None:
    """Latency counts from the time at which an event was due, not from when it was sent."""
    with liar(HEADS["sse"], body("sse", [[1, 2, 3]])) as port:
        report = seen(port, [1, 2, 3])
    found = percentiles({int(bucket): count for bucket, count in report["latencies"].items()})
    assert LATE_NS / 1e6 <= (found["p50"] or 0) <= (found["max"] or 0) < 10_000


def test_streams_that_end_are_counted() -> None:
    """A stream that ends is checked up to its end, which is reported."""
    with liar(HEADS["sse"], body("sse", [[1, 2]]), hangs_up=True) as port:
        report = seen(port, [1, 2, 3])
    assert report["ended"] == 2
    assert not any(report["tally"].values())


def test_slow_readers_are_slow_and_do_not_count() -> None:
    """Slow readers read a limited rate. Until they are released, nobody waits for them and no error is counted."""
    parts = [list(range(first, first + 50)) for first in range(0, 500, 50)]
    assert len(b"".join(body("sse", parts))) > 30_000
    with liar(HEADS["sse"], body("sse", parts)) as port:
        report = seen(port, range(500), slow=10_000)
    assert 0 < report["deliveries"] < 2 * 500
    assert not any(report["tally"].values())


def test_refusals_end_it() -> None:
    """A refused stream is an error that contains the server's response."""
    with liar(b"HTTP/1.1 403 Forbidden\r\n\r\nnot you", []) as port, pytest.raises(BenchError, match="not you"):
        seen(port, [])
