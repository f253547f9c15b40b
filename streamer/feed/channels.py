"""All channels of a node: one for each workspace that somebody follows here. They hear of commits and are flushed in windows."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence

from streamer.core.errors import StoreUnavailable
from streamer.core.ports import Bus, Committed, Log
from streamer.feed.channel import Channel
from streamer.feed.gaps import Gaps
from streamer.feed.reasons import Reason
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.observe.tasks import detached
from streamer.observe.watchdog import Watchdog

HEADS = 500
"""Logs that one query compares with their channels."""
EARLY_SECONDS = 0.02
"""How long a gap waits for news that closes it, before it is filled from the log."""
KEPT_NEWS = 10_000
"""Logs of which news is remembered while heads are being read."""
FLUSH_PAUSE = 1
"""A window is at least that many times as long as its flush: the readers of one workspace take at most half of the time."""


class Channels:
    """Opens, flushes and closes channels."""

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        log: Log,
        bus: Bus,
        metrics: Metrics,
        watchdog: Watchdog,
        *,
        ring_bytes: int,
        flush_seconds: float,
        poll_seconds: float,
    ) -> None:
        self._log = log
        self._bus = bus
        self._metrics = metrics
        self._watchdog = watchdog
        self._ring_bytes = ring_bytes
        self._flush_seconds = flush_seconds
        self._poll_seconds = poll_seconds
        self._gaps = Gaps(log, metrics, fill_bytes=ring_bytes, filled=self._flush_soon, lost=self._lose)
        self._channels: dict[str, Channel] = {}
        self._by_key: dict[int, Channel] = {}
        self._doubtful: set[Channel] = set()
        """Channels that are compared with their logs soon."""
        self._comparing: asyncio.Task[None] | None = None
        self._opening: dict[str, asyncio.Task[Channel]] = {}
        self._news: dict[int, int] = {}
        """The highest seqs that were heard of while heads are being read, by key."""
        self._news_lost = False
        """There was more news than is remembered."""
        self._in_window: set[Channel] = set()
        """Channels that were flushed less than a window ago."""

    def __len__(self) -> int:
        return len(self._channels)

    def start(self, loops: Loops) -> None:
        """Start the loop that compares the channels with the log."""
        loops.start("poll", self.poll)

    async def stop(self) -> None:
        """Stop filling gaps."""
        await self._gaps.stop()

    # ---- news

    def hear(self, news: Committed) -> None:
        """Take news of a commit, here or elsewhere. Never waits."""
        last = news.frames[-1].seq
        if self._opening:
            self._news[news.key] = max(self._news.get(news.key, 0), last)
            if len(self._news) > KEPT_NEWS:
                self._news, self._news_lost = {}, True
        channel = self._by_key.get(news.key)
        if channel is None:
            return
        if channel.epoch != news.epoch:
            self.doubt([channel])  # late news of an earlier log, or news of another one: the log itself knows
        elif channel.offer(news.frames):
            self._flush_soon(channel)
        elif channel.keep_early(news.frames):
            asyncio.get_running_loop().call_later(EARLY_SECONDS, self._fill, channel)
        else:
            self._gaps.fill(channel)

    def _fill(self, channel: Channel) -> None:
        """Fill a channel's gap if news has not closed it meanwhile."""
        if channel.is_open and channel.heard > channel.tail.last:
            self._gaps.fill(channel)

    def hint(self, key: int, epoch: str, head: int) -> None:
        """Take the news that a log has come to `head`, without the events. Never waits."""
        channel = self._by_key.get(key)
        if channel is None:
            return
        if channel.epoch != epoch:
            self.doubt([channel])
        elif head > channel.tail.last:
            channel.heard = max(channel.heard, head)
            self._gaps.fill(channel)

    def doubt(self, channels: Iterable[Channel]) -> None:
        """Compare channels with their logs now, because news of them may have been lost. Never waits."""
        self._doubtful.update(channels)
        if self._doubtful and (self._comparing is None or self._comparing.done()):
            self._comparing = detached(self._compare())

    def doubt_all(self, keys: Iterable[int]) -> None:
        """Compare the channels of these logs with the logs now. Never waits."""
        self.doubt([self._by_key[key] for key in keys if key in self._by_key])

    async def _compare(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # the poll tries again
            while self._doubtful:
                part = [self._doubtful.pop() for _ in range(min(HEADS, len(self._doubtful)))]
                await self._gaps.check([channel for channel in part if channel.is_open])

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
            del self._by_key[channel.key]
            self._metrics.feeds.set(len(self._channels))
            self._bus.leave(channel.key)

    async def _open(self, workspace: str) -> Channel:
        """Open a channel: with one query, however many callers wait for it."""
        opening = self._opening.get(workspace)
        if opening is None:
            opening = self._opening[workspace] = detached(self._read_head(workspace))
        return await asyncio.shield(opening)  # a caller that is cancelled does not take it from the others

    async def _read_head(self, workspace: str) -> Channel:
        try:
            log = await self._log.head(workspace)
        finally:
            del self._opening[workspace]
            news, is_lost = self._news, self._news_lost
            if not self._opening:
                self._news, self._news_lost = {}, False
        channel = Channel(workspace, log, ring_bytes=self._ring_bytes)
        self._channels[workspace] = self._by_key[log.key] = channel
        self._metrics.feeds.set(len(self._channels))
        self._bus.follow(channel.key)
        if is_lost:
            self.doubt([channel])
        heard = news.get(log.key, 0)
        if heard > channel.tail.last:
            channel.heard = heard
            self._gaps.fill(channel)
        return channel
