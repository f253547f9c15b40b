"""What surrounds every handler: the request id, errors as JSON, one log line, the metrics."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from streamer.access.authorize import PRINCIPAL
from streamer.access.origins import Origins
from streamer.core.budget import Budget
from streamer.core.errors import (
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    StreamerError,
    Unauthenticated,
    ValidationError,
)
from streamer.core.quoting import bounded, cut
from streamer.http.admission import OPENING, Admission
from streamer.http.bodies import LARGE_BYTES
from streamer.http.holding import hold_answer
from streamer.http.operation import Dialect, Operation, RenderError
from streamer.ingest.limits import AppendRate
from streamer.ingest.redact import Redactor
from streamer.observe.metrics import Metrics
from streamer.observe.watchdog import OPERATION
from streamer.server.detached import DetachedResponse
from streamer.server.holds import HOLD, release_hold

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)

HEADERS = {
    "Server": "streamer",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked of what a page embeds without CORS; what it fetches with CORS is not touched by it (Fetch standard, 3.7).
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What every answer carries."""

ALLOWED_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
"""What scripts of other origins may always send."""
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
EXPOSED_HEADERS = (
    "Link, Retry-After, X-Next-Cursor, X-Position, X-Request-Id, X-Workspaces-Omitted, RateLimit, RateLimit-Policy"
)
"""What scripts of other origins may read of an answer."""

_BODY_UNREAD = (PayloadTooLarge, RequestTimeout)


def middlewares(  # noqa: PLR0913, PLR0917 - what surrounds every handler
    routes: Mapping[Any, Operation],
    dialects: Sequence[Dialect],
    origins: Origins,
    metrics: Metrics,
    redactor: Redactor,
    budget: Budget,
) -> list[Middleware]:
    """Return the middlewares, outermost first.

    Args:
        routes: the route of each handler that the router can find.
        dialects: the foreign APIs, which say errors in their own way.
        origins: whose pages may call.
        metrics: counts the requests.
        redactor: cleans what errors quote.
        budget: of the memory for answers that are not taken yet.
    """
    logger = structlog.get_logger("http").bind()
    # prometheus-client builds a metric's name from its labels each time.
    counter, timer = lru_cache(metrics.requests.labels), lru_cache(metrics.request_seconds.labels)

    def account(entry: dict[str, object], route: Operation | None, started: float, status: int) -> None:
        """Count and log a request that is over."""
        elapsed = time.perf_counter() - started
        name = route.path if route else "unknown"
        counter(name, entry["method"] if route else "other", status).inc()
        if route is not None and not route.streams:
            timer(name).observe(elapsed)
        logger.info("request", **entry, status=status, ms=round(elapsed * 1000, 1))

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the request its id; whatever happens, the answer is one that the API documents."""
        request_id = request[REQUEST_ID] = f"{random.getrandbits(64):016x}"  # to tell requests apart
        route = routes.get(request.match_info.handler)
        request[HOLD] = None
        if route is None:
            OPERATION.set("unknown")
        started = time.perf_counter()
        # The client left before an answer, as nginx logs it; leaving is how a stream ends.
        status = 200 if route and route.streams else 499
        response: web.StreamResponse | None = None
        try:
            response = _preflight(request, origins) if request.method == "OPTIONS" else None
            response = response or await handler(request)
            if hold_answer(request, response, budget) > LARGE_BYTES:
                await asyncio.sleep(0)  # it is copied several times until the socket has it
            status = response.status
        except Exception as error:
            response = _refuse(_known(error, request), request, _renderer(dialects, request.path), redactor)
            status = response.status
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.exception("request_failed", request_id=request_id)
        finally:
            if response is None:
                release_hold(request)
            principal = request.get(PRINCIPAL)
            entry = {
                "request_id": request_id,
                "method": request.method,
                "path": request.path,
                "principal": principal.id if principal else None,
            }
            if isinstance(response, DetachedResponse) and response.protocol is not None:
                response.protocol.when_lost(partial(account, entry, route, started, status))
            else:
                account(entry, route, started, status)
        return response

    return [answer]


def set_headers(
    routes: Mapping[Any, Operation], origins: Origins, rate: AppendRate, admission: Admission, public_path: str
) -> OnPrepare:
    """Return what sets the headers that responses carry whatever made them, streams included.

    Args:
        routes: the route of each handler.
        origins: whose pages may call.
        rate: the rate limit that appends report.
        admission: counts streams until their response begins.
        public_path: the path under which a proxy serves the server: what leads to other routes begins with it.
    """

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.update(HEADERS)
        headers["X-Request-Id"] = request.get(REQUEST_ID, "")
        headers.setdefault("Cache-Control", "no-store")
        opening = request.get(OPENING)
        if opening is not None:
            opening.done()
        if admission.is_stopping and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            response.force_close()
            headers["Connection"] = "close"
        if public_path and "Link" in headers:
            headers["Link"] = headers["Link"].replace("</", f"<{public_path}/")
        if public_path and "Location" in headers:
            headers["Location"] = public_path + headers["Location"]
        if origins.listed:
            headers.add("Vary", "Origin")
            shown = origins.shown_to(request.headers.get("Origin"))
            if shown is not None:
                headers["Access-Control-Allow-Origin"] = shown
                headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        route, principal = routes.get(request.match_info.handler), request.get(PRINCIPAL)
        if principal is not None and route is not None and route.appends:
            headers.update(rate.headers(principal.account, headers.get("Retry-After")))

    return prepare


def _preflight(request: web.Request, origins: Origins) -> web.Response | None:
    """Answer a browser that asks whether a page may make a request (Fetch standard, 3.3.5); None if this is not that.

    It brings no credential, so nothing but the path is looked at.
    """
    refused = request.match_info.http_exception
    if (
        "Access-Control-Request-Method" not in request.headers
        or not isinstance(refused, web.HTTPMethodNotAllowed)
        or not origins.allow(request.headers.get("Origin"))
    ):
        return None
    answer = {
        "Access-Control-Allow-Methods": ", ".join(sorted(refused.allowed_methods)),
        "Access-Control-Allow-Headers": _allowed_headers(request.headers.get("Access-Control-Request-Headers", "")),
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=answer)


def _allowed_headers(asked: str) -> str:
    """Return the headers that a page may send: those that mean something here, and what else it asks for.

    Libraries and tracers add headers of their own. They mean nothing here, and a page could send all that does anyway.
    """
    names = {name.lower(): name for name in map(str.strip, asked.split(",")) if _TOKEN.fullmatch(name)}
    known = {name.lower() for name in ALLOWED_HEADERS}
    return ", ".join([*ALLOWED_HEADERS, *(name for lower, name in names.items() if lower not in known)])


def error_content(error: StreamerError, redactor: Redactor | None) -> dict[str, Any]:
    """Return the content of an error. It may quote the request, which can hold a secret and have any length."""
    content: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.details:
        content["details"] = error.details
    if redactor is None or isinstance(error, Unauthenticated):  # that quotes nothing, and shows how to send a key
        return content
    return dict(_quotable(content, redactor))


def _quotable(content: Any, redactor: Redactor) -> Any:
    """Return an error's content without secrets. It is cut first: cleaning takes time in proportion to the text."""
    return redactor.redact_texts(bounded(content))


