"""The hub hears of commits and brings them to this node's readers.

A channel lives as long as a workspace has readers here. A hole in its seqs is filled from the log, once for the node. Every second
the hub asks the log how far the followed workspaces are, so that nothing depends on the bus. Connections sit in the slots of one
wheel; each second one slot gets its heartbeats.
"""

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import cycle

import structlog

from streamer.core.errors import Overloaded, RateLimited, StoreUnavailable, WorkspaceNotFound
from streamer.core.ports import Committed, Log
from streamer.feed.channel import Channel
from streamer.feed.connection import Connection, Reader
from streamer.feed.pace import Paces
from streamer.feed.reasons import Reason
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.observe.tasks import outlasting
from streamer.observe.watchdog import Watchdog

FILL_EVENTS = 500
"""The most events that one query brings while a hole is filled; their bytes are bounded by the ring's."""
HEADS = 200
"""Workspaces whose heads one query asks for."""
AT_ONCE = 500
"""Connections that are closed, or given a sign of life, before others have their turn."""
DRAIN_RATE = 500
"""Connections closed each second when the server stops; more if its window is short. They all come back at once somewhere."""
FLUSH_PAUSE = 1
"""A window is at least so many times as long as its flush: the readers of one workspace take half of the time at the most."""
ENDED_SECONDS = 5
"""How long it is remembered that a link was ended: longer than a request takes from being let in to opening what it asked for."""
TICK_SECONDS = 0.01
"""The shortest time that is worth waiting."""


