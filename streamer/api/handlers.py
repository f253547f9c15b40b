"""The handlers: read the request, call the part that knows, write its answer. One method for each operation of the route table."""

from http import HTTPStatus
from typing import Any

from aiohttp import web

from streamer.api import appending, schemas
from streamer.api.access import AccessHandlers
from streamer.api.openapi import document
from streamer.api.params import HistoryParams, ReadyParams, SseParams, StreamParams
from streamer.api.socket import Socket
from streamer.auth.access import PRINCIPAL, TICKET
from streamer.auth.principal import READ, Principal
from streamer.core.budget import MESSAGE
from streamer.core.clock import format_timestamp
from streamer.core.entities import Entity
from streamer.core.errors import NotFound, Overloaded, WorkspaceNotFound
from streamer.core.filter import parse_filter
from streamer.core.frame import page_body
from streamer.core.ids import is_id
from streamer.core.ports import Bound
from streamer.core.position import Position
from streamer.edge.appending import check_writable
from streamer.edge.base import Parts, json_answer, json_bytes, last_event_id, readable
from streamer.edge.bodies import JSON_TYPES, NDJSON_TYPES, media_type, parse_json
from streamer.edge.models import NoParams
from streamer.edge.paging import link_to
from streamer.fanout.connection import Reader, Subscription
from streamer.feed.reasons import Reason
from streamer.observe.metrics import CONTENT_TYPE
from streamer.transports import longpoll, sse, websocket