def malformed_response(error: StreamerError, request_id: str) -> web.Response:
    """Answer what was refused before it was a request, with the headers of every answer."""
    response = error_response(error, request_id)
    response.headers.update(HEADERS | {"X-Request-Id": request_id, "Cache-Control": "no-store"})
    return response


def error_response(error: StreamerError, request_id: str, redactor: Redactor | None = None) -> web.Response:
    """Write an error as the API's error body; without a redactor, if it quotes nothing."""
    content = error_content(error, redactor) | {"request_id": request_id}
    response = web.Response(
        body=orjson.dumps({"error": content}), status=error.status, headers={"Content-Type": "application/json"}
    )
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="streamer"'  # RFC 6750, section 3
    return _with_advice(response, error)


def _renderer(dialects: Sequence[Dialect], path: str) -> RenderError | None:
    """Return the error renderer of the dialect with the longest prefix of a path; None: the native one."""
    found = [(prefix, each.render_error) for each in dialects for prefix in each.prefixes if path.startswith(prefix)]
    return max(found, key=lambda one: len(one[0]))[1] if found else None


def _refuse(error: StreamerError, request: web.Request, render: RenderError | None, redactor: Redactor) -> web.Response:
    if render is None:
        return error_response(error, request[REQUEST_ID], redactor)
    refusal = render(error, request)
    # An error for an unknown caller quotes nothing.
    body = refusal.body if isinstance(error, Unauthenticated) else _quotable(refusal.body, redactor)
    text = isinstance(body, str)
    response = web.Response(
        body=body.encode() if text else orjson.dumps(body),
        status=refusal.status,
        headers={"Content-Type": "text/plain" if text else "application/json", **refusal.headers},
    )
    if "Connection" in refusal.headers:
        response.force_close()
    return _with_advice(response, error)


def _with_advice(response: web.Response, error: StreamerError) -> web.Response:
    """Say in headers what may be done about an error."""
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.details.get("allowed", ())))
    if isinstance(error, _BODY_UNREAD):
        response.force_close()  # what is still in the connection is not another request
    return response


def _known(error: Exception, request: web.Request) -> StreamerError:
    """Turn what the framework raises into the API's own errors."""
    if isinstance(error, StreamerError):
        return error
    if isinstance(error, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(f"{cut(request.method)} is not allowed here", allowed=sorted(error.allowed_methods))
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return PayloadTooLarge("the body is too large")
    if isinstance(error, web.HTTPNotFound):
        return NotFound("there is nothing at this path")
    if isinstance(error, web.HTTPClientError):
        return ValidationError({"request": error.reason})
    if isinstance(error, web.RequestPayloadError | asyncio.IncompleteReadError):
        return ValidationError({"body": "the body is broken off or not encoded as its headers say"})
    return InternalError("something went wrong; the request id leads to its log entry")
