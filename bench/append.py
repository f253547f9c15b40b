"""Appends a second, each answered after its commit: single events from 1, 64 and 256 connections, and batches.

    python -m bench.append [--database-url URL] [--requests 12800] [--batches 40]

Closed loop: a connection sends its next request when the last is answered. Every answer is checked for 201, and in the end the log is
checked for every event.
"""

import argparse
import asyncio
import time

import orjson

from bench.server import EVENT, KEY, Measured, percentile, server


def request(body: bytes) -> bytes:
    """Return an append as it goes over the wire."""
    head = (
        f"POST /v1/workspaces/bench/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def connection(port: int, data: bytes, count: int) -> list[float]:
    """Send a request `count` times over one connection; return how long each took, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    took: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 201"):
            raise SystemExit(f"not stored: {head!r}")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        took.append(time.perf_counter() - started)
    writer.close()
    return took


async def measure(measured: Measured, connections: int, batch: int, requests: int) -> int:
    """Print one row; return the number of events stored."""
    data = request(orjson.dumps(EVENT if batch == 1 else [EVENT] * batch))
    cpu, started = measured.cpu(), time.perf_counter()
    each = max(requests // connections, 1)
    results = await asyncio.gather(*(connection(measured.port, data, each) for _ in range(connections)))
    seconds, used = time.perf_counter() - started, measured.cpu() - cpu
    took = sorted(value for result in results for value in result)
    events = len(took) * batch
    p50, p99 = (percentile(took, share) * 1000 for share in (0.5, 0.99))
    print(
        f"{connections:>11} {batch:>6} {events:>8} {events / seconds:>9.0f} {p50:>8.1f} {p99:>8.1f} "
        f"{used / events * 1e6:>9.1f}"
    )
    return events


async def run(arguments: argparse.Namespace) -> None:
    """Measure all rows on one server."""
    with server(arguments.database_url) as measured:
        await connection(measured.port, request(orjson.dumps(EVENT)), 50)  # warm
        print(f"append: database={arguments.database_url or 'sqlite'} requests={arguments.requests}")
        print("connections  batch   events  events/s   p50 ms   p99 ms  CPU µs/ev")
        stored = 50
        for connections in (1, 64, 256):
            requests = arguments.requests if connections > 1 else arguments.requests // 10
            stored += await measure(measured, connections, 1, requests)
        for connections in (1, 4):
            stored += await measure(measured, connections, 1000, arguments.batches)
        reader, writer = await asyncio.open_connection("127.0.0.1", measured.port)
        writer.write(f"GET /v1/workspaces/bench HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        head = orjson.loads((await reader.read()).split(b"\r\n\r\n")[1])["position"]
        print(f"stored: {stored} acknowledged, head {head.rpartition('.')[2]}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", help="default: SQLite in a temporary folder")
    parser.add_argument("--requests", type=int, default=12_800)
    parser.add_argument("--batches", type=int, default=40)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
