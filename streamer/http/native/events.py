"""Events, and what the log says of entities."""

import re
from http import HTTPStatus
from typing import Annotated, Any, Literal, NotRequired

from aiohttp import web
from pydantic import Field, with_config
from typing_extensions import TypedDict

from streamer.access.authorize import PRINCIPAL, Access
from streamer.access.principal import READ, WRITE, Principal
from streamer.access.visibility import Visibility
from streamer.core import entities as core
from streamer.core.clock import format_timestamp
from streamer.core.errors import ValidationError
from streamer.core.filter import CATEGORIES
from streamer.core.frame import page_body
from streamer.core.ports import Appended
from streamer.core.position import Position
from streamer.fanout.connection import Subscription
from streamer.fanout.subscribers import Subscribers
from streamer.http.admission import Admission
from streamer.http.bodies import JSON_TYPES, NDJSON_TYPES, Bodies, loads, media_type, parse_json, split_ndjson
from streamer.http.models import check
from streamer.http.native import schemas
from streamer.http.native.params import HistoryParams
from streamer.http.native.schemas import ANSWER, PositionText, Time
from streamer.http.operation import WORKSPACE, Operation, Resource, check_writable
from streamer.http.paging import link_to
from streamer.http.reading import Pages
from streamer.http.responses import json_answer, json_bytes
from streamer.http.services import Services
from streamer.ingest.intake import Intake
from streamer.store.log.entities import Entities
from streamer.transports import longpoll

_FREE_DATA = "field; free data goes into `details`"
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@with_config(ANSWER)
class EventActor(TypedDict):
    """Who did it."""

    type: str
    id: str
    name: str | None
    role: str | None
    on_behalf_of: str | None
    ip: str | None


@with_config(ANSWER)
class EventEntity(TypedDict):
    """What it was done to."""

    type: str | None
    id: str | None
    identifier: str | None
    name: str | None


@with_config(ANSWER)
class Event(TypedDict):
    """An event as it is stored. The server sends stored bytes: this only documents them."""

    id: str
    seq: Annotated[int, Field(ge=1)]
    workspace_id: str
    category: Literal[*CATEGORIES]  # type: ignore[valid-type]
    action: str
    actor: EventActor
    entity: EventEntity | None
    agent_id: str | None
    run_id: str | None
    task_id: str | None
    description: str
    details: dict[str, Any] | None
    changes: dict[str, Any] | None
    occurred_at: Time | None
    timestamp: Time
    traceparent: str | None


@with_config(ANSWER)
class EventList(TypedDict):
    """Events of one append, in its order."""

    events: list[Event]


@with_config(ANSWER)
class EventPage(TypedDict):
    """A page of history."""

    events: list[Event]
    cursor: NotRequired[str]
    position: PositionText
    scanned_to: NotRequired[PositionText]


@with_config(ANSWER)
class Entity(TypedDict):
    """What the log says of an entity."""

    workspace_id: str
    type: str
    id: str
    identifier: str | None
    name: str | None
    status: str | None
    attributes: dict[str, str]
    created_at: Time
    updated_at: Time
    deleted_at: Time | None


class EventHandlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._intake = services.get(Intake)
        self._bodies = services.get(Bodies)
        self._visibility = services.get(Visibility)
        self._pages = services.get(Pages)
        self._feed = services.get(Subscribers)
        self._entities = services.get(Entities)
        self._admission = services.get(Admission)

    async def append_events(self, request: web.Request) -> web.StreamResponse:
        keys = request.headers.getall("Idempotency-Key", ())
        key = keys[0] if keys else None
        if key is not None:
            check_idempotency_key(key, "Idempotency-Key")
        if len(keys) > 1:
            raise ValidationError({"Idempotency-Key": "given more than once"})
        kind = media_type(request, JSON_TYPES | NDJSON_TYPES)
        data, principal = await self._bodies.events(request)
        items: Any
        if kind in NDJSON_TYPES:
            items = await split_ndjson(
                data, max_lines=self._intake.max_batch_events, max_values=self._bodies.max_values
            )
        else:
            items = await parse_json(data, self._bodies.max_values)
        stored = await append(self._intake, principal, request[WORKSPACE], items, size=len(data), idempotency_key=key)
        bodies = [event.body for event in stored.events]
        return json_bytes(
            b'{"events":[%b]}' % b",".join(bodies) if isinstance(items, list) else bodies[0],
            HTTPStatus.CREATED if stored.created else HTTPStatus.OK,
        )

    async def list_events(self, request: web.Request, wanted: HistoryParams) -> web.StreamResponse:
        workspace, principal = request[WORKSPACE], request[PRINCIPAL]
        selection = await self._visibility.authorize(principal, workspace, wanted.selection)
        page = await self._pages.read(principal, workspace, selection, wanted.page_range, wanted.limit)
        if wanted.wait and not page.events and not page.is_cut:
            self._admission.check()
            start = Position(page.head.epoch, page.examined)
            body = await self._wait(
                principal,
                Subscription(workspace, principal.account, selection, start, principal.links(workspace)),
                wanted,
            )
            if body is not None:
                return json_bytes(body)
            page = await self._pages.read(principal, workspace, selection, wanted.page_range, wanted.limit)
        following = wanted.page_range.following(page)
        bodies = [event.body for event in page.events]
        scanned_to = Position(page.head.epoch, page.examined) if page.is_cut else None
        response = json_bytes(page_body(bodies, wanted.page_range.position(page), following, scanned_to))
        if following:
            response.headers["Link"] = link_to(request, following, {"cursor", "after", "before", "order"})
        return response

    async def _wait(self, principal: Principal, subscription: Subscription, wanted: HistoryParams) -> bytes | None:
        reader = await self._feed.follow(subscription)
        try:
            return await longpoll.wait(self._feed, reader, principal.chain, limit=wanted.limit, seconds=wanted.wait)
        finally:
            self._feed.leave(reader)

    async def get_event(self, request: web.Request) -> web.StreamResponse:
        event = await self._visibility.event(request[PRINCIPAL], request[WORKSPACE], request.match_info["id"])
        return json_bytes(event.body)

    async def get_entity(self, request: web.Request) -> web.StreamResponse:
        workspace = request[WORKSPACE]
        await self._visibility.require_all(request[PRINCIPAL], workspace)
        type_, entity_id = request.match_info["type"], request.match_info["entity"]
        return json_answer(_entity(workspace, await self._entities.get(workspace, type_, entity_id)))


def _entity(workspace: str, entity: core.Entity) -> Entity:
    return {
        "workspace_id": workspace,
        "type": entity.type,
        "id": entity.id,
        "identifier": entity.identifier,
        "name": entity.name,
        "status": entity.status,
        "attributes": dict(entity.attributes),
        "created_at": format_timestamp(entity.created_at),
        "updated_at": format_timestamp(entity.updated_at),
        "deleted_at": None if entity.deleted_at is None else format_timestamp(entity.deleted_at),
    }


# ---- appending, the same by POST and over a WebSocket


def check_idempotency_key(key: str, field: str) -> None:
    """Check the form of an idempotency key; `field` is what it was sent in. Raises ValidationError."""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ValidationError({field: "must be 1-255 visible ASCII characters"})


async def append(  # noqa: PLR0913 - what an append is made of
    intake: Intake, principal: Principal, workspace: str, items: Any, *, size: int, idempotency_key: str | None
) -> Appended:
    """Append one event or, if `items` is a list, several: parsed JSON, or lines of NDJSON, which are parsed one by one.

    `size` is the length of the request. Raises: ValidationError, and what `Intake.append` raises.
    """
    batch = isinstance(items, list)
    return await intake.append(
        workspace,
        items if batch else [items],
        principal.author(workspace),
        event_of=_event_of,
        batch=batch,
        size=size,
        idempotency_key=idempotency_key,
    )


def _event_of(item: Any, where: str) -> schemas.EventIn:
    parsed = loads(item, where) if isinstance(item, bytes) else item
    return check(schemas.EVENT, parsed, prefix=where, what=_FREE_DATA)


_PATH = "/v1/workspaces/{ws}/events"

EVENTS = Resource(
    EventHandlers,
    (
        Operation(
            "POST",
            _PATH,
            EventHandlers.append_events,
            "Append one event, an array or NDJSON; all or nothing",
            Access(WRITE),
            headers=("Idempotency-Key",),
            body=schemas.EVENT,
            answers={
                201: ((Event, EventList), "Stored."),
                200: ((Event, EventList), "All were stored before."),
            },
            errors=(400, 404, 408, 409, 413, 415, 429, 503),
            appends=True,
            workspace=check_writable,
        ),
        Operation(
            "GET",
            _PATH,
            EventHandlers.list_events,
            "Page through history",
            Access(READ),
            params=HistoryParams,
            answers={200: (EventPage, 'A page; `Link: rel="next"` leads on.')},
            errors=(400, 404, 410, 429),
        ),
        Operation(
            "GET",
            f"{_PATH}/{{id}}",
            EventHandlers.get_event,
            "Return one event",
            Access(READ),
            answers={200: (Event, "The event.")},
            errors=(400, 404),
        ),
        Operation(
            "GET",
            "/v1/workspaces/{ws}/entities/{type}/{entity}",
            EventHandlers.get_entity,
            "Return what the log says of an entity: an issue, a run, …",
            Access(READ),
            answers={200: (Entity, "The entity.")},
            errors=(400, 404),
        ),
    ),
)
