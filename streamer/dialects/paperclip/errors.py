"""How Paperclip's server says errors: `{"error": text}`, with zod's issues where a request is wrong."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from streamer.auth.access import COOKIE, PRINCIPAL
from streamer.core.errors import (
    EntityNotFound,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    StreamerError,
    Unauthenticated,
    ValidationError,
    WorkspaceNotFound,
)
from streamer.core.quoting import MAX_NAMED
from streamer.edge.routes import Refusal

TOKEN = "token"  # noqa: S105 - the name of a parameter
"""The socket's parameter that a key may come in."""

_SOCKET = re.compile(r"/api/companies/[^/]+/events/ws")
_NO_ROUTE = (404, "API route not found")
_TEXTS: dict[type[StreamerError], tuple[int, str]] = {
    # One answer for both: whether a company exists is nobody's business who may not read it.
    WorkspaceNotFound: (403, "Cannot access activity for another company"),
    EntityNotFound: (404, "Issue not found"),
    NotFound: _NO_ROUTE,
    MethodNotAllowed: _NO_ROUTE,
    InternalError: (500, "Internal server error"),
}


class Invalid(ValidationError):
    """A request that cannot be, each fault as zod describes it: code, path, message."""

    def __init__(self, issues: Sequence[Mapping[str, Any]]) -> None:
        super().__init__({".".join(issue["path"]) or "request": issue["message"] for issue in issues})
        self.issues = list(issues[:MAX_NAMED])


def issue(name: str, message: str) -> dict[str, Any]:
    """Describe a fault that zod has no code for."""
    return {"code": "custom", "path": [name], "message": message}


def manner(error: StreamerError, request: web.Request) -> Refusal:
    """Say an error."""
    if _SOCKET.fullmatch(request.path):
        if "Upgrade" not in request.headers:
            return _say(*_NO_ROUTE)
        if isinstance(error, Unauthenticated | PermissionDenied | WorkspaceNotFound):
            return Refusal(403, "forbidden", {"Connection": "close"})
    if isinstance(error, Unauthenticated):
        brought = {"Authorization"} & request.headers.keys() or {COOKIE} & request.cookies.keys()
        text = "Agent token did not verify; obtain fresh credentials and retry" if brought else "Unauthorized"
        return Refusal(401, {"error": text}, {"WWW-Authenticate": 'Bearer realm="streamer"'})
    if isinstance(error, PermissionDenied) and request.method == "POST" and PRINCIPAL not in request:
        return _say(403, "Board access required")
    if isinstance(error, ValidationError):
        issues = error.issues if isinstance(error, Invalid) else [issue(*field) for field in error.fields.items()]
        return _say(error.status, "Validation error", issues)
    status, text = _TEXTS.get(type(error), (error.status, error.message))
    return _say(status, text, None if type(error) in _TEXTS else error.details)


def _say(status: int, text: str, details: Any = None) -> Refusal:
    return Refusal(status, {"error": text, "details": details} if details else {"error": text})
