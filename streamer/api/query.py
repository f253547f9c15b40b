"""Query parameters: what a route does not know is an error, never ignored."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

from streamer.core.errors import ValidationError
from streamer.core.filter import FILTER_FIELDS, MAX_VALUE_LENGTH, Filter, parse_filter
from streamer.core.ports import Bound, Order
from streamer.core.position import Position
from streamer.edge.base import EMPTY, LAST_EVENT_ID, Query
from streamer.edge.paging import Cursor, Stretch, parse_bound

HISTORY_PARAMETERS = frozenset({"order", "limit", "cursor", "after", "before", "wait", *FILTER_FIELDS})
STREAM_PARAMETERS = frozenset({"after", "ticket", *FILTER_FIELDS})
SSE_PARAMETERS = STREAM_PARAMETERS.union(LAST_EVENT_ID)


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """A parsed request for a page of history."""

    selection: Filter
    stretch: Stretch
    limit: int
    wait: float
    """Seconds to wait for the first event."""


def parse_history(query: Query, *, max_limit: int, max_wait: int) -> HistoryQuery:
    """Read the parameters of a page. Raises ValidationError, InvalidCursor."""
    wrong = _unknown(query, HISTORY_PARAMETERS)
    single = _singles(query, ("order", "limit", "cursor", "after", "before", "wait"), wrong)
    limit = _limit(single.get("limit"), max_limit, wrong)
    order = single.get("order")
    if order not in {None, "asc", "desc"}:
        wrong["order"] = "must be asc or desc"
    bounds: dict[str, Bound] = {
        name: parse_bound(single[name], name, wrong) for name in ("after", "before") if name in single
    }
    selection = _filter(query, wrong)
    cursor = None
    if "cursor" in single:
        for name in bounds:
            wrong[name] = "cannot be sent with cursor, which carries it from the first page"
        if not wrong:
            cursor = Cursor.parse(single["cursor"])
            if order not in {None, cursor.order}:
                wrong["order"] = f"the cursor's order is {cursor.order}"
    wait = _wait(single, bounds, max_wait, wrong)
    if wrong:
        raise ValidationError(wrong)
    if cursor is not None:
        return HistoryQuery(selection, Stretch.behind(cursor), limit, wait)
    default: Order = "asc" if bounds.get("after") is not None else "desc"
    stretch = Stretch(cast("Order", order or default), bounds.get("after"), bounds.get("before"))
    return HistoryQuery(selection, stretch, limit, wait)


def parse_stream(
    query: Query, last_event_id: str | None, *, by_ticket: bool, known: Collection[str] = STREAM_PARAMETERS
) -> tuple[Filter, Bound]:
    """Read the parameters of a stream: `Last-Event-ID`, else `after`; empty is absent.

    Args:
        query: the request's parameters.
        last_event_id: the header, or what stands for it.
        by_ticket: the stream is opened by a ticket, which carries its filter.
        known: the names of the parameters that the stream has.

    Raises: ValidationError.
    """
    wrong = _unknown(query, known)
    single = _singles(query, ("after",), wrong)
    if by_ticket:
        wrong |= dict.fromkeys(query.keys() & set(FILTER_FIELDS), "the ticket carries the filter")
    start: Bound = None
    if single.get("after"):
        start = parse_bound(single["after"], "after", wrong)
    if last_event_id:
        try:
            start = Position.parse(last_event_id)
        except ValueError as error:
            wrong["Last-Event-ID"] = str(error)
    selection = _filter(query, wrong)
    if wrong:
        raise ValidationError(wrong)
    return selection, start


@dataclass(frozen=True)
class Listing:
    """Part of a list of what has ids: behind which one, how many, and of which organisation."""

    after: str
    limit: int
    org_id: str | None


def parse_listing(query: Query, *, max_limit: int, by_org: bool = False) -> Listing:
    """Read the parameters of a list. Raises ValidationError."""
    names = ("after", "limit", "org_id") if by_org else ("after", "limit")
    wrong = _unknown(query, names)
    single = _singles(query, names, wrong)
    limit = _limit(single.get("limit"), max_limit, wrong)
    wrong |= {name: "must not hold the character U+0000" for name, value in single.items() if "\0" in value}
    if single.get("after") == "":
        wrong["after"] = EMPTY
    if not 0 < len(single.get("org_id", "default")) <= MAX_VALUE_LENGTH:
        wrong["org_id"] = f"must have 1-{MAX_VALUE_LENGTH} characters"
    if wrong:
        raise ValidationError(wrong)
    return Listing(single.get("after", ""), limit, single.get("org_id"))


def expect_none(query: Query) -> None:
    """Check that a request has no parameters at all. Raises ValidationError."""
    wrong = _unknown(query, ())
    if wrong:
        raise ValidationError(wrong)


def _unknown(query: Query, known: Collection[str]) -> dict[str, str]:
    return {name: "unknown parameter" for name in query if name not in known}


def _singles(query: Query, names: Collection[str], wrong: dict[str, str]) -> dict[str, str]:
    """Return the parameters that may stand only once."""
    found = {name: query[name] for name in names if name in query}
    wrong |= {name: "given more than once" for name, values in found.items() if len(values) > 1}
    return {name: values[0] for name, values in found.items()}


def _limit(text: str | None, highest: int, wrong: dict[str, str]) -> int:
    if text is None:
        return min(100, highest)
    if re.fullmatch(r"[0-9]{1,6}", text) and 1 <= int(text) <= highest:
        return int(text)
    wrong["limit"] = f"must be a whole number from 1 to {highest}"
    return highest


def _wait(single: Mapping[str, str], bounds: Mapping[str, Bound], longest: int, wrong: dict[str, str]) -> float:
    text = single.get("wait")
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or float(text) > longest:
        wrong["wait"] = f"must be a number of seconds from 0 to {longest}"
    elif "after" not in bounds:
        wrong["wait"] = "needs after: the position from which on to wait"
    elif "before" in bounds or single.get("order") == "desc":
        wrong["wait"] = "waits for what comes: neither before nor order=desc goes with it"
    return 0 if "wait" in wrong else float(text)


def _filter(query: Query, wrong: dict[str, str]) -> Filter:
    try:
        return parse_filter(query)
    except ValidationError as error:
        wrong |= error.fields
        return Filter()
