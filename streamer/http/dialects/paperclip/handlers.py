"""The handlers of Paperclip's routes."""

import contextlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import ETag, web

from streamer.access.authorize import PRINCIPAL
from streamer.access.visibility import Visibility
from streamer.core.budget import MESSAGE, Budget
from streamer.core.entities import RUN, Entity
from streamer.core.errors import Ambiguous, EventNotFound, PermissionDenied, PositionExpired, WorkspaceNotFound
from streamer.core.filter import EVERYTHING, Condition, Either, Filter, canonical
from streamer.core.ids import is_id
from streamer.core.ports import Page
from streamer.core.position import UNKNOWN, Position, expired
from streamer.fanout.connection import Subscription
from streamer.fanout.subscribers import Subscribers
from streamer.http.bodies import JSON_TYPES, MAX_SMALL_BYTES, Bodies, media_type, parse_json
from streamer.http.dialects.paperclip import shape
from streamer.http.dialects.paperclip.body import event_of
from streamer.http.dialects.paperclip.errors import ABSENT
from streamer.http.dialects.paperclip.live import Listener, LiveSink
from streamer.http.dialects.paperclip.params import (
    MOST,
    LinkedCursor,
    LinkedParams,
    ListParams,
    LiveParams,
    ResumeFrom,
)
from streamer.http.issues import Issues, about_issue
from streamer.http.models import BadInput, Bounds, fault
from streamer.http.operation import WORKSPACE, readable
from streamer.http.paging import Cursor, PageRange, link_to, parse_bound
from streamer.http.reading import Pages
from streamer.http.responses import POSITION, json_answer, off_loop, shaped
from streamer.http.services import Services
from streamer.http.streaming import SinkOptions, SocketLimits
from streamer.ingest.intake import Intake
from streamer.store.log.entities import Entities
from streamer.store.log.reader import SqlLog
from streamer.transports import websocket

USUAL = 100
"""Default number of events in a company's list."""

_OUTSIDE = "Activity is outside this actor's authorization boundary"
_FIRST_MOMENT = "1970-01-01T00:00:00Z"
"""The position returned for a workspace without a log. A reader continues there with the first event."""
_REVALIDATE = "no-cache, private"
"""A browser may cache the response, and revalidates it each time with the ETag."""


class Handlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._log = services.get(SqlLog)
        self._visibility = services.get(Visibility)
        self._pages = services.get(Pages)
        self._issues = services.get(Issues)
        self._entities = services.get(Entities)
        self._intake = services.get(Intake)
        self._bodies = services.get(Bodies)
        self._feed = services.get(Subscribers)
        self._max_page_events = services.get(Bounds).page_events

    # ---- events

    async def company_activity(self, request: web.Request, wanted: ListParams) -> web.StreamResponse:
        try:
            workspace = readable(request[WORKSPACE])
            page, page_range = await self._read(request, workspace, wanted, wanted.selection, wanted.limit or USUAL)
        except WorkspaceNotFound:  # readable, but without a log so far
            return _answer(request, [], {POSITION: _FIRST_MOMENT})
        return await _list(request, page, page_range)

    async def create_company_activity(self, request: web.Request) -> web.StreamResponse:
        workspace = request[WORKSPACE]
        if request.body_exists:
            media_type(request, JSON_TYPES)
        data, principal = await self._bodies.events(request)
        author = principal.author(workspace)
        event = event_of(await parse_json(data, self._bodies.max_values) if data else ABSENT, author)
        stored = await self._intake.append(workspace, [event], author, batch=False, size=len(data), no_details=None)
        return json_answer(shape.shape(orjson.loads(stored.events[0].body)), HTTPStatus.CREATED)

    async def activity_of_issue(self, request: web.Request, wanted: ListParams) -> web.StreamResponse:
        workspace, entity = await self._issues.find(request[PRINCIPAL], request.match_info["issue"])
        selection = wanted.selection.narrowed(about_issue(entity.id))
        page, page_range = await self._read(request, workspace, wanted, selection, wanted.limit or MOST)
        return await _list(request, page, page_range)

    async def _read(
        self, request: web.Request, workspace: str, wanted: ListParams, selection: Filter, limit: int
    ) -> tuple[Page, PageRange]:
        """Read a page: newest first, or oldest first after an event."""
        visible = await self._visibility.authorize(request[PRINCIPAL], workspace, selection)
        if wanted.cursor is not None:
            page_range = PageRange.after_cursor(Cursor.parse(wanted.cursor))
        elif wanted.resume_from is not None:
            at = await self._place(request, workspace, wanted.resume_from)
            if wanted.lower is not None:
                start = await self._log.resolve(workspace, wanted.lower)
                at = at if isinstance(at, Position) else await self._log.resolve(workspace, at)
                at = start if at.epoch == start.epoch and at.seq < start.seq else at
            page_range = PageRange("asc", at, wanted.upper, skip=wanted.offset)
        else:
            page_range = PageRange("desc", wanted.lower, wanted.upper, skip=wanted.offset)
        limit = min(limit, self._max_page_events)
        return await self._pages.read_whole(request[PRINCIPAL], workspace, visible, page_range, limit), page_range

    async def _place(self, request: web.Request, workspace: str, start: ResumeFrom) -> Position | int:
        """Resolve an event's id, a position or a timestamp. Raises BadInput."""
        bound: Position | None = None
        with contextlib.suppress(ValueError):
            found = parse_bound(start.text)
            if isinstance(found, int):
                return found
            bound = found
        # An event's id may look like a position. A position in this log takes precedence over such an id.
        if bound is not None:
            head = await self._log.head(workspace)
            bound = head.translated(bound)
            if bound.epoch == head.epoch:
                return bound
        if is_id(start.text):
            visible = await self._visibility.authorize(request[PRINCIPAL], workspace, EVERYTHING)
            with contextlib.suppress(EventNotFound):
                return await self._log.position_of(workspace, start.text, visible)
            if bound is None:
                raise expired(await self._log.head(workspace))
        if bound is not None:
            return bound
        expected = "the id of an event of this company, a position, or an RFC 3339 timestamp"
        raise BadInput([fault(start.name, f"Invalid input: expected {expected}", start.text)])

    async def _resume(self, request: web.Request, workspace: str, start: ResumeFrom) -> Position | int:
        """Return where a socket starts. Removed events are reported as a gap, because a refused client would retry indefinitely."""
        try:
            return await self._place(request, workspace, start)
        except PositionExpired:
            return UNKNOWN

    # ---- issues and runs

    async def issue_runs(self, request: web.Request, wanted: LinkedParams) -> web.StreamResponse:
        after, limit = _linked(wanted)
        principal = request[PRINCIPAL]
        workspace, entity = await self._issues.find(principal, request.match_info["issue"])
        if not await self._visibility.is_whole(principal, workspace):
            raise PermissionDenied(_OUTSIDE)
        runs = await self._entities.runs_of(workspace, entity.id, limit, after=after)
        told = [run.attributes for run in runs]
        unnamed = {known["agent_id"] for known in told if "agent_id" in known and "agent_name" not in known}
        names = await self._entities.names(workspace, "agent", unnamed)
        return _answer(request, [shape.run(run, names) for run in runs], _more(request, limit, runs))

    async def run_issues(self, request: web.Request, wanted: LinkedParams) -> web.StreamResponse:
        after, limit = _linked(wanted)
        principal, reference = request[PRINCIPAL], request.match_info["run"]
        found = await self._issues.visible(principal, RUN, reference, _of_run)
        if not found:
            return _answer(request, [])
        if len(found) > 1:
            raise Ambiguous("several of your companies have such a run: use a key for one of them")
        workspace, entity = found[0]
        if not await self._visibility.is_whole(principal, workspace):
            raise PermissionDenied(_OUTSIDE)
        issues = await self._entities.issues_of(workspace, entity.id, limit, after=after)
        return _answer(request, [shape.issue(one) for one in issues], _more(request, limit, issues))

    # ---- live

    async def company_events(self, request: web.Request, wanted: LiveParams) -> web.StreamResponse:
        websocket.check(request)
        workspace, principal = request[WORKSPACE], request[PRINCIPAL]
        visible = await self._visibility.authorize(principal, workspace, wanted.selection)
        start = None if wanted.resume_from is None else await self._resume(request, workspace, wanted.resume_from)
        self._feed.check_room(principal.bearer)
        reader = await self._feed.follow(
            Subscription(workspace, principal.account, visible, start, principal.links(workspace))
        )
        try:
            return await websocket.serve(
                request,
                self._feed,
                Listener(self._feed, reader),
                principal.chain,
                sink_type=LiveSink,
                max_message_bytes=MAX_SMALL_BYTES,
                messages_per_second=self._services.get(SocketLimits).messages_per_second,
                message_seconds=self._bodies.seconds,
                hold=self._services.get(Budget).hold(MESSAGE, principal.account),
                **self._services.get(SinkOptions).of(principal),
            )
        finally:
            self._feed.leave(reader)


