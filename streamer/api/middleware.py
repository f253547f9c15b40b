"""What surrounds every handler: the request id, the access decision, errors as JSON, one log line, the metrics."""

import asyncio
import random
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from http import HTTPStatus

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from streamer.api.routes import Route
from streamer.auth.access import PRINCIPAL, decide
from streamer.auth.keys import Keyring
from streamer.auth.tickets import Tickets
from streamer.core.errors import (
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    StreamerError,
    ValidationError,
)
from streamer.observe.metrics import Metrics
from streamer.transports.handover import HandedOver

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)

_BODY_UNREAD = (PayloadTooLarge, RequestTimeout)


def middlewares(
    routes: Mapping[object, Route], keyring: Keyring, tickets: Tickets, metrics: Metrics
) -> list[Middleware]:
    """Return the middlewares, outermost first.

    Args:
        routes: the route of each handler that the router can find.
        keyring: finds the principal.
        tickets: find it, too.
        metrics: counts the requests.
    """
    logger = structlog.get_logger("http").bind()
    # prometheus-client makes a metric's name of its labels anew each time.
    counter, timer = lru_cache(metrics.requests.labels), lru_cache(metrics.request_seconds.labels)

    def account(entry: dict[str, object], route: Route | None, started: float, status: int) -> None:
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
        started = time.perf_counter()
        # The client left before an answer, as nginx logs it; leaving is how a stream ends.
        status = 200 if route and route.streams else 499
        response: web.StreamResponse | None = None
        try:
            response = await handler(request)
            status = response.status
        except Exception as error:
            response = error_response(_known(error, request), request_id)
            if "Content-Encoding" in request.headers:
                response.force_close()  # the rest of the body may not be readable to its end
            status = response.status
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.exception("request_failed", request_id=request_id)
        finally:
            principal = request.get(PRINCIPAL)
            entry = {
                "request_id": request_id,
                "method": request.method,
                "path": request.path,
                "principal": principal.id if principal else None,
            }
            if isinstance(response, HandedOver) and response.outlet is not None:
                response.outlet.when_lost(partial(account, entry, route, started, status))
            else:
                account(entry, route, started, status)
        return response

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Decide on access before anything else of the request is looked at."""
        route = routes.get(request.match_info.handler)
        if route is not None:
            principal = await decide(request, route.access, keyring, tickets)
            if principal is not None:
                request[PRINCIPAL] = principal
        return await handler(request)

    return [answer, guard]


async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set what every response carries, streams included."""
    response.headers["X-Request-Id"] = request.get(REQUEST_ID, "")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = "streamer"


def error_response(error: StreamerError, request_id: str) -> web.Response:
    """Write an error as the API's error body."""
    content: dict[str, object] = {"code": error.code, "message": error.message, "request_id": request_id}
    if error.details:
        content["details"] = error.details
    response = web.Response(
        body=orjson.dumps({"error": content}), status=error.status, headers={"Content-Type": "application/json"}
    )
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="streamer"'  # RFC 6750, section 3
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.details.get("allowed", ())))
    if isinstance(error, _BODY_UNREAD):
        response.force_close()  # what is still on the wire is not another request
    return response


def _known(error: Exception, request: web.Request) -> StreamerError:
    """Turn what the framework raises into the API's own errors."""
    if isinstance(error, StreamerError):
        return error
    if isinstance(error, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(f"{request.method} is not allowed here", allowed=sorted(error.allowed_methods))
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return PayloadTooLarge("the body is too large")
    if isinstance(error, web.HTTPNotFound):
        return NotFound("there is nothing at this path")
    if isinstance(error, web.HTTPClientError):
        return ValidationError({"request": error.reason})
    if isinstance(error, web.RequestPayloadError | asyncio.IncompleteReadError):
        return ValidationError({"body": "the body is broken off or not encoded as its headers say"})
    return InternalError("something went wrong; the request id leads to its log entry")
