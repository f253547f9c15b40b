"""CPU of the server per delivery, and latency from the intended send to the receipt, with many readers of one workspace.

    python -m bench.fanout [--readers 1000] [--rate 200] [--seconds 10] [--transport sse|websocket] [--database-url URL]

Open loop: events are sent at their intended times, whatever the server does. Every delivery is checked: lost, doubled and out of order
are counted for each reader. Each event is durable before it is delivered.
"""

import argparse
import asyncio
import re
import time

import orjson

from bench.append import request
from bench.server import EVENT, KEY, percentile, server

_SEQ = re.compile(rb'"seq":(\d+),.*?"sent":([0-9.]+)')
_ASK = {
    "sse": "GET /v1/workspaces/bench/events/stream HTTP/1.0\r\n",
    "websocket": "GET /v1/workspaces/bench/events/ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
}
_END = {"sse": b"\n\n", "websocket": b'"traceparent":null}'}
"""What an event ends with on the wire, frames aside."""


class Reader(asyncio.Protocol):
    """A reader on a bare transport: it costs little enough to run a thousand beside the server."""

    def __init__(self, transport: str, expected: int, done: asyncio.Event, waiting: list[int]) -> None:
        self._transport = transport
        self.seqs: list[int] = []
        self.latencies: list[float] = []
        self._expected = expected
        self._done = done
        self._waiting = waiting
        self._rest = b""
        self._is_synced = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        head = f"{_ASK[self._transport]}Authorization: Bearer {KEY}\r\n\r\n"
        transport.write(head.encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Note what came and when."""
        now = time.time()
        if not self._is_synced and b"synced" in data:
            self._is_synced = True
            self._waiting[0] -= 1
        blocks = (self._rest + data).split(_END[self._transport])
        self._rest = blocks.pop()
        for block in blocks:
            found = _SEQ.search(block)
            if found:
                self.seqs.append(int(found[1]))
                self.latencies.append(now - float(found[2]))
        if len(self.seqs) == self._expected:
            self._expected = -1
            self._waiting[1] -= 1
            if not self._waiting[1]:
                self._done.set()


async def run(arguments: argparse.Namespace) -> None:
    """Connect the readers, send the events, check and print."""
    total = arguments.rate * arguments.seconds
    with server(arguments.database_url) as measured:
        _, writer = await publisher(measured.port, [request(orjson.dumps(EVENT))])
        empty = measured.rss()
        loop, done, waiting = asyncio.get_running_loop(), asyncio.Event(), [arguments.readers] * 2
        readers = [Reader(arguments.transport, total, done, waiting) for _ in range(arguments.readers)]
        for reader in readers:
            await loop.create_connection(lambda reader=reader: reader, "127.0.0.1", measured.port)  # type: ignore[misc]
        while waiting[0]:  # noqa: ASYNC110 - a thousand readers count down one number
            await asyncio.sleep(0.01)
        per_reader = (measured.rss() - empty) / arguments.readers
        cpu, started = measured.cpu(), time.time()
        for index in range(total):
            due = started + index / arguments.rate
            await asyncio.sleep(max(due - time.time(), 0))
            writer.write(request(orjson.dumps({**EVENT, "details": {"sent": due}})))
        async with asyncio.timeout(60):
            await done.wait()
        seconds, used = time.time() - started, measured.cpu() - cpu
        check(readers, total)
        latencies = sorted(value * 1000 for reader in readers for value in reader.latencies)
        deliveries = len(latencies)
        print(
            f"fanout: transport={arguments.transport} readers={arguments.readers} rate={arguments.rate}/s seconds={arguments.seconds}"
        )
        print("deliveries  deliveries/s  p50 ms  p95 ms  p99 ms  max ms  CPU µs/delivery  RSS KiB/reader")
        print(
            f"{deliveries:>10} {deliveries / seconds:>13.0f} "
            + " ".join(f"{percentile(latencies, share):>7.1f}" for share in (0.5, 0.95, 0.99, 1))
            + f" {used / deliveries * 1e6:>16.2f} {per_reader / 1024:>15.1f}"
        )


def check(readers: list[Reader], total: int) -> None:
    """Print what was lost, doubled or out of order, over all readers."""
    lost = doubled = disordered = 0
    for reader in readers:
        lost += total - len(set(reader.seqs))
        doubled += len(reader.seqs) - len(set(reader.seqs))
        disordered += sum(a > b for a, b in zip(reader.seqs, reader.seqs[1:], strict=False))
    print(f"lost={lost} doubled={doubled} out_of_order={disordered}")


async def publisher(port: int, first: list[bytes]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open the connection that appends, send the first events and read their answers; later ones are read and dropped."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for data in first:
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))

    async def drop() -> None:
        while await reader.read(2**16):
            pass

    writer.dropping = asyncio.create_task(drop())  # type: ignore[attr-defined]
    return reader, writer


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=200, help="events a second")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--transport", choices=sorted(_ASK), default="sse")
    parser.add_argument("--database-url", help="default: SQLite in a temporary folder")
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        asyncio.run(run(parser.parse_args()))
    else:
        uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
