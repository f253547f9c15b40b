"""Subscribers of any transport: replay joined to live. A task runs for a reader only while it is not LIVE.

A transport calls `connect` and `follow`, then `start`; in the end `leave` or `leave_connection`.
"""

import asyncio
import math
from collections.abc import Callable, Sequence

import structlog

from streamer.core.budget import FILTER, Budget
from streamer.core.errors import PositionExpired, StoreUnavailable, WorkspaceNotFound
from streamer.core.filter import Filter
from streamer.core.ports import Log
from streamer.core.position import Position
from streamer.core.unread import SMALL
from streamer.fanout.audience import Audience
from streamer.fanout.connection import Connection, Encoder, Reader, Sink, Subscription
from streamer.fanout.connections import Connections
from streamer.fanout.dependencies import Dependencies
from streamer.fanout.pace import Paces
from streamer.fanout.places import Places
from streamer.fanout.replay import Chunk, Replay
from streamer.feed.channel import Channel
from streamer.feed.channels import Channels
from streamer.feed.reasons import Reason
from streamer.observe.metrics import Metrics

SHORT_FILTER = 2048
"""Bytes of a filter that are the price of a subscription."""


class Subscribers:
    """All readers of a node, and their way to LIVE and back."""

    def __init__(  # noqa: PLR0913, PLR0917 - the composition root names each of them
        self,
        channels: Channels,
        connections: Connections,
        dependencies: Dependencies,
        places: Places,
        log: Log,
        metrics: Metrics,
        budget: Budget,
        *,
        chunk_bytes: int,
        event_bytes: int,
    ) -> None:
        """Create it. A reader that catches up gets `chunk_bytes` at once, or one event, which has at most `event_bytes`."""
        self._channels = channels
        self._connections = connections
        self._dependencies = dependencies
        self._places = places
        self._log = log
        self._metrics = metrics
        self._budget = budget
        self._replay = Replay(log, metrics, chunk_bytes=chunk_bytes, event_bytes=event_bytes)
        self._paces = Paces()
        self._audiences: dict[Channel, Audience] = {}
        """By channel, while it has readers that have started."""
        self._logger = structlog.get_logger("feed")

    # ---- what transports call

    def check_room(self, bearer: str) -> None:
        """Require that a credential can open one more connection: those without a subscription count, too.

        Raises: RateLimited, Overloaded.
        """
        self._places.check(self._dependencies.count(bearer), len(self._connections))

    def connect(self, sink: Sink, chain: Sequence[str], max_seconds: float = math.inf) -> Connection:
        """Count a connection in, opened in the name of these credentials (`Connection.chain`), for at most `max_seconds`."""
        connection = Connection(sink, chain)
        self._connections.add(connection, max_seconds)
        return connection

    def leave_connection(self, connection: Connection) -> None:
        """Forget a connection and its readers: it is gone, or its last bytes are written."""
        for reader in list(connection.readers):
            self.leave(reader)
        self._connections.leave(connection)

    async def follow(self, subscription: Subscription) -> Reader:
        """Open the workspace's channel for a reader. The caller must `start` the reader or let it `leave`.

        Called before a transport has answered anything, so that a failure can still be an error response.

        Raises: WorkspaceNotFound, StoreUnavailable, RateLimited (the account has too many subscriptions), Overloaded.
        """
        account, long = subscription.account, _bytes_counted(subscription.selection)
        if long:
            self._budget.take(FILTER, account, long)
        try:
            self._places.take(account)
            try:
                channel = await self._channels.follow(subscription.workspace)
            except BaseException:
                self._places.leave(account)
                raise
        except BaseException:
            if long:
                self._budget.give_back(FILTER, account, long)
            raise
        return Reader(self, subscription, channel)

    def start(self, reader: Reader, connection: Connection, encoder: Encoder, on_end: Callable[[Reason], None]) -> None:
        """Serve a reader on its connection until it leaves or the server ends it; then `on_end` is called with the reason."""
        channel = reader.channel
        if connection.closed:
            self.leave(reader)
            return
        if not channel.is_open:
            self.leave(reader)
            on_end(Reason.RESET)
            return
        reader.connection, reader.sink, reader.encoder, reader.on_end = connection, connection.sink, encoder, on_end
        # "From now on" is now; whoever asks meanwhile where the reader stands gets where it begins.
        start, begins = reader.subscription.start, channel.flushed
        if isinstance(start, Position):
            start = channel.log.translated(start)
            begins = min(start.seq, begins) if start.epoch == channel.epoch else 0
        reader.session.position = begins
        connection.readers.add(reader)
        self._audience(channel).add(reader)
        reader.task = asyncio.create_task(self._drive(reader, from_start=True))
        self._metrics.subscribers.labels(reader.sink.transport).inc()
        self._dependencies.add(reader, reader.subscription.links)

    def leave(self, reader: Reader) -> None:
        """Forget a reader everywhere, at once. Once is enough."""
        if reader.has_left:
            return
        reader.has_left = True
        reader.session.position = reader.position.seq  # if it was LIVE, it stood where its cohort does
        reader.session.close()
        reader.on_end = _ignore  # it leads back to the reader: together they would be a cycle
        if reader.task is not None:
            reader.task.cancel()
            reader.task = None
        channel, account = reader.channel, reader.subscription.account
        audience = self._audiences.get(channel)
        if audience is not None and reader in audience.readers:
            audience.leave(reader)
            if not audience.readers:
                channel.listeners.remove(audience)
                del self._audiences[channel]
            reader.connection.readers.discard(reader)
            self._metrics.subscribers.labels(reader.sink.transport).dec()
            self._dependencies.leave(reader, reader.subscription.links)
        self._places.leave(account)
        self._channels.leave(channel)
        long = _bytes_counted(reader.selection)
        if long:
            self._budget.give_back(FILTER, account, long)

    def _audience(self, channel: Channel) -> Audience:
        audience = self._audiences.get(channel)
        if audience is None:
            audience = Audience(channel, self._metrics, self._paces, self._dependencies.close_all)
            self._audiences[channel] = audience
        return audience

    # ---- one reader

    def wake(self, reader: Reader) -> None:
        """Take over a reader that has fallen out of LIVE."""
        reader.task = asyncio.create_task(self._drive(reader))

    async def _drive(self, reader: Reader, *, from_start: bool = False) -> None:
        """Bring a reader to LIVE."""
        try:
            if from_start:
                await self._begin(reader)
            await self._catch_up(reader)
            reader.task = None
        except ConnectionError:
            reader.task = None  # its connection is gone: the transport notices and lets it leave
        except StoreUnavailable:
            self._end(reader, Reason.STORE_UNAVAILABLE)
        except WorkspaceNotFound:
            self._end(reader, Reason.WORKSPACE_DELETED)
        except _Moved:
            self._end(reader, Reason.RESET)
        except Exception:
            self._logger.exception("reader_failed", workspace=reader.channel.workspace)
            self._end(reader, Reason.INTERNAL_ERROR)

    def _end(self, reader: Reader, reason: Reason) -> None:
        reader.task = None  # this very task, which must not cancel itself
        reader.close(reason)

    async def _begin(self, reader: Reader) -> None:
        """Put a reader where it asked to begin, or as near as the log allows."""
        channel, session, start = reader.channel, reader.session, reader.subscription.start
        if start is None:
            return
        if isinstance(start, int):
            async with self._replay.turn(reader):
                start = await self._log.resolve(channel.workspace, start)
        if start.epoch == channel.epoch and start.seq > channel.flushed:
            # The reader is ahead of this node's channel, as after reading on another node: is it ahead of the log, too?
            log = await self._log.head(channel.workspace)
            if log.epoch == channel.epoch:
                await self._channels.reach(channel, min(start.seq, log.head))
        for gap in session.resume(channel.log, start):
            reader.sink.write(reader.encoder.gap(gap))
            reader.noted = session.position

    async def _catch_up(self, reader: Reader) -> None:
        """Hand out what lies before the channel's end, until the reader stands there and is LIVE."""
        channel, session, connection = reader.channel, reader.session, reader.connection
        audience = self._audience(channel)
        while not audience.join(reader):
            # One chunk at a time for all readers of a connection: else each of them would hold one while the peer is slow.
            async with connection.turn:
                await connection.sink.drain()
                if session.position < channel.flushed:
                    await self._hand_out(reader)
                elif session.position > channel.flushed:
                    # Events that are news to this node were removed already: a new channel is needed.
                    raise _Moved
        if not reader.is_synced:
            reader.is_synced = True
            reader.noted = session.position
            reader.sink.write(reader.encoder.synced(Position(session.epoch, session.position)))

    async def _hand_out(self, reader: Reader) -> None:
        """Write the next chunk for a reader, from the ring or the log; or what is missing there."""
        replay = self._replay
        chunk = replay.from_ring(reader)
        if chunk is not None and chunk.size <= SMALL:
            self._write(reader, chunk)
            return
        # Before the chunk is made: one that cannot be written yet would take memory, too.
        async with reader.sink.room(replay.most_bytes):
            try:
                self._write(reader, replay.from_ring(reader) or await replay.from_log(reader))
            except PositionExpired:
                await self._step_over(reader)

    def _write(self, reader: Reader, chunk: Chunk) -> None:
        """Write what a reader has not had of a chunk, or where it stands if its filter stops all of it."""
        session, sink, encoder = reader.session, reader.sink, reader.encoder
        before = session.position
        fresh = session.read(chunk.frames, chunk.through)
        if fresh:
            sink.write(chunk.encode(fresh, encoder))
            reader.noted = fresh[-1].seq
        elif session.position > before:
            reader.noted = session.position
            sink.write(encoder.checkpoint(Position(session.epoch, session.position)))

    async def _step_over(self, reader: Reader) -> None:
        """Announce to a reader that what it wanted next was removed meanwhile. Raises _Moved: the log is another one now."""
        channel = reader.channel
        log = await self._log.head(channel.workspace)
        gaps = reader.session.trimmed(log) if log.epoch == channel.epoch else []
        if not gaps:  # made again, or restored to an earlier state under a running server
            raise _Moved
        channel.earliest = max(channel.earliest, log.earliest)
        for gap in gaps:
            reader.sink.write(reader.encoder.gap(gap))
            reader.noted = reader.session.position


class _Moved(Exception):
    """The channel stands for another log: a reader that reconnects gets a new channel."""


def _bytes_counted(selection: Filter) -> int:
    """Return the bytes of a filter that the node's budget counts: none of a short one."""
    size = selection.size() if selection.conditions else 0
    return size if size > SHORT_FILTER else 0


def _ignore(_reason: Reason) -> None:
    """Do nothing."""
