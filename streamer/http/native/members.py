"""Members of a workspace, and their roles."""

from http import HTTPStatus
from typing import Literal

from aiohttp import web
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from streamer.access.authorize import PRINCIPAL, Access
from streamer.access.manage import Administration
from streamer.access.principal import ADMIN, READ, ROLES
from streamer.core.clock import format_timestamp
from streamer.core.errors import ValidationError
from streamer.core.filter import MAX_VALUE_LENGTH
from streamer.http.native.lists import listed
from streamer.http.native.params import ListParams
from streamer.http.native.schemas import ANSWER, STRICT, Time
from streamer.http.operation import WORKSPACE, Operation, Resource
from streamer.http.responses import json_answer
from streamer.http.services import Services
from streamer.ingest.intake import Intake
from streamer.store.log.reader import SqlLog
from streamer.store.records import members as store

Role = Literal[*ROLES]  # type: ignore[valid-type]


@with_config(STRICT)
class MemberIn(TypedDict):
    """What a person is in a workspace."""

    role: Role


@with_config(ANSWER)
class Member(TypedDict):
    """A member."""

    user: str
    role: Role
    added_at: Time
    added_by: str


@with_config(ANSWER)
class MemberList(TypedDict):
    """Members in order of their ids."""

    members: list[Member]


class MemberHandlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._members = services.get(store.Members)
        self._administration = services.get(Administration)
        self._log = services.get(SqlLog)
        self._rate = services.get(Intake).rate

    async def list_members(self, request: web.Request, wanted: ListParams) -> web.StreamResponse:
        workspace = request[WORKSPACE]
        await self._log.head(workspace)
        found = await self._members.listing(workspace, after=wanted.after, limit=wanted.limit)
        body: MemberList = {"members": [_member(member) for member in found]}
        return listed(request, body, [member.user for member in found], wanted.limit)

    async def get_member(self, request: web.Request) -> web.StreamResponse:
        return json_answer(_member(await self._members.get(request[WORKSPACE], _user(request))))

    async def put_member(self, request: web.Request, body: MemberIn) -> web.StreamResponse:
        user, principal = _user(request), request[PRINCIPAL]
        self._rate.take(principal.account, 1)
        member, made = await self._administration.put_member(principal, request[WORKSPACE], user, body["role"])
        return json_answer(_member(member), HTTPStatus.CREATED if made else HTTPStatus.OK)

    async def remove_member(self, request: web.Request) -> web.StreamResponse:
        await self._administration.remove_member(request[PRINCIPAL], request[WORKSPACE], _user(request))
        return web.Response(status=HTTPStatus.NO_CONTENT)


def _user(request: web.Request) -> str:
    """Return the path's member. Raises ValidationError."""
    user = request.match_info["user"]
    if len(user) > MAX_VALUE_LENGTH or "\0" in user:
        raise ValidationError({"user": f"1-{MAX_VALUE_LENGTH} characters, without U+0000"})
    return user


def _member(member: store.Member) -> Member:
    return {
        "user": member.user,
        "role": member.role,
        "added_at": format_timestamp(member.added_at),
        "added_by": member.added_by,
    }


_PATH = "/v1/workspaces/{ws}/members"

MEMBERS = Resource(
    MemberHandlers,
    (
        Operation(
            "GET",
            _PATH,
            MemberHandlers.list_members,
            "List the workspace's members",
            Access(READ),
            params=ListParams,
            answers={200: (MemberList, "In order of their ids.")},
            errors=(400, 404),
        ),
        Operation(
            "PUT",
            f"{_PATH}/{{user}}",
            MemberHandlers.put_member,
            "Give a person a role in the workspace",
            Access(ADMIN),
            body=TypeAdapter(MemberIn),
            answers={201: (Member, "Added."), 200: (Member, "Was a member already.")},
            errors=(400, 404, 408, 409, 413, 415, 429),
        ),
        Operation(
            "GET",
            f"{_PATH}/{{user}}",
            MemberHandlers.get_member,
            "Return a member",
            Access(READ),
            answers={200: (Member, "The member.")},
            errors=(400, 404),
        ),
        Operation(
            "DELETE",
            f"{_PATH}/{{user}}",
            MemberHandlers.remove_member,
            "Take a person out of the workspace; their streams are closed, keys that act as them revoked",
            Access(ADMIN, oneself="user"),
            answers={204: (None, "Removed.")},
            errors=(400, 404, 409),
        ),
    ),
)
