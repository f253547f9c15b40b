"""Connections: what is not HTTP is answered in the form of every error, and not logged, for it may hold a credential."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import structlog
from aiohttp import HttpVersion10, HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo

from streamer.core.errors import ExpectationFailed, InternalError, StreamerError, ValidationError
from streamer.observe.watchdog import Watchdog
from streamer.server.detached import DetachedResponse, release
from streamer.server.holds import HOLD, release_hold
from streamer.server.tcp import progress
from streamer.server.unfinished import Unfinished

Refuse = Callable[[StreamerError, str], web.Response]
"""Answers what was refused before it was a request, under this request id."""

HEAD_SECONDS = 30
"""How long a new connection may take to its first request."""
KEPT_SECONDS = 75
"""How long a connection may take from an answer to its next request, of which some bytes may have come. Proxies keep theirs for 60 s."""

MAX_HEADER = 16 * 1024
"""Bytes of one header field and of the request line."""
MAX_HEADERS = 128
"""Header fields of a request, trailers included."""
MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request's head in all; and of what may come beside a chunked body's data, or behind it."""

READ_BYTES = 64 * 1024
"""Bytes taken from a socket at once."""
UNREAD_BYTES = 16 * 1024
"""Bytes of a body that nobody has asked for yet above which no more are taken from the socket."""

FIRST_REQUEST_SECONDS = 0.5
"""How long a connection that has just been made may take to its first request when the server stops. Proxies connect to send at once."""
LINGER_SECONDS = 10
"""How long the rest of a body that nobody wants is read and dropped, so that the client gets to read the answer."""


@dataclass(frozen=True)
class Patience:
    """How long a connection is borne with, in seconds."""

    stall_seconds: float = 120
    """How long a client may take nothing of what is written to it."""


