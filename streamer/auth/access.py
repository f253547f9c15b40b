"""The one decision: may this caller use this route in this workspace? Made before anything else of a request is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from streamer.auth.keys import Keyring
from streamer.auth.principal import ADMIN, Principal
from streamer.auth.tickets import Ticket, Tickets
from streamer.core.errors import PermissionDenied, Unauthenticated

COOKIE = "streamer_session"

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
TICKET: web.RequestKey[Ticket] = web.RequestKey("ticket", Ticket)

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_CREDENTIAL = 1024


@dataclass(frozen=True, slots=True)
class Access:
    """What a route asks for."""

    scope: str | None = None
    """A scope in the path's workspace `ws`, or, on a route without one, `admin` of the instance."""
    public: bool = False
    """No credential is looked at."""
    ticket: bool = False
    """A ticket for the path's workspace will do."""


PUBLIC = Access(public=True)
ANYONE = Access()
"""Any valid credential."""


async def decide(request: web.Request, access: Access, keyring: Keyring, tickets: Tickets) -> Principal | None:
    """Return the principal if it may use the route, None on a public one. A ticket stands as `TICKET` in the request.

    Raises:
        Unauthenticated: no valid credential.
        WorkspaceNotFound: the caller has no grant for the workspace: the answer is the same whether it exists.
        PermissionDenied: the caller has a grant there, but lacks the scope.
    """
    if access.public:
        return None
    if access.ticket and "ticket" in request.query:
        principal, request[TICKET] = await _ticket(request, tickets)
    else:
        principal = await _authenticate(request, keyring)
    if access.scope is None:
        return principal
    workspace = request.match_info.get("ws")
    if workspace is None:
        if not (access.scope == ADMIN and principal.is_admin()):
            raise PermissionDenied("this needs the admin key")
        return principal
    principal.need(workspace, access.scope)
    return principal


async def _ticket(request: web.Request, tickets: Tickets) -> tuple[Principal, Ticket]:
    secrets = request.query.getall("ticket")
    # The browser's cookie comes along by itself; a key does not.
    if len(secrets) > 1 or "Authorization" in request.headers:
        raise Unauthenticated("send one credential: a ticket, or a key")
    return await tickets.find(secrets[0])


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
    # The browser sends the cookie by itself, so a request that changes something must come from our own page; and a socket, whose
    # messages any page could read otherwise (RFC 6455, 10.2).
    is_safe = request.method in _SAFE_METHODS and "Upgrade" not in request.headers
    if not is_safe and not same_origin(request.headers, request.host):
        raise PermissionDenied("a session may change things, or open a socket, only from this server's own page")
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
