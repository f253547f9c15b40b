"""What bodies hold: checked with pydantic on their way in, and described in `/openapi.json`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    with_config,
)
from typing_extensions import TypedDict

from streamer.core.clock import parse_timestamp
from streamer.core.filter import FILTER_FIELDS, MAX_VALUE_LENGTH
from streamer.core.ids import ID_PATTERN, OWN_EVENT_IDS, RESERVED_EVENT_IDS, is_id
from streamer.http.models import NO_NUL
from streamer.http.native.params import POSITION_SCHEMA, filter_schema

STRICT = ConfigDict(extra="forbid", strict=True)


def _event_id(value: str) -> str:
    if value.startswith(OWN_EVENT_IDS):
        raise ValueError(f"ids that begin with {OWN_EVENT_IDS} are the server's own")
    if value in RESERVED_EVENT_IDS or not is_id(value):
        raise ValueError("1-128 of A-Z a-z 0-9 . _ : ~ @ - and not " + ", ".join(sorted(RESERVED_EVENT_IDS)))
    return value


def _timestamp(value: str) -> str:
    parse_timestamp(value)
    return value


_NO_IDS = [{"enum": [*sorted(RESERVED_EVENT_IDS), ".", ".."]}, {"pattern": f"^{OWN_EVENT_IDS}"}]
_ID_SCHEMA = {"type": "string", "pattern": ID_PATTERN, "not": {"anyOf": _NO_IDS}}

EventId = Annotated[str, AfterValidator(_event_id), WithJsonSchema(_ID_SCHEMA)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=MAX_VALUE_LENGTH, pattern=NO_NUL)]
"""A value that is indexed: any text without NUL, 1-512 characters."""
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
PositionText = Annotated[str, Field(json_schema_extra={"pattern": POSITION_SCHEMA["pattern"]})]
ANSWER = ConfigDict(extra="forbid")
"""Of what is answered: it has no other fields."""


@with_config(ANSWER)
class Actor(TypedDict):
    """The actor that a credential acts as."""

    type: str
    id: str


Timestamp = Annotated[str, AfterValidator(_timestamp), Field(json_schema_extra={"format": "date-time"})]
Name = Annotated[str, StringConstraints(max_length=256, pattern=NO_NUL)]
"""What people call something."""
TraceParent = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]


@with_config(STRICT)
class ActorIn(TypedDict, total=False):
    """Who did it. A key that is bound to an actor fills `type` and `id`; otherwise both are required."""

    type: Annotated[Word | None, Field(description="`user`, `agent`, `system`, or another word.")]
    id: Word | None
    name: str | None
    role: str | None
    on_behalf_of: Annotated[Word | None, Field(description="The person behind an agent.")]
    ip: str | None


@with_config(STRICT)
class EntityIn(TypedDict, total=False):
    """What it was done to."""

    type: Word | None
    id: Word | None
    identifier: Annotated[Word | None, Field(description="What people call it, such as PAP-42.")]
    name: str | None


FIRST_ONLY = FailFast()
"""Of what a client may send any number of, the first wrong one is named: to make an error for each would hold the event loop."""

# Written as a call because `from` is a word of Python's own.
ChangeIn = TypedDict("ChangeIn", {"from": Any, "to": Any}, total=False)
ChangeIn.__doc__ = "One changed value."
with_config(STRICT)(ChangeIn)


class _RequiredEvent(TypedDict):
    action: Annotated[Word, Field(description="What was done, `noun.verb`.", examples=["issue.updated"])]


@with_config(STRICT)
class EventIn(_RequiredEvent, total=False):
    """An event as clients append it."""

    id: Annotated[EventId | None, Field(description="Unique in the workspace; made by the server if absent.")]
    category: Annotated[Literal["activity", "audit"] | None, Field(description="By the action if absent.")]
    actor: ActorIn | None
    entity: EntityIn | None
    agent_id: Word | None
    run_id: Word | None
    task_id: Word | None
    description: Annotated[str | None, Field(description="A sentence; made if absent.")]
    details: Annotated[dict[str, Any] | None, Field(description="Free data, at most 32 levels deep.")]
    changes: Annotated[
        dict[str, ChangeIn] | None,
        FIRST_ONLY,
        Field(description="Before and after, by name; derived from `details._previous`."),
    ]
    occurred_at: Annotated[Timestamp | None, Field(description="What the client's clock said; it orders nothing.")]
    traceparent: Annotated[TraceParent | None, Field(description="W3C trace context.")]


def _several(value: object) -> object:
    """Take one text for a list of one: a union of both would put its branches into the paths of errors."""
    return [value] if isinstance(value, str) else value


def _filter_value(name: str) -> Any:
    one = filter_schema(name)
    shown = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    described = WithJsonSchema({"description": "As the query parameter; several in a list."} | shown)
    return Annotated[list[str], FIRST_ONLY, Field(min_length=1), BeforeValidator(_several), described]


_FILTER: Any = {name: _filter_value(name) for name in FILTER_FIELDS}
Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Ref = Annotated[Annotated[str, StringConstraints(max_length=128)] | None, Field(description="Returned in the answer.")]

# Made by calls because the filter's fields are listed elsewhere.
_make: Any = TypedDict
TicketIn: Any = with_config(STRICT)(_make("TicketIn", {"workspace": Required[str], **_FILTER}, total=False))
TicketIn.__doc__ = "A workspace and a filter, for one stream."
SubscribeIn: Any = with_config(STRICT)(
    _make(
        "SubscribeIn",
        {"type": Required[str], "sub": Required[Label], "workspace": str, "after": str | None, "ref": Ref, **_FILTER},
        total=False,
    )
)


@with_config(STRICT)
class UnsubscribeIn(TypedDict):
    """End a subscription of the socket."""

    type: str
    sub: Label
    ref: NotRequired[Ref]


@with_config(STRICT)
class PublishIn(TypedDict, total=False):
    """Append over the socket: `event` or `events`."""

    type: Required[str]
    workspace: str
    event: dict[str, Any]
    events: list[Any]
    idempotency_key: str
    ref: Ref


@with_config(STRICT)
class PingIn(TypedDict):
    """Ask for a pong."""

    type: str
    ref: NotRequired[Ref]


EVENT: TypeAdapter[EventIn] = TypeAdapter(EventIn)
TICKET: TypeAdapter[dict[str, Any]] = TypeAdapter(TicketIn)
MESSAGES: Mapping[str, TypeAdapter[Any]] = {
    "subscribe": TypeAdapter(SubscribeIn),
    "unsubscribe": TypeAdapter(UnsubscribeIn),
    "publish": TypeAdapter(PublishIn),
    "ping": TypeAdapter(PingIn),
}
"""What a client may send over a WebSocket, by its `type`."""


def filter_of(body: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the filter's fields of a checked body in the form of query parameters."""
    return {name: body[name] for name in FILTER_FIELDS if name in body}
