"""The handlers of PraisonAI's routes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from streamer.access.authorize import PRINCIPAL
from streamer.access.visibility import Visibility
from streamer.core.errors import EventNotFound, ReadTimeout
from streamer.core.filter import EVERYTHING, Condition, Either, Filter, canonical
from streamer.core.ids import is_id
from streamer.core.ports import Page
from streamer.core.position import LogHead, Position, expired
from streamer.http.dialects.praisonai.params import AcrossParams, ActivityParams, ViewParams
from streamer.http.dialects.praisonai.shape import shape
from streamer.http.issues import Issues, about_issue
from streamer.http.merge import Merge, encoded
from streamer.http.models import BadInput, fault
from streamer.http.operation import WORKSPACE
from streamer.http.paging import Cursor, PageRange, link_to
from streamer.http.reading import Pages
from streamer.http.responses import POSITION, json_answer, json_bytes, shaped
from streamer.http.services import Services
from streamer.store.log.reader import SqlLog


@dataclass(frozen=True, slots=True)
class Zone:
    """Whether `created_at` ends with `Z`."""

    is_said: bool


class Handlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._log = services.get(SqlLog)
        self._visibility = services.get(Visibility)
        self._pages = services.get(Pages)
        self._issues = services.get(Issues)
        self._merge = services.get(Merge)
        self._zone = services.get(Zone).is_said

    async def workspace_activity(self, request: web.Request, wanted: ActivityParams) -> web.StreamResponse:
        page, page_range = await self._read(request, request[WORKSPACE], wanted, wanted.selection)
        return await self._page(request, wanted, page, page_range)

    async def activity(self, request: web.Request, wanted: ViewParams) -> web.StreamResponse:
        event = await self._visibility.event(request[PRINCIPAL], request[WORKSPACE], request.match_info["id"])
        return json_answer(shape(orjson.loads(event.body), zone=self._zone, platform=wanted.view is not None))

    async def workspace_issue_activity(self, request: web.Request, wanted: ActivityParams) -> web.StreamResponse:
        return await self._issue_activity(request, wanted, request[WORKSPACE])

    async def issue_activity(self, request: web.Request, wanted: ActivityParams) -> web.StreamResponse:
        return await self._issue_activity(request, wanted, None)

    async def my_activity(self, request: web.Request, wanted: AcrossParams) -> web.StreamResponse:
        """List activity of the caller, or on its behalf, in all workspaces that it may read."""
        principal = request[PRINCIPAL]
        me = frozenset({principal.own_id})
        mine = canonical((Either((Condition("actor_id", me), Condition("on_behalf_of", me))),))
        found = await self._merge.newest(
            principal,
            wanted.selection.narrowed(mine),
            PageRange("desc", wanted.after, wanted.before, skip=wanted.offset),
            wanted.limit,
            wanted.cursor,
        )
        if found.is_cut:
            raise ReadTimeout
        response = self._list(request, wanted, await encoded(found, self._shape(wanted)), found.cursor)
        response.headers.update(found.headers)
        return response

    async def workspace_activity_slash(self, request: web.Request) -> web.StreamResponse:
        return _without_slash(request)

    async def issue_activity_slash(self, request: web.Request) -> web.StreamResponse:
        return _without_slash(request)

    async def health(self, _request: web.Request) -> web.StreamResponse:
        return json_answer({"status": "ok"})

    async def _issue_activity(
        self, request: web.Request, wanted: ActivityParams, workspace: str | None
    ) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        if workspace is not None:
            await self._log.head(workspace)  # it exists: an issue that is not found is another matter
        workspace, entity = await self._issues.find(principal, request.match_info["issue"], workspace)
        selection = wanted.selection.narrowed(about_issue(entity.id))
        page, page_range = await self._read(request, workspace, wanted, selection)
        return await self._page(request, wanted, page, page_range)

    async def _page(
        self, request: web.Request, wanted: ActivityParams, page: Page, page_range: PageRange
    ) -> web.Response:
        response = self._list(request, wanted, await shaped(page, self._shape(wanted)), page_range.following(page))
        # For who polls by id: an empty list has no id to go on from.
        response.headers[POSITION] = str(page_range.position(page))
        return response

    async def _read(
        self, request: web.Request, workspace: str, wanted: ActivityParams, selection: Filter
    ) -> tuple[Page, PageRange]:
        """Read a page: newest first, or oldest first after an id."""
        visible = await self._visibility.authorize(request[PRINCIPAL], workspace, selection)
        if wanted.cursor is not None:
            page_range = PageRange.after_cursor(Cursor.parse(wanted.cursor))
        elif wanted.after_id:
            page_range = PageRange("asc", await self._behind(request, workspace, wanted), wanted.before)
        else:
            page_range = PageRange("desc", wanted.after, wanted.before, skip=wanted.offset)
        return await self._pages.read_whole(
            request[PRINCIPAL], workspace, visible, page_range, wanted.limit
        ), page_range

    async def _behind(self, request: web.Request, workspace: str, wanted: ActivityParams) -> Position:
        """Return the position of the activity `after_id`, or of `start_date` if that is later.

        Raises:
            BadInput: The text is neither an id nor a position.
            PositionExpired: The log does not contain it, or no longer does.
        """
        visible, text = (
            await self._visibility.authorize(request[PRINCIPAL], workspace, EVERYTHING),
            wanted.after_id or "",
        )
        if not is_id(text):
            raise BadInput([fault("after_id", "Input should be the id of an activity of this workspace", text)])
        head = await self._log.head(workspace)
        at = _position_in(head, text)
        if at is None:
            try:
                at = await self._log.position_of(workspace, text, visible)
            except EventNotFound:
                raise expired(head) from None
        start = await self._log.resolve(workspace, wanted.after) if wanted.after is not None else at
        return max(at, start, key=lambda position: position.seq)

    def _shape(self, wanted: ActivityParams) -> Callable[[dict[str, Any]], Any]:
        return partial(shape, zone=self._zone, platform=wanted.view is not None)

    def _list(
        self, request: web.Request, wanted: ActivityParams, found: list[bytes], cursor: str | None
    ) -> web.Response:
        # Who polls by id, and has none yet, gets the newest; in the order in which all later ones come.
        response = json_bytes(b"[%b]" % b",".join(found[::-1] if wanted.after_id == "" else found))
        if cursor and wanted.after_id != "":
            leads_on = {"cursor", "after_id", "offset", "start_date", "end_date"}
            response.headers["Link"] = link_to(request, cursor, leads_on)
        return response


def _position_in(head: LogHead, text: str) -> Position | None:
    """Parse a position of this log. An id may look like a position, but only readers of this log know its epoch."""
    try:
        position = head.translated(Position.parse(text))
    except ValueError:
        return None
    return position if position.epoch == head.epoch else None


def _without_slash(request: web.Request) -> web.Response:
    """Redirect to the path without the trailing slash, as FastAPI does."""
    url = request.rel_url.with_path(request.rel_url.raw_path.rstrip("/"), encoded=True, keep_query=True)
    return web.Response(status=HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": str(url)})