class HttpConnection(web.RequestHandler):
    """aiohttp's driver of one connection, with the API's own errors for what never becomes a request, and bounds on what it holds."""

    __slots__ = ("_answer", "_body", "_body_bytes", "_drops", "_head_timer", "_patience", "_quiet", "_write_timer")

    def __init__(self, manager: web.Server, *, patience: Patience, refuse: Refuse, **options: Any) -> None:
        super().__init__(manager, **options)
        self._answer = refuse
        self._msg_queue_resume_size = 0
        self._patience = patience
        self._body: StreamReader | None = None
        """The body that is coming in."""
        self._body_bytes = 0
        self._quiet = 0
        """Bytes that came since the last head or the last byte of a body: an unfinished head, trailers, or what chunks carry beside data."""
        self._drops = False
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. A client that sends no request must not hold a descriptor indefinitely."""
        super().connection_made(transport)
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._give_up)

    @property
    def is_new(self) -> bool:
        """Return whether no request has come yet."""
        return not self._request_count

    def _give_up(self) -> None:
        if self.is_new:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._head_timer.cancel()
        self._stop_write_timer()
        super().connection_lost(exc)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's
        """Let the request under way end; cut it if it takes longer than `timeout`, in seconds.

        aiohttp waits twice as long: first for the handler, then for a client that does not take the answer.
        """
        self._force_close = True
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        if self._waiter is not None:  # it is idle
            self._waiter.cancel()
        task, transport = self._task_handler, self.transport
        if task is not None:
            _, late = await asyncio.wait([task], timeout=timeout)
            if late:
                task.cancel()
                if transport is not None:
                    transport.abort()
        self.force_close()

    # ---- what comes in

    def data_received(self, data: bytes) -> None:
        """Take bytes, also while the server stops: the rest of a body, or what a WebSocket says to its end.

        aiohttp would drop them from the moment on in which it means to close the connection. It takes no further request then, with or
        without this.
        """
        if self._drops:
            return
        closing = self._close, self._force_close
        if self._request_in_progress and self.transport is not None:
            self._close = self._force_close = False
        count = self._request_count
        super().data_received(data)
        self._close, self._force_close = self._close or closing[0], self._force_close or closing[1]
        if self._request_count != count:
            self._check_heads(self._request_count - count, len(data))
        elif not self._upgraded:
            self._check_quiet(len(data))

    def _check_heads(self, count: int, size: int) -> None:
        """Check the requests that have just begun, and read no more than the next one."""
        messages = self._messages
        for index in range(len(messages) - count, len(messages)):
            message, _ = messages[index]
            error = message.exc if isinstance(message, _ErrInfo) else _fault(message, self._quiet + size)
            if error is not None:
                for _ in range(index, len(messages)):
                    messages.pop()
                self._refuse(error)
                return
        body = messages[-1][1]
        self._body, self._body_bytes, self._quiet = (None if body.is_eof() else body), body.total_bytes, 0
        if (self._request_in_progress or len(messages) > 1) and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _check_quiet(self, size: int) -> None:
        """Bound a head, and what comes beside a body."""
        body = self._body
        if body is not None and body.total_bytes != self._body_bytes:
            self._body_bytes, self._quiet = body.total_bytes, 0
        else:
            self._quiet += size
            if self._quiet > MAX_HEAD_BYTES:
                self._refuse(LineTooLong(b"", MAX_HEAD_BYTES))
        if body is not None and body.is_eof():
            self._body = None

    def _refuse(self, error: BaseException) -> None:
        """Answer what is no request, and take nothing more."""
        self._drops = True
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError("the body is not framed as its headers say"))
            return
        self._messages.append((_ErrInfo(status=HTTPStatus.BAD_REQUEST, exc=error, message=""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """Read a WebSocket's frames from now on, counted."""
        super().set_parser(cast("Any", Unfinished(parser)), data_received_cb)

    # ---- what goes out

    async def start(self) -> None:
        """Handle requests until the connection ends; what is still unsent then is watched, too."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and transport.is_closing():
                self._watch_writing(transport)

    def pause_writing(self) -> None:
        """Wait for the client to take what was written, for a limited time. Streams and sockets have their own watch (`fanout.connections`)."""
        super().pause_writing()
        if self._payload_parser is None and self.transport is not None:
            self._watch_writing(self.transport)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._stop_write_timer()

    def _watch_writing(self, transport: asyncio.Transport) -> None:
        """Cut the connection once its client takes nothing for a while."""
        self._stop_write_timer()
        self._look_at_writing(transport, None)

    def _look_at_writing(self, transport: asyncio.Transport, before: int | None) -> None:
        pending = transport.get_write_buffer_size()
        now = progress(transport, transport.get_extra_info("socket")) if pending else None
        if now is None:
            return
        if now == before:
            transport.abort()
            return
        self._write_timer = asyncio.get_running_loop().call_later(
            self._patience.stall_seconds, self._look_at_writing, transport, now
        )

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """End a request; a connection that its handler took is let go."""
        if isinstance(resp, DetachedResponse) and resp.protocol is not None:
            release_hold(request)
            release(self, request)
            return resp, True
        hold, count = request.get(HOLD), self._request_count
        if hold is not None and hold.size:
            await _send_head(request, resp)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            if hold is not None:
                hold.release()
            if self._request_count != count:  # what came behind an upgrade that was refused
                self._check_heads(self._request_count - count, 0)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes what was sent
    ) -> web.StreamResponse:
        """Answer what the parser refused (400), or a failure outside of the middlewares (500), and end the connection."""
        request_id = secrets.token_hex(8)
        logger = structlog.get_logger("http")
        error: StreamerError
        if status < 500:  # noqa: PLR2004
            error = _refusal(exc)
            logger.info("malformed_request", request_id=request_id, reason=type(exc).__name__)
        else:
            error = InternalError("something went wrong; the request id leads to its log entry")
            logger.error("connection_failed", request_id=request_id, exc_info=exc)
        if request.writer.output_size:
            raise ConnectionError("an answer has begun; another one cannot follow")
        response = self._answer(error, request_id)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log a failure, but not a body that nobody read and that is not encoded as it says."""
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **options)


