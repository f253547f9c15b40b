"""The one decision: may this caller use this route in this workspace? Made before anything else of a request is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from streamer.auth.keys import Keyring
from streamer.auth.principal import ADMIN, Principal
from streamer.core.errors import PermissionDenied, Unauthenticated, WorkspaceNotFound

COOKIE = "streamer_session"

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_CREDENTIAL = 1024


@dataclass(frozen=True, slots=True)
class Access:
    """What a route asks for."""

    scope: str | None = None
    """A scope in the path's workspace `ws`, or, on a route without one, `admin` of the instance."""
    public: bool = False
    """No credential is looked at."""


PUBLIC = Access(public=True)
ANYONE = Access()
"""Any valid credential."""


async def decide(request: web.Request, access: Access, keyring: Keyring) -> Principal | None:
    """Return the principal if it may use the route, None on a public one.

    Raises:
        Unauthenticated: no valid credential.
        WorkspaceNotFound: the caller has no grant for the workspace: the answer is the same whether it exists.
        PermissionDenied: the caller has a grant there, but lacks the scope.
    """
    if access.public:
        return None
    principal = await _authenticate(request, keyring)
    if access.scope is None:
        return principal
    workspace = request.match_info.get("ws")
    if workspace is None:
        if not (access.scope == ADMIN and principal.is_admin()):
            raise PermissionDenied("this needs the admin key")
        return principal
    scopes = principal.scopes(workspace)
    if not scopes:
        raise WorkspaceNotFound
    if access.scope not in scopes:
        raise PermissionDenied(f"this needs the scope {access.scope}")
    return principal


async def _authenticate(request: web.Request, keyring: Keyring) -> Principal:
    header = request.headers.get("Authorization")
    if header is not None:
        scheme, _, secret = header.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret or len(secret) > _MAX_CREDENTIAL:
            raise Unauthenticated("send the key as `Authorization: Bearer <key>`")
        return await keyring.principal(secret, "key")
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        raise Unauthenticated("a key is needed: `Authorization: Bearer <key>`")
    principal = await keyring.principal(cookie[:_MAX_CREDENTIAL], "session")
    # The browser sends the cookie by itself, so a request that changes something must come from our own page.
    if request.method not in _SAFE_METHODS and not same_origin(request.headers, request.host):
        raise PermissionDenied("a session may change things only from this server's own page")
    return principal


def same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Tell whether a browser says that the request comes from a page of `host` (Fetch standard, the Origin header)."""
    origin = headers.get("Origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # not a URL
        return False
