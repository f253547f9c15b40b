"""Errors in the form of PraisonAI's server: FastAPI's bodies, `{"detail": …}`."""

from typing import Any

from aiohttp import web
from pydantic_core import ErrorDetails

from streamer.core.errors import (
    EntityNotFound,
    EventNotFound,
    InvalidCursor,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    PositionExpired,
    StreamerError,
    Unauthenticated,
    ValidationError,
    WorkspaceNotFound,
)
from streamer.core.quoting import cut
from streamer.http.models import BadInput, fault
from streamer.http.operation import Refusal

_FORBIDDEN = "Not a member of this workspace or insufficient role"
_TEXTS: dict[type[StreamerError], tuple[int, str]] = {
    # The same response for both, so that callers without access cannot find out whether a workspace exists.
    WorkspaceNotFound: (403, _FORBIDDEN),
    PermissionDenied: (403, _FORBIDDEN),
    EventNotFound: (404, "Activity not found"),
    EntityNotFound: (404, "Issue not found"),
    PositionExpired: (
        410,
        "The activity is not in this workspace's log (any more): start again with an empty after_id",
    ),
    NotFound: (404, "Not Found"),
    MethodNotAllowed: (405, "Method Not Allowed"),
}


def render_error(error: StreamerError, request: web.Request) -> Refusal:
    """Render an error."""
    if isinstance(error, Unauthenticated):
        return _detail(401, _authorization(request))
    if isinstance(error, BadInput):
        return _detail(422, [_issue(each) for each in error.faults])
    if isinstance(error, ValidationError):
        found = [fault(name, text, request.query.get(name, "")) for name, text in error.fields.items()]
        return _detail(422, [_issue(each) for each in found])
    if isinstance(error, InvalidCursor):
        return _detail(422, [_issue(fault("cursor", error.message, request.query.get("cursor", "")))])
    return _detail(*_TEXTS.get(type(error), (error.status, error.message)))


def _issue(described: ErrorDetails) -> dict[str, Any]:
    """Describe an invalid parameter in the form of FastAPI and pydantic, with quotes shortened."""
    given = described["input"]
    shown = ",".join(given) if isinstance(given, list) else str(given)
    # Without the member of a union, which pydantic adds to the location.
    return {**described, "loc": ["query", cut(str(described["loc"][0]))], "input": cut(shown)}


def _authorization(request: web.Request) -> str:
    """Describe the fault of a credential."""
    header = request.headers.get("Authorization", "").strip()
    if not header:
        return "Missing Authorization header"
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return "Invalid Authorization header format. Use: Bearer <token>"
    return "Invalid or expired token"


def _detail(status: int, detail: Any) -> Refusal:
    return Refusal(status, {"detail": detail})
