"""Errors in the form of Paperclip's server: `{"error": text}`, with zod's issues for an invalid request."""

import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic_core import ErrorDetails

from streamer.access.authorize import COOKIE, PRINCIPAL
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
from streamer.core.quoting import cut
from streamer.http.models import UNKNOWN, BadInput
from streamer.http.operation import Refusal

TOKEN = "token"  # noqa: S105 - the name of a parameter
"""The socket's parameter for a key."""

ABSENT = object()
"""Stands for the missing body of a request, JavaScript's undefined."""

_KINDS: Mapping[type, str] = {
    type(ABSENT): "undefined",
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_SOCKET = re.compile(r"/api/companies/[^/]+/events/ws")
_NO_ROUTE = (404, "API route not found")
_TEXTS: dict[type[StreamerError], tuple[int, str]] = {
    # The same response for both, so that callers without access cannot find out whether a company exists.
    WorkspaceNotFound: (403, "Cannot access activity for another company"),
    EntityNotFound: (404, "Issue not found"),
    NotFound: _NO_ROUTE,
    MethodNotAllowed: _NO_ROUTE,
    InternalError: (500, "Internal server error"),
}


def render_error(error: StreamerError, request: web.Request) -> Refusal:
    """Render an error."""
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
        return _say(error.status, "Validation error", _issues(error))
    status, text = _TEXTS.get(type(error), (error.status, error.message))
    return _say(status, text, None if type(error) in _TEXTS else error.details)


def _say(status: int, text: str, details: Any = None) -> Refusal:
    return Refusal(status, {"error": text, "details": details} if details else {"error": text})


def _issues(error: ValidationError) -> list[dict[str, Any]]:
    """Describe the faults of a request in the form of zod: code, path, message."""
    if not isinstance(error, BadInput):
        return [_custom([name], text) for name, text in error.fields.items()]
    issues = [_issue(fault) for fault in error.faults if fault["type"] != UNKNOWN]
    unknown = [cut(str(fault["loc"][-1])) for fault in error.faults if fault["type"] == UNKNOWN]
    if unknown:
        names = ", ".join(f'"{name}"' for name in unknown)
        message = f"Unrecognized key{'s' if len(unknown) > 1 else ''}: {names}"
        issues.insert(0, {"code": "unrecognized_keys", "keys": unknown, "path": [], "message": message})
    return issues


def _issue(fault: ErrorDetails) -> dict[str, Any]:
    where, context = list(fault["loc"]), fault.get("ctx", {})
    match fault["type"]:
        case "repeated":
            return _expected("string", "array", where)
        case "missing":
            return _expected("string", "undefined", where)
        case "string_type":
            return _expected("string", _KINDS[type(fault["input"])], where)
        case "dict_type":
            return _expected("record" if where else "object", _KINDS[type(fault["input"])], where)
        case "string_too_short":
            text = f"Too small: expected string to have >={context['min_length']} characters"
            return _size("too_small", "minimum", context["min_length"], where, text)
        case "string_too_long":
            text = f"Too big: expected string to have <={context['max_length']} characters"
            return _size("too_big", "maximum", context["max_length"], where, text)
        case "literal_error":
            words = re.findall(r"'(\w+)'", context["expected"])
            text = "Invalid option: expected one of " + "|".join(f'"{word}"' for word in words)
            return {"code": "invalid_value", "values": words, "path": where, "message": text}
    return _custom(where, fault["msg"].removeprefix("Value error, "))


def _custom(where: list[Any], text: str) -> dict[str, Any]:
    """Describe a fault that zod has no code for."""
    return {"code": "custom", "path": where, "message": text}


def _expected(what: str, received: str, where: list[Any]) -> dict[str, Any]:
    text = f"Invalid input: expected {what}, received {received}"
    return {"expected": what, "code": "invalid_type", "path": where, "message": text}


def _size(code: str, bound: str, length: int, where: list[Any], text: str) -> dict[str, Any]:
    return {"origin": "string", "code": code, bound: length, "inclusive": True, "path": where, "message": text}
