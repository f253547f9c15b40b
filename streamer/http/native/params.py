"""The parameters of the native API's operations."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field, PlainValidator, ValidationInfo, field_validator

from streamer.core.filter import CATEGORIES, FILTER_FIELDS, MAX_VALUE_LENGTH, MAX_VALUES, Filter, parse_filter
from streamer.core.ports import Bound, Order
from streamer.core.position import Position
from streamer.http.models import EMPTY, BadInput, Bounds, Params, fault
from streamer.http.paging import Cursor, PageRange, parse_bound

MAX_LIMIT = 1000
MAX_WAIT = 60
"""What the document says; a server's settings may set other bounds."""

FILTER_PATTERNS = {
    **dict.fromkeys(FILTER_FIELDS, r"^!?[^\u0000,!*\\]+(,[^\u0000,!*\\]+)*$"),
    "category": f"^!?({'|'.join(CATEGORIES)})$",
    "q": r"^!?[^\u0000!]+$",
}
"""Values of a filter that are valid, without backslashes and `*`: for the OpenAPI document; `core.filter` has the grammar."""
MAX_REPEATED = 8
"""How often a parameter of a filter can always be repeated."""
_LIST = f"A comma-separated list, or repeated; a leading `!` excludes the list. At most {MAX_VALUES} values in all."
POSITION_SCHEMA = {"type": "string", "pattern": r"^[a-z0-9]{1,32}\.(0|[1-9][0-9]{0,17})$"}
"""Positions that are valid: those of one digit more are only up to `MAX_SEQ`."""
_BOUND_SCHEMA: Any = {"anyOf": [POSITION_SCHEMA, {"type": "string", "format": "date-time"}]}


def filter_schema(name: str) -> dict[str, Any]:
    """Return the JSON schema of one value of a filter."""
    return {"type": "string", "pattern": FILTER_PATTERNS[name], "maxLength": MAX_VALUE_LENGTH}


def _values(name: str, text: str = f"Filter. {_LIST}") -> Any:
    return Field((), description=text, json_schema_extra={"items": filter_schema(name), "maxItems": MAX_REPEATED})


def _limit(value: object, info: ValidationInfo) -> int:
    bounds = Bounds.of(info)
    if isinstance(value, int):  # the default
        return min(value, bounds.page_events)
    text = str(value)
    if re.fullmatch(r"[0-9]{1,6}", text) and 1 <= int(text) <= bounds.page_events:
        return int(text)
    raise ValueError(f"must be a whole number from 1 to {bounds.page_events}")


