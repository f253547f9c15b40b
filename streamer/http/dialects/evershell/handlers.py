"""What Evershell's routes answer."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import orjson
from aiohttp import web

from streamer.access.authorize import PRINCIPAL
from streamer.access.keys import Keyring
from streamer.access.principal import AUDIT, AUDIT_OWN, EVERYWHERE, READ, READ_OWN, Principal
from streamer.access.visibility import Visibility
from streamer.core.errors import EventNotFound, PermissionDenied, ValidationError
from streamer.core.event import timestamp_in
from streamer.core.filter import EVERYTHING
from streamer.core.ids import is_id
from streamer.core.ports import Bound
from streamer.core.position import UNKNOWN, LogHead, Position
from streamer.fanout.connection import Subscription
from streamer.fanout.subscribers import Subscribers
from streamer.http.dialects.evershell.params import ActivityParams, AuditParams, StreamParams
from streamer.http.dialects.evershell.shape import shape
from streamer.http.dialects.evershell.stream import (
    GONE,
    HEADS,
    LOOK_SECONDS,
    NO_LOG,
    NOWHERE,
    EvershellEncoder,
    EvershellSink,
    OrgStream,
    OrgStreams,
    parse_place,
)
from streamer.http.merge import Merge, encoded, parse_positions, said_of
from streamer.http.operation import WORKSPACE
from streamer.http.paging import TIMESTAMP_FORM, Cursor, PageRange, parse_bound, timestamp_of
from streamer.http.reading import Pages
from streamer.http.responses import json_bytes, last_event_id, shaped
from streamer.http.services import Services
from streamer.http.streaming import SinkOptions
from streamer.observe.loops import Loops
from streamer.store.log.reader import SqlLog
from streamer.store.records.workspaces import Workspaces
from streamer.transports import sse


@dataclass(frozen=True, slots=True)
class StreamSeconds:
    """How long a stream of Evershell's API stays open."""

    seconds: int


class Handlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._log = services.get(SqlLog)
        self._visibility = services.get(Visibility)
        self._pages = services.get(Pages)
        self._merge = services.get(Merge)
        self._workspaces = services.get(Workspaces)
        self._feed = services.get(Subscribers)
        self._sink_options = services.get(SinkOptions)
        self._stream_seconds = services.get(StreamSeconds).seconds
        self._org_streams = OrgStreams(
            self._feed, self._log, self._visibility, services.get(Keyring), self._readable_by, self._orgs_of
        )
        services.get(Loops).start("evershell", self._org_streams.look, every=LOOK_SECONDS)

    async def activity(self, request: web.Request, wanted: ActivityParams) -> web.StreamResponse:
        return await self._page(request, wanted)

    async def audit(self, request: web.Request, wanted: AuditParams) -> web.StreamResponse:
        return await self._page(request, wanted)

    async def org_audit(self, request: web.Request, wanted: AuditParams) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        workspaces, left_out = await self._readable_by(principal, scopes={AUDIT, AUDIT_OWN})
        found = await self._merge.read(
            principal, workspaces, wanted.selection, wanted.page_range, wanted.limit, wanted.cursor
        )
        orgs = await self._orgs_of({event["workspace_id"] for event in found.events})
        events = await encoded(found, lambda event: shape(event, orgs.get(event["workspace_id"], "")))
        response = _answer(events, found.cursor)
        response.headers.update(said_of(left_out))
        return response

    async def _page(self, request: web.Request, wanted: ActivityParams | AuditParams) -> web.StreamResponse:
        workspace, principal = request[WORKSPACE], request[PRINCIPAL]
        page_range = wanted.page_range if wanted.cursor is None else PageRange.after_cursor(Cursor.parse(wanted.cursor))
        selection = await self._visibility.authorize(principal, workspace, wanted.selection)
        org_id = (await self._workspaces.get(workspace)).org_id
        page = await self._pages.read(principal, workspace, selection, page_range, wanted.limit)
        events = await shaped(page, partial(shape, org_id=org_id))
        return _answer(events, page_range.following(page), str(page_range.position(page)))

    # ---- streams

    async def stream_activity(self, request: web.Request, params: StreamParams) -> web.StreamResponse:
        workspace, principal = request[WORKSPACE], request[PRINCIPAL]
        try:
            start = parse_bound(params.after) if params.after else None
        except ValueError as error:
            raise ValidationError({"after": str(error)}) from None
        visible = await self._visibility.authorize(principal, workspace, params.selection)
        last = last_event_id(request, params.last_event_id)
        if last:
            start = await self._position_of(principal, workspace, last)
        org_id = (await self._workspaces.get(workspace)).org_id
        self._feed.check_room(principal.bearer)
        wanted = Subscription(workspace, principal.account, visible, start, principal.links(workspace))
        return await sse.stream(
            request,
            self._feed,
            await self._feed.follow(wanted),
            principal.chain,
            EvershellEncoder(sse.is_chunked(request), org_id),
            sink_class=EvershellSink,
            max_seconds=self._stream_seconds,
            **self._sink_options.of(principal),
        )

    async def stream_org_activity(self, request: web.Request, params: StreamParams) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        workspaces, left_out = await self._readable_by(principal)
        self._feed.check_room(principal.bearer)
        heads: dict[str, LogHead] = {}
        for first in range(0, len(workspaces), HEADS):
            heads |= await self._log.heads(workspaces[first : first + HEADS])
        starts, is_gone = await self._starts(
            principal, heads, last_event_id(request, params.last_event_id), params.after
        )
        stream = OrgStream(principal, params.selection, sse.is_chunked(request))
        readers = await self._org_streams.prepare(stream, heads, starts)
        try:
            omitted = b": %d workspaces omitted\n" % left_out if left_out else b""
            response, connection = await sse.open_connection(
                request,
                self._feed,
                principal.chain,
                encoder=sse.SseEncoder(stream.is_chunked),
                sink_class=EvershellSink,
                max_seconds=self._stream_seconds,
                opening=omitted + (GONE if is_gone else b"") + (b"" if readers else NOWHERE),
                **self._sink_options.of(principal),
            )
            if connection is None or response.protocol is None:
                return response
            response.protocol.when_lost(partial(self._org_streams.end, stream))
            self._org_streams.begin(stream, connection, readers)
            readers = []
            return response
        finally:
            for reader, _ in readers:
                self._feed.leave(reader)

    async def _starts(
        self, principal: Principal, heads: Mapping[str, LogHead], last: str | None, after: str | None
    ) -> tuple[dict[str, Bound], bool]:
        """Return where a stream of many workspaces begins in each: by the positions in its last id, else by an event or a time.

        And whether the id has positions of logs that are not among these, while others are: their rest will not come.
        """
        positions = _translated(_positions(last or after or ""), heads.values())
        epochs = {head.epoch for head in heads.values()}
        if (positions is not None and epochs.issuperset(positions)) or (positions and epochs & positions.keys()):
            # What is not among them was made since.
            starts: dict[str, Bound] = {
                ws: Position(head.epoch, positions.get(head.epoch, 0)) for ws, head in heads.items()
            }
            return starts, not epochs.issuperset(positions)
        if last:
            return await self._around(principal, heads, last), False
        if positions is not None:
            return dict.fromkeys(heads, UNKNOWN), False
        try:
            moment = timestamp_of(after) if after else None
        except ValueError:
            raise ValidationError({"after": f"must be {TIMESTAMP_FORM}, or the `id` of an earlier event"}) from None
        return await self._since(heads, moment), False

    async def _around(self, principal: Principal, heads: Mapping[str, LogHead], event_id: str) -> dict[str, Bound]:
        """Return where an event stands, exactly in its own workspace; in all others only its time is known.

        An unknown id leads to a gap and then to the whole log: a client that was refused would retry with the same id indefinitely.
        """
        # The preferred first: whoever adds the caller to a workspace can copy an event's id into it.
        for workspace in sorted(heads, key=principal.rank()) if is_id(event_id) else ():
            try:
                visible = await self._visibility.authorize(principal, workspace, EVERYTHING)
                at = await self._log.event(workspace, event_id, visible)
            except EventNotFound:
                continue
            # Events of other workspaces may be of the same microsecond.
            before = timestamp_of(timestamp_in(at.body)) - 1
            return await self._since(heads, before) | {workspace: Position(heads[workspace].epoch, at.seq)}
        return dict.fromkeys(heads, UNKNOWN)

    async def _since(self, heads: Collection[str], moment: int | None) -> dict[str, Bound]:
        """Return the positions at a time; None: none, from now on."""
        if moment is None:
            return {}
        return {workspace: await self._log.resolve(workspace, moment) for workspace in heads}

    async def _position_of(self, principal: Principal, workspace: str, last: str) -> Position:
        """Return where a stream of one workspace is to be resumed: behind the event with this id, or at a place that we told."""
        place = parse_place(last)
        if place is not None:
            return place
        if is_id(last):
            visible = await self._visibility.authorize(principal, workspace, EVERYTHING)
            try:
                return await self._log.position_of(workspace, last, visible)
            except EventNotFound:
                pass
        return UNKNOWN

    # ---- workspaces

    async def _readable_by(
        self, principal: Principal, scopes: Collection[str] = (READ, READ_OWN)
    ) -> tuple[list[str], int]:
        """Return the workspaces in which a principal has one of these scopes, as `workspaces_of` does. Raises PermissionDenied: in none."""
        readable_ = principal.readable()
        if readable_ is None and not principal.scopes(EVERYWHERE) & {*scopes}:
            readable_ = frozenset({*principal.grants, *principal.roles} - {EVERYWHERE})
        if readable_ is not None:
            readable_ = frozenset(ws for ws in readable_ if is_id(ws) and principal.scopes(ws) & {*scopes})
        if readable_ is not None and not readable_:
            raise PermissionDenied(f"this needs the scope {next(iter(sorted(scopes)))} in a workspace")
        return await self._merge.workspaces_of(principal, readable_)

    async def _orgs_of(self, workspaces: Collection[str]) -> dict[str, str]:
        found = await self._workspaces.listing(set(workspaces), after="", limit=max(len(workspaces), 1))
        return {workspace.id: workspace.org_id for workspace in found}


def _translated(positions: dict[str, int] | None, heads: Iterable[LogHead]) -> dict[str, int] | None:
    """Return positions in the logs' present epochs, where they are still valid (`LogHead.translated`)."""
    if positions is None:
        return None
    found = dict(positions)
    for head in heads:
        if head.previous is not None and head.previous.epoch in found:
            at = head.translated(Position(head.previous.epoch, found.pop(head.previous.epoch)))
            found[at.epoch] = at.seq
    return found


def _positions(text: str) -> dict[str, int] | None:
    """Read the positions in an id of a stream of many workspaces; None if it is something else."""
    try:
        positions = parse_positions(text)
    except ValueError:
        return None
    positions.pop(NO_LOG, None)
    return positions


def _answer(events: list[bytes], cursor: str | None, position: str | None = None) -> web.Response:
    """Answer with a page; `cursor` only if there may be more, `position` as what a stream or `after` goes on from."""
    rest = {name: value for name, value in (("cursor", cursor), ("position", position)) if value}
    return json_bytes(b'{"events":[%b]%b' % (b",".join(events), b"," + orjson.dumps(rest)[1:] if rest else b"}"))
