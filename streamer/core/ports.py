"""What `ingest`, `feed` and the edges need of the store and the bus, and no more."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from streamer.core.event import Draft, Event
from streamer.core.filter import Filter
from streamer.core.frame import LiveFrame
from streamer.core.position import LogHead, Position

Order = Literal["asc", "desc"]
T = TypeVar("T")
Told = tuple[str, Draft]
"""An event, behind the workspace in whose log it goes."""
Bound = Position | int | None
"""One end of a range: a position, a timestamp in microseconds, or open."""


@dataclass(frozen=True, slots=True)
class Append:
    """What one request wants stored, all or nothing, in order."""

    workspace: str
    drafts: Sequence[Draft]
    creator: str | None
    """The principal in whose name the workspace may be made if it does not exist; None: it may not be made."""
    account: str
    """The account whose share of the queue it takes."""
    idempotency: tuple[str, str] | None = None
    """The caller's own key (already told apart by principal), and the fingerprint of what it stands for."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What was stored, in the order of the request."""

    events: Sequence[Event]
    created: bool
    """False when every event had been stored before."""


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """Something else than events that the store holds and that is to change, and the events that tell of it: all or nothing."""

    locks: tuple[str, ...]
    """The workspaces that nobody else may change meanwhile; events can be told only in their logs."""
    apply: Callable[[Any, Collection[str]], tuple[T, Sequence[Told]]]
    """Makes the change in the store's open transaction, its first argument; the second: which of the workspaces exist. Returns what
    `Writer.change` returns, and the events with the workspaces in whose logs they go. If it raises, nothing is stored. It may be called
    again, when nobody knows whether the change was stored."""
    account: str = ""
    """The account whose share of the queue it takes; empty: the server's own."""


@dataclass(frozen=True, slots=True)
class Committed:
    """News of a commit: frames of one workspace, contiguous in seq."""

    workspace: str
    epoch: str
    frames: Sequence[LiveFrame]


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of a log, and how far the reader has come by them."""

    head: LogHead
    events: Sequence[Event]
    examined: int
    """Ascending: the last seq looked at (the filter may have dropped it). Descending: the lowest."""
    full: bool
    """The page holds as many events, or bytes, as asked for: there may be more."""
    floor: int
    """The seq behind which the range begins, as `after` was understood."""
    ceiling: int
    """The last seq of the range, as `before` was understood."""
    is_cut: bool = False
    """The time was up before the range was: `examined` is how far the page looked, and there may be more behind it."""


class Log(Protocol):
    """The reading side of the store."""

    async def head(self, workspace: str) -> LogHead:
        """Return what the log holds. Raises WorkspaceNotFound, StoreUnavailable."""

    async def heads(self, workspaces: Sequence[str]) -> dict[str, LogHead]:
        """Return what these logs hold; those that do not exist are absent."""

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
        """Return the events strictly between two bounds, as many as stay within `limit` and `max_bytes`, but at least one.

        A page that takes too long ends early (`Page.is_cut`), with what it found so far.

        Args:
            workspace: whose log.
            selection: what to let through.
            order: oldest or newest first.
            limit: events in the page, at least 1.
            max_bytes: of the bodies together. Not more than that is read, but for one event that alone is longer.
            after: the end of the range towards the beginning of the log; open: its beginning.
            before: the end of the range towards the head; open: the head.
            skip: events that are passed over first. Where nothing is filtered but audit events, that costs the same for any number.
            seconds: how long it may look, about; None: the store's deadline for reads, 0: it looks for nothing but the bounds. A page that
                looks always gets past one event at least.

        Raises: PositionExpired, WorkspaceNotFound, ReadTimeout, StoreUnavailable.
        """

    async def frames(
        self, workspace: str, *, after: int, limit: int, max_bytes: int
    ) -> tuple[LogHead, list[LiveFrame]]:
        """Return the events behind seq `after`, oldest first and unfiltered, for the hub; bounded as a page is.

        Raises: WorkspaceNotFound, StoreUnavailable.
        """

    async def position_of(self, workspace: str, event_id: str, selection: Filter) -> Position:
        """Return where an event stands, if the filter lets it be seen. Raises EventNotFound, WorkspaceNotFound."""

    async def event(self, workspace: str, event_id: str, selection: Filter) -> Event:
        """Return one event, if the filter lets it be seen. Raises EventNotFound, WorkspaceNotFound."""


class Writer(Protocol):
    """The writing side of the store."""

    async def append(self, request: Append) -> Appended:
        """Store a request durably; returns after the commit.

        Raises: Overloaded, StoreUnavailable, IdConflict, IdempotencyConflict, WorkspaceNotFound.
        """

    async def change(self, change: Change[T]) -> T:
        """Store a change with its events durably; returns after the commit.

        Raises: Overloaded, StoreUnavailable, and what `change.apply` raises.
        """


class Bus(Protocol):
    """A hint to whoever follows a workspace, here and on other nodes. It may lose, delay and repeat."""

    def publish(self, news: Committed) -> None:
        """Tell of a commit. Never waits, never fails."""

    def subscribe(self, listener: Callable[[Committed], None]) -> None:
        """Have `listener` called with each commit that is heard of, in the event loop's thread."""
