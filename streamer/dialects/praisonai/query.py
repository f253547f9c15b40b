"""The parameters of a list of activity. FastAPI's errors are pydantic's, and so are ours."""

import re
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic import ValidationError as PydanticError
from pydantic_core import PydanticCustomError

from streamer.core.clock import parse_timestamp
from streamer.core.filter import MAX_VALUE_LENGTH, MAX_VALUES, Condition, Either, Filter, canonical
from streamer.core.position import MAX_SEQ
from streamer.dialects.praisonai.errors import Unprocessable, issue
from streamer.dialects.praisonai.names import of_actions, of_resources

MAX_CURSOR = 16 * 1024
"""Characters of a cursor: over many workspaces it holds a position of each. No request line is longer."""
MAX_OFFSET_ACROSS = 10_000
"""What of many workspaces can be passed over: they are merged by time, which has to read what it passes."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ZONE = re.compile(r"([Zz]|[+-]\d{2}:\d{2})$", re.ASCII)
_DAY = 86_400_000_000


def _words(text: str) -> tuple[str, ...]:
    """Read a list separated by commas."""
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


class ActivityQuery(BaseModel):
    """What of a list is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    @property
    def selection(self) -> Filter:
        """Return the filter."""
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


class ViewQuery(BaseModel):
    """How one activity is to be shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    view: Literal["platform"] | None = None


PARAMETERS = tuple(ActivityQuery.model_fields)


def parse(request: web.Request, *, across: bool = False) -> ActivityQuery:
    """Read the parameters of a list; `across` workspaces there is no single place behind an id. Raises Unprocessable."""
    # As FastAPI does: of what is repeated the last one counts, a list is all of them.
    values = {
        name: ",".join(request.query.getall(name)) if name in {"resource_types", "actions"} else value
        for name, value in request.query.items()
    }
    found: ActivityQuery = _read(ActivityQuery, values)
    wrong = []
    if found.after_id is not None and across:
        wrong.append(
            issue("after_id", "Input should be used within one workspace; follow the Link header here", found.after_id)
        )
    if across and found.offset > MAX_OFFSET_ACROSS:
        message = f"Input should be less than or equal to {MAX_OFFSET_ACROSS} here; follow the Link header"
        wrong.append(issue("offset", message, values["offset"], "less_than_equal"))
    exclusive = ("after_id", "offset", "start_date", "end_date") if found.cursor is not None else ("offset",)
    if found.cursor is not None or found.after_id is not None:
        other = "cursor" if found.cursor is not None else "after_id"
        wrong += [issue(n, f"Input should not be sent with {other}", values[n]) for n in exclusive if n in values]
    if wrong:
        raise Unprocessable(wrong)
    return found


def parse_view(request: web.Request) -> bool:
    """Tell whether one activity is wanted as the platform's document shows it. Raises Unprocessable."""
    found: ViewQuery = _read(ViewQuery, dict(request.query))
    return found.view is not None


def _read(model: Any, values: dict[str, str]) -> Any:
    try:
        return model.model_validate(values)
    except PydanticError as error:
        found = error.errors(include_url=False)
        # A union's member is no part of the place.
        raise Unprocessable([{**item, "loc": ["query", item["loc"][0]]} for item in found]) from None
