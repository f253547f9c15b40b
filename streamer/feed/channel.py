"""A workspace's feed on this node: its recent frames, and the listeners that follow them. Pure.

Frames are delivered in passes. A pass begins with a flush: it sets `flushed` to the end of the ring and starts each listener, which then
does its work in bounded steps. Between two steps the event loop serves others.
"""

from collections.abc import Sequence
from typing import Protocol

from streamer.core.frame import LiveFrame
from streamer.core.position import LogHead
from streamer.feed.reasons import Reason
from streamer.feed.tail import Tail

EARLY_BYTES = 256 * 1024
"""Memory for frames of one channel that came before others that precede them."""


class Listener(Protocol):
    """Follows a channel: live readers as one, or any other consumer of frames."""

    @property
    def has_more(self) -> bool:
        """Whether the pass needs another step of this listener."""

    @property
    def late_until(self) -> float | None:
        """When a part that this pass left out can be served, on the event loop's clock; None if nothing was left out."""

    def start_pass(self) -> None:
        """Begin to take the channel's frames up to `flushed`; a pass that is under way aims further."""

    def step(self, now: float) -> None:
        """Do a bounded part of the pass. `now` is the time on the event loop's clock."""

    def close(self, reason: Reason) -> None:
        """End: the channel does not stand for the workspace any more."""


class Channel:
    """One workspace's feed on this node."""

    def __init__(self, workspace: str, log: LogHead, *, ring_bytes: int) -> None:
        self.workspace = workspace
        self.key = log.key
        self.epoch = log.epoch
        self.earliest = log.earliest
        self.previous = log.previous
        self.flushed = log.head
        """Where the pass under way, or the last one, brings every listener."""
        self.heard = log.head
        """The highest seq that was heard of; above `tail.last` there is a gap to fill."""
        self.tail = Tail(log.head, ring_bytes)
        self._early: dict[int, LiveFrame] = {}
        """By seq: frames after a gap, which news on its way may close."""
        self._early_bytes = 0
        self.listeners: list[Listener] = []
        self.followers = 0
        """How many subscriptions hold the channel open, including those that are about to begin."""
        self.is_open = True
        """Whether it stands for the workspace here. A closed channel gets nothing more."""

    @property
    def log(self) -> LogHead:
        """What this node's readers can be given."""
        return LogHead(self.epoch, self.flushed, self.earliest, self.key, self.previous)

    def offer(self, frames: Sequence[LiveFrame]) -> bool:
        """Take news of a commit. Returns False if there is a gap before it, to be filled from the log."""
        if frames:
            self.heard = max(self.heard, frames[-1].seq)
        if not self.tail.offer(frames):
            return False
        while frame := self._early.pop(self.tail.last + 1, None):
            self.tail.offer([frame])
        if self.heard == self.tail.last:
            self.forget_early()
        return True

    def keep_early(self, frames: Sequence[LiveFrame]) -> bool:
        """Keep frames that came before others that precede them. Returns False if that takes too much memory."""
        self._early |= {frame.seq: frame for frame in frames}
        self._early_bytes += sum(frame.size for frame in frames)
        if self._early_bytes > EARLY_BYTES:
            self.forget_early()
            return False
        return True

    def forget_early(self) -> None:
        """Drop early frames: the log is read instead, or none is missing."""
        if self._early_bytes:
            self._early, self._early_bytes = {}, 0

    def flush(self) -> None:
        """Begin a pass, or lead the one under way further: to the end of the ring."""
        self.flushed = self.tail.last
        for listener in self.listeners:
            listener.start_pass()

    def step(self, now: float) -> None:
        """Do a bounded part of the pass for each listener; `has_more` tells whether it goes on."""
        for listener in self.listeners:
            if listener.has_more:
                listener.step(now)
        if not self.has_more:
            self.tail.trim()

    @property
    def has_more(self) -> bool:
        """Whether the pass needs another step."""
        return any(listener.has_more for listener in self.listeners)

    @property
    def late_until(self) -> float | None:
        """When the first part that the pass left out can be served; None if nothing was left out."""
        return min([at for listener in self.listeners if (at := listener.late_until) is not None], default=None)
