"""Sessions of the page: a browser that is signed in."""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from streamer.access.authorize import ANYONE, COOKIE, PRINCIPAL, PUBLIC
from streamer.access.keys import SESSION_SECONDS, Keyring
from streamer.access.principal import Principal
from streamer.core.clock import format_timestamp
from streamer.core.errors import ValidationError
from streamer.fanout.dependencies import Dependencies
from streamer.feed.reasons import Reason
from streamer.http.native.members import Role
from streamer.http.native.schemas import ANSWER, STRICT, Actor, Time
from streamer.http.operation import Operation, Resource
from streamer.http.responses import PublicUrl, json_answer
from streamer.http.services import Services


@with_config(STRICT)
class SignInIn(TypedDict):
    """The one-time code of a sign-in link."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=256)]


@with_config(ANSWER)
class Session(TypedDict):
    """The caller, and what it may do."""

    id: str
    name: str
    grants: dict[str, list[str]]
    roles: dict[str, Role]
    actor: Actor | None
    expires_at: Time | None


class SessionHandlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._keyring = services.get(Keyring)
        self._dependencies = services.get(Dependencies)
        self._public_url = services.get(PublicUrl).url or ""

    async def sign_in(self, request: web.Request, body: SignInIn) -> web.StreamResponse:
        secret = await self._keyring.sign_in(body["code"])
        response = json_answer(_session(await self._keyring.principal(secret, "session")))
        response.set_cookie(
            COOKIE,
            secret,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.secure or self._public_url.startswith("https:"),
            path=self._cookie_path,
        )
        return response

    async def get_session(self, request: web.Request) -> web.StreamResponse:
        return json_answer(_session(request[PRINCIPAL]))

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        if not principal.id.startswith("session_"):
            raise ValidationError({"session": "this call was made with a key, not with a browser session"})
        await self._keyring.sign_out(principal)
        self._dependencies.end_links([principal.id], Reason.SIGNED_OUT)
        response = web.Response(status=HTTPStatus.NO_CONTENT)
        response.del_cookie(COOKIE, path=self._cookie_path)
        return response

    @property
    def _cookie_path(self) -> str:
        return urlsplit(self._public_url).path + "/"


def _session(principal: Principal) -> Session:
    return {
        "id": principal.id,
        "name": principal.name,
        "grants": {workspace: sorted(scopes) for workspace, scopes in principal.grants.items()},
        "roles": dict(principal.roles),
        "actor": {"type": principal.actor[0], "id": principal.actor[1]} if principal.actor else None,
        "expires_at": format_timestamp(principal.expires_at) if principal.expires_at is not None else None,
    }


_PATH = "/v1/session"

SESSIONS = Resource(
    SessionHandlers,
    (
        Operation(
            "POST",
            _PATH,
            SessionHandlers.sign_in,
            "Trade a one-time code for a browser session (a cookie)",
            PUBLIC,
            body=TypeAdapter(SignInIn),
            answers={200: (Session, "Signed in.")},
            errors=(400, 401, 408, 413, 415),
        ),
        Operation(
            "GET",
            _PATH,
            SessionHandlers.get_session,
            "Tell who the caller is and what it may do",
            ANYONE,
            answers={200: (Session, "The caller.")},
            errors=(400,),
        ),
        Operation(
            "DELETE",
            _PATH,
            SessionHandlers.sign_out,
            "End the browser session",
            ANYONE,
            answers={204: (None, "Signed out.")},
            errors=(400,),
        ),
    ),
)