WRITING_LOOPS = {"writer", "probe", "purge"}
"""Background loops that a node does not need to serve reads."""
PAGE_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""The kinds of files in the page's folder that are served, by their endings."""
FILE_STEP = 32 * 1024
"""Bytes of a file that are read ahead of a client that takes its time."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}


class Handlers(AccessHandlers):
    """One method for each operation."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._page_files = {
            file.name: PAGE_TYPES[file.suffix] for file in parts.static.iterdir() if file.suffix in PAGE_TYPES
        }

    # ---- entities

    async def get_entity(self, request: web.Request) -> web.StreamResponse:
        workspace = readable(request)
        self.query(request, NoParams)
        await self.parts.views.expect_all(request[PRINCIPAL], workspace)
        type_, entity_id = request.match_info["type"], request.match_info["entity"]
        return json_answer(_entity(workspace, await self.parts.entities.get(workspace, type_, entity_id)))

    # ---- events

    async def append_events(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = check_writable(request.match_info["ws"]), request[PRINCIPAL]
        self.query(request, NoParams)
        key = request.headers.get("Idempotency-Key")
        appending.check_idempotency_key(key, "Idempotency-Key")
        kind = media_type(request, JSON_TYPES | NDJSON_TYPES)
        self.parts.intake.rate.check(principal.account)
        data, principal = await self.read(request, self.parts.max_body_bytes), request[PRINCIPAL]
        target = self.parts.intake, principal, workspace
        if batch := kind in NDJSON_TYPES:
            stored = await appending.append_ndjson(
                *target,
                data,
                idempotency_key=key,
                max_events=self.parts.max_batch_events,
                max_values=self.parts.max_body_values,
            )
        else:
            parsed = await parse_json(data, self.parts.max_body_values)
            batch = isinstance(parsed, list)
            stored = await appending.append(*target, parsed, idempotency_key=key)
        bodies = [event.body for event in stored.events]
        return json_bytes(
            b'{"events":[%b]}' % b",".join(bodies) if batch else bodies[0],
            HTTPStatus.CREATED if stored.created else HTTPStatus.OK,
        )

    async def list_events(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = readable(request), request[PRINCIPAL]
        wanted = self.query(request, HistoryParams)
        selection = await self.parts.views.of(principal, workspace, wanted.selection)

        page = await self.page_of(principal, workspace, selection, wanted.stretch, wanted.limit)
        if wanted.wait and not page.events and not page.is_cut:
            start = Position(page.head.epoch, page.examined)
            body = await self._wait(
                principal,
                Subscription(workspace, principal.account, selection, start, principal.links(workspace)),
                wanted,
            )
            if body is not None:
                return json_bytes(body)
            page = await self.page_of(principal, workspace, selection, wanted.stretch, wanted.limit)
        following = wanted.stretch.following(page)
        bodies = [event.body for event in page.events]
        scanned_to = Position(page.head.epoch, page.examined) if page.is_cut else None
        response = json_bytes(page_body(bodies, wanted.stretch.position(page), following, scanned_to))
        if following:
            response.headers["Link"] = link_to(request, following, {"cursor", "after", "before", "order"})
        return response

    async def get_event(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = readable(request), request[PRINCIPAL]
        self.query(request, NoParams)
        event = await self.parts.views.event(principal, workspace, request.match_info["id"])
        return json_bytes(event.body)

    async def stream_events(self, request: web.Request) -> web.StreamResponse:
        params = self.query(request, SseParams)
        last = last_event_id(request, params.last_event_id)
        reader, principal = await self._follow(request, params, params.start(last), resumes=bool(last))
        return await sse.stream(request, self.parts.feed, reader, principal.chain, **self.sink_options(principal))

    async def _wait(self, principal: Principal, subscription: Subscription, wanted: HistoryParams) -> bytes | None:
        reader = await self.parts.feed.follow(subscription)
        try:
            return await longpoll.wait(
                self.parts.feed, reader, principal.chain, limit=wanted.limit, seconds=wanted.wait
            )
        finally:
            self.parts.feed.leave(reader)

    async def _follow(
        self, request: web.Request, params: StreamParams, start: Bound, *, resumes: bool
    ) -> tuple[Reader, Principal]:
        """Follow what a stream's request asks for; a ticket is opened by it, when nothing else can refuse the stream.

        Who gets the reader sees to it that it leaves.
        """
        workspace, principal, ticket = readable(request), request[PRINCIPAL], request.get(TICKET)
        view = await self.parts.views.of(principal, workspace, params.selection)
        wanted = Subscription(workspace, principal.account, view, start, principal.links(workspace))
        self.parts.feed.check_room(principal.bearer)
        reader = await self.parts.feed.follow(wanted)
        try:
            if ticket is not None:
                left = start if resumes and isinstance(start, Position) else None
                principal, before = await self.parts.tickets.open(ticket, principal, reader.channel.epoch, left)
                if before is not None:
                    self.parts.dependencies.close_link(before, Reason.REPLACED)
        except BaseException:
            self.parts.feed.leave(reader)
            raise
        return reader, principal

    # ---- sockets and tickets

    async def open_socket(self, request: web.Request) -> web.StreamResponse:
        websocket.check(request)
        params = self.query(request, StreamParams)
        # A browser's WebSocket cannot send Last-Event-ID: its `after` says where it left.
        reader, principal = await self._follow(request, params, params.after, resumes=True)
        try:
            return await self._converse(request, principal, workspace=reader.subscription.workspace, reader=reader)
        finally:
            self.parts.feed.leave(reader)

    async def open_shared_socket(self, request: web.Request) -> web.StreamResponse:
        self.query(request, NoParams)
        websocket.check(request)
        self.parts.feed.check_room(request[PRINCIPAL].bearer)
        return await self._converse(request, request[PRINCIPAL])

    async def _converse(
        self, request: web.Request, principal: Principal, *, workspace: str | None = None, reader: Reader | None = None
    ) -> web.StreamResponse:
        parts = self.parts
        socket = Socket(
            parts.feed,
            parts.intake,
            parts.keyring,
            parts.views,
            principal,
            parts.socket_limits,
            parts.redactor,
            workspace=workspace,
            reader=reader,
        )
        return await websocket.serve(
            request,
            parts.feed,
            socket,
            principal.chain,
            max_message_bytes=parts.max_body_bytes,
            messages_per_second=parts.socket_limits.messages_per_second,
            message_seconds=parts.body_timeout,
            hold=parts.budget.hold(MESSAGE, principal.account),
            **self.sink_options(principal),
        )

    async def create_ticket(self, request: web.Request) -> web.StreamResponse:
        self.query(request, NoParams)
        wanted = schemas.check(schemas.TICKET, await self.json_body(request))
        principal = request[PRINCIPAL]
        workspace, selection = wanted["workspace"], schemas.filter_of(wanted)
        principal.need(workspace, READ)
        parse_filter(selection)
        if not is_id(workspace):
            raise WorkspaceNotFound
        await self.parts.log.head(workspace)  # a ticket is for a workspace that exists
        secret, expires_at = await self.parts.tickets.issue(principal, workspace, selection)
        return json_answer({"ticket": secret, "expires_at": format_timestamp(expires_at)}, HTTPStatus.CREATED)

    # ---- operations

    async def livez(self, _request: web.Request) -> web.StreamResponse:
        return json_answer({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """Fail unless this node can serve: `for=reads` asks for less."""
        wanted = self.query(request, ReadyParams).for_
        await self.parts.readiness.expect(writes=wanted == "all")
        dead = [name for name in self.parts.loops.dead() if wanted == "all" or name not in WRITING_LOOPS]
        if dead:
            raise Overloaded(f"background loops do not go on: {', '.join(dead)}; restart this node", reason="loops")
        return json_answer({"status": "ok"})

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.parts.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _request: web.Request) -> web.StreamResponse:
        public_url = self.parts.public_url
        return json_answer(document() | ({"servers": [{"url": public_url}]} if public_url else {}))

    async def page(self, _request: web.Request) -> web.StreamResponse:
        return self._page_file("index.html")

    async def static_file(self, request: web.Request) -> web.StreamResponse:
        return self._page_file(request.match_info["file"])

    def _page_file(self, name: str) -> web.StreamResponse:
        # Looked up among the names that are there: no name from outside ever becomes part of a path.
        kind = self._page_files.get(name)
        if kind is None:
            raise NotFound("no such file")
        return web.FileResponse(
            self.parts.static / name, FILE_STEP, headers={**PAGE_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}
        )


def _entity(workspace: str, entity: Entity) -> dict[str, Any]:
    return {
        "workspace_id": workspace,
        "type": entity.type,
        "id": entity.id,
        "identifier": entity.identifier,
        "name": entity.name,
        "status": entity.status,
        "attributes": entity.attributes,
        "created_at": format_timestamp(entity.created_at),
        "updated_at": format_timestamp(entity.updated_at),
        "deleted_at": None if entity.deleted_at is None else format_timestamp(entity.deleted_at),
    }
