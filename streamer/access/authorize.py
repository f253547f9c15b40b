"""The single authorization decision: can this caller use this route in this workspace? It is made before any other part of a request is read."""

from dataclasses import dataclass

from aiohttp import web

from streamer.access.jwt import MAX_TOKEN, looks_like_jwt
from streamer.access.keys import Keyring
from streamer.access.origins import SETTING, Origins, same_origin
from streamer.access.principal import ADMIN, Principal
from streamer.access.tickets import Ticket, Tickets
from streamer.core.errors import PermissionDenied, Unauthenticated

COOKIE = "streamer_session"

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
TICKET: web.RequestKey[Ticket] = web.RequestKey("ticket", Ticket)

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_CREDENTIAL = MAX_TOKEN


@dataclass(frozen=True, slots=True)
class Access:
    """The access that a route requires."""

    scope: str | None = None
    """A scope in the path's workspace `ws`, or, on a route without one, `admin` of the instance."""
    also: str | None = None
    """Another scope there, beside it."""
    public: bool = False
    """Credentials are ignored."""
    ticket: bool = False
    """A ticket for the path's workspace is accepted."""
    query_key: str | None = None
    """The parameter that can contain a key, as a dialect's clients send it."""
    oneself: str | None = None
    """The part of the path that names a person. Members can do this to themselves."""
    agents: bool = True
    """Callers that are bound to act as an agent can use it, too."""


ACCESS: web.RequestKey[Access] = web.RequestKey("access", Access)
"""The access that was decided on."""

PUBLIC = Access(public=True)
ANYONE = Access()
"""Any valid credential."""


class Gate:
    """Authorizes requests."""

    def __init__(self, keyring: Keyring, tickets: Tickets, origins: Origins, *, keys_in_urls: bool) -> None:
        self._keyring = keyring
        self._tickets = tickets
        self._origins = origins
        self._keys_in_urls = keys_in_urls

    async def decide(self, request: web.Request, access: Access) -> Principal | None:
        """Return the principal if it can use the route, None on a public one.

        A ticket is stored as `TICKET` in the request.

        Raises:
            Unauthenticated: no valid credential.
            WorkspaceNotFound: the caller has no grant for the workspace; the response is the same if it does not exist.
            PermissionDenied: the caller has a grant there, but lacks the scope; or the calling page is not allowed.
        """
        request[ACCESS] = access
        if access.public:
            return None
        by_ticket = access.ticket and "ticket" in request.query
        by_query = access.query_key is not None and access.query_key in request.query
        if by_ticket:
            principal, request[TICKET] = await _ticket(request, self._tickets)
        elif by_query:
            principal = await self._by_query(request, access)
        else:
            principal = await _authenticate(request, self._keyring)
        by_cookie = not by_ticket and not by_query and "Authorization" not in request.headers
        if by_cookie or "Upgrade" in request.headers:
            _check_page(request, self._origins, by_cookie=by_cookie)
        if not access.agents and principal.actor is not None and principal.actor[0] == "agent":
            raise PermissionDenied("agents cannot do this")
        if access.scope is None:
            return principal
        workspace = request.match_info.get("ws")
        if workspace is None:
            if not (access.scope == ADMIN and principal.is_admin()):
                raise PermissionDenied("this needs the admin key")
            return principal
        is_oneself = access.oneself is not None and request.match_info[access.oneself] == principal.own_id
        if not (is_oneself and principal.is_person and workspace in principal.roles):
            principal.need(workspace, access.scope)
        if access.also is not None:
            principal.need(workspace, access.also)
        return principal

    async def _by_query(self, request: web.Request, access: Access) -> Principal:
        """Return the principal of a key in the URL, sent by clients of a dialect that cannot set headers.

        Raises Unauthenticated.
        """
        secrets = request.query.getall(access.query_key or "")
        if len(secrets) > 1 or "Authorization" in request.headers:
            raise Unauthenticated("send one credential, in the URL or as a header")
        # A token cannot be revoked, and URLs are recorded in many places.
        if not self._keys_in_urls or not secrets[0] or len(secrets[0]) > _MAX_CREDENTIAL or looks_like_jwt(secrets[0]):
            raise Unauthenticated("the credential is not valid, or not accepted in a URL")
        return await self._keyring.principal(secrets[0], "key")

    async def again(self, request: web.Request) -> Principal | None:
        """Authorize a request again that was authorized some time ago. Returns and raises like `decide`."""
        return await self.decide(request, request[ACCESS])


async def _ticket(request: web.Request, tickets: Tickets) -> tuple[Principal, Ticket]:
    secrets = request.query.getall("ticket")
    # Browsers send the cookie automatically, but not a key.
    if len(secrets) > 1 or "Authorization" in request.headers:
        raise Unauthenticated("send one credential: a ticket, or a key")
    return await tickets.find(secrets[0])


async def _authenticate(request: web.Request, keyring: Keyring) -> Principal:
    headers = request.headers.getall("Authorization", ())
    if len(headers) > 1:  # an intermediary may have used the other one
        raise Unauthenticated("send one `Authorization` header")
    if headers:
        scheme, _, secret = headers[0].partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret or len(secret) > _MAX_CREDENTIAL:
            raise Unauthenticated("send the key or token as `Authorization: Bearer <key>`")
        return await keyring.principal(secret, "key")
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        raise Unauthenticated("a key or token is needed: `Authorization: Bearer <key>`")
    return await keyring.principal(cookie[:_MAX_CREDENTIAL], "session")


def _check_page(request: web.Request, origins: Origins, *, by_cookie: bool) -> None:
    """Require that a calling page is allowed.

    Browsers report where a page is from; other clients report nothing, or anything.

    Raises: PermissionDenied.
    """
    upgrades = "Upgrade" in request.headers
    origin = request.headers.get("Origin")
    is_own = same_origin(request.headers, request.host)
    if by_cookie:
        # Browsers send the cookie automatically, for any page. `Sec-Fetch-Site` covers requests without an Origin (Fetch
        # Metadata).
        site = request.headers.get("Sec-Fetch-Site", "none")
        needs_origin = request.method not in _SAFE_METHODS or upgrades
        if (not is_own and (needs_origin or origin is not None)) or site not in {"same-origin", "none"}:
            raise PermissionDenied(
                "a session is only for this server's own page, and this request comes from another one"
            )
    elif upgrades and origin is not None and not is_own and not origins.allow(origin):
        # CORS does not protect WebSockets: any page could open one (RFC 6455, 10.2).
        raise PermissionDenied(f"pages of this origin cannot open a socket: {SETTING} lists the allowed origins")
