"""A client's connection as the feed sees it: what lives and dies as one, with one subscription (SSE, long poll) or many (WebSocket)."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from streamer.core.filter import EVERYTHING, Filter
from streamer.core.frame import Frame
from streamer.core.ports import Bound
from streamer.core.position import Position
from streamer.feed.channel import Channel
from streamer.feed.reasons import Reason
from streamer.feed.session import Gap, Session


class Encoder(Protocol):
    """Encodes a wire format: how the feed's messages become bytes. Equal encoders share their bytes."""

    def frames(self, frames: Sequence[Frame]) -> bytes:
        """Encode events."""

    def synced(self, position: Position) -> bytes:
        """Encode: the reader has all there is."""

    def gap(self, gap: Gap) -> bytes:
        """Encode: these events are gone."""

    def checkpoint(self, position: Position) -> bytes:
        """Encode: nothing for this reader up to here; resume from here."""


class Sink(Protocol):
    """The transport's side of a connection."""

    @property
    def transport(self) -> str:
        """The transport's name in the metrics."""

    @property
    def heartbeat(self) -> bytes:
        """A sign of life."""

    def is_ready(self) -> bool:
        """Tell whether the connection's buffer is below its mark, so that a write is taken at once."""

    def offer(self, data: bytes, share: int) -> bool:
        """Write if `is_ready` and if the node has memory for it, and return whether it did.

        One call for the one loop that runs for each event and each reader. `share` is the part of the bytes that counts for this reader:
        all readers of a cohort share them.
        """

    def write(self, data: bytes) -> None:
        """Hand bytes to the connection's buffer. Never waits; a connection that is gone ignores them."""

    async def drain(self) -> None:
        """Wait until the buffer is below its mark again. Raises ConnectionError: it is gone."""

    def room(self, size: int) -> AbstractAsyncContextManager[None]:
        """Wait until the node has memory for that many unread bytes, which the block writes."""

    def progress(self) -> int | None:
        """Return a number that changes whenever the peer takes something; None if nothing waits for it."""

    def close(self, reason: Reason) -> None:
        """Say why the connection ends, behind all that was written, and end it."""

    def abort(self) -> None:
        """Cut the connection."""


class Connection:
    """One connection with its readers."""

    __slots__ = ("chain", "closed", "mark", "marked_at", "readers", "rotates_at", "sink", "slot", "turn")

    def __init__(self, sink: Sink, chain: Sequence[str]) -> None:
        self.sink = sink
        self.chain = tuple(chain)
        """The ids of the credentials that all have to be valid, the connection's own first."""
        self.readers: set[Reader] = set()
        self.closed: Reason | None = None
        """Why the server ended it."""
        self.turn = asyncio.Lock()
        """Its holder can write what a reader missed."""
        self.slot = 0
        """Its slot in the wheel of heartbeats."""
        self.rotates_at = float("inf")
        """When it is old, on the event loop's clock."""
        self.mark: int | None = None
        """What the sink's progress was when it last changed, and (`marked_at`) when that was."""
        self.marked_at = 0.0

    def close(self, reason: Reason) -> None:
        """End the connection with all its readers. The first reason counts."""
        if self.closed is None:
            self.closed = reason
            for reader in list(self.readers):
                reader.driver.leave(reader)
            self.sink.close(reason)

    def beat(self) -> None:
        """Give a sign of life: where to resume, for each reader whose filter has let nothing through, else a heartbeat."""
        points = [point for reader in self.readers if (point := reader.checkpoint())]
        self.sink.write(b"".join(points) or self.sink.heartbeat)

    def stalls(self, now: float, seconds: float) -> bool:
        """Return whether the peer has taken none of its pending bytes for that many seconds."""
        mark = self.sink.progress()
        if mark is None or mark != self.mark:
            self.mark, self.marked_at = mark, now
            return False
        return now - self.marked_at >= seconds


class Cancellable(Protocol):
    """A running task, as far as a reader knows it."""

    def cancel(self) -> object:
        """End it."""


class CohortState(Protocol):
    """Where readers that are live together stand (`cohort.Cohort`)."""

    at: int
    """The seq up to which they were given everything."""
    sent: int
    """The seq of the last event that was written to them."""


class ReplayDriver(Protocol):
    """Moves readers on (`subscribers.Subscribers`)."""

    def wake(self, reader: "Reader") -> None:
        """Take over a reader that has fallen out of LIVE."""

    def leave(self, reader: "Reader") -> None:
        """Forget a reader everywhere, at once: nothing is written for it any more. Once is enough."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a reader asked for: a workspace's events that pass the filter, from behind `start` (None: from now on)."""

    workspace: str
    account: str
    """Whose limit of subscriptions this one counts for: a credential's id."""
    selection: Filter = EVERYTHING
    start: Bound = None
    links: tuple[str, ...] = ()
    """What has to stay as it is for the subscription, beside the connection's chain."""


class Reader:
    """A subscription and its progress. Made by `Feed.follow`; it has no connection before `Feed.start`."""

    __slots__ = (
        "channel",
        "cohort",
        "connection",
        "driver",
        "encoder",
        "has_left",
        "is_synced",
        "noted",
        "on_end",
        "selection",
        "session",
        "sink",
        "subscription",
        "task",
    )

    connection: Connection
    sink: Sink
    """The connection's, at hand for the one loop that runs for each event and each reader."""
    encoder: Encoder
    on_end: Callable[[Reason], None]
    """Called when the server ended the subscription: the transport says so to the peer."""

    def __init__(self, driver: ReplayDriver, subscription: Subscription, channel: Channel) -> None:
        self.driver = driver
        self.subscription = subscription
        self.selection = subscription.selection
        self.channel = channel
        self.cohort: CohortState | None = None
        """Those it is live with; None while it is not."""
        self.session = Session(channel.log)
        self.task: Cancellable | None = None
        """What drives the reader; none while it is LIVE."""
        self.is_synced = False
        """The reader was told that it has all there is."""
        self.noted = 0
        """The last seq that the reader was told to resume from, other than by its cohort's frames."""
        self.has_left = False

    def close(self, reason: Reason) -> None:
        """End the subscription from the server's side."""
        if not self.has_left:
            on_end = self.on_end
            self.driver.leave(self)
            on_end(reason)

    def checkpoint(self) -> bytes | None:
        """Return what moves a live reader's resume point past events that its filter stopped; None if there are none."""
        cohort = self.cohort
        if cohort is None or max(self.noted, cohort.sent) >= cohort.at:
            return None
        self.noted = cohort.at
        return self.encoder.checkpoint(self.position)

    @property
    def position(self) -> Position:
        """Everything up to here was handed out, or stopped by the filter."""
        return Position(self.session.epoch, self.seq)

    @property
    def seq(self) -> int:
        """The position's."""
        cohort = self.cohort
        return self.session.position if cohort is None else cohort.at
