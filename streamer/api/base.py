"""What all handlers share: the parts that they call, how they read a request and write its answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from streamer.api import query, schemas
from streamer.api.socket import SocketLimits
from streamer.auth.access import PRINCIPAL, Gate
from streamer.auth.administration import Administration
from streamer.auth.keys import Keyring
from streamer.auth.tickets import Tickets
from streamer.auth.view import Views
from streamer.core.errors import PayloadTooLarge, RequestTimeout, UnsupportedMediaType, WorkspaceNotFound
from streamer.core.ids import is_id
from streamer.core.ports import Log
from streamer.feed.feed import Feed
from streamer.feed.hub import Hub
from streamer.ingest.intake import Intake
from streamer.ingest.redact import Redactor
from streamer.observe.metrics import Metrics
from streamer.store.database import Database
from streamer.store.members import Members
from streamer.store.workspaces import Workspaces

_ENCODINGS = ("identity", "gzip", "deflate")


@dataclass(frozen=True)
class Parts:
    """What the handlers call."""

    database: Database
    log: Log
    workspaces: Workspaces
    members: Members
    administration: Administration
    views: Views
    intake: Intake
    redactor: Redactor
    hub: Hub
    feed: Feed
    gate: Gate
    keyring: Keyring
    tickets: Tickets
    metrics: Metrics
    static: Path
    max_body_bytes: int
    max_page_events: int
    max_page_bytes: int
    max_batch_events: int
    max_wait_seconds: int
    body_timeout: float
    socket_limits: SocketLimits
    sink_options: Mapping[str, Any]
    """How much a connection may hold and how long it may stand still (`transports.sink.SocketSink`)."""


class Base:
    """Has the parts, and reads bodies."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def json_body(self, request: web.Request) -> Any:
        """Read a body that is no event: a few values."""
        media_type(request, schemas.JSON_TYPES)
        return schemas.parse_json(await self.read(request, min(schemas.MAX_SMALL_BYTES, self.parts.max_body_bytes)))

    async def read(self, request: web.Request, limit: int) -> bytes:
        """Read the body within its limits of size and time."""
        if (request.content_length or 0) > limit:
            raise PayloadTooLarge(f"the body has {request.content_length} bytes; at most {limit} are taken")
        try:
            if request.headers.get("Expect", "").lower() == "100-continue":
                # Only now: access and parameters were fine, the body is wanted (RFC 9110, 10.1.1).
                assert request.transport is not None  # noqa: S101 - there was a request a moment ago
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # aiohttp's own limit is the largest of all.
            source = request if limit == self.parts.max_body_bytes else request.clone(client_max_size=limit)
            if request.content.is_eof():  # it came with its head, as nearly all do: no clock is needed
                return await source.read()
            async with asyncio.timeout(self.parts.body_timeout):
                data = await source.read()
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {self.parts.body_timeout:g} seconds") from None
        except web.HTTPRequestEntityTooLarge:
            raise PayloadTooLarge(f"the body has more than {limit} bytes") from None
        # That took its time: access may have ended.
        principal = await self.parts.gate.again(request)
        if principal is not None:
            request[PRINCIPAL] = principal
        return data


async def expect_later(_request: web.Request) -> None:
    """Leave `100 Continue` to the moment when the body is wanted; without it the access check would come too late."""


def readable(request: web.Request) -> str:
    """Return the path's workspace. Raises WorkspaceNotFound if no workspace can have this id."""
    workspace = request.match_info["ws"]
    if not is_id(workspace):  # a database may refuse to look for such a text
        raise WorkspaceNotFound
    return workspace


def parameters(request: web.Request) -> query.Query:
    """Return the query's parameters, each with all its values."""
    return {name: request.query.getall(name) for name in request.query}


def media_type(request: web.Request, known: set[str]) -> str:
    """Return the body's media type, one of those known. Raises UnsupportedMediaType."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in _ENCODINGS:  # aiohttp would hand the bytes on as they are
        raise UnsupportedMediaType(f"send the body as it is, or with `Content-Encoding: {' or '.join(_ENCODINGS[1:])}`")
    kind = request.content_type if "Content-Type" in request.headers else ""
    charset = (request.charset or "utf-8").lower()
    if kind not in known or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType(f"send `Content-Type: {' or '.join(sorted(known))}`, in UTF-8")
    return kind


def json_bytes(body: bytes, status: int = HTTPStatus.OK) -> web.Response:
    """Answer with what is JSON already."""
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def json_answer(value: object, status: int = HTTPStatus.OK) -> web.Response:
    """Answer with JSON."""
    return json_bytes(orjson.dumps(value), status)
