"""The parameters of Evershell's lists and streams."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from aiohttp import web

from streamer.core.errors import ValidationError
from streamer.core.filter import (
    AUDIT_ONLY,
    MAX_VALUE_LENGTH,
    MAX_VALUES,
    Condition,
    Either,
    Filter,
    canonical,
)
from streamer.core.ports import Bound, Order
from streamer.dialects.evershell.shape import ACTORS, CONTROL_PLANE, of_actors, of_users
from streamer.edge.base import LAST_EVENT_ID
from streamer.edge.paging import Stretch, parse_bound, timestamp_of

ACTIVITY_PARAMETERS = ("task_id", "event_type", "after", "order", "limit", "cursor")
AUDIT_PARAMETERS = ("filter", "from", "to", "order", "limit", "cursor")
STREAM_PARAMETERS = ("task_id", "event_type", "after", "api_key", *LAST_EVENT_ID)

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


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What of a list is asked for."""

    selection: Filter
    order: Order
    after: Bound
    before: Bound
    limit: int
    cursor: str | None

    @property
    def stretch(self) -> Stretch:
        """The part of a log."""
        return Stretch(self.order, self.after, self.before)


def parse_activity(request: web.Request) -> ListQuery:
    """Read the parameters of a list of activity. Raises ValidationError."""
    single, wrong = _singles(request, ACTIVITY_PARAMETERS)
    after = parse_bound(single["after"], "after", wrong) if "after" in single else None
    if after is not None and "cursor" in single:
        wrong["after"] = "cannot be sent with cursor"
    order = _order(single, wrong, "desc" if after is None else "asc")
    limit = _limit(single, wrong)
    conditions = _simple(single, wrong)
    if wrong:
        raise ValidationError(wrong)
    return ListQuery(canonical([ACTIVITY_ONLY, *conditions]), order, after, None, limit, single.get("cursor"))


def parse_audit(request: web.Request) -> ListQuery:
    """Read the parameters of a list of audit events. Raises ValidationError."""
    single, wrong = _singles(request, AUDIT_PARAMETERS, repeated="filter")
    moments: dict[str, int] = {}
    for name in ("from", "to"):
        if name in single:
            try:
                moments[name] = timestamp_of(single[name])
            except ValueError:
                wrong[name] = "must be an RFC 3339 timestamp with a zone, such as 2026-11-21T06:22:04Z"
    order = _order(single, wrong, "desc")
    limit = _limit(single, wrong)
    conditions = _filters(request.query.getall("filter", []), wrong)
    if wrong:
        raise ValidationError(wrong)
    return ListQuery(
        canonical([AUDIT_ONLY, *conditions]),
        order,
        moments["from"] - 1 if "from" in moments else None,  # both ends are within
        moments["to"] + 1 if "to" in moments else None,
        limit,
        single.get("cursor"),
    )


def parse_stream(request: web.Request) -> tuple[Filter, str | None]:
    """Read the parameters of a stream: its filter, and `after` as it is. Raises ValidationError."""
    single, wrong = _singles(request, STREAM_PARAMETERS)
    conditions = _simple(single, wrong)
    if wrong:
        raise ValidationError(wrong)
    return canonical([ACTIVITY_ONLY, *conditions]), single.get("after") or None


def _singles(request: web.Request, known: Sequence[str], repeated: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """Return the parameters that may stand only once, and what is wrong with them."""
    wrong = {name: "unknown parameter" for name in request.query if name not in known}
    single: dict[str, str] = {}
    for name in known:
        values = request.query.getall(name, [])
        if len(values) > 1 and name != repeated:
            wrong[name] = "given more than once"
        elif values:
            single[name] = values[0]
    return single, wrong


def _order(single: Mapping[str, str], wrong: dict[str, str], default: Order) -> Order:
    order = single.get("order", default)
    if order not in {"asc", "desc"}:
        wrong["order"] = "must be asc or desc"
    return cast("Order", order)


def _limit(single: Mapping[str, str], wrong: dict[str, str]) -> int:
    text = single.get("limit", "100")
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= 1):  # noqa: PLR2004
        wrong["limit"] = f"must be a whole number from 1 on; more than {MAX_LIMIT} are not given at once"
        return 1
    return min(int(text), MAX_LIMIT)


def _simple(single: Mapping[str, str], wrong: dict[str, str]) -> list[Condition]:
    found = []
    for parameter, name in (("task_id", "task_id"), ("event_type", "action")):
        if parameter in single:
            fault = _fault(single[parameter])
            if fault:
                wrong[parameter] = fault
            found.append(Condition(name, frozenset({single[parameter]})))
    return found


def _filters(texts: Sequence[str], wrong: dict[str, str]) -> list[Condition | Either]:
    """Read filters: `column=value,value`, `column!=value,value`, and `column!=`, which asks that there is a value."""
    found: list[Condition | Either] = []
    # Before any of them is read; a filter has one value more than commas.
    if len(texts) + sum(text.count(",") for text in texts) > MAX_VALUES:
        wrong["filter"] = f"at most {MAX_VALUES} values in all filters"
        return found
    for index, text in enumerate(texts):
        try:
            found += _filter(text)
        except ValueError as error:
            wrong[f"filter[{index}]"] = str(error)
    return found


def _filter(text: str) -> _Conditions:
    column, equals, rest = text.partition("=")
    exclude = column.endswith("!")
    column = column.removesuffix("!")
    if not equals:
        raise ValueError("must be column=value, column!=value or column!=")
    if column not in COLUMNS:
        raise ValueError(f"must be about one of {', '.join(COLUMNS)}")
    if exclude and not rest:
        return () if column in ALWAYS_THERE else (Condition(column, frozenset(), ("",)),)
    values = rest.split(",")
    faults = [fault for value in values if (fault := _fault(value))]
    if faults:
        raise ValueError(faults[0])
    if column == "actor" and not set(values) <= {*ACTORS, CONTROL_PLANE}:
        raise ValueError(f"actor is one of {', '.join((*ACTORS, CONTROL_PLANE))}")
    return COLUMNS[column](frozenset(values), exclude=exclude)


def _fault(value: str) -> str | None:
    if not 0 < len(value) <= MAX_VALUE_LENGTH or "\0" in value:
        return f"a value has 1 to {MAX_VALUE_LENGTH} characters, without U+0000"
    return None