Limit = Annotated[
    int,
    PlainValidator(_limit),
    Field(
        validate_default=True,
        description="At most so many.",
        json_schema_extra={"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100},
    ),
]


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold the character U+0000")
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError(EMPTY)
    return text


class FilterParams(Params):
    """A filter (`core.filter`)."""

    category: tuple[str, ...] = _values("category")
    action: tuple[str, ...] = _values(
        "action", f"Filter; `*` as the last part stands for any rest (`issue.*`). {_LIST}"
    )
    actor_type: tuple[str, ...] = _values("actor_type")
    actor_id: tuple[str, ...] = _values("actor_id")
    entity_type: tuple[str, ...] = _values("entity_type")
    entity_id: tuple[str, ...] = _values("entity_id")
    agent_id: tuple[str, ...] = _values("agent_id")
    run_id: tuple[str, ...] = _values("run_id")
    task_id: tuple[str, ...] = _values("task_id")
    q: tuple[str, ...] = _values(
        "q",
        "Filter: description and identifiers hold this text, ASCII letters in either case; a leading `!` excludes.",
    )
    _selection: Filter

    @classmethod
    def check_together(cls, given: Mapping[str, Any]) -> None:
        """Check the filter. Raises ValidationError."""
        parse_filter(given)

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002 - pydantic's
        """Compile the filter. Raises ValidationError."""
        self._selection = parse_filter({name: getattr(self, name) for name in FILTER_FIELDS})

    @property
    def selection(self) -> Filter:
        """The events that pass."""
        return self._selection


class HistoryParams(FilterParams):
    """A page of history."""

    order: Literal["asc", "desc"] | None = Field(None, description="`asc` with `after`, else `desc`.")
    limit: Limit = 100
    cursor: str | None = Field(
        None, description="Where the page before ended, from its answer; it carries order and range."
    )
    after: Annotated[Bound, PlainValidator(parse_bound)] = Field(
        None, description="Only what came after this position or timestamp.", json_schema_extra=_BOUND_SCHEMA
    )
    before: Annotated[Bound, PlainValidator(parse_bound)] = Field(
        None, description="Only what came before this position or timestamp.", json_schema_extra=_BOUND_SCHEMA
    )
    wait: Annotated[float, PlainValidator(lambda text: text)] = Field(
        0.0,
        description=f"With `after`: seconds to wait for the first event, at most `STREAMER_MAX_WAIT_SECONDS` ({MAX_WAIT}).",
        json_schema_extra={"type": "number", "minimum": 0, "maximum": MAX_WAIT},
    )
    _stretch: PageRange

    @field_validator("after", "before")
    @classmethod
    def _apart_from_cursor(cls, bound: Bound, info: ValidationInfo) -> Bound:
        if info.data.get("cursor") is not None:
            raise ValueError("cannot be sent with cursor, which carries it from the first page")
        return bound

    @field_validator("wait")
    @classmethod
    def _wait(cls, text: Any, info: ValidationInfo) -> float:
        bounds = Bounds.of(info)
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or float(text) > bounds.wait_seconds:
            raise ValueError(f"must be a number of seconds from 0 to {bounds.wait_seconds}")
        if info.data.get("after", text) is None:
            raise ValueError("needs after: the position to wait from")
        if info.data.get("before") is not None or info.data.get("order") == "desc":
            raise ValueError("cannot be combined with before or order=desc")
        return float(text)

    def model_post_init(self, context: Any) -> None:
        """Find the range of the page. Raises InvalidCursor, ValidationError."""
        super().model_post_init(context)
        if self.cursor is None:
            default: Order = "asc" if self.after is not None else "desc"
            self._stretch = PageRange(self.order or default, self.after, self.before)
            return
        cursor = Cursor.parse(self.cursor)
        if self.order not in {None, cursor.order}:
            raise BadInput([fault("order", f"the cursor's order is {cursor.order}")])
        self._stretch = PageRange.after_cursor(cursor)

    @property
    def page_range(self) -> PageRange:
        """The part of the log, and its order."""
        return self._stretch


class StreamParams(FilterParams):
    """A stream: where it begins, and what passes. An empty `after` is absent."""

    after: Annotated[Bound, PlainValidator(lambda text: parse_bound(text) if text else None)] = Field(
        None, description="Only what came after this position or timestamp.", json_schema_extra=_BOUND_SCHEMA
    )
    ticket: str | None = Field(None, description="A ticket, in place of another credential; it carries the filter.")

    def model_post_init(self, context: Any) -> None:
        """Compile the filter, which no request by a ticket has. Raises ValidationError."""
        given = [name for name in FILTER_FIELDS if name in self.model_fields_set]
        if self.ticket is not None and given:
            raise BadInput([fault(name, "the ticket carries the filter") for name in given])
        super().model_post_init(context)


class SseParams(StreamParams):
    """A stream of server-sent events."""

    last_event_id: str | None = Field(
        None,
        validation_alias=AliasChoices("lastEventId", "last_event_id", "Last-Event-ID"),
        description="`Last-Event-ID`, for clients that cannot set headers; the header wins.",
    )

    def start(self, last: str | None) -> Bound:
        """Return where the stream begins: after the event that the client received `last`, else `after`. Raises ValidationError."""
        if not last:
            return self.after
        try:
            return Position.parse(last)
        except ValueError as error:
            raise BadInput([fault("Last-Event-ID", str(error), last)]) from None


class ListParams(Params):
    """Part of a list of things that have ids."""

    after: Annotated[str, AfterValidator(_not_empty), AfterValidator(_no_nul)] = Field(
        "", description="Only ids after this one.", json_schema_extra={"pattern": "^[^\\u0000]+$"}
    )
    limit: Limit = 100


class WorkspaceListParams(ListParams):
    """Part of the list of workspaces."""

    org_id: Annotated[str, Field(min_length=1, max_length=MAX_VALUE_LENGTH), AfterValidator(_no_nul)] | None = Field(
        None, description="Only those of this organisation."
    )


class ReadyParams(Params):
    """What a node is asked to be ready for. A probe may send anything else: it has no meaning."""

    model_config = ConfigDict(extra="ignore")
    repeats = "last"

    for_: Literal["all", "reads"] = Field(
        "all",
        alias="for",
        description="`reads`: the node is ready if it can serve reads, whether or not it can write.",
    )
