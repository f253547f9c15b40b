"""The interfaces that `ingest`, `feed` and the HTTP layers need of the store and the bus."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from streamer.core.event import Draft, Event
from streamer.core.filter import Filter
from streamer.core.frame import LiveFrame
from streamer.core.position import LogHead, Position

Order = Literal["asc", "desc"]
T = TypeVar("T")
AuditDraft = tuple[str, Draft]
"""A draft with the workspace to whose log it belongs."""
Bound = Position | int | None
"""One end of a range: a position, a timestamp in microseconds, or open."""


@dataclass(frozen=True, slots=True)
class Append:
    """The events that one request stores, all or nothing, in order."""

    workspace: str
    drafts: Sequence[Draft]
    creator: str | None
    """The principal in whose name a missing workspace is created; None: it must exist."""
    account: str
    """The account whose share of the queue it uses."""
    idempotency: tuple[str, str] | None = None
    """The caller's own key (unique per principal), and the fingerprint of the request."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The stored events, in the order of the request."""

    events: Sequence[Event]
    created: bool
    """False if every event had been stored before."""


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """A change to other tables plus the audit events that record it, in one transaction."""

    locks: tuple[str, ...]
    """The workspaces to lock against other changes; the events must belong to their logs."""
    apply: Callable[[Any, Collection[str]], tuple[T, Sequence[AuditDraft]]]
    """Makes the change in the store's open transaction, its first argument; the second argument is the set of these workspaces that exist. Returns the result of `Writer.change`, and the events with their workspaces. If it raises, nothing is stored. It can be called again if the outcome of the first transaction is unknown."""
    account: str = ""
    """The account whose share of the queue it uses; empty: the server's own."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Announcement of a commit: frames of one log, contiguous in seq."""

    key: int
    """The log's (`LogHead.key`)."""
    epoch: str
    frames: Sequence[LiveFrame]


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of a log, and how far the reader advances with them."""

    head: LogHead
    events: Sequence[Event]
    examined: int
    """Ascending: the last seq examined (the filter may have dropped it). Descending: the lowest."""
    full: bool
    """The page reached its limit of events or bytes, so there may be more."""
    floor: int
    """The exclusive lower bound of the range, resolved from `after`."""
    ceiling: int
    """The last seq of the range, resolved from `before`."""
    is_cut: bool = False
    """Time ran out before the end of the range: `examined` is how far the page got, and there may be more after it."""


class Log(Protocol):
    """The read interface of the store."""

    async def head(self, workspace: str) -> LogHead:
        """Return the extent of the log. Raises WorkspaceNotFound, StoreUnavailable."""

    async def heads(self, workspaces: Sequence[str]) -> dict[str, LogHead]:
        """Return the extents of these logs; those that do not exist are absent. Raises StoreUnavailable."""

    async def changed(self, known: Sequence[LogHead]) -> dict[int, LogHead | None]:
        """Return, by key, the logs whose extent differs from what is known; None: the log was deleted. Raises StoreUnavailable."""

    async def resolve(self, workspace: str, bound: Bound) -> Position:
        """Return the position of a reader that has seen everything up to and including `bound`."""

    async def page(  # noqa: PLR0913 - one query, each part of it named
        self,
        workspace: str,
        *,
        selection: Filter,
        order: Order,
        limit: int,
        max_bytes: int,
        after: Bound = None,
        before: Bound = None,
        skip: int = 0,
        seconds: float | None = None,
    ) -> Page:
        """Return the events strictly between two bounds, as many as fit within `limit` and `max_bytes`, but at least one.

        A page that takes too long ends early (`Page.is_cut`), with the events found so far.

        Args:
            workspace: the workspace of the log.
            selection: the filter.
            order: oldest or newest first.
            limit: events in the page, at least 1.
            max_bytes: limit for the bodies together. No more than that is read, except for a single event that is longer.
            after: exclusive lower bound; None means the start of the log.
            before: exclusive upper bound; None means the head.
            skip: events to skip first. If the filter only excludes audit events, any number costs the same.
            seconds: approximate time limit; None: the store's deadline for reads; 0: only resolve the bounds. A page that
                examines events always gets past at least one.

        Raises: PositionExpired, WorkspaceNotFound, ReadTimeout, StoreUnavailable.
        """

    async def frames(
        self, workspace: str, *, after: int, limit: int, max_bytes: int
    ) -> tuple[LogHead, list[LiveFrame]]:
        """Return the events after seq `after`, oldest first and unfiltered, for a channel; bounded like a page.

        Raises: WorkspaceNotFound, StoreUnavailable.
        """

    async def position_of(self, workspace: str, event_id: str, selection: Filter) -> Position:
        """Return an event's position, if it passes the filter. Raises EventNotFound, WorkspaceNotFound."""

    async def event(self, workspace: str, event_id: str, selection: Filter) -> Event:
        """Return one event, if it passes the filter. Raises EventNotFound, WorkspaceNotFound."""


class Writer(Protocol):
    """The write interface of the store."""

    async def append(self, request: Append) -> Appended:
        """Store a request durably; returns after the commit.

        Raises: Overloaded, StoreUnavailable, IdConflict, IdempotencyConflict, WorkspaceNotFound.
        """

    async def change(self, change: Change[T]) -> T:
        """Store a change with its events durably; returns after the commit.

        Raises: Overloaded, StoreUnavailable, and what `change.apply` raises.
        """


class Bus(Protocol):
    """Announces commits to the channels of this node and of others.

    It is a hint: it may lose, delay, reorder and repeat. Whatever it does, the feed compares its channels with the log once a second.
    """

    def publish(self, news: Committed) -> None:
        """Announce a commit of this node. Never waits, never fails."""

    def follow(self, key: int) -> None:
        """Receive what other nodes announce of a log from now on. Never waits."""

    def leave(self, key: int) -> None:
        """End `follow`."""

    def listen(self, listener: "BusListener") -> None:
        """Call `listener` with all news, in the event loop's thread."""


class BusListener(Protocol):
    """Takes what the bus brings."""

    def hear(self, news: Committed) -> None:
        """Take the news of a commit, on this node or another one."""

    def hint(self, key: int, epoch: str, head: int) -> None:
        """Take the news that a log has come to `head`, without the events."""

    def doubt_all(self, keys: Iterable[int]) -> None:
        """Compare these logs with what was heard, because news may have been lost."""
