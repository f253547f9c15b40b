"""Requests to one server with one credential, over aiohttp: shared by all clients."""

import asyncio
import contextlib
import io
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from yarl import URL

from streamer.client.backoff import Backoff, Timing
from streamer.client.errors import ApiError, ClientError, UnexpectedAnswer, Unreachable


class Caller:
    """Calls one server with one credential.

    While it is open, calls share connections; before that, each call has its own.
    """

    def __init__(self, url: str, key: str | None, timing: Timing) -> None:
        """Prepare the caller; nothing is sent yet.

        Raises:
            ValueError: the URL is not that of a server or contains a password, or the key is not valid in a header.
        """
        host_of(url)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ValueError("the key contains characters that are not allowed in a key")
        self.timing = timing
        self._base = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Share connections from now on."""
        self._session = self._new_session()

    async def close(self) -> None:
        """Close the shared connections; no further calls are possible."""
        if self._session is not None:
            await self._session.close()

    def _new_session(self) -> aiohttp.ClientSession:
        unit = self.timing.unit
        return aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self.timing.connect * unit, sock_read=self.timing.silence * unit
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def call(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        headers: Mapping[str, str] | None = None,
        once: bool = False,
        on_headers: Callable[[Mapping[str, str]], None] | None = None,
    ) -> Any:
        """Make a call and return the JSON of its response, {} if it has no content.

        Unless `once` is set, retry if that can help.
        """
        data = None
        if body is not None:
            # The server accepts more values as lines than in one array.
            kind = "application/x-ndjson" if isinstance(body, list) else "application/json"
            data = b"\n".join(map(orjson.dumps, body)) if isinstance(body, list) else orjson.dumps(body)
            headers = {"Content-Type": kind, **(headers or {})}
        backoff = Backoff(self.timing)
        attempt = 1
        while True:
            try:
                async with self.send(method, path, query=query, body=data, headers=headers, once=once) as response:
                    answer = self._answer(response, await response.read())
                    if on_headers is not None:
                        on_headers(response.headers)
                    return answer
            except ClientError as error:
                if once or not error.temporary or attempt == self.timing.attempts:
                    raise
                delay = backoff.delay(error.retry_after or 0)
            attempt += 1
            await asyncio.sleep(delay)

    @contextlib.asynccontextmanager
    async def send(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str] | None,
        body: bytes | None = None,
        once: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; failures before or within the response become our own errors."""
        url = URL(self._base + path, encoded=True).extend_query(query)
        with self.translated():
            async with contextlib.AsyncExitStack() as stack:
                session = self._session
                if session is None:
                    session = await stack.enter_async_context(self._new_session())
                # A redirect would turn a POST into a GET, so it is reported instead.
                yield await stack.enter_async_context(
                    session.request(
                        method,
                        url,
                        data=None if body is None else io.BytesIO(body),
                        headers=headers,
                        allow_redirects=False,
                        middlewares=(_not_again,) if once else (),
                    )
                )

    async def open_stream(
        self, path: str, *, query: Sequence[tuple[str, str]], headers: Mapping[str, str]
    ) -> "StreamedAnswer":
        """Make a GET whose response is read piece by piece; the caller must close it."""
        session, connector = self._session, None
        if session is None:
            session = self._new_session()
            connector = session.connector
        try:
            with self.translated():
                url = URL(self._base + path, encoded=True).extend_query(query)
                response = await session.get(url, headers=headers, allow_redirects=False)
        except BaseException:
            if connector is not None:
                await session.close()
            raise
        if connector is not None:
            session.detach()  # otherwise it complains if nobody closes the response
        return StreamedAnswer(self, response, connector)

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn failures in the block into our own errors."""
        try:
            yield
        except TimeoutError:
            raise Unreachable(f"{self._base} does not answer") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise Unreachable(f"cannot reach {self._base}: {_reason(error)}") from None
        except aiohttp.ClientError as error:
            raise self.unexpected(f": {error}") from None

    def unexpected(self, why: str = "") -> UnexpectedAnswer:
        """Return the error for a response that this API does not give."""
        return UnexpectedAnswer(f"{self._base} does not answer as a streamer server does{why}")

    def refusal(self, response: aiohttp.ClientResponse, data: bytes) -> ClientError:
        """Return the error for an unsuccessful response."""
        if response.status < HTTPStatus.BAD_REQUEST:
            target = response.headers.get("Location")
            return UnexpectedAnswer(f"{self._base} redirects to {target}") if target else self.unexpected()
        code, message, request_id, details = _told(data) or ("http_error", response.reason or "error", None, None)
        return ApiError(
            response.status,
            code,
            message,
            request_id=request_id or response.headers.get("X-Request-Id"),
            details=details,
            retry_after=_seconds(response.headers.get("Retry-After")),
        )

    def _answer(self, response: aiohttp.ClientResponse, data: bytes) -> Any:
        if response.status == HTTPStatus.NO_CONTENT:
            return {}
        if response.status not in {HTTPStatus.OK, HTTPStatus.CREATED}:
            raise self.refusal(response, data)
        try:
            return orjson.loads(data)
        except ValueError:
            raise self.unexpected() from None


class StreamedAnswer:
    """A response that is read piece by piece. A cancelled read has consumed nothing: the next one continues."""

    def __init__(
        self, caller: Caller, response: aiohttp.ClientResponse, connector: aiohttp.BaseConnector | None
    ) -> None:
        """Take a response, and its own connector."""
        self._caller = caller
        self._response = response
        self._connector = connector

    def is_stream_of_events(self) -> bool:
        """Return whether it is an event stream."""
        return self._response.status == HTTPStatus.OK and self._response.content_type == "text/event-stream"

    async def refusal(self) -> ClientError:
        """Return the error if it is not."""
        with self._caller.translated():
            return self._caller.refusal(self._response, await self._response.read())

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end. Raises Unreachable."""
        with self._caller.translated():
            return await self._response.content.readany()

    def drop(self) -> None:
        """Close the connection at once, also when nobody waits for it any more or its loop has ended."""
        connection = self._response.connection
        with contextlib.suppress(RuntimeError):
            self._response.close()
            if connection is not None:
                connection.close()

    async def close(self) -> None:
        """Close the connection."""
        self.drop()
        connector, self._connector = self._connector, None
        if connector is not None:
            await connector.close()


