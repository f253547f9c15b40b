"""How PraisonAI's server says errors: FastAPI's bodies, `{"detail": …}`."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

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
from streamer.core.quoting import MAX_NAMED, cut
from streamer.edge.routes import Refusal

_FORBIDDEN = "Not a member of this workspace or insufficient role"
_TEXTS: dict[type[StreamerError], tuple[int, str]] = {
    # One answer for both: whether a workspace exists is nobody's business who may not read it.
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


class Unprocessable(ValidationError):
    """Parameters that cannot be, each as pydantic describes it: type, loc, msg, input, ctx."""

    def __init__(self, issues: Sequence[dict[str, Any]]) -> None:
        super().__init__({str(issue["loc"][-1]): str(issue["msg"]) for issue in issues})
        self.issues = [_cut(each) for each in issues[:MAX_NAMED]]


def issue(name: str, message: str, value: str, kind: str = "value_error") -> dict[str, Any]:
    """Describe what is wrong with a parameter."""
    return _cut({"type": kind, "loc": ["query", name], "msg": message, "input": value})


def _cut(described: dict[str, Any]) -> dict[str, Any]:
    """Shorten what an issue quotes: the name of a parameter and what it was given."""
    kind, name = described["loc"]
    return {**described, "loc": [kind, cut(str(name))], "input": cut(str(described["input"]))}


def manner(error: StreamerError, request: web.Request) -> Refusal:
    """Say an error."""
    if isinstance(error, Unauthenticated):
        return _detail(401, _authorization(request))
    if isinstance(error, Unprocessable):
        return _detail(422, error.issues)
    if isinstance(error, ValidationError):
        return _detail(422, [issue(name, text, request.query.get(name, "")) for name, text in error.fields.items()])
    if isinstance(error, InvalidCursor):
        return _detail(422, [issue("cursor", error.message, request.query.get("cursor", ""))])
    return _detail(*_TEXTS.get(type(error), (error.status, error.message)))


def _authorization(request: web.Request) -> str:
    """Say what is wrong with a credential."""
    header = request.headers.get("Authorization", "").strip()
    if not header:
        return "Missing Authorization header"
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return "Invalid Authorization header format. Use: Bearer <token>"
    return "Invalid or expired token"


def _detail(status: int, detail: Any) -> Refusal:
    return Refusal(status, {"detail": detail})
