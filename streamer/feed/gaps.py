"""Finds and fills the gaps of this node's channels, so that nothing depends on the bus.

News of a commit may be lost, late or doubled. A gap is filled from the log, once for the node. Every second the log is asked how far the
followed workspaces are.
"""

import asyncio
from collections.abc import Callable, Collection

import structlog

from streamer.core.errors import StoreUnavailable, WorkspaceNotFound
from streamer.core.ports import Log
from streamer.core.position import LogHead
from streamer.feed.channel import Channel
from streamer.feed.reasons import Reason
from streamer.observe.metrics import Metrics

FILL_EVENTS = 500
"""The most events that one query returns while a gap is filled; the ring's size bounds their bytes."""


class Gaps:
    """Fills gaps, and compares channels with the log."""

    def __init__(
        self,
        log: Log,
        metrics: Metrics,
        *,
        fill_bytes: int,
        filled: Callable[[Channel], None],
        lost: Callable[[Channel, Reason], None],
    ) -> None:
        """Make it.

        Args:
            log: where missing events are read.
            metrics: counts the gaps.
            fill_bytes: bytes of events that one query returns.
            filled: called when a channel got missing frames.
            lost: called when a channel cannot go on: its log is another one now, or is gone.
        """
        self._log = log
        self._metrics = metrics
        self._fill_bytes = fill_bytes
        self._filled = filled
        self._lost = lost
        self._filling: dict[Channel, asyncio.Task[None]] = {}
        self._logger = structlog.get_logger("feed")

    def fill(self, channel: Channel) -> None:
        """Fill a channel's gap, unless that is under way."""
        if channel not in self._filling:
            self._metrics.fills.inc()
            self._filling[channel] = asyncio.create_task(self._fill(channel))

    async def reach(self, channel: Channel, seq: int) -> None:
        """Bring a channel's ring up to `seq`, which the log holds but the bus has not announced. Raises StoreUnavailable."""
        channel.heard = max(channel.heard, seq)
        while channel.tail.last < seq:
            before = channel.tail.last
            self.fill(channel)
            await asyncio.wait([self._filling[channel]])
            if channel.tail.last == before:
                raise StoreUnavailable("the log could not be read")

    async def check(self, channels: Collection[Channel]) -> None:
        """Compare channels with their logs, with one query. Raises StoreUnavailable."""
        if not channels:
            return
        known = [LogHead(channel.epoch, channel.tail.last, channel.earliest, channel.key) for channel in channels]
        changed = await self._log.changed(known)
        for channel, before in zip(channels, known, strict=True):
            if channel.key not in changed or not channel.is_open:  # or it was closed while the log answered
                continue
            head = changed[channel.key]
            if head is None:
                self._lost(channel, Reason.WORKSPACE_DELETED)
            elif head.epoch != channel.epoch or head.head < before.head:
                # Another log; or the database lost its last events, as after a failover: their seqs are given again.
                self._lost(channel, Reason.RESET)
            else:
                channel.earliest = max(channel.earliest, head.earliest)
                if head.head > channel.tail.last:
                    self.fill(channel)

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._filling.values():
            task.cancel()
        await asyncio.gather(*self._filling.values(), return_exceptions=True)

    async def _fill(self, channel: Channel) -> None:
        try:
            while channel.is_open:
                last = channel.tail.last
                log, frames = await self._log.frames(
                    channel.workspace, after=last, limit=FILL_EVENTS, max_bytes=self._fill_bytes
                )
                if log.epoch != channel.epoch or log.earliest > last + 1 or not channel.offer(frames):
                    # Another log, or events that are news to this node were removed: a reader that reconnects gets the gap.
                    self._lost(channel, Reason.RESET)
                    return
                self._filled(channel)
                if channel.tail.last >= max(log.head, channel.heard) or not frames:
                    return
        except WorkspaceNotFound:
            self._lost(channel, Reason.WORKSPACE_DELETED)
        except StoreUnavailable as error:  # the next check tries again
            self._logger.warning("fill_failed", workspace=channel.workspace, code=error.code)
        except Exception:
            self._logger.exception("fill_failed", workspace=channel.workspace)  # as above
        finally:
            self._filling.pop(channel, None)
