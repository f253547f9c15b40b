"""The parameters of a list and of the socket. The released server ignores what it does not know; here that is an error, in its form."""

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, field_validator

from streamer.core.errors import ValidationError
from streamer.core.filter import MAX_VALUE_LENGTH, Condition, Either, Filter, canonical, parse_filter
from streamer.core.position import MAX_SEQ
from streamer.http.dialects.paperclip.errors import TOKEN
from streamer.http.models import EMPTY, Params
from streamer.http.paging import decode_cursor, encode_cursor, timestamp_of

MOST = 500
"""Events of one page."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FINE = re.compile(r"\.\d{4,}")
_DAY, _MILLISECOND = 86_400_000_000, 1000


class ResumeFrom(NamedTuple):
    """Where to read on: the parameter's name, and the id, position or timestamp in it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class LinkedCursor:
    """Where a page of runs or issues ended: the newest come first, of the same moment by their ids."""

    created_at: int
    id: str

    def __str__(self) -> str:
        return encode_cursor(f"e.{self.created_at}.{self.id}")

    @classmethod
    def parse(cls, text: str) -> "LinkedCursor":
        """Read what `str` wrote. Raises InvalidCursor."""
        return decode_cursor(text, cls._read)

    @classmethod
    def _read(cls, plain: str) -> "LinkedCursor":
        kind, moment, id_ = plain.split(".", 2)
        if kind != "e" or "\0" in id_ or abs(int(moment)) > MAX_SEQ:
            raise ValueError("not of this form")
        return cls(int(moment), id_)


def _limit(text: str) -> int | None:
    """Read a limit as the released server does: JavaScript's numbers, within bounds; what is none is as if it was not there."""
    if not text:
        return 1
    return math.floor(min(max(float(text), 1), MOST)) if _NUMBER.fullmatch(text.strip()) else None


def _given(text: str) -> str:
    if not text:
        raise ValueError(f"Invalid input: {EMPTY}")
    return text


def _value(text: str) -> str:
    if len(text) > MAX_VALUE_LENGTH or "\0" in text:
        raise ValueError(f"Invalid input: at most {MAX_VALUE_LENGTH} characters are expected, without U+0000")
    return text


def _action(text: str) -> tuple[Condition | Either, ...]:
    try:
        return parse_filter({"action": [_given(text)]}).conditions
    except ValidationError as error:
        raise ValueError("; ".join(f"Invalid input: {wrong}" for wrong in error.fields.values())) from None


def _offset(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError("Invalid input: expected a whole number, 0 or more")
    return int(text)


def _moment(text: str, *, of_unit: int = 0) -> int:
    """Read a time into microseconds: what is no finer than a millisecond, or a date alone, is its first moment or its last."""
    try:
        if _DATE.fullmatch(text):
            return timestamp_of(f"{text}T00:00:00Z") + (_DAY - 1 if of_unit else 0)
        return timestamp_of(text) + (0 if _FINE.search(text) else of_unit)
    except ValueError:
        raise ValueError("Invalid ISO datetime: such as 2026-11-21T06:22:04Z or 2026-11-21 is expected") from None


_Given = Annotated[str, AfterValidator(_given)]
_Value = Annotated[_Given, AfterValidator(_value)]
_Limit = Annotated[int | None, PlainValidator(_limit)]


class _Activity(Params):
    """What filters events."""

    agent_id: _Value | None = Field(None, alias="agentId")
    entity_type: _Value | None = Field(None, alias="entityType")
    entity_id: _Value | None = Field(None, alias="entityId")
    actor_type: _Value | None = Field(None, alias="actorType")
    actor_id: _Value | None = Field(None, alias="actorId")
    action: Annotated[tuple[Condition | Either, ...] | None, PlainValidator(_action)] = None

    @property
    def selection(self) -> Filter:
        """The events that pass."""
        names = ("agent_id", "entity_type", "entity_id", "actor_type", "actor_id")
        given = {name: getattr(self, name) for name in names}
        exact = [Condition(name, frozenset({value})) for name, value in given.items() if value is not None]
        return canonical([*exact, *(self.action or ())])


def _resume_from(after: str | None, since: str | None) -> ResumeFrom | None:
    if after:
        return ResumeFrom("after", after)
    return ResumeFrom("since", since) if since else None


def _no_second(since: str, info: ValidationInfo) -> str:
    if since and info.data.get("after"):
        raise ValueError("Invalid input: after is sent, too; both mean the same, send one of them")
    return since


class LiveParams(_Activity):
    """The socket of live events. An empty `after` or `since` is absent."""

    after: str | None = None
    since: Annotated[str, AfterValidator(_no_second)] | None = None
    token: str | None = Field(None, alias=TOKEN)

    @property
    def resume_from(self) -> ResumeFrom | None:
        """Where to begin, if not with the next event."""
        return _resume_from(self.after, self.since)


class LinkedParams(Params):
    """A page of runs or issues."""

    limit: _Limit = None
    cursor: _Given | None = None


class ListParams(_Activity):
    """A page of events."""

    limit: _Limit = None
    cursor: _Given | None = None
    after: _Given | None = None
    since: Annotated[_Given, AfterValidator(_no_second)] | None = None
    from_: Annotated[int | None, PlainValidator(_moment)] = Field(None, alias="from")
    to: Annotated[int | None, PlainValidator(partial(_moment, of_unit=_MILLISECOND - 1))] = None
    offset: Annotated[int, PlainValidator(_offset)] = 0

    @field_validator("after", "since", "from_", "to", "offset")
    @classmethod
    def _apart_from_cursor(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("cursor") is not None:
            raise ValueError("Invalid input: the cursor carries it, send one of them")
        return value

    @property
    def resume_from(self) -> ResumeFrom | None:
        """Where to read on, if not from the newest event back."""
        return _resume_from(self.after, self.since)

    @property
    def lower(self) -> int | None:
        """Exclusive lower bound, in microseconds."""
        return None if self.from_ is None else self.from_ - 1

    @property
    def upper(self) -> int | None:
        """Exclusive upper bound, in microseconds."""
        return None if self.to is None else self.to + 1