class Hub:
    """All channels of a node."""

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        log: Log,
        metrics: Metrics,
        watchdog: Watchdog,
        *,
        ring_bytes: int,
        flush_seconds: float,
        heartbeat_seconds: int,
        poll_seconds: float,
        stall_seconds: float,
        max_age: float,
        readers_per_account: int,
        max_readers: int,
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._watchdog = watchdog
        self._paces = Paces()
        self._ring_bytes = ring_bytes
        self._flush_seconds = flush_seconds
        self._poll_seconds = poll_seconds
        self._stall_seconds = stall_seconds
        self._max_age = max_age
        self._readers_per_account = readers_per_account
        self._max_readers = max_readers
        self._channels: dict[str, Channel] = {}
        self._opening: dict[str, asyncio.Task[Channel]] = {}
        self._heard: dict[str, int] = {}
        """For workspaces whose head is being read: the highest seq heard of meanwhile."""
        self._in_window: set[Channel] = set()
        """Channels that were flushed less than a window ago."""
        self._filling: dict[Channel, asyncio.Task[None]] = {}
        self._wheel: list[set[Connection]] = [set() for _ in range(heartbeat_seconds)]
        self._slots = cycle(range(heartbeat_seconds))
        self._beats = cycle(range(heartbeat_seconds))
        self._by_link: dict[str, set[Connection | Reader]] = {}
        """What depends on a link (`auth.principal.Principal.chain`): connections on credentials, subscriptions on roles."""
        self._ended: dict[str, tuple[float, Reason]] = {}
        """Links that were ended here, why, and until when that is remembered, on the event loop's clock."""
        self._places: Counter[str] = Counter()
        """Subscriptions by account, those included that have not begun yet."""
        self._taken = 0
        """All of them."""
        self._is_closing = False
        self._is_empty = asyncio.Event()
        """There are no connections. Set only while the hub closes."""
        self._logger = structlog.get_logger("feed")

    def start(self, loops: Loops) -> None:
        """Start the hub's two loops."""
        loops.start("poll", self.poll)
        loops.start("beat", self.beat_next, every=1)

    async def stop(self) -> None:
        """Stop what fills holes."""
        for task in self._filling.values():
            task.cancel()
        await asyncio.gather(*self._filling.values(), return_exceptions=True)

    # ---- news

    def hear(self, news: Committed) -> None:
        """Take news of a commit, here or elsewhere. Never waits."""
        if news.workspace in self._heard:
            self._heard[news.workspace] = max(self._heard[news.workspace], news.frames[-1].seq)
        channel = self._channels.get(news.workspace)
        if channel is None:
            return
        if channel.epoch != news.epoch:
            self.close_workspace(news.workspace, Reason.RESET)
        elif channel.offer(news.frames):
            self._flush_soon(channel)
        else:
            self._fill(channel)

    def _flush_soon(self, channel: Channel) -> None:
        """Begin a pass now if the last one began a window ago, else when the window ends: coalesce under load, never when idle.

        The more readers there are, the longer the window (`FLUSH_PAUSE`), and the more events go with each write.
        """
        if channel not in self._in_window:
            self._in_window.add(channel)
            channel.aim()
            self._flush(channel)

    def _flush(self, channel: Channel, spent: float = 0) -> None:
        """Go on with a pass, with room for others between its steps; `spent` is what the steps before took."""
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        delivered, fallen = self._watchdog.call("fan_out", channel.step, loop.time())
        if delivered:
            self._metrics.deliveries.inc(delivered)
        if fallen:
            self._metrics.catch_ups.inc(fallen)
        spent += time.perf_counter() - started
        if channel.has_more:
            loop.call_soon(self._flush, channel, spent)
            return
        loop.call_later(
            max(self._flush_seconds, FLUSH_PAUSE * spent), self._watchdog.call, "end_window", self._end_window, channel
        )
        if channel.late_until is not None:
            loop.call_at(channel.late_until, self._watchdog.call, "flush", self._flush_soon, channel)

    def _end_window(self, channel: Channel) -> None:
        self._in_window.discard(channel)
        late = channel.late_until
        is_due = late is not None and late <= asyncio.get_running_loop().time()
        if channel.tail.last > channel.flushed or channel.has_more or is_due:
            self._flush_soon(channel)

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
                    self.close_workspace(channel.workspace, Reason.RESET)
                    return
                self._flush_soon(channel)
                if channel.tail.last >= max(log.head, channel.heard) or not frames:
                    return
        except WorkspaceNotFound:
            self.close_workspace(channel.workspace, Reason.WORKSPACE_DELETED)
        except StoreUnavailable as error:
            self._logger.warning(
                "fill_failed", workspace=channel.workspace, code=error.code
            )  # the next poll tries again
        except Exception:
            self._logger.exception("fill_failed", workspace=channel.workspace)  # as above
        finally:
            self._filling.pop(channel, None)

    # ---- readers

    async def follow(self, workspace: str, account: str) -> Channel:
        """Open the workspace's channel, and hold it open until `unfollow`.

        Raises: WorkspaceNotFound, StoreUnavailable, RateLimited (the account has too many subscriptions), Overloaded (this node has).
        """
        self._see_room(self._places[account], self._taken)
        self._places[account] += 1
        self._taken += 1
        try:
            channel = None
            while channel is None or not channel.is_open:  # it may be closed between its opening and our turn
                channel = self._channels.get(workspace) or await self._open(workspace)
        except BaseException:
            self._leave_place(account)
            raise
        channel.followers += 1
        return channel

    def see_room(self, bearer: str) -> None:
        """See that one more connection may be opened: also of those without a subscription there are no more than subscriptions may be.

        Raises: RateLimited, Overloaded.
        """
        self._see_room(len(self._by_link.get(bearer, ())), sum(map(len, self._wheel)))

    def _see_room(self, of_account: int, of_all: int) -> None:
        if of_account >= self._readers_per_account:
            raise RateLimited(f"this credential has {self._readers_per_account} streams open, which is the limit")
        if of_all >= self._max_readers:
            raise Overloaded(f"this node has {self._max_readers} streams open, which is the limit")

    def unfollow(self, channel: Channel, account: str) -> None:
        """Let go of a channel; nobody's is closed."""
        self._leave_place(account)
        channel.followers -= 1
        if not channel.followers:
            self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        channel.is_open = False
        if self._channels.get(channel.workspace) is channel:
            del self._channels[channel.workspace]
            self._metrics.feeds.set(len(self._channels))

    def _leave_place(self, account: str) -> None:
        self._taken -= 1
        self._places[account] -= 1
        if not self._places[account]:
            del self._places[account]

    async def _open(self, workspace: str) -> Channel:
        """Open a channel: with one query, however many wait for it."""
        opening = self._opening.get(workspace)
        if opening is None:
            self._heard[workspace] = 0
            opening = self._opening[workspace] = outlasting(self._read_head(workspace))
        # Who leaves does not take it from the others.
        return await asyncio.shield(opening)

    async def _read_head(self, workspace: str) -> Channel:
        try:
            log = await self._log.head(workspace)
        finally:
            del self._opening[workspace]
            heard = self._heard.pop(workspace)
        channel = self._channels[workspace] = Channel(workspace, log, ring_bytes=self._ring_bytes, paces=self._paces)
        self._metrics.feeds.set(len(self._channels))
        if heard > channel.tail.last:
            channel.heard = heard
            self._fill(channel)
        return channel

    async def reach(self, channel: Channel, seq: int) -> None:
        """Bring the channel up to `seq`, which the log holds already but the bus has not told of."""
        channel.heard = max(channel.heard, seq)
        while channel.tail.last < seq:
            before = channel.tail.last
            self._fill(channel)
            await asyncio.wait([self._filling[channel]])
            if channel.tail.last == before:
                raise StoreUnavailable("the log could not be read")
        channel.aim()
        if channel not in self._in_window:  # else the pass under way goes on, or the window's end begins one
            self._in_window.add(channel)
            self._flush(channel)

    def enter(self, reader: Reader) -> None:
        """Count a subscription in."""
        self._metrics.subscribers.labels(reader.sink.transport).inc()
        self._bind(reader, reader.subscription.links)

    def depart(self, reader: Reader) -> None:
        """Count a subscription out."""
        self._metrics.subscribers.labels(reader.sink.transport).dec()
        self._unbind(reader, reader.subscription.links)

    def close_workspace(self, workspace: str, reason: Reason) -> None:
        """End all readers of a workspace; who comes back gets a new channel."""
        channel = self._channels.get(workspace)
        if channel is not None:
            self._forget(channel)
            self._close(list(channel.readers), reason)

    # ---- connections

    def attach(self, connection: Connection, max_seconds: float = math.inf) -> None:
        """Count a connection in: heartbeats, closing, rotation, at the latest after so many seconds."""
        connection.slot = next(self._slots)
        self._wheel[connection.slot].add(connection)
        self._bind(connection, connection.chain)
        age = self._max_age * random.uniform(0.5, 1) if self._max_age else math.inf  # noqa: S311 - jitter, not a secret
        connection.rotates_at = asyncio.get_running_loop().time() + min(age, max_seconds)
        if self._is_closing:
            connection.close(Reason.SHUTDOWN)

    def detach(self, connection: Connection) -> None:
        """Count a connection out."""
        ended_by = connection.closed.word if connection.closed else "left"
        self._metrics.connections_ended.labels(connection.sink.transport, ended_by).inc()
        self._wheel[connection.slot].discard(connection)
        self._unbind(connection, connection.chain)
        if self._is_closing and not any(self._wheel):
            self._is_empty.set()

    def links(self) -> list[str]:
        """Return all links that something open depends on."""
        return list(self._by_link)

    def close_link(self, link: str, reason: Reason) -> None:
        """End the connections and subscriptions that depend on a link."""
        self._close(list(self._by_link.get(link, ())), reason)

    def _close(self, ones: Sequence[Connection | Reader], reason: Reason) -> None:
        """Close some at once, and the others one bounded part after another: closing takes some microseconds each."""
        for one in ones[:AT_ONCE]:
            one.close(reason)
        if len(ones) > AT_ONCE:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._watchdog.call, "close", self._close, ones[AT_ONCE:], reason)

    def end_links(self, links: Collection[str], reason: Reason) -> None:
        """End what depends on these links, and what some request opens a moment later that was let in just before."""
        now = asyncio.get_running_loop().time()
        self._ended = {link: ended for link, ended in self._ended.items() if ended[0] > now}
        for link in links:
            self._ended[link] = now + ENDED_SECONDS, reason
            self.close_link(link, reason)

    def renew_link(self, link: str) -> None:
        """Let what depends on a link be opened again."""
        self._ended.pop(link, None)

    def _bind(self, one: Connection | Reader, links: Sequence[str]) -> None:
        for link in links:
            self._by_link.setdefault(link, set()).add(one)
            until, reason = self._ended.get(link, (0, None))
            if reason is not None and until > asyncio.get_running_loop().time():
                one.close(reason)
                return

    def _unbind(self, one: Connection | Reader, links: Sequence[str]) -> None:
        for link in links:
            bound = self._by_link.get(link, set())
            bound.discard(one)
            if not bound:
                self._by_link.pop(link, None)

    async def drain(self, seconds: float) -> None:
        """End all connections, and those that still come: spread over the time that there is, or quicker if they are few."""
        self._is_closing = True
        connections = [connection for slot in self._wheel for connection in slot]
        random.shuffle(connections)
        pause = min(seconds / max(len(connections), 1), 1 / DRAIN_RATE)
        loop = asyncio.get_running_loop()
        started = loop.time()
        for index, connection in enumerate(connections):
            ahead = started + index * pause - loop.time()
            if ahead > TICK_SECONDS:
                await asyncio.sleep(ahead)
            connection.close(Reason.SHUTDOWN)

    async def finish(self, seconds: float) -> None:
        """Let what `drain` has closed take its last bytes for so long; what is still there then is cut."""
        for wait in (seconds, TICK_SECONDS):
            if any(self._wheel):
                self._is_empty.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._is_empty.wait(), wait)
            for connection in [connection for slot in self._wheel for connection in slot]:
                connection.sink.abort()

    # ---- timers

    async def poll(self) -> None:
        """Check all followed logs once, over one poll's time. Raises StoreUnavailable."""
        # Some at a time: an answer for thousands of workspaces at once would keep their readers waiting.
        channels = list(self._channels.values())
        parts = [channels[start : start + HEADS] for start in range(0, len(channels), HEADS)] or [[]]
        for part in parts:
            await asyncio.sleep(self._poll_seconds / len(parts))
            await self.check(part)

    async def check(self, channels: Collection[Channel]) -> None:
        """Ask the log how far these workspaces are, and see to what the bus did not tell. Raises StoreUnavailable."""
        if not channels:
            return
        followed = {channel.workspace: channel for channel in channels}
        heads = await self._log.heads(list(followed))
        for workspace, channel in followed.items():
            if not channel.followers:
                self._forget(channel)  # who had it opened left before it was
            head = heads.get(workspace)
            if self._channels.get(workspace) is not channel:
                continue  # left, or made anew, while the log answered
            if head is None:
                self.close_workspace(workspace, Reason.WORKSPACE_DELETED)
            elif head.epoch != channel.epoch:
                self.close_workspace(workspace, Reason.RESET)
            else:
                channel.earliest = max(channel.earliest, head.earliest)
                if head.head > channel.tail.last:
                    self._fill(channel)

    async def beat_next(self) -> None:
        """See to the connections in the wheel's next slot, a bounded part at once."""
        connections = list(self._wheel[next(self._beats)])
        for start in range(0, len(connections), AT_ONCE):
            self.beat(connections[start : start + AT_ONCE])
            await asyncio.sleep(0)

    def beat(self, connections: Collection[Connection]) -> None:
        """See to connections: a sign of life, or the end of what is old or stalled."""
        now = asyncio.get_running_loop().time()
        for connection in connections:
            if connection.closed:
                continue  # its handler is about to detach it
            if connection.stalls(now, self._stall_seconds):
                connection.close(Reason.STALLED)
            elif now >= connection.rotates_at:
                connection.close(Reason.ROTATED)
            elif connection.sink.is_ready():
                connection.beat()
