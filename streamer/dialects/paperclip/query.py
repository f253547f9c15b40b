"""The parameters of a list and of the socket. The released server ignores what it does not know; here that is an error, in its form."""

import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from streamer.core.errors import InvalidCursor, ValidationError
from streamer.core.filter import MAX_VALUE_LENGTH, Condition, Filter, canonical, parse_filter
from streamer.core.position import MAX_SEQ
from streamer.core.quoting import MAX_NAMED, cut
from streamer.dialects.paperclip.errors import TOKEN, Invalid, issue
from streamer.edge.base import EMPTY
from streamer.edge.paging import timestamp_of

MOST = 500
"""Events of one page."""

_FIELDS = {
    "agentId": "agent_id",
    "entityType": "entity_type",
    "entityId": "entity_id",
    "actorType": "actor_type",
    "actorId": "actor_id",
}
_FILTERS = (*_FIELDS, "action")
_BEHIND = ("after", "since")
LIST_PARAMETERS = (*_FILTERS, *_BEHIND, "from", "to", "limit", "offset", "cursor")
LINKED_PARAMETERS = ("limit", "cursor")
LIVE_PARAMETERS = (*_FILTERS, *_BEHIND, TOKEN)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FINE = re.compile(r"\.\d{4,}")
_DAY, _MILLISECOND = 86_400_000_000, 1000


@dataclass(frozen=True, slots=True)
class Behind:
    """Where to read on: the parameter's name, and the id, position or timestamp in it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What of a list is asked for; the bounds are in microseconds, and themselves not in the range."""

    selection: Filter
    limit: int
    behind: Behind | None
    after: int | None
    before: int | None
    offset: int
    cursor: str | None


def parse_list(request: web.Request, *, limit: int) -> ListQuery:
    """Read the parameters of a list that has `limit` events unless it is asked for more or fewer. Raises Invalid."""
    wrong: list[dict[str, Any]] = []
    given = _singles(request, LIST_PARAMETERS, wrong, may_be_empty=("limit",))
    first, last = _moment(given, "from", 0, wrong), _moment(given, "to", _MILLISECOND - 1, wrong)
    offset = given.get("offset", "0")
    if not re.fullmatch(r"[0-9]{1,18}", offset):
        wrong.append(issue("offset", "Invalid input: expected a whole number, 0 or more"))
    behind = _behind(given, wrong)
    cursor = given.get("cursor")
    if cursor is not None:
        others = [name for name in (*_BEHIND, "from", "to", "offset") if name in given]
        wrong += [issue(name, "Invalid input: the cursor carries it, send one of them") for name in others]
    selection = _selection(given, wrong)
    if wrong:
        raise Invalid(wrong)
    return ListQuery(
        selection,
        _limit(request.query.get("limit"), limit),
        behind,
        None if first is None else first - 1,
        None if last is None else last + 1,
        int(offset),
        cursor,
    )


