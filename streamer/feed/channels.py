"""All channels of a node: one for each workspace that somebody follows here. They hear of commits and are flushed in windows."""

import asyncio
import time
from collections.abc import Sequence

from streamer.core.ports import Committed, Log
from streamer.feed.channel import Channel
from streamer.feed.gaps import Gaps
from streamer.feed.reasons import Reason
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.observe.tasks import detached
from streamer.observe.watchdog import Watchdog

HEADS = 200
"""Workspaces whose heads one query returns."""
FLUSH_PAUSE = 1
"""A window is at least that many times as long as its flush: the readers of one workspace take at most half of the time."""


class Channels:
    """Opens, flushes and closes channels."""

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        log: Log,
        metrics: Metrics,
        watchdog: Watchdog,
        *,
        ring_bytes: int,
        flush_seconds: float,
        poll_seconds: float,
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._watchdog = watchdog
        self._ring_bytes = ring_bytes
        self._flush_seconds = flush_seconds
        self._poll_seconds = poll_seconds
        self._gaps = Gaps(log, metrics, fill_bytes=ring_bytes, filled=self._flush_soon, lost=self._lose)
        self._channels: dict[str, Channel] = {}
        self._opening: dict[str, asyncio.Task[Channel]] = {}
        self._heard: dict[str, int] = {}
        """For workspaces whose head is being read: the highest seq that was heard of meanwhile."""
        self._in_window: set[Channel] = set()
        """Channels that were flushed less than a window ago."""

    def start(self, loops: Loops) -> None:
        """Start the loop that compares the channels with the log."""
        loops.start("poll", self.poll)

    async def stop(self) -> None:
        """Stop filling gaps."""
        await self._gaps.stop()

    # ---- news

    def hear(self, news: Committed) -> None:
        """Take news of a commit, here or elsewhere. Never waits."""
        if news.workspace in self._heard:
            self._heard[news.workspace] = max(self._heard[news.workspace], news.frames[-1].seq)
        channel = self._channels.get(news.workspace)
        if channel is None:
            return
        if channel.epoch != news.epoch:
            self._lose(channel, Reason.RESET)
        elif channel.offer(news.frames):
            self._flush_soon(channel)
        else:
            self._gaps.fill(channel)

    async def poll(self) -> None:
        """Compare all channels with their logs, over one poll's time. Raises StoreUnavailable."""
        # Some at a time: an answer for thousands of workspaces at once would keep their readers waiting.
        channels = list(self._channels.values())
        parts = [channels[start : start + HEADS] for start in range(0, len(channels), HEADS)] or [[]]
        for part in parts:
            await asyncio.sleep(self._poll_seconds / len(parts))
            await self._check(part)

    async def check(self) -> None:
        """Compare all channels with their logs, at once. Raises StoreUnavailable."""
        await self._check(list(self._channels.values()))

    async def _check(self, channels: Sequence[Channel]) -> None:
        for channel in channels:
            if not channel.followers:
                self._remove(channel)  # the caller that had it opened was cancelled before that
        await self._gaps.check([channel for channel in channels if channel.is_open])

    async def reach(self, channel: Channel, seq: int) -> None:
        """Bring a channel and its listeners up to `seq`, which the log holds but the bus has not announced. Raises StoreUnavailable."""
        await self._gaps.reach(channel, seq)
        channel.flush()
        if channel not in self._in_window:  # else the pass under way goes on, or the window's end begins one
            self._in_window.add(channel)
            self._go_on(channel)

    # ---- passes

    def _flush_soon(self, channel: Channel) -> None:
        """Begin a pass now if the last one began a window ago, else when the window ends: coalesce under load, never when idle.

        The more readers there are, the longer the window (`FLUSH_PAUSE`), and the more events go with each write.
        """
        if channel not in self._in_window:
            self._in_window.add(channel)
            channel.flush()
            self._go_on(channel)

    def _go_on(self, channel: Channel, spent: float = 0) -> None:
        """Go on with a pass, with room for others between its steps; `spent` is what the steps before took."""
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        self._watchdog.call("fan_out", channel.step, loop.time())
        spent += time.perf_counter() - started
        if channel.has_more:
            loop.call_soon(self._go_on, channel, spent)
            return
        window = max(self._flush_seconds, FLUSH_PAUSE * spent)
        loop.call_later(window, self._watchdog.call, "end_window", self._end_window, channel)
        if channel.late_until is not None:
            loop.call_at(channel.late_until, self._watchdog.call, "flush", self._flush_soon, channel)

    def _end_window(self, channel: Channel) -> None:
        self._in_window.discard(channel)
        late = channel.late_until
        is_due = late is not None and late <= asyncio.get_running_loop().time()
        if channel.tail.last > channel.flushed or channel.has_more or is_due:
            self._flush_soon(channel)

    # ---- followers

    async def follow(self, workspace: str) -> Channel:
        """Return the workspace's channel, and hold it open until `leave`. Raises WorkspaceNotFound, StoreUnavailable."""
        channel = None
        while channel is None or not channel.is_open:  # it may be closed between its opening and our turn
            channel = self._channels.get(workspace) or await self._open(workspace)
        channel.followers += 1
        return channel

    def leave(self, channel: Channel) -> None:
        """Hold a channel open no longer. A channel without followers is closed."""
        channel.followers -= 1
        if not channel.followers:
            self._remove(channel)

    def close_workspace(self, workspace: str, reason: Reason) -> None:
        """Close a workspace's channel; a reader that reconnects gets a new one."""
        channel = self._channels.get(workspace)
        if channel is not None:
            self._lose(channel, reason)

    def _lose(self, channel: Channel, reason: Reason) -> None:
        if channel.is_open:
            self._remove(channel)
            for listener in list(channel.listeners):
                listener.close(reason)

    def _remove(self, channel: Channel) -> None:
        channel.is_open = False
        if self._channels.get(channel.workspace) is channel:
            del self._channels[channel.workspace]
            self._metrics.feeds.set(len(self._channels))

    async def _open(self, workspace: str) -> Channel:
        """Open a channel: with one query, however many callers wait for it."""
        opening = self._opening.get(workspace)
        if opening is None:
            self._heard[workspace] = 0
            opening = self._opening[workspace] = detached(self._read_head(workspace))
        return await asyncio.shield(opening)  # a caller that is cancelled does not take it from the others

    async def _read_head(self, workspace: str) -> Channel:
        try:
            log = await self._log.head(workspace)
        finally:
            del self._opening[workspace]
            heard = self._heard.pop(workspace)
        channel = self._channels[workspace] = Channel(workspace, log, ring_bytes=self._ring_bytes)
        self._metrics.feeds.set(len(self._channels))
        if heard > channel.tail.last:
            channel.heard = heard
            self._gaps.fill(channel)
        return channel
