"""Pages of a log: the range that a request asks for, and the cursor that leads from one page to the next."""

import contextlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from streamer.core.clock import parse_timestamp
from streamer.core.errors import InvalidCursor
from streamer.core.ports import Bound, Order, Page
from streamer.core.position import MAX_SEQ, Position

# The point at the end shows that nothing is cut off.
_CURSOR = re.compile(r"([ad])\.([a-z0-9]{1,32})\.(\d{1,19})\.(\d{1,19})?\.(\d{1,19})?\.(\d{1,19})\.", re.ASCII)


CursorT = TypeVar("CursorT")


def encode_cursor(plain: str) -> str:
    """Write a cursor as clients see it."""
    return urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode_cursor(text: str, read: Callable[[str], CursorT]) -> CursorT:
    """Read a cursor that `encode_cursor` wrote; `read` makes it of its plain text, or raises ValueError. Raises InvalidCursor."""
    with contextlib.suppress(ValueError):
        cursor = read(urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
        if str(cursor) == text:  # base64, and numbers, can be written in more than one way
            return cursor
    raise InvalidCursor("not a cursor that this server gave; start again without one")


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended, and what the next ones need: the range that the first page was asked for, and its head."""

    order: Order
    epoch: str
    seq: int
    """The seq of the last event that the page looked at."""
    floor: int | None
    ceiling: int | None
    head: int

    def __str__(self) -> str:
        numbers = (self.seq, self.floor, self.ceiling, self.head)
        return encode_cursor(".".join([self.order[0], self.epoch, *("" if n is None else str(n) for n in numbers), ""]))

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor. Raises InvalidCursor."""
        return decode_cursor(text, cls._read)

    @classmethod
    def _read(cls, plain: str) -> "Cursor":
        match = _CURSOR.fullmatch(plain)
        if match is None:
            raise ValueError("not of this form")
        seq, head = int(match[3]), int(match[6])
        floor, ceiling = (None if digits is None else int(digits) for digits in match.group(4, 5))
        if max(seq, floor or 0, ceiling or 0, head) > MAX_SEQ:
            raise ValueError("not a seq")
        return cls("asc" if match[1] == "a" else "desc", match[2], seq, floor, ceiling, head)


@dataclass(frozen=True, slots=True)
class PageRange:
    """The part of a log that is asked for, and its order. A cursor carries all of that."""

    order: Order
    after: Bound = None
    before: Bound = None
    cursor: Cursor | None = None
    skip: int = 0
    """Events to pass over at its beginning."""

    @classmethod
    def after_cursor(cls, cursor: Cursor) -> "PageRange":
        """Return the range after a cursor."""
        at = Position(cursor.epoch, cursor.seq)
        floor = None if cursor.floor is None else Position(cursor.epoch, cursor.floor)
        ceiling = None if cursor.ceiling is None else Position(cursor.epoch, cursor.ceiling + 1)
        after, before = (at, ceiling) if cursor.order == "asc" else (floor, at)
        return cls(cursor.order, after, before, cursor)

    def following(self, page: Page) -> str | None:
        """Return the cursor after a page of this range, if there may be more."""
        if not page.full and not page.is_cut:
            return None
        previous = self.cursor
        floor = previous.floor if previous else page.floor if self.after is not None else None
        ceiling = previous.ceiling if previous else page.ceiling if self.before is not None else None
        head = previous.head if previous else page.head.head
        return str(Cursor(self.order, page.head.epoch, page.examined, floor, ceiling, head))

    def position(self, page: Page) -> Position:
        """Return how far a reader has come by a page: ascending, all that was examined; descending, the head when it began."""
        if self.order == "asc":
            return Position(page.head.epoch, page.examined)
        return Position(page.head.epoch, self.cursor.head if self.cursor else page.head.head)


def link_to(request: web.Request, cursor: str, without: Collection[str], name: str = "cursor") -> str:
    """Return the header `Link` (RFC 8288) that leads to the next page: the request's own URL with a cursor, and without some parameters.

    `name` is the parameter that carries the cursor.
    """
    kept = [(name, value) for name, value in request.query.items() if name not in without]
    url = request.rel_url.with_query([*kept, (name, cursor)])
    return f'<{url.raw_path_qs}>; rel="next"'


def parse_bound(text: str) -> Position | int:
    """Read a position or a timestamp. Raises ValueError."""
    try:
        return Position.parse(text)
    except ValueError:
        pass
    try:
        return timestamp_of(text)
    except ValueError:
        raise ValueError(f"must be a position or {TIMESTAMP_FORM}") from None


TIMESTAMP_FORM = "an RFC 3339 timestamp with a zone, such as 2026-11-21T06:22:04Z"


def timestamp_of(text: str) -> int:
    """Read an RFC 3339 timestamp of a query into microseconds. Raises ValueError."""
    # An unescaped "+" of a zone comes as a space: what was meant is beyond doubt.
    return parse_timestamp(re.sub(r" (?=\d\d:\d\d$)", "+", text))
