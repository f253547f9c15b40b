"""What all handlers share: the parts that they call, how they read a request and write its answer."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import orjson
from aiohttp import HttpVersion11, StreamReader, web

from streamer.auth.access import PRINCIPAL, Gate
from streamer.auth.administration import Administration
from streamer.auth.keys import Keyring
from streamer.auth.principal import Principal
from streamer.auth.tickets import Tickets
from streamer.auth.view import Views
from streamer.core.budget import ANONYMOUS, REQUEST, SMALL, STREAM, Budget, Hold
from streamer.core.errors import PayloadTooLarge, ReadTimeout, RequestTimeout, WorkspaceNotFound
from streamer.core.filter import Filter
from streamer.core.ids import is_id
from streamer.core.ports import Log, Page
from streamer.edge.bodies import JSON_TYPES, MAX_SMALL_BYTES, content_encoding, media_type, parse_json
from streamer.edge.holding import account_of, hold_of
from streamer.edge.models import Bounds, ParamsT, read_query
from streamer.edge.paging import Stretch
from streamer.edge.reading import PageTurns
from streamer.edge.unpack import unpack
from streamer.fanout.dependencies import Dependencies
from streamer.fanout.subscribers import Subscribers
from streamer.ingest.intake import Intake
from streamer.ingest.redact import Redactor
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.store.entities import Entities
from streamer.store.members import Members
from streamer.store.readiness import Readiness
from streamer.store.workspaces import Workspaces

POSITION = "X-Position"
"""Where a reader goes on from behind a list that has no place for it in its body: also if the list is empty."""

T = TypeVar("T")
LOOP_BYTES = 128 * 2**10
"""Bytes of events up to which they are decoded on the event loop; more would take it some milliseconds."""


@dataclass(frozen=True)
class SocketLimits:
    """What one socket may ask for."""

    subscriptions: int
    message_values: int
    messages_per_second: int


@dataclass(frozen=True)
class Parts:
    """What the handlers call."""

    readiness: Readiness
    log: Log
    turns: PageTurns
    entities: Entities
    workspaces: Workspaces
    members: Members
    administration: Administration
    views: Views
    intake: Intake
    redactor: Redactor
    dependencies: Dependencies
    feed: Subscribers
    gate: Gate
    keyring: Keyring
    tickets: Tickets
    metrics: Metrics
    loops: Loops
    budget: Budget
    static: Path
    max_body_bytes: int
    max_body_values: int
    max_page_events: int
    max_page_bytes: int
    max_batch_events: int
    max_wait_seconds: int
    read_seconds: float
    body_timeout: float
    socket_limits: SocketLimits
    public_url: str | None
    """Where clients reach the server, if a proxy serves it under another URL."""
    praisonai_zone: bool
    evershell_stream_seconds: int
    sink_options: Mapping[str, Any]
    """How much a connection may hold and how long it may stand still (`transports.sink.SocketSink`)."""


class Base:
    """Has the parts; reads bodies and pages."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._bounds = Bounds(parts.max_page_events, parts.max_wait_seconds)

    async def page_of(
        self, principal: Principal, workspace: str, selection: Filter, stretch: Stretch, limit: int
    ) -> Page:
        """Read a page of at most `limit` events; `selection` is narrowed to what the caller may see.

        The page may be cut (`Page.is_cut`). Raises: RateLimited, and what `Log.page` raises.
        """
        async with self.parts.turns.turn(principal.account, selection):
            page = await self.parts.log.page(
                workspace,
                selection=selection,
                order=stretch.order,
                limit=limit,
                max_bytes=self.parts.max_page_bytes,
                after=stretch.after,
                before=stretch.before,
                skip=stretch.skip,
            )
        if page.is_cut:
            self.parts.metrics.scans_cut.inc()
        return page

    async def whole_page_of(
        self, principal: Principal, workspace: str, selection: Filter, stretch: Stretch, limit: int
    ) -> Page:
        """Read a page for an answer that cannot say that it was cut. Raises: ReadTimeout, and what `page_of` raises."""
        page = await self.page_of(principal, workspace, selection, stretch, limit)
        if page.is_cut:
            raise ReadTimeout
        return page

    def sink_options(self, principal: Principal) -> Mapping[str, Any]:
        """Return the options of the sink (`transports.sink.SocketSink`) of a caller's connection."""
        return {**self.parts.sink_options, "unread": self.parts.budget.hold(STREAM, principal.account)}

    def query(self, request: web.Request, model: type[ParamsT]) -> ParamsT:
        """Read the request's parameters. Raises BadInput, and what the model raises."""
        return read_query(model, request.query, self._bounds)

    async def json_body(self, request: web.Request) -> Any:
        """Read a body that is no event: a few values."""
        media_type(request, JSON_TYPES)
        data = await self.read(request, min(MAX_SMALL_BYTES, self.parts.max_body_bytes))
        return await parse_json(data, self.parts.max_body_values)

    async def read(self, request: web.Request, limit: int) -> bytes:
        """Read the body within its limits of size and time, and within the node's budget of memory."""
        length, content = request.content_length or 0, request.content
        if length > limit:
            raise PayloadTooLarge(f"the body has {length} bytes; at most {limit} are taken")
        self._need_memory(request, length)
        encoding = content_encoding(request)
        if content.is_eof():  # it came with its head, as nearly all do: no clock is needed
            data = content.read_nowait()
            if len(data) > limit:
                raise PayloadTooLarge(f"the body has more than {limit} bytes")
            return data if encoding is None else await self._unpacked(request, data, encoding, limit)
        if "Expect" in request.headers and request.version >= HttpVersion11:
            # Only now: access and parameters were fine, the body is wanted (RFC 9110, 10.1.1).
            assert request.transport is not None  # noqa: S101 - there was a request a moment ago
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(self.parts.body_timeout):
                data = await _receive(content, limit, hold_of(request, self.parts.budget))
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {self.parts.body_timeout:g} seconds") from None
        # That took its time: access may have ended.
        principal = await self.parts.gate.again(request)
        if principal is not None:
            request[PRINCIPAL] = principal
        return data if encoding is None else await self._unpacked(request, data, encoding, limit)

    def _need_memory(self, request: web.Request, length: int) -> None:
        """Refuse a body that there is no memory for, before any of it is taken. Raises Overloaded."""
        if length <= SMALL and not self.parts.budget.is_used:
            return
        account = account_of(request)
        if length > SMALL:
            self.parts.budget.check(REQUEST, account, length)
        elif account != ANONYMOUS:
            self.parts.budget.check_small(REQUEST, account)

    async def _unpacked(self, request: web.Request, data: bytes, encoding: str, limit: int) -> bytes:
        return await unpack(data, encoding, limit, hold_of(request, self.parts.budget))


