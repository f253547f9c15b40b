"""The handlers of access: workspaces, keys, members, and the page's sessions."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from streamer.api import schemas
from streamer.api.params import ListParams, WorkspaceListParams
from streamer.auth.access import COOKIE, PRINCIPAL
from streamer.auth.keys import SESSION_SECONDS
from streamer.auth.principal import TEMPLATES, Principal
from streamer.core.clock import LAST, format_timestamp, now_us, parse_timestamp
from streamer.core.errors import NotFound, ValidationError
from streamer.core.filter import MAX_VALUE_LENGTH
from streamer.core.ids import is_id
from streamer.core.position import Position
from streamer.edge.appending import check_writable
from streamer.edge.base import Base, json_answer, readable
from streamer.edge.models import NoParams
from streamer.edge.paging import link_to
from streamer.feed.reasons import Reason
from streamer.ingest.intake import LIKE_A_SECRET
from streamer.store.credentials import Credential
from streamer.store.members import Member
from streamer.store.workspaces import Workspace


class AccessHandlers(Base):
    """One method for each operation."""

    # ---- workspaces

    async def list_workspaces(self, request: web.Request) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        wanted = self.query(request, WorkspaceListParams)
        found = await self.parts.workspaces.listing(
            principal.readable(), after=wanted.after, limit=wanted.limit, org_id=wanted.org_id
        )
        ids = [workspace.id for workspace in found]
        return _listed(request, {"workspaces": [_workspace(workspace) for workspace in found]}, ids, wanted.limit)

    async def put_workspace(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = check_writable(request.match_info["ws"]), request[PRINCIPAL]
        self.query(request, NoParams)
        if self.parts.redactor.holds_token(workspace):
            raise ValidationError({"workspace": LIKE_A_SECRET})
        changes = schemas.check(schemas.WORKSPACE, await self.json_body(request))
        self.parts.intake.rate.take(principal.account, 1)
        stored, made = await self.parts.administration.put_workspace(principal, workspace, changes)
        return json_answer(_workspace(stored), HTTPStatus.CREATED if made else HTTPStatus.OK)

    async def get_workspace(self, request: web.Request) -> web.StreamResponse:
        self.query(request, NoParams)
        return json_answer(_workspace(await self.parts.workspaces.get(readable(request))))

    async def delete_workspace(self, request: web.Request) -> web.StreamResponse:
        workspace = check_writable(request.match_info["ws"])
        self.query(request, NoParams)
        await self.parts.administration.delete_workspace(request[PRINCIPAL], workspace)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    # ---- keys

    async def create_key(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = readable(request), request[PRINCIPAL]
        self.query(request, NoParams)
        wanted = schemas.check(schemas.KEY, await self.json_body(request))
        if ("scopes" in wanted) == ("template" in wanted):
            raise ValidationError({"scopes": "send either scopes or a template"})
        expiry = wanted.get("expires_at")
        expires_at = parse_timestamp(expiry) if expiry else None
        if expires_at is not None and not now_us() < expires_at <= LAST:
            raise ValidationError({"expires_at": "must lie in the future, and not behind the year 9999"})
        actor = wanted.get("actor")
        self.parts.intake.rate.take(principal.account, 1)
        made, secret = await self.parts.administration.create_key(
            principal,
            workspace,
            name=wanted["name"],
            scopes=wanted["scopes"] if "scopes" in wanted else TEMPLATES[wanted["template"]],
            actor=(actor["type"], actor["id"]) if actor else None,
            expires_at=expires_at,
        )
        return json_answer(_key(made) | {"key": secret}, HTTPStatus.CREATED)

    async def list_keys(self, request: web.Request) -> web.StreamResponse:
        workspace = readable(request)
        wanted = self.query(request, ListParams)
        await self.parts.log.head(workspace)
        found = await self.parts.keyring.keys(workspace, after=wanted.after, limit=wanted.limit)
        return _listed(request, {"keys": [_key(key) for key in found]}, [key.id for key in found], wanted.limit)

    async def revoke_key(self, request: web.Request) -> web.StreamResponse:
        self.query(request, NoParams)
        key_id = request.match_info["id"]
        if not is_id(key_id):
            raise NotFound("no such key in this workspace")
        await self.parts.administration.revoke_key(request[PRINCIPAL], readable(request), key_id)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    # ---- members

    async def list_members(self, request: web.Request) -> web.StreamResponse:
        workspace = readable(request)
        wanted = self.query(request, ListParams)
        await self.parts.log.head(workspace)
        found = await self.parts.members.listing(workspace, after=wanted.after, limit=wanted.limit)
        ids = [member.user for member in found]
        return _listed(request, {"members": [_member(member) for member in found]}, ids, wanted.limit)

    async def get_member(self, request: web.Request) -> web.StreamResponse:
        self.query(request, NoParams)
        return json_answer(_member(await self.parts.members.get(readable(request), _user(request))))

    async def put_member(self, request: web.Request) -> web.StreamResponse:
        workspace, user = readable(request), _user(request)
        self.query(request, NoParams)
        role = schemas.check(schemas.MEMBER, await self.json_body(request))["role"]
        self.parts.intake.rate.take(request[PRINCIPAL].account, 1)
        member, made = await self.parts.administration.put_member(request[PRINCIPAL], workspace, user, role)
        return json_answer(_member(member), HTTPStatus.CREATED if made else HTTPStatus.OK)

    async def remove_member(self, request: web.Request) -> web.StreamResponse:
        workspace, user = readable(request), _user(request)
        self.query(request, NoParams)
        await self.parts.administration.remove_member(request[PRINCIPAL], workspace, user)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    # ---- sessions of the page

    @property
    def _cookie_path(self) -> str:
        return urlsplit(self.parts.public_url or "").path + "/"

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        self.query(request, NoParams)
        code = schemas.check(schemas.SIGN_IN, await self.json_body(request))["code"]
        secret = await self.parts.keyring.sign_in(code)
        response = json_answer(_session(await self.parts.keyring.principal(secret, "session")))
        response.set_cookie(
            COOKIE,
            secret,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.secure or (self.parts.public_url or "").startswith("https:"),
            path=self._cookie_path,
        )
        return response

    async def get_session(self, request: web.Request) -> web.StreamResponse:
        self.query(request, NoParams)
        return json_answer(_session(request[PRINCIPAL]))

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        self.query(request, NoParams)
        principal = request[PRINCIPAL]
        if not principal.id.startswith("session_"):
            raise ValidationError({"session": "this call was made with a key, not with a browser session"})
        await self.parts.keyring.sign_out(principal)
        self.parts.dependencies.end_links([principal.id], Reason.SIGNED_OUT)
        response = web.Response(status=HTTPStatus.NO_CONTENT)
        response.del_cookie(COOKIE, path=self._cookie_path)
        return response


def _listed(request: web.Request, body: object, ids: Sequence[str], limit: int) -> web.Response:
    """Answer with a list in order of ids; a header leads on if there may be more."""
    response = json_answer(body)
    if len(ids) == limit:
        response.headers["Link"] = link_to(request, ids[-1], {"after"}, "after")
    return response


def _user(request: web.Request) -> str:
    """Return the path's member. Raises ValidationError."""
    user = request.match_info["user"]
    if len(user) > MAX_VALUE_LENGTH or "\0" in user:
        raise ValidationError({"user": f"1-{MAX_VALUE_LENGTH} characters, without U+0000"})
    return user


def _workspace(workspace: Workspace) -> dict[str, Any]:
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


def _key(key: Credential) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.grants.get(key.workspace or "", ())),
        "actor": {"type": key.actor[0], "id": key.actor[1]} if key.actor else None,
        "created_at": format_timestamp(key.created_at),
        "created_by": key.created_by,
        "expires_at": format_timestamp(key.expires_at) if key.expires_at is not None else None,
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "user": member.user,
        "role": member.role,
        "added_at": format_timestamp(member.added_at),
        "added_by": member.added_by,
    }


def _session(principal: Principal) -> dict[str, Any]:
    return {
        "id": principal.id,
        "name": principal.name,
        "grants": {workspace: sorted(scopes) for workspace, scopes in principal.grants.items()},
        "roles": dict(principal.roles),
        "actor": {"type": principal.actor[0], "id": principal.actor[1]} if principal.actor else None,
        "expires_at": format_timestamp(principal.expires_at) if principal.expires_at is not None else None,
    }
