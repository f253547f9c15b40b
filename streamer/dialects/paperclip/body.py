"""The body of an append, checked as the released server's zod schema does, and as an event of our log."""

from collections.abc import Iterator, Mapping
from typing import Any

from streamer.core.filter import MAX_VALUE_LENGTH
from streamer.dialects.paperclip.errors import Invalid, issue
from streamer.ingest.intake import Author

ABSENT = object()
"""What JavaScript calls undefined."""

_ACTOR_TYPES = ("agent", "user", "system", "plugin")
_TEXTS = ("actorId", "action", "entityType", "entityId")
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


def event_of(body: Any, author: Author) -> dict[str, Any]:
    """Return the native event that a body asks for. Raises Invalid.

    Args:
        body: parsed JSON; `ABSENT` if there was none. What the schema does not know is dropped, as there.
        author: whose type it is, if the body names this actor and no type.
    """
    wrong = list(_faults(body))
    if wrong:
        raise Invalid(wrong)
    details = body.get("details")
    told = details or {}
    default, own_id = author.actor or ("system", None)
    actor_type = default if body["actorId"] == own_id else "system"
    return {
        "action": body["action"],
        "actor": {"type": body.get("actorType", actor_type), "id": body["actorId"]},
        "entity": {
            "type": body["entityType"],
            "id": body["entityId"],
            "identifier": _kept(told.get("identifier")),
            "name": _kept(told.get("title")),
        },
        "agent_id": body.get("agentId"),
        "details": details,
    }


def _faults(body: Any) -> Iterator[dict[str, Any]]:
    """Yield what is wrong with a body, in the order of the schema."""
    if not isinstance(body, dict):
        yield _expected("object", body)
        return
    actor_type = body.get("actorType", ABSENT)
    if actor_type is not ABSENT and actor_type not in _ACTOR_TYPES:
        options = "|".join(f'"{word}"' for word in _ACTOR_TYPES)
        message = f"Invalid option: expected one of {options}"
        yield {"code": "invalid_value", "values": list(_ACTOR_TYPES), "path": ["actorType"], "message": message}
    for name in _TEXTS:
        yield from _text(name, body.get(name, ABSENT))
    if body.get("agentId") is not None:
        yield from _text("agentId", body["agentId"])
    details = body.get("details")
    if details is not None and not isinstance(details, dict):
        yield _expected("record", details, "details")


def _text(name: str, value: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(value, str):
        yield _expected("string", value, name)
    elif not value:
        yield _size(name, "too_small", "minimum", 1, "Too small: expected string to have >=1 characters")
    elif len(value) > MAX_VALUE_LENGTH:
        message = f"Too big: expected string to have <={MAX_VALUE_LENGTH} characters"
        yield _size(name, "too_big", "maximum", MAX_VALUE_LENGTH, message)
    elif "\0" in value:
        yield issue(name, "Invalid input: a string without the character U+0000 is expected")


def _expected(what: str, value: Any, *path: str) -> dict[str, Any]:
    message = f"Invalid input: expected {what}, received {_KINDS[type(value)]}"
    return {"expected": what, "code": "invalid_type", "path": list(path), "message": message}


def _size(name: str, code: str, bound: str, length: int, message: str) -> dict[str, Any]:
    return {"origin": "string", "code": code, bound: length, "inclusive": True, "path": [name], "message": message}


def _kept(value: Any) -> str | None:
    """Return what `details` call an entity, if the log can have it as a value of its own."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_VALUE_LENGTH and "\0" not in value else None
