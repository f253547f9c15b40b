"""Workspaces."""

from http import HTTPStatus
from typing import Annotated, Any

import orjson
from aiohttp import web
from pydantic import AfterValidator, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from streamer.access.authorize import ANYONE, PRINCIPAL, Access
from streamer.access.manage import Administration
from streamer.access.principal import ADMIN, OWNER, READ
from streamer.core.clock import format_timestamp
from streamer.core.errors import ValidationError
from streamer.core.position import Position
from streamer.http.native.lists import listed
from streamer.http.native.params import WorkspaceListParams
from streamer.http.native.schemas import ANSWER, STRICT, Name, PositionText, Time, Word
from streamer.http.operation import WORKSPACE, Operation, Resource, check_writable
from streamer.http.responses import json_answer
from streamer.http.services import Services
from streamer.ingest.intake import LIKE_A_SECRET, Intake, depth_of
from streamer.ingest.redact import Redactor
from streamer.store.records import workspaces as store

MAX_SETTINGS_BYTES = 64 * 1024
MAX_SETTINGS_DEPTH = 32
"""Of a workspace's own settings, whose changes are told in its log."""


def _settings(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError:  # 254 levels
        size = 0
    if size > MAX_SETTINGS_BYTES:
        raise ValueError(f"has {size} bytes as JSON; at most {MAX_SETTINGS_BYTES} are kept")
    if not size or depth_of(value) > MAX_SETTINGS_DEPTH:
        raise ValueError(f"nested deeper than {MAX_SETTINGS_DEPTH} levels")
    return value


@with_config(STRICT)
class WorkspaceIn(TypedDict, total=False):
    """A workspace's own values; those that are absent stay as they are."""

    name: Name | None
    org_id: Word
    settings: Annotated[
        dict[str, Any],
        AfterValidator(_settings),
        Field(description=f"At most {MAX_SETTINGS_BYTES} bytes of JSON and {MAX_SETTINGS_DEPTH} levels."),
    ]


@with_config(ANSWER)
class Workspace(TypedDict):
    """A workspace, and what its log holds."""

    id: str
    name: str | None
    org_id: str
    settings: dict[str, Any]
    created_at: Time
    created_by: str
    position: PositionText
    earliest: PositionText


@with_config(ANSWER)
class WorkspaceList(TypedDict):
    """Workspaces in order of id."""

    workspaces: list[Workspace]


class WorkspaceHandlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._workspaces = services.get(store.Workspaces)
        self._administration = services.get(Administration)
        self._redactor = services.get(Redactor)
        self._rate = services.get(Intake).rate

    async def list_workspaces(self, request: web.Request, wanted: WorkspaceListParams) -> web.StreamResponse:
        among = request[PRINCIPAL].readable()
        found = await self._workspaces.listing(among, after=wanted.after, limit=wanted.limit, org_id=wanted.org_id)
        body: WorkspaceList = {"workspaces": [_workspace(workspace) for workspace in found]}
        return listed(request, body, [workspace.id for workspace in found], wanted.limit)

    async def put_workspace(self, request: web.Request, changes: WorkspaceIn) -> web.StreamResponse:
        workspace, principal = request[WORKSPACE], request[PRINCIPAL]
        if self._redactor.holds_token(workspace):
            raise ValidationError({"workspace": LIKE_A_SECRET})
        self._rate.take(principal.account, 1)
        stored, made = await self._administration.put_workspace(principal, workspace, changes)
        return json_answer(_workspace(stored), HTTPStatus.CREATED if made else HTTPStatus.OK)

    async def get_workspace(self, request: web.Request) -> web.StreamResponse:
        return json_answer(_workspace(await self._workspaces.get(request[WORKSPACE])))

    async def delete_workspace(self, request: web.Request) -> web.StreamResponse:
        await self._administration.delete_workspace(request[PRINCIPAL], request[WORKSPACE])
        return web.Response(status=HTTPStatus.NO_CONTENT)


def _workspace(workspace: store.Workspace) -> Workspace:
    log = workspace.log
    return {
        "id": workspace.id,
        "name": workspace.name,
        "org_id": workspace.org_id,
        "settings": dict(workspace.settings),
        "created_at": format_timestamp(workspace.created_at),
        "created_by": workspace.created_by,
        "position": str(log.position),
        "earliest": str(Position(log.epoch, log.earliest - 1)),
    }


WORKSPACES = Resource(
    WorkspaceHandlers,
    (
        Operation(
            "GET",
            "/v1/workspaces",
            WorkspaceHandlers.list_workspaces,
            "List the workspaces that the caller may read",
            ANYONE,
            params=WorkspaceListParams,
            answers={200: (WorkspaceList, "In order of id.")},
            errors=(400,),
        ),
        Operation(
            "PUT",
            "/v1/workspaces/{ws}",
            WorkspaceHandlers.put_workspace,
            "Make a workspace, or change its values",
            Access(ADMIN),
            body=TypeAdapter(WorkspaceIn),
            answers={201: (Workspace, "Made."), 200: (Workspace, "Changed.")},
            errors=(400, 404, 408, 413, 415, 429),
            workspace=check_writable,
        ),
        Operation(
            "GET",
            "/v1/workspaces/{ws}",
            WorkspaceHandlers.get_workspace,
            "Return a workspace and what its log holds",
            Access(READ),
            answers={200: (Workspace, "The workspace.")},
            errors=(400, 404),
        ),
        Operation(
            "DELETE",
            "/v1/workspaces/{ws}",
            WorkspaceHandlers.delete_workspace,
            "Delete a workspace with its events, members and keys",
            Access(OWNER),
            answers={204: (None, "Deleted; its streams are closed.")},
            errors=(400, 404),
            workspace=check_writable,
        ),
    ),
)
