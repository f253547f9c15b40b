"""The body of an append, checked as the released server's zod schema does, and as an event of our log."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from streamer.core.filter import MAX_VALUE_LENGTH
from streamer.http.models import check
from streamer.ingest.intake import Author


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("Invalid input: a string without the character U+0000 is expected")
    return text


_Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_VALUE_LENGTH), AfterValidator(_no_nul)]


@with_config(ConfigDict(strict=True, extra="ignore"))
class ActivityIn(TypedDict):
    """An event as Paperclip's clients append it. Faults are reported in this order, which is the schema's."""

    actorType: NotRequired[Literal["agent", "user", "system", "plugin"]]
    actorId: _Text
    action: _Text
    entityType: _Text
    entityId: _Text
    agentId: NotRequired[_Text | None]
    details: NotRequired[dict[str, Any] | None]


_ACTIVITY: TypeAdapter[ActivityIn] = TypeAdapter(ActivityIn)


def event_of(parsed: Any, author: Author) -> dict[str, Any]:
    """Return the native event that a body asks for. Raises BadInput.

    Args:
        parsed: JSON; `ABSENT` if there was none. What the schema does not know is dropped, as there.
        author: whose type it is, if the body names this actor and no type.
    """
    body = check(_ACTIVITY, parsed, is_open=True)
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


def _kept(value: Any) -> str | None:
    """Return what `details` call an entity, if the log can have it as a value of its own."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_VALUE_LENGTH and "\0" not in value else None