def host_of(url: str) -> str:
    """Return the host of a server's URL.

    Raises:
        ValueError: it is not such a URL, or it contains a user or a password. The message does not repeat it, because it may contain a secret.
    """
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError("not the URL of a server, such as http://127.0.0.1:8080")
    if parsed.user is not None or parsed.password is not None:
        raise ValueError("the URL of a server must not contain a user or a password")
    return parsed.host


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _not_again(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Hide a lost connection from aiohttp, which would repeat a DELETE by itself."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(_reason(error)) from None


def _told(data: bytes) -> tuple[str, str, str | None, Mapping[str, Any] | None] | None:
    """Read code, message, request id and details of an error; None if it is not one of ours but, for example, a proxy's.

    `/v1` has `{"error": {...}}`; `/api/v1` `{"detail": "text"}`, or `{"detail": [{"loc", "msg", ...}]}` for invalid
    fields.
    """
    try:
        answer = orjson.loads(data)
        if "error" in answer:
            error = answer["error"]
            return str(error["code"]), str(error["message"]), error.get("request_id"), error.get("details")
        detail = answer["detail"]
        if isinstance(detail, str):
            return "http_error", detail, None, None
        fields = {str(each["loc"][-1]): str(each["msg"]) for each in detail}
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return "validation_error", "; ".join(f"{name}: {why}" for name, why in fields.items()), None, {"fields": fields}


def _seconds(retry_after: str | None) -> float | None:
    """Read `Retry-After`: seconds or a date (RFC 9110, 10.2.3). None if it is neither."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _reason(error: BaseException) -> str:
    """Return why a connection failed, without the library's own words around it."""
    inner = getattr(error, "certificate_error", getattr(error, "os_error", error))
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({inner.verify_message})"
    number = getattr(inner, "errno", None)
    if number and number > 0:  # numbers below zero come from the name service, whose messages are used as they are
        return os.strerror(number)
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
