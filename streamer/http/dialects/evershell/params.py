"""The parameters of Evershell's lists and streams."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
)

from streamer.core.filter import (
    AUDIT_ONLY,
    MAX_VALUE_LENGTH,
    MAX_VALUES,
    Condition,
    Either,
    Filter,
    canonical,
)
from streamer.core.ports import Bound
from streamer.http.dialects.evershell.shape import ACTORS, CONTROL_PLANE, of_actors, of_users
from streamer.http.models import Params
from streamer.http.paging import TIMESTAMP_FORM, PageRange, parse_bound, timestamp_of

MAX_LIMIT = 10_000
"""What asks for more gets this much."""
ACTIVITY_ONLY = Condition("category", frozenset({"activity"}))

_Conditions = Sequence[Condition | Either]


def _field(name: str, values: frozenset[str], *, exclude: bool) -> _Conditions:
    return (Condition(name, values, exclude=exclude),)


COLUMNS: Mapping[str, Callable[..., _Conditions]] = {
    "user_id": of_users,
    "event_type": partial(_field, "action"),
    "actor": of_actors,
    **{
        name: partial(_field, name)
        for name in ("task_id", "actor_type", "actor_id", "entity_type", "entity_id", "agent_id", "run_id")
    },
}
"""The columns that `filter` knows: those of an AuditEvent that the log can look for, and some of ours."""
ALWAYS_THERE = ("user_id", "event_type", "actor", "actor_type", "actor_id")
"""Columns without which there is no event."""


def _value(text: str) -> str:
    if not 0 < len(text) <= MAX_VALUE_LENGTH or "\0" in text:
        raise ValueError(f"a value has 1 to {MAX_VALUE_LENGTH} characters, without U+0000")
    return text


def _limit(text: str) -> int:
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit() and digits):
        raise ValueError(f"must be a whole number from 1 on; more than {MAX_LIMIT} are not given at once")
    return min(int(digits[:18]), MAX_LIMIT)


def _moment(text: str) -> int:
    try:
        return timestamp_of(text)
    except ValueError:
        raise ValueError(f"must be {TIMESTAMP_FORM}") from None


def _filter(text: str) -> _Conditions:
    """Read a filter: `column=value,value`, `column!=value,value`, or `column!=`, which requires that there is a value."""
    column, equals, rest = text.partition("=")
    exclude = column.endswith("!")
    column = column.removesuffix("!")
    if not equals:
        raise ValueError("must be column=value, column!=value or column!=")
    if column not in COLUMNS:
        raise ValueError(f"must be about one of {', '.join(COLUMNS)}")
    if exclude and not rest:
        return () if column in ALWAYS_THERE else (Condition(column, frozenset(), ("",)),)
    values = frozenset(map(_value, rest.split(",")))
    if column == "actor" and not values <= {*ACTORS, CONTROL_PLANE}:
        raise ValueError(f"actor is one of {', '.join((*ACTORS, CONTROL_PLANE))}")
    return COLUMNS[column](values, exclude=exclude)


def _few(texts: list[str]) -> list[str]:
    """Refuse filters with too many values before any of them is read; a filter has one value more than commas."""
    if len(texts) + sum(text.count(",") for text in texts) > MAX_VALUES:
        raise ValueError(f"at most {MAX_VALUES} values in all filters")
    return texts


_Value = Annotated[str, AfterValidator(_value)]
_Moment = Annotated[int, PlainValidator(_moment)]


class ListParams(Params):
    """A page of a list."""

    order: Literal["asc", "desc"] | None = None
    limit: Annotated[int, PlainValidator(_limit)] = 100
    cursor: str | None = None


class _Activity(Params):
    task_id: _Value | None = None
    event_type: _Value | None = None

    @property
    def selection(self) -> Filter:
        """The events that pass."""
        given = {"task_id": self.task_id, "action": self.event_type}
        conditions = [Condition(name, frozenset({value})) for name, value in given.items() if value is not None]
        return canonical([ACTIVITY_ONLY, *conditions])


class ActivityParams(_Activity, ListParams):
    """A page of activity."""

    after: Annotated[Bound, PlainValidator(parse_bound)] = None

    @field_validator("after")
    @classmethod
    def _apart_from_cursor(cls, bound: Bound, info: ValidationInfo) -> Bound:
        if info.data.get("cursor") is not None:
            raise ValueError("cannot be sent with cursor")
        return bound

    @property
    def page_range(self) -> PageRange:
        """The part of the log, and its order."""
        return PageRange(self.order or ("desc" if self.after is None else "asc"), self.after)


class AuditParams(ListParams):
    """A page of audit events."""

    filter: Annotated[tuple[Annotated[Any, PlainValidator(_filter)], ...], BeforeValidator(_few)] = ()
    from_: _Moment | None = Field(None, alias="from")
    to: _Moment | None = None

    @property
    def selection(self) -> Filter:
        """The events that pass."""
        return canonical([AUDIT_ONLY, *(condition for conditions in self.filter for condition in conditions)])

    @property
    def page_range(self) -> PageRange:
        """The part of the log, which both ends of the time belong to, and its order."""
        after = None if self.from_ is None else self.from_ - 1
        return PageRange(self.order or "desc", after, None if self.to is None else self.to + 1)


class StreamParams(_Activity):
    """A stream. An empty `after` is absent."""

    after: str | None = None
    api_key: str | None = None
    last_event_id: str | None = Field(
        None, validation_alias=AliasChoices("lastEventId", "last_event_id", "Last-Event-ID")
    )
