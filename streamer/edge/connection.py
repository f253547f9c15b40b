"""Connections: what is not HTTP is answered in the form of every error, and not logged, for it may hold a credential."""

import asyncio
import secrets
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong

from streamer.core.errors import InternalError, StreamerError, UnsupportedMediaType, ValidationError
from streamer.edge.middleware import HEADERS, error_response
from streamer.transports.handover import HandedOver, release

HEAD_SECONDS = 30
"""How long a new connection may take to its first request."""
KEPT_SECONDS = 75
"""How long a connection may take from an answer to its next request, of which some bytes may have come. Proxies keep theirs for 60 s."""

LINGER_SECONDS = 10
"""How long the rest of a body that nobody wants is read and dropped, so that the client gets to read the answer."""


class Connection(web.RequestHandler):
    """aiohttp's driver of one connection, with the API's own errors for what never becomes a request."""

    __slots__ = ("_drops", "_head_timer")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a client that sends no request is not to hold a descriptor for ever."""
        super().connection_made(transport)
        self._drops = False
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self._request_count:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._head_timer.cancel()
        super().connection_lost(exc)

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
        super().data_received(data)
        self._close, self._force_close = self._close or closing[0], self._force_close or closing[1]

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """End a request; a connection that its handler took is let go."""
        if isinstance(resp, HandedOver) and resp.outlet is not None:
            release(self, request)
            return resp, True
        # The rest of a body that nobody wants is taken for a while, so that the client gets to read the answer; but not unpacked.
        self._drops = "Content-Encoding" in request.headers and not request.content.is_eof()
        return await super().finish_response(request, resp, start_time)

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
        response = error_response(error, request_id)
        response.headers.update(HEADERS | {"X-Request-Id": request_id, "Cache-Control": "no-store"})
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log a failure, but not a body that nobody read and that is not encoded as it says."""
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **options)


class Runner(web.AppRunner):
    """Runs an application on our connections; aiohttp has no setting for it."""

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
            **made._kwargs,  # noqa: SLF001
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


def _refusal(error: BaseException | None) -> StreamerError:
    if isinstance(error, LineTooLong):
        return ValidationError({"request": "the request line or a header is too long"})
    if isinstance(error, ContentEncodingError):
        return UnsupportedMediaType("the body's Content-Encoding is none that this server reads")
    return ValidationError({"request": "not a request of HTTP/1.1"})
