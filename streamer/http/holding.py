"""What a request holds of the node's memory: its body while it comes and is worked on, then its answer until the client has taken it."""

from aiohttp import web

from streamer.access.authorize import PRINCIPAL
from streamer.core.budget import ANONYMOUS, REQUEST, RESPONSE, SMALL, Budget, Hold
from streamer.server.holds import HOLD

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def account_of(request: web.Request) -> str:
    """Return the account that a request's memory counts for."""
    principal = request.get(PRINCIPAL)
    return ANONYMOUS if principal is None else principal.account


def hold_of(request: web.Request, budget: Budget) -> Hold:
    """Return what the request holds; it is released when the answer is written."""
    hold = request.get(HOLD)
    if hold is None:
        hold = request[HOLD] = budget.hold(REQUEST, account_of(request))
    return hold


def hold_answer(request: web.Request, response: web.StreamResponse, budget: Budget) -> int:
    """Hold an answer in the place of the request, and return its size in bytes; 0 for one that is streamed.

    An answer to what only reads is refused if there is no room for it; what was done can only be answered.

    Raises:
        Overloaded: no room.
    """
    body = response.body if isinstance(response, web.Response) else None
    size = len(body) if isinstance(body, bytes) else 0
    hold = request.get(HOLD)
    if hold is not None or size > SMALL:
        hold = hold or hold_of(request, budget)
        hold.become(RESPONSE)
        hold.resize(size, force=request.method not in _SAFE_METHODS)
    return size