async def _receive(content: StreamReader, limit: int, hold: Hold) -> bytes:
    """Return a body once all of it is there. Raises PayloadTooLarge, Overloaded."""
    content.set_read_chunk_size(SMALL)
    data = bytearray()
    while chunk := await content.readany():
        if len(data) + len(chunk) > limit:
            raise PayloadTooLarge(f"the body has more than {limit} bytes")
        hold.resize(len(data) + len(chunk))
        data += chunk
    return bytes(data)


def last_event_id(request: web.Request, parameter: str | None) -> str | None:
    """Return the last event that the client of an SSE stream received; empty is absent.

    The header wins: a browser sends it when it reconnects, by the URL that it began with. Libraries that cannot set headers, such as
    event-source-polyfill, send it as a parameter.
    """
    return request.headers.get("Last-Event-ID") or parameter or None


async def expect_later(_request: web.Request) -> None:
    """Leave `100 Continue` to the moment when the body is wanted; without it the access check would come too late."""


def readable(request: web.Request) -> str:
    """Return the path's workspace. Raises WorkspaceNotFound if no workspace can have this id."""
    workspace = request.match_info["ws"]
    if not is_id(workspace):  # a database may refuse to look for such a text
        raise WorkspaceNotFound
    return workspace


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Do some work on values of so many bytes; on a thread if it would hold up the event loop.

    The thread must not hold the GIL for long: it decodes, encodes and hashes event by event.
    """
    return await asyncio.to_thread(work) if size > LOOP_BYTES else work()


async def shaped(page: Page, shape: Callable[[Any], Any]) -> list[bytes]:
    """Return a page's events in another shape, each encoded."""
    bodies = [event.body for event in page.events]
    return await off_loop(sum(map(len, bodies)), lambda: [orjson.dumps(shape(orjson.loads(body))) for body in bodies])


def json_bytes(body: bytes, status: int = HTTPStatus.OK) -> web.Response:
    """Answer with what is JSON already."""
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def json_answer(value: object, status: int = HTTPStatus.OK) -> web.Response:
    """Answer with JSON."""
    return json_bytes(orjson.dumps(value), status)
