"""A connection taken over from aiohttp keeps no aiohttp state and loses no data, on each event loop, with and without TLS."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop
from aiohttp import HttpVersion11, web

from streamer.http.middleware import malformed_response
from streamer.observe.metrics import Metrics
from streamer.observe.watchdog import Watchdog
from streamer.server.connection import Runner
from streamer.server.detached import DetachedResponse, WriteOnlyProtocol
from tests.support.tools import require
from tests.support.waiting import SECONDS, eventually

GREETING = b"hello"


@dataclass
class Taken:
    """A server whose handler takes over every connection, and the connections."""

    runner: Runner
    port: int
    client: ssl.SSLContext | None
    transports: list[asyncio.Transport] = field(default_factory=list)
    outlets: list[WriteOnlyProtocol] = field(default_factory=list)
    lost: int = 0
    peak: int = 0
    """The maximum size of a transport's buffer before a write."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Start a response and take over its connection."""
        response = DetachedResponse()
        writer = await response.prepare(request)
        assert writer is not None
        transport = request.transport
        assert transport is not None
        writer.send_headers()
        protocol = response.take(transport)
        protocol.when_lost(self._count)
        transport.write(GREETING if request.version < HttpVersion11 else b"5\r\nhello\r\n")
        self.transports.append(transport)
        self.outlets.append(protocol)
        return response

    def _count(self) -> None:
        self.lost += 1

    async def ask(self, version: str = "1.1", more: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, send a request and read its response up to the greeting."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.client)
        writer.write(f"GET / HTTP/{version}\r\nHost: tests\r\n\r\n".encode() + more)
        async with asyncio.timeout(SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == b"200"
            assert (b"chunked" in head) == (version == "1.1")
            await reader.readuntil(GREETING + (b"\r\n" if version == "1.1" else b""))
        return reader, writer

    async def settled(self) -> int:
        """Wait until aiohttp holds no connection; return the number of tasks."""

        async def none_left() -> bool:
            return not self.runner.server.connections  # type: ignore[union-attr]

        await eventually(none_left)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Create a certificate for localhost; return it and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    options = "-x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj /CN=localhost"
    command = f"{require('openssl')} req {options} -keyout {key} -out {made}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return made, key


Scenario = Callable[[Taken], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["asyncio", "uvloop", "asyncio-tls", "uvloop-tls"])
def run(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Run:
    """Run a scenario with a server on its own event loop."""
    loop, _, tls = request.param.partition("-")

    def run_it(scenario: Scenario) -> None:
        async def main() -> None:
            async with _serving(certificate if tls else None) as taken:
                async with asyncio.timeout(SECONDS):
                    await scenario(taken)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
            runner.run(main())

    return run_it


@asynccontextmanager
async def _serving(certificate: tuple[Path, Path] | None) -> AsyncIterator[Taken]:
    application = web.Application()
    runner = Runner(application, Watchdog(Metrics()), malformed_response, handler_cancellation=True)
    server = client = None
    if certificate is not None:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(*certificate)
        client = ssl.create_default_context(cafile=certificate[0])
        client.check_hostname = False
    taken = Taken(runner, 0, client)
    application.router.add_get("/", taken.handle)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server)
    await site.start()
    taken.port = runner.addresses[0][1]
    yield taken
    for transport in taken.transports:
        transport.abort()
    runner.leave_open_requests(1)
    await runner.cleanup()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_nothing_of_aiohttp_is_left(run: Run, version: str) -> None:
    """A connection that was taken over has no aiohttp object and no task. It closes after all data is written."""

    async def scenario(taken: Taken) -> None:
        before = len(asyncio.all_tasks())
        clients = [await taken.ask(version) for _ in range(10)]
        assert await taken.settled() == before
        assert taken.lost == 0
        for transport in taken.transports:
            transport.write(b"last words" * 50_000)
            transport.close()
        for reader, writer in clients:
            assert await reader.read() == b"last words" * 50_000
            writer.close()
        await eventually(lambda: _is(taken.lost == 10))
        assert len(asyncio.all_tasks()) <= before

    run(scenario)


def test_its_client_is_not_outrun(run: Run) -> None:
    """`drain` waits while the client reads nothing and continues when it reads. No byte is lost or repeated."""
    chunk, count = b"%07d\n" * 8192, 300

    async def scenario(taken: Taken) -> None:
        reader, writer = await taken.ask("1.0")
        transport, protocol = taken.transports[0], taken.outlets[0]
        transport.set_write_buffer_limits(high=65_536)
        written = 0

        async def write() -> None:
            nonlocal written
            for number in range(count):
                transport.write(chunk.replace(b"%07d", b"%07d" % number))
                written += 1
                while transport.get_write_buffer_size() > 65_536:
                    await protocol.drain()
            transport.close()

        writing = asyncio.create_task(write())
        stalled = 0

        async def has_stalled() -> bool:
            nonlocal stalled
            before, stalled = stalled, written
            await asyncio.sleep(0.05)
            return 0 < written == stalled == before

        await eventually(has_stalled)
        assert written < count, "unread data does not accumulate"
        data = await reader.read()
        await writing
        assert data == b"".join(chunk.replace(b"%07d", b"%07d" % number) for number in range(count))
        writer.close()

    run(scenario)


def test_a_client_that_leaves_is_noticed(run: Run) -> None:
    """A client that closes, aborts or half-closes is noticed, and a task that waits in `drain` gets an exception."""

    async def scenario(taken: Taken) -> None:
        for number, leave in enumerate(("close", "abort", "write_eof")):
            _, writer = await taken.ask()
            if leave == "write_eof" and not writer.can_write_eof():  # TLS has none
                leave = "close"  # noqa: PLW2901
            getattr(writer.transport, leave)()
            await eventually(lambda number=number: _is(taken.lost == number + 1))  # type: ignore[misc]
            with pytest.raises(ConnectionError):
                await taken.outlets[number].drain()
            writer.transport.abort()
        calls: list[int] = []
        taken.outlets[0].when_lost(lambda: calls.append(1))
        assert calls == [1], "a late callback is called at once"
        _, writer = await taken.ask()
        transport, protocol = taken.transports[3], taken.outlets[3]
        while transport.get_write_buffer_size() < 2**20:
            transport.write(b"x" * 2**20)
            await asyncio.sleep(0)
        waiting = asyncio.create_task(protocol.drain())
        await asyncio.sleep(0)
        writer.transport.abort()
        await asyncio.wait([waiting])
        await eventually(lambda: _is(taken.lost == 4))

    run(scenario)


def test_what_a_client_goes_on_to_say_is_not_heard(run: Run) -> None:
    """Later requests, a body and invalid data are ignored. The stream continues, and the client's disconnection is noticed."""

    async def scenario(taken: Taken) -> None:
        more = b"GET / HTTP/1.1\r\nHost: tests\r\n\r\n" * 200 + b"\x00\xff" * 300_000
        reader, writer = await taken.ask(more=more)
        await writer.drain()
        await taken.settled()
        assert len(taken.transports) == 1
        taken.transports[0].write(b"4\r\nmore\r\n")
        assert await reader.readuntil(b"more") == b"4\r\nmore"
        writer.close()
        await eventually(lambda: _is(taken.lost == 1))

    run(scenario)


async def _is(condition: bool) -> bool:
    return condition
