"""The hub hears of commits and brings them to this node's readers.

A channel lives as long as a workspace has readers here. A hole in its seqs is filled from the log, once for the node. Every second
the hub asks the log how far the followed workspaces are, so that nothing depends on the bus. Heartbeats come from one wheel: a
reader sits in one of its slots, one slot is served each second.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import cycle

import structlog

from streamer.core.clock import now_us
from streamer.core.errors import RateLimited, StoreUnavailable, WorkspaceNotFound
from streamer.core.ports import Committed, Log
from streamer.feed.channel import Channel, Reader
from streamer.feed.session import State
from streamer.observe.metrics import Metrics

FILL_EVENTS = 500
"""The most events that one query brings while a hole is filled; their bytes are bounded by the ring's."""


class Hub:
    """All channels of a node."""

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        log: Log,
        metrics: Metrics,
        *,
        ring_bytes: int,
        flush_seconds: float,
        heartbeat_seconds: int,
        poll_seconds: float,
        readers_per_credential: int,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._ring_bytes = ring_bytes
        self._flush_seconds = flush_seconds
        self._poll_seconds = poll_seconds
        self._readers_per_credential = readers_per_credential
        self._clock = clock
        self._channels: dict[str, Channel] = {}
        self._opening: dict[str, int] = {}
        """Workspaces whose head is being read, with the highest seq heard of meanwhile."""
        self._in_window: set[Channel] = set()
        """Channels that were flushed less than a window ago."""
        self._filling: dict[Channel, asyncio.Task[None]] = {}
        self._wheel: list[dict[Reader, Channel]] = [{} for _ in range(heartbeat_seconds)]
        self._slots = cycle(range(heartbeat_seconds))
        self._by_credential: dict[str, set[Reader]] = {}
        self._places: Counter[str] = Counter()
        """Streams by credential, those included that have not entered yet."""
        self._closing: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._logger = structlog.get_logger("feed")

    def start(self) -> None:
        """Start the hub's two timers."""
        self._tasks = [asyncio.create_task(self._poll()), asyncio.create_task(self._beat())]

    async def stop(self) -> None:
        """Stop the timers."""
        for task in (*self._tasks, *self._filling.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._filling.values(), return_exceptions=True)

    # ---- news

    def hear(self, news: Committed) -> None:
        """Take news of a commit, here or elsewhere. Never waits."""
        if news.workspace in self._opening:
            self._opening[news.workspace] = max(self._opening[news.workspace], news.frames[-1].seq)
        channel = self._channels.get(news.workspace)
        if channel is None:
            return
        if channel.epoch != news.epoch:
            self.close_workspace(news.workspace, "reset", reconnect=True)
        elif channel.offer(news.frames):
            self._flush_soon(channel)
        else:
            self._fill(channel)

    def _flush_soon(self, channel: Channel) -> None:
        """Flush now if the last flush is a window ago, else when the window ends: coalesce under load, never when idle."""
        if channel not in self._in_window:
            self._in_window.add(channel)
            self._flush(channel)
            asyncio.get_running_loop().call_later(self._flush_seconds, self._end_window, channel)

    def _end_window(self, channel: Channel) -> None:
        self._in_window.discard(channel)
        if channel.tail.last > channel.flushed:
            self._flush_soon(channel)

    def _flush(self, channel: Channel) -> None:
        delivered, fallen = channel.flush()
        if delivered:
            self._metrics.deliveries.inc(delivered)
        if fallen:
            self._metrics.catch_ups.inc(fallen)

    def _fill(self, channel: Channel) -> None:
        if channel not in self._filling:
            self._metrics.fills.inc()
            self._filling[channel] = asyncio.create_task(self._fill_from_log(channel))

    async def _fill_from_log(self, channel: Channel) -> None:
        try:
            while self._channels.get(channel.workspace) is channel:
                last = channel.tail.last
                log, frames = await self._log.frames(
                    channel.workspace, after=last, limit=FILL_EVENTS, max_bytes=self._ring_bytes
                )
                if log.epoch != channel.epoch or log.earliest > last + 1 or not channel.offer(frames):
                    # Another log, or events were removed that this node had not heard of: who comes back is told of the gap.
                    self.close_workspace(channel.workspace, "reset", reconnect=True)
                    return
                self._flush_soon(channel)
                if channel.tail.last >= max(log.head, channel.heard) or not frames:
                    return
        except WorkspaceNotFound:
            self.close_workspace(channel.workspace, "workspace_deleted", reconnect=False)
        except StoreUnavailable:
            self._logger.warning("fill_failed", workspace=channel.workspace)  # the next poll tries again
        finally:
            self._filling.pop(channel, None)

    # ---- readers

    @contextlib.asynccontextmanager
    async def following(self, workspace: str, credential: str) -> AsyncIterator[Channel]:
        """Open the workspace's channel, and keep it open while the block runs.

        Raises: WorkspaceNotFound, StoreUnavailable, RateLimited (the credential has too many readers).
        """
        if self._places[credential] >= self._readers_per_credential:
            raise RateLimited(f"this credential has {self._readers_per_credential} streams open, which is the limit")
        self._places[credential] += 1
        try:
            channel = self._channels.get(workspace) or await self._open(workspace)
            channel.followers += 1
            try:
                yield channel
            finally:
                channel.followers -= 1
                if not channel.followers and self._channels.get(workspace) is channel:
                    del self._channels[workspace]
                    self._metrics.feeds.set(len(self._channels))
        finally:
            self._places[credential] -= 1
            if not self._places[credential]:
                del self._places[credential]

    async def _open(self, workspace: str) -> Channel:
        self._opening.setdefault(workspace, 0)
        try:
            log = await self._log.head(workspace)
        finally:
            heard = self._opening.pop(workspace, 0)
        channel = self._channels.get(workspace)  # another reader may have opened it meanwhile
        if channel is None:
            channel = self._channels[workspace] = Channel(workspace, log, ring_bytes=self._ring_bytes)
            self._metrics.feeds.set(len(self._channels))
        if heard > channel.tail.last:
            channel.heard = max(channel.heard, heard)
            self._fill(channel)
        return channel

    def enter(self, channel: Channel, reader: Reader) -> None:
        """Count a reader in: heartbeats, its owner's limit, closing."""
        channel.readers.add(reader)
        reader.slot = next(self._slots)
        self._wheel[reader.slot][reader] = channel
        self._by_credential.setdefault(reader.credential, set()).add(reader)
        self._metrics.subscribers.labels(reader.wire.transport).inc()
        if self._closing is not None:
            reader.close(self._closing, reconnect=True)

    def leave(self, channel: Channel, reader: Reader) -> None:
        """Count a reader out."""
        channel.leave(reader)
        self._wheel[reader.slot].pop(reader, None)
        readers = self._by_credential[reader.credential]
        readers.discard(reader)
        if not readers:
            del self._by_credential[reader.credential]
        self._metrics.subscribers.labels(reader.wire.transport).dec()

    async def reach(self, channel: Channel, seq: int) -> None:
        """Bring the channel up to `seq`, which the log holds already but the bus has not told of."""
        channel.heard = max(channel.heard, seq)
        while channel.tail.last < seq:
            before = channel.tail.last
            self._fill(channel)
            await asyncio.wait([self._filling[channel]])
            if channel.tail.last == before:
                raise StoreUnavailable("the log could not be read")
        self._flush(channel)

    def close_credential(self, credential: str, reason: str) -> None:
        """End all readers of a credential."""
        for reader in list(self._by_credential.get(credential, ())):
            reader.close(reason, reconnect=False)

    def close_workspace(self, workspace: str, reason: str, *, reconnect: bool) -> None:
        """End all readers of a workspace; who comes back gets a new channel."""
        channel = self._channels.pop(workspace, None)
        if channel is not None:
            for reader in list(channel.readers):
                reader.close(reason, reconnect=reconnect)
            self._metrics.feeds.set(len(self._channels))

    def close_all(self, reason: str) -> None:
        """End all readers, and those that still come."""
        self._closing = reason
        for channel in list(self._channels.values()):
            for reader in list(channel.readers):
                reader.close(reason, reconnect=True)

    # ---- timers

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            with contextlib.suppress(StoreUnavailable):  # the next time, then
                await self.check()

    async def check(self) -> None:
        """Ask the log how far the followed workspaces are, and see to what the bus did not tell. Raises StoreUnavailable."""
        followed = dict(self._channels)
        if not followed:
            return
        heads = await self._log.heads(list(followed))
        for workspace, channel in followed.items():
            head = heads.get(workspace)
            if self._channels.get(workspace) is not channel:
                continue  # left, or made anew, while the log answered
            if head is None:
                self.close_workspace(workspace, "workspace_deleted", reconnect=False)
            elif head.epoch != channel.epoch:
                self.close_workspace(workspace, "reset", reconnect=True)
            else:
                channel.earliest = max(channel.earliest, head.earliest)
                if head.head > channel.tail.last:
                    self._fill(channel)

    async def _beat(self) -> None:
        for slot in cycle(range(len(self._wheel))):
            await asyncio.sleep(1)
            self.beat(slot)

    def beat(self, slot: int) -> None:
        """Give a sign of life to the readers in one slot of the wheel; end those whose credential has expired."""
        now = self._clock()
        for reader, channel in list(self._wheel[slot].items()):
            if reader.expires_at is not None and reader.expires_at <= now:
                reader.close("credential_expired", reconnect=False)
            elif reader.session.state is State.LIVE and reader.sink.is_ready():
                position = channel.resume_point(reader)
                reader.sink.write(reader.wire.checkpoint(position) if position else reader.wire.heartbeat())
