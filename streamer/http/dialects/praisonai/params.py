"""The parameters of a list of activity. FastAPI's errors are pydantic's, and so are ours."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ModelWrapValidatorHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from streamer.core.clock import parse_timestamp
from streamer.core.filter import MAX_VALUE_LENGTH, MAX_VALUES, Condition, Either, Filter, canonical
from streamer.core.position import MAX_SEQ
from streamer.http.dialects.praisonai.names import of_actions, of_resources
from streamer.http.models import BadInput, Params, fault

MAX_CURSOR = 16 * 1024
"""Characters of a cursor: over many workspaces it holds a position of each. No request line is longer."""
MAX_OFFSET_ACROSS = 10_000
"""What of many workspaces can be passed over: they are merged by time, which has to read what it passes."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ZONE = re.compile(r"([Zz]|[+-]\d{2}:\d{2})$", re.ASCII)
_DAY = 86_400_000_000


def _words(texts: list[str]) -> tuple[str, ...]:
    """Read a list separated by commas, or repeated."""
    text = ",".join(texts)
    words = tuple(word.strip() for word in text.split(","))
    if len(words) > MAX_VALUES or not all(0 < len(word) <= MAX_VALUE_LENGTH for word in words) or "\0" in text:
        raise PydanticCustomError(
            "list_parsing",
            "Input should be a list of {values} names at most, separated by commas, each of 1 to {length} characters",
            {"values": MAX_VALUES, "length": MAX_VALUE_LENGTH},
        )
    return words


def _first(text: str) -> int:
    return _moment(text, 0)


def _last(text: str) -> int:
    return _moment(text, _DAY - 1)


def _moment(text: str, of_day: int) -> int:
    """Read an ISO date into microseconds since 1970: without a zone it is UTC, without a time the day's first or last moment."""
    try:
        if _DATE.fullmatch(text):
            return parse_timestamp(f"{text}T00:00:00Z") + of_day
        # An unescaped "+" of a zone comes as a space.
        text = re.sub(r"(?<=\d) (?=\d\d:\d\d$)", "+", text)
        return parse_timestamp(text if _ZONE.search(text) else f"{text}Z")
    except ValueError:
        raise PydanticCustomError(
            "datetime_parsing", "Input should be an ISO date, such as 2026-11-21T06:22:04Z or 2026-11-21"
        ) from None


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("string_type", "Input should not hold the character U+0000")
    return text


_Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
_Text = Annotated[str, Field(max_length=MAX_VALUE_LENGTH), AfterValidator(_no_nul)]


class ViewParams(Params):
    """How one activity is to be shown."""

    repeats = "last"  # as FastAPI does

    view: Literal["platform"] | None = None


class ActivityParams(Params):
    """A page of a list of activity."""

    repeats = "last"

    limit: int = Field(50, ge=1, le=200)
    offset: int = Field(0, ge=0, le=MAX_SEQ)
    actor_id: Annotated[_Text, Field(min_length=1)] | None = None
    resource_types: _Words = ()
    actions: _Words = ()
    start_date: Annotated[int, BeforeValidator(_first)] | None = None
    end_date: Annotated[int, BeforeValidator(_last)] | None = None
    include_system: bool = True
    after_id: _Text | None = None
    cursor: Annotated[str, Field(max_length=MAX_CURSOR), AfterValidator(_no_nul)] | None = None
    view: Literal["platform"] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _apart(cls, given: dict[str, Any], read: ModelWrapValidatorHandler[Self]) -> Self:
        found = read(given)
        excluded: tuple[str, ...] = ()
        other = "after_id" if found.cursor is None else "cursor"
        if found.cursor is not None:
            excluded = ("after_id", "offset", "start_date", "end_date")
        elif found.after_id is not None:
            excluded = ("offset",)
        wrong = [
            fault(name, f"Input should not be sent with {other}", given[name]) for name in excluded if name in given
        ]
        if wrong:
            raise BadInput(wrong)
        return found

    @property
    def selection(self) -> Filter:
        """The events that pass."""
        conditions: list[Condition | Either] = []
        if self.actor_id is not None:
            conditions.append(Condition("actor_id", frozenset({self.actor_id})))
        if self.resource_types:
            conditions += of_resources(self.resource_types)
        if self.actions:
            conditions += of_actions(self.actions)
        if not self.include_system:
            conditions.append(Condition("actor_type", frozenset({"system"}), exclude=True))
        return canonical(conditions)

    @property
    def after(self) -> int | None:
        """The end of the range towards the beginning, itself not in it."""
        return None if self.start_date is None else self.start_date - 1

    @property
    def before(self) -> int | None:
        """The end of the range towards the head, itself not in it."""
        return None if self.end_date is None else self.end_date + 1


class AcrossParams(ActivityParams):
    """A page of a list over many workspaces, which has no single place after an id."""

    @field_validator("after_id")
    @classmethod
    def _within_one(cls, text: str | None) -> str | None:
        if text is not None:
            message = "Input should be used within one workspace; follow the Link header here"
            raise PydanticCustomError("value_error", message)
        return text

    @field_validator("offset")
    @classmethod
    def _near(cls, offset: int) -> int:
        if offset > MAX_OFFSET_ACROSS:
            message = f"Input should be less than or equal to {MAX_OFFSET_ACROSS} here; follow the Link header"
            raise PydanticCustomError("less_than_equal", message)
        return offset
