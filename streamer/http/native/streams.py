"""Streams: server-sent events, WebSockets, and the tickets that open them."""

from http import HTTPStatus

from aiohttp import web
from pydantic import with_config
from typing_extensions import TypedDict

from streamer.access.authorize import ANYONE, PRINCIPAL, TICKET, Access
from streamer.access.keys import Keyring
from streamer.access.principal import READ, Principal
from streamer.access.tickets import Tickets
from streamer.access.visibility import Visibility
from streamer.core.budget import MESSAGE, Budget
from streamer.core.clock import format_timestamp
from streamer.core.errors import WorkspaceNotFound
from streamer.core.filter import parse_filter
from streamer.core.ids import is_id
from streamer.core.ports import Bound
from streamer.core.position import Position
from streamer.fanout.connection import Reader, Subscription
from streamer.fanout.dependencies import Dependencies
from streamer.fanout.subscribers import Subscribers
from streamer.feed.reasons import Reason
from streamer.http.bodies import Bodies
from streamer.http.native import schemas
from streamer.http.native.params import SseParams, StreamParams
from streamer.http.native.schemas import ANSWER, Time
from streamer.http.native.socket import Socket
from streamer.http.operation import WORKSPACE, Operation, Resource
from streamer.http.responses import json_answer, last_event_id
from streamer.http.services import Services
from streamer.http.streaming import SinkOptions, SocketLimits
from streamer.ingest.intake import Intake
from streamer.ingest.redact import Redactor
from streamer.store.log.reader import SqlLog
from streamer.transports import sse, websocket


@with_config(ANSWER)
class Ticket(TypedDict):
    """A credential for one stream of a browser."""

    ticket: str
    expires_at: Time


class StreamHandlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._feed = services.get(Subscribers)
        self._dependencies = services.get(Dependencies)
        self._visibility = services.get(Visibility)
        self._tickets = services.get(Tickets)
        self._log = services.get(SqlLog)
        self._sink_options = services.get(SinkOptions)

    async def stream_events(self, request: web.Request, params: SseParams) -> web.StreamResponse:
        last = last_event_id(request, params.last_event_id)
        reader, principal = await self._follow(request, params, params.start(last), resumes=bool(last))
        encoder = sse.SseEncoder(sse.is_chunked(request))
        return await sse.stream(
            request, self._feed, reader, principal.chain, encoder, **self._sink_options.of(principal)
        )

    async def _follow(
        self, request: web.Request, params: StreamParams, start: Bound, *, resumes: bool
    ) -> tuple[Reader, Principal]:
        """Follow what a stream's request asks for; a ticket is opened by it, when nothing else can refuse the stream.

        The caller ensures that the reader leaves.
        """
        workspace, principal, ticket = request[WORKSPACE], request[PRINCIPAL], request.get(TICKET)
        visible = await self._visibility.authorize(principal, workspace, params.selection)
        wanted = Subscription(workspace, principal.account, visible, start, principal.links(workspace))
        self._feed.check_room(principal.bearer)
        reader = await self._feed.follow(wanted)
        try:
            if ticket is not None:
                left = start if resumes and isinstance(start, Position) else None
                principal, before = await self._tickets.open(ticket, principal, reader.channel.epoch, left)
                if before is not None:
                    self._dependencies.close_link(before, Reason.REPLACED)
        except BaseException:
            self._feed.leave(reader)
            raise
        return reader, principal

    async def open_socket(self, request: web.Request, params: StreamParams) -> web.StreamResponse:
        websocket.check(request)
        # A browser's WebSocket cannot send Last-Event-ID: its `after` says where it left.
        reader, principal = await self._follow(request, params, params.after, resumes=True)
        try:
            return await self._converse(request, principal, workspace=reader.subscription.workspace, reader=reader)
        finally:
            self._feed.leave(reader)

    async def open_shared_socket(self, request: web.Request) -> web.StreamResponse:
        websocket.check(request)
        self._feed.check_room(request[PRINCIPAL].bearer)
        return await self._converse(request, request[PRINCIPAL])

    async def _converse(
        self, request: web.Request, principal: Principal, *, workspace: str | None = None, reader: Reader | None = None
    ) -> web.StreamResponse:
        services, bodies = self._services, self._services.get(Bodies)
        limits = services.get(SocketLimits)
        socket = Socket(
            self._feed,
            services.get(Intake),
            services.get(Keyring),
            self._visibility,
            principal,
            limits,
            services.get(Redactor),
            workspace=workspace,
            reader=reader,
        )
        return await websocket.serve(
            request,
            self._feed,
            socket,
            principal.chain,
            max_message_bytes=bodies.max_bytes,
            messages_per_second=limits.messages_per_second,
            message_seconds=bodies.seconds,
            hold=services.get(Budget).hold(MESSAGE, principal.account),
            **self._sink_options.of(principal),
        )

    async def create_ticket(self, request: web.Request, body: dict[str, str]) -> web.StreamResponse:
        principal, workspace, selection = request[PRINCIPAL], body["workspace"], schemas.filter_of(body)
        principal.need(workspace, READ)
        parse_filter(selection)
        if not is_id(workspace):
            raise WorkspaceNotFound
        await self._log.head(workspace)  # a ticket is for a workspace that exists
        secret, expires_at = await self._tickets.issue(principal, workspace, selection)
        made: Ticket = {"ticket": secret, "expires_at": format_timestamp(expires_at)}
        return json_answer(made, HTTPStatus.CREATED)


_PATH = "/v1/workspaces/{ws}/events"

STREAMS = Resource(
    StreamHandlers,
    (
        Operation(
            "GET",
            f"{_PATH}/stream",
            StreamHandlers.stream_events,
            "Follow events as they are stored (server-sent events)",
            Access(READ, ticket=True),
            params=SseParams,
            headers=("Last-Event-ID",),
            answers={200: ("text/event-stream", "Events, from the given position on or from now on.")},
            errors=(400, 404, 429),
            streams=True,
        ),
        Operation(
            "GET",
            f"{_PATH}/ws",
            StreamHandlers.open_socket,
            "Follow a workspace's events over a WebSocket",
            Access(READ, ticket=True),
            params=StreamParams,
            answers={101: (None, "Messages as docs/api.md describes them.")},
            errors=(400, 404, 429),
            streams=True,
        ),
        Operation(
            "GET",
            "/v1/ws",
            StreamHandlers.open_shared_socket,
            "Follow and append in many workspaces over one WebSocket",
            ANYONE,
            answers={101: (None, "Messages as docs/api.md describes them.")},
            errors=(400, 429),
            streams=True,
        ),
        Operation(
            "POST",
            "/v1/tickets",
            StreamHandlers.create_ticket,
            "Make a ticket: a credential for one stream of a browser",
            ANYONE,
            body=schemas.TICKET,
            answers={201: (Ticket, "Made; it is shown only here.")},
            errors=(400, 404, 408, 413, 415, 429),
        ),
    ),
)