class Inlet(asyncio.BufferedProtocol):
    """Between a socket and its driver: takes small pieces into a buffer that all connections share.

    The loops read up to 256 KiB at once otherwise, of which a driver that is busy has to keep what it cannot use yet.
    """

    __slots__ = ("_buffer", "_driver", "_watchdog")

    def __init__(self, driver: HttpConnection, buffer: memoryview, watchdog: Watchdog) -> None:
        self._driver = driver
        self._buffer = buffer
        self._watchdog = watchdog

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._watchdog.call("connect", self._driver.connection_made, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._watchdog.call("disconnect", self._driver.connection_lost, exc)

    def pause_writing(self) -> None:
        """Have the driver wait."""
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        """Have the driver go on."""
        self._watchdog.call("send", self._driver.resume_writing)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        """Return where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand the bytes on."""
        self._watchdog.call("receive", self._driver.data_received, bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        """Take the end; the transport closes."""
        self._driver.eof_received()


class Runner(web.AppRunner):
    """Runs an application on our connections; aiohttp has no setting for it."""

    def __init__(
        self,
        application: web.Application,
        watchdog: Watchdog,
        refuse: Refuse,
        patience: Patience = Patience(),
        **options: Any,
    ) -> None:
        """Make the runner; `refuse` answers what is not a request."""
        super().__init__(
            application,
            access_log=None,  # the middleware writes the one line a request, without query strings
            auto_decompress=False,  # a body is unpacked once it is wanted, and whole (`http.decompress`)
            keepalive_timeout=KEPT_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
            read_bufsize=UNREAD_BYTES,
            **options,
        )
        self._patience = patience
        self._refuse = refuse
        self._watchdog = watchdog

    async def stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        """Close the listening sockets. Connections that the kernel has accepted by then are served; closing alone would reset them."""
        loop, listening = asyncio.get_running_loop(), [each.dup() for each in sockets]
        for site in list(self.sites):
            await site.stop()
        accepted = []
        for each in listening:
            with each, contextlib.suppress(OSError):
                each.settimeout(0)
                while True:
                    accepted.append(each.accept()[0])
        server = self.server
        if server is None:
            return
        for made in accepted:
            await loop.connect_accepted_socket(server, made)
        connections = cast("list[HttpConnection]", server.connections)
        ends = loop.time() + FIRST_REQUEST_SECONDS
        while loop.time() < ends and any(one.is_new for one in connections):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)

    def leave_open_requests(self, seconds: float) -> None:
        """Set how long what is open may go on once the server stops; aiohttp takes this only before it starts."""
        self._shutdown_timeout = seconds

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
            watchdog=self._watchdog,
            patience=self._patience,
            refuse=self._refuse,
            **made._kwargs,  # noqa: SLF001
        )


class _Server(web.Server):
    _buffer: memoryview | None = None

    def __init__(self, *args: Any, watchdog: Watchdog, **options: Any) -> None:
        super().__init__(*args, **options)
        self._watchdog = watchdog

    def __call__(self) -> Any:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(READ_BYTES))
        return Inlet(HttpConnection(self, loop=self._loop, **self._kwargs), self._buffer, self._watchdog)


async def _send_head(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Send the head on its own: together with a long body both would be copied, and kept twice."""
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        request.writer.send_headers()


def _fault(message: RawRequestMessage, size: int) -> BaseException | None:
    """Return what is wrong with a request's head of at most so many bytes; None: nothing."""
    headers = message.headers
    if size > MAX_HEAD_BYTES and _size(message) > MAX_HEAD_BYTES:
        return LineTooLong(b"", MAX_HEAD_BYTES)
    if message.version not in {HttpVersion10, HttpVersion11}:
        return ValidationError({"request": "its version must be HTTP/1.1 or HTTP/1.0"})
    coding = headers.get("Transfer-Encoding")
    if message.version == HttpVersion10:
        # Whoever stands between may see another end of the body (RFC 9112, 6.1), and would not hand an upgrade on.
        if coding is not None:
            return ValidationError({"Transfer-Encoding": "is not part of HTTP/1.0"})
        if headers.get("Upgrade", "").lower() == "websocket":
            return ValidationError({"Upgrade": "a WebSocket needs HTTP/1.1"})
        return None
    if coding is not None and coding.lower() != "chunked":
        return ValidationError({"Transfer-Encoding": "must be chunked"})
    if headers.get("Expect", "100-continue").lower() != "100-continue":
        return ExpectationFailed("the only expectation that is met is 100-continue")
    return None


def _size(message: RawRequestMessage) -> int:
    return len(message.path) + sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


def _refusal(error: BaseException | None) -> StreamerError:
    if isinstance(error, StreamerError):
        return error
    if isinstance(error, LineTooLong):
        return ValidationError(
            {"request": f"its line or a header has more than {MAX_HEADER} bytes, or its head {MAX_HEAD_BYTES}"}
        )
    return ValidationError({"request": "not a request of HTTP/1.1"})
