"""The messages of a stream and the state of its reader: pure, across all connections of the stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from streamer.client.errors import ClientError, UnexpectedAnswer
from streamer.eventsource import Item, ResumePoint, Retry

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Activity:
    """An event of the log, and the position of a reader that has seen it."""

    position: str
    body: bytes
    """The event's JSON as the server sent it."""

    @property
    def seq(self) -> int:
        """The event's number in its workspace."""
        return seq_of(self.position)

    @property
    def event(self) -> Event:
        """The event, parsed again on each call."""
        event: Event = orjson.loads(self.body)
        return event


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """No event for this reader up to `position`: none passes its filter."""

    position: str


@dataclass(frozen=True, slots=True)
class Synced:
    """The reader has received everything up to now; live events follow. Sent once per connection."""

    position: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Events `first` … `last` (None: unknown) are lost, by `retention` or `reset`; the stream continues at `position`."""

    first: int | None
    last: int | None
    reason: str
    position: str

    @property
    def count(self) -> int | None:
        """The number of missing events, if it is known."""
        return None if self.first is None or self.last is None else self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Closed:
    """The server ended the stream; nothing follows unless `reconnect` is true."""

    reason: str
    reconnect: bool


StreamMessage = Activity | Checkpoint | Synced | Gap | Closed


@dataclass(frozen=True, slots=True)
class Connected:
    """The stream is open; `again` is true after it was lost."""

    again: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream's connection is lost, by an error or because the server closed it; the next attempt is in `delay` seconds."""

    cause: ClientError | Closed
    delay: float


_KINDS: Mapping[str, Callable[[Any], Synced | Gap | Closed]] = {
    "synced": lambda data: Synced(str(data["position"])),
    "gap": lambda data: Gap(data["from"], data["to"], str(data["reason"]), str(data["position"])),
    "closed": lambda data: Closed(str(data["reason"]), bool(data["reconnect"])),
}


class Reader:
    """The position of a stream's reader, across all its connections."""

    def __init__(self, after: str | None) -> None:
        self.after = after
        self.position: str | None = None
        self.retry = 0.0
        """Seconds that the server asks readers to wait between connections."""
        self._connections = 0

    def connect(self) -> Connected:
        """Note that a connection is open."""
        self._connections += 1
        return Connected(again=self._connections > 1)

    def take(self, item: Item) -> StreamMessage | None:
        """Return the message for a block of the stream, None if the reader already has it or does not know its type."""
        if isinstance(item, Retry):
            self.retry = item.milliseconds / 1000
            return None
        position = item.last_event_id
        if isinstance(item, ResumePoint):
            return Checkpoint(position) if self._advance(position) else None
        if item.event == "activity":
            return Activity(position, item.data.encode()) if self._advance(position) else None
        try:
            message = _KINDS[item.event](orjson.loads(item.data)) if item.event in _KINDS else None
        except (ValueError, KeyError, TypeError):
            raise UnexpectedAnswer(f"cannot read the stream's {item.event}: {item.data[:200]}") from None
        if isinstance(message, Gap):
            self.position = message.position  # not `_advance`: after a reset it can be lower
        elif isinstance(message, Synced):
            self._advance(message.position)
        elif position:
            self._advance(position)
        return message

    def _advance(self, position: str) -> bool:
        """Advance to `position`; return False if the reader is there or beyond it."""
        seq = seq_of(position)
        if self.position is not None and epoch_of(position) == epoch_of(self.position) and seq <= seq_of(self.position):
            return False
        self.position = position
        return True


def seq_of(position: str) -> int:
    """Return the number after a position's last dot.

    Raises:
        UnexpectedAnswer: this is not a position.
    """
    digits = position.rpartition(".")[2]
    if not (digits.isascii() and digits.isdigit()):
        raise UnexpectedAnswer(f"the stream's id is not a position: {position[:100]!r}")
    return int(digits)


def epoch_of(position: str) -> str:
    """Return the text before a position's last dot."""
    return position.rpartition(".")[0]