@dataclass(frozen=True, slots=True)
class Linked:
    """Where a page of runs or issues ended: the newest come first, of the same moment by their ids."""

    created_at: int
    id: str

    def __str__(self) -> str:
        return urlsafe_b64encode(f"e.{self.created_at}.{self.id}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Linked":
        """Read what `str` wrote. Raises InvalidCursor."""
        try:
            kind, moment, id_ = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().split(".", 2)
            found = cls(int(moment), id_)
        except ValueError:
            kind, found = "", cls(0, "")
        # Base64 can be written in more than one way.
        if kind != "e" or str(found) != text or "\0" in found.id or abs(found.created_at) > MAX_SEQ:
            raise InvalidCursor("not a cursor that this server gave; start again without one")
        return found


@dataclass(frozen=True, slots=True)
class LinkedQuery:
    """What of a list of runs or issues is asked for."""

    limit: int
    after: tuple[int, str] | None


def parse_linked(request: web.Request) -> LinkedQuery:
    """Read the parameters of a list of runs or issues. Raises Invalid, InvalidCursor."""
    wrong: list[dict[str, Any]] = []
    given = _singles(request, LINKED_PARAMETERS, wrong, may_be_empty=("limit",))
    if wrong:
        raise Invalid(wrong)
    at = Linked.parse(given["cursor"]) if "cursor" in given else None
    return LinkedQuery(_limit(request.query.get("limit"), MOST), None if at is None else (at.created_at, at.id))


def parse_live(request: web.Request) -> tuple[Filter, Behind | None]:
    """Read the parameters of the socket. Raises Invalid."""
    wrong: list[dict[str, Any]] = []
    given = _singles(request, LIVE_PARAMETERS, wrong, may_be_empty=_BEHIND)
    behind, selection = _behind(given, wrong), _selection(given, wrong)
    if wrong:
        raise Invalid(wrong)
    return selection, behind


def expect_none(request: web.Request) -> None:
    """Check that a request has no parameters. Raises Invalid."""
    wrong: list[dict[str, Any]] = []
    _singles(request, (), wrong)
    if wrong:
        raise Invalid(wrong)


def _singles(
    request: web.Request, known: Collection[str], wrong: list[dict[str, Any]], may_be_empty: Collection[str] = ()
) -> dict[str, str]:
    """Return the parameters that have a value."""
    query = request.query
    if unknown := [cut(name) for name in dict.fromkeys(query) if name not in known][:MAX_NAMED]:
        names = ", ".join(f'"{name}"' for name in unknown)
        message = f"Unrecognized key{'s' if len(unknown) > 1 else ''}: {names}"
        wrong.append({"code": "unrecognized_keys", "keys": unknown, "path": [], "message": message})
    for name in known:
        if len(query.getall(name, ())) > 1:
            message = "Invalid input: expected string, received array"
            wrong.append({"expected": "string", "code": "invalid_type", "path": [name], "message": message})
        elif query.get(name) == "" and name not in may_be_empty:
            wrong.append(issue(name, f"Invalid input: {EMPTY}"))
    return {name: query[name] for name in known if query.get(name)}


def _selection(given: dict[str, str], wrong: list[dict[str, Any]]) -> Filter:
    conditions: list[Any] = []
    for name, field in _FIELDS.items():
        value = given.get(name)
        if value is None:
            continue
        if len(value) > MAX_VALUE_LENGTH or "\0" in value:
            wrong.append(
                issue(name, f"Invalid input: at most {MAX_VALUE_LENGTH} characters are expected, without U+0000")
            )
        conditions.append(Condition(field, frozenset({value})))
    if "action" in given:
        try:
            conditions += parse_filter({"action": [given["action"]]}).conditions
        except ValidationError as error:
            wrong += [issue("action", f"Invalid input: {text}") for text in error.fields.values()]
    return canonical(conditions)


def _behind(given: dict[str, str], wrong: list[dict[str, Any]]) -> Behind | None:
    found = [Behind(name, given[name]) for name in _BEHIND if name in given]
    if len(found) > 1:
        wrong.append(issue("since", "Invalid input: after is sent, too; both mean the same, send one of them"))
    return found[0] if found else None


def _moment(given: dict[str, str], name: str, of_unit: int, wrong: list[dict[str, Any]]) -> int | None:
    """Read a time into microseconds: what is no finer than a millisecond, or a date alone, is its first moment or its last."""
    text = given.get(name)
    if text is None:
        return None
    try:
        if _DATE.fullmatch(text):
            return timestamp_of(f"{text}T00:00:00Z") + (_DAY - 1 if of_unit else 0)
        return timestamp_of(text) + (0 if _FINE.search(text) else of_unit)
    except ValueError:
        wrong.append(issue(name, "Invalid ISO datetime: such as 2026-11-21T06:22:04Z or 2026-11-21 is expected"))
        return None


def _limit(text: str | None, default: int) -> int:
    """Read a limit as the released server does: JavaScript's numbers, within bounds; what is none is as if it was not there."""
    if text == "":
        return 1
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return default
    return math.floor(min(max(float(text), 1), MOST))