def _of_run(run: str) -> Filter:
    """Return the filter for events of a run, and events about it."""
    this = frozenset({run})
    by_it = Condition("run_id", this)
    is_run = Condition("entity_type", frozenset({RUN, "heartbeat_run"}))
    # (entity_id AND entity_type) OR run_id, rewritten as a conjunction, because a filter is a conjunction.
    return canonical((Either((Condition("entity_id", this), by_it)), Either((is_run, by_it))))


async def _list(request: web.Request, page: Page, page_range: PageRange) -> web.Response:
    cursor = page_range.following(page)
    leads_on = {POSITION: str(page_range.position(page))}
    if cursor is not None:
        without = {"cursor", "after", "since", "from", "to", "offset"}
        leads_on |= {"Link": link_to(request, cursor, without), "X-Next-Cursor": cursor}
    body = b"[%b]" % b",".join(await shaped(page, shape.shape))
    return _tagged(request, body, await off_loop(len(body), lambda: sha256(body).digest()), leads_on)


def _linked(wanted: LinkedParams) -> tuple[tuple[int, str] | None, int]:
    """Return the cursor and the limit of a page of runs or issues. Raises InvalidCursor."""
    at = None if wanted.cursor is None else LinkedCursor.parse(wanted.cursor)
    return None if at is None else (at.created_at, at.id), wanted.limit or MOST


def _more(request: web.Request, limit: int, found: Sequence[Entity]) -> dict[str, str]:
    """Return the headers that lead to the next page of runs or issues, if there may be one."""
    if len(found) < limit:
        return {}
    cursor = str(LinkedCursor(found[-1].created_at, found[-1].id))
    return {"Link": link_to(request, cursor, {"cursor"}), "X-Next-Cursor": cursor}


def _answer(request: web.Request, value: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """Respond with JSON, or with 304."""
    body = orjson.dumps(value)
    return _tagged(request, body, sha256(body).digest(), headers)


def _tagged(request: web.Request, body: bytes, digest: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    """Respond with a body, or with 304 (RFC 9110, 13.1.2)."""
    tag = f"{len(body):x}-{b64encode(digest).decode()[:27]}"
    response = web.Response(headers={"Cache-Control": _REVALIDATE, **(headers or {})})
    response.etag = ETag(tag, is_weak=True)
    if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
        response.set_status(HTTPStatus.NOT_MODIFIED)
    else:
        response.body, response.content_type = body, "application/json"
    return response
