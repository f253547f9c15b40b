"""Moves readers on: from the log or the ring to live, and back when they are slow. A task runs for a reader only while it is not LIVE."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from streamer.core.budget import FILTER, SMALL_STREAM, Budget
from streamer.core.errors import PositionExpired, StoreUnavailable, WorkspaceNotFound
from streamer.core.filter import Filter
from streamer.core.frame import Frame
from streamer.core.ports import Log
from streamer.core.position import Position
from streamer.feed.cohort import TURN_SEARCH, search_steps
from streamer.feed.connection import Connection, Reader, Sink, Subscription, Wire
from streamer.feed.hub import Hub
from streamer.feed.reasons import Reason
from streamer.observe.metrics import Metrics
from streamer.observe.tasks import outlasting
from streamer.observe.turns import Turns

USUAL_BYTES = 512
"""About what an event has: a query for a chunk asks for so many as may fill it."""

LOG_TURNS = 3
"""Readings of the log at once, for all readers: however many catch up, the database has room for other requests, and they wait here,
where nothing times out."""
ACCOUNT_TURNS = LOG_TURNS - 1
"""How many of these one account has at once."""
READ_SECONDS = 0.5
"""How long one reading looks for events. A reader whose filter lets few through moves on by checkpoints, and lets others have their turn."""


KEPT_CHUNKS = 32
"""Chunks of the log that are kept for who asks for the same: after a restart all come back at once, and from the same position."""

SHORT_FILTER = 2048
"""Bytes of a filter that are the price of a subscription."""

KEPT_WIRES = 2
"""Wire formats in which the bytes of such a chunk are kept: nearly all readers have the same one."""


class Chunk:
    """Some of a log's frames, as one filter lets them through."""

    __slots__ = ("_encoded", "frames", "size", "through")

    def __init__(self, frames: Sequence[Frame], through: int) -> None:
        self.frames = frames
        self.size = sum([len(frame.body) for frame in frames])
        """Bytes of the events, before they are encoded."""
        self.through = through
        """Up to here nothing is left out but what the filter stops."""
        self._encoded: dict[Wire, bytes] = {}

    def encode(self, frames: Sequence[Frame], wire: Wire) -> bytes:
        """Encode those of the frames that a reader has not had: once for all that have had none."""
        if len(frames) < len(self.frames):
            return wire.frames(frames)
        data = self._encoded.get(wire)
        if data is None:
            data = wire.frames(frames)
            # A WebSocket's clients name their subscriptions as they like: what is kept must not grow with the names.
            if len(self._encoded) == KEPT_WIRES:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[wire] = data
        return data


class Feed:
    """Replay joined to live, for readers of any transport: `connect`, `follow`, `start`; `leave` and `disconnect` at the end."""

    def __init__(self, hub: Hub, log: Log, metrics: Metrics, budget: Budget, *, chunk_bytes: int) -> None:
        """Make the feed; `chunk_bytes` is what a reader that catches up is given at once (or one event, if that is longer)."""
        self._hub = hub
        self._log = log
        self._budget = budget
        self._log_reads = metrics.log_reads
        self._chunk_bytes = chunk_bytes
        self._log_turns = asyncio.Semaphore(LOG_TURNS)
        self._account_turns = Turns(ACCOUNT_TURNS)
        self._readings: dict[tuple[str, str, int, Filter], asyncio.Task[Chunk]] = {}
        """By workspace, epoch, the seq that they begin behind and filter: those in work, and the last ones that are done."""
        self._logger = structlog.get_logger("feed")

    # ---- what transports call

    def connect(self, sink: Sink, chain: Sequence[str], max_seconds: float = math.inf) -> Connection:
        """Count a connection in, opened in the name of these credentials (`Connection.chain`), for so long at the most."""
        connection = Connection(sink, chain)
        self._hub.attach(connection, max_seconds)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection and its readers: it is gone, or said its last."""
        for reader in list(connection.readers):
            self.leave(reader)
        self._hub.detach(connection)

    async def follow(self, subscription: Subscription) -> Reader:
        """Open the workspace's channel for a reader; who gets one must `start` it, or `leave`.

        Before a transport has answered anything, so that what goes wrong can still be an error response.

        Raises: WorkspaceNotFound, StoreUnavailable, RateLimited, Overloaded.
        """
        long = _bytes_counted(subscription.selection)
        if long:
            self._budget.take(FILTER, subscription.account, long)
        try:
            channel = await self._hub.follow(subscription.workspace, subscription.account)
        except BaseException:
            if long:
                self._budget.give_back(FILTER, subscription.account, long)
            raise
        return Reader(self, subscription, channel)

    def start(self, reader: Reader, connection: Connection, wire: Wire, on_end: Callable[[Reason], None]) -> None:
        """Serve a reader on its connection, until it leaves or is ended, which `on_end` is told."""
        if connection.closed:
            self.leave(reader)
            return
        if not reader.channel.is_open:
            self.leave(reader)
            on_end(Reason.RESET)
            return
        reader.connection, reader.sink, reader.wire, reader.on_end = connection, connection.sink, wire, on_end
        # "From now on" is now; whoever asks meanwhile where the reader stands is told where it begins.
        start, begins = reader.subscription.start, reader.channel.flushed
        if isinstance(start, Position):
            begins = min(start.seq, begins) if start.epoch == reader.channel.epoch else 0
        reader.session.position = begins
        connection.readers.add(reader)
        reader.channel.readers.add(reader)
        reader.task = asyncio.create_task(self._drive(reader, from_start=True))
        self._hub.enter(reader)

    def leave(self, reader: Reader) -> None:
        """Forget a reader everywhere, at once."""
        if reader.has_left:
            return
        reader.has_left = True
        reader.session.position = reader.position.seq  # it stood where its channel does, if it was LIVE
        reader.session.close()
        reader.on_end = _ignore  # it leads back to the reader: together they would be a cycle
        if reader.task is not None:
            reader.task.cancel()
            reader.task = None
        if reader in reader.channel.readers:
            reader.channel.leave(reader)
            reader.connection.readers.discard(reader)
            self._hub.depart(reader)
        self._hub.unfollow(reader.channel, reader.subscription.account)
        long = _bytes_counted(reader.selection)
        if long:
            self._budget.give_back(FILTER, reader.subscription.account, long)

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
            reader.task = None  # its connection is gone: the transport notices and disconnects
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
            async with self._turn(reader):
                start = await self._log.resolve(channel.workspace, start)
        if start.epoch == channel.epoch and start.seq > channel.flushed:
            # The reader is ahead of this node's channel, as after reading on another node: is it ahead of the log, too?
            log = await self._log.head(channel.workspace)
            if log.epoch == channel.epoch:
                await self._hub.reach(channel, min(start.seq, log.head))
        for gap in session.resume(channel.log, start):
            reader.sink.write(reader.wire.gap(gap))
            reader.noted = session.position

    async def _catch_up(self, reader: Reader) -> None:
        """Hand out what lies before the channel, until the reader stands there and is LIVE."""
        channel, session, connection = reader.channel, reader.session, reader.connection
        while not channel.join(reader):
            # One chunk at a time for all readers of a connection: else each of them would hold one while the peer is slow.
            async with connection.turn:
                await connection.sink.drain()
                if session.position < channel.flushed:
                    await self._hand_out(reader)
                elif session.position > channel.flushed:
                    # Events that this node has not heard of were removed already: the channel is to be opened anew.
                    raise _Moved
        if not reader.is_synced:
            reader.is_synced = True
            reader.noted = session.position
            reader.sink.write(reader.wire.synced(Position(session.epoch, session.position)))

    async def _hand_out(self, reader: Reader) -> None:
        """Write the next chunk for a reader, from the ring or the log; or say what is missing there."""
        chunk = self._from_ring(reader)
        if chunk is not None and chunk.size <= SMALL_STREAM:
            self._write(reader, chunk)
            return
        # Before the log is read: what was read and cannot be written yet would take memory, too.
        async with reader.sink.room(self._chunk_bytes if chunk is None else chunk.size):
            try:
                self._write(reader, self._from_ring(reader) or await self._from_log(reader))
            except PositionExpired:
                await self._step_over(reader)

    def _write(self, reader: Reader, chunk: Chunk) -> None:
        """Write what a reader has not had of a chunk, or where it stands if the filter stops all of it."""
        session, sink, wire = reader.session, reader.sink, reader.wire
        before = session.position
        fresh = session.read(chunk.frames, chunk.through)
        if fresh:
            sink.write(chunk.encode(fresh, wire))
            reader.noted = fresh[-1].seq
        elif session.position > before:
            reader.noted = session.position
            sink.write(wire.checkpoint(Position(session.epoch, session.position)))

    def _from_ring(self, reader: Reader) -> Chunk | None:
        """Return what the ring holds for a reader, about a chunk of it.

        None if the log has to be read: the ring has moved past the reader, or its filter takes too many steps to search the next event.
        """
        channel = reader.channel
        frames = channel.tail.after(reader.session.position)
        if frames is None:
            return None
        texts = reader.selection.searched()
        together = sum(map(len, texts))
        passed: list[Frame] = []
        size = through = steps = 0
        for frame in frames:
            if frame.seq > channel.flushed or size >= self._chunk_bytes:
                break
            if texts:
                steps += search_steps(len(frame.facets.search), len(texts), together)
                if steps > TURN_SEARCH:
                    if not through:
                        return None
                    break
            through = frame.seq
            if reader.selection.matches(frame.facets):
                passed.append(frame)
                size += len(frame.body)
        return Chunk(passed, through)

    async def _from_log(self, reader: Reader) -> Chunk:
        """Read a chunk behind the reader's position, not beyond where the channel stands: once for all that ask for it.

        A log only grows, so what was read once is right for good; it ends earlier than it might by now.
        """
        channel, after, selection = reader.channel, reader.session.position, reader.selection
        asked = (channel.workspace, channel.epoch, after, selection)
        reading = self._readings.get(asked)
        if reading is None:
            reading = self._readings[asked] = outlasting(self._read(reader, after))
            reading.add_done_callback(lambda done: self._keep(asked, done))
        return await asyncio.shield(reading)  # who leaves does not take it from the others

    def _keep(self, asked: tuple[str, str, int, Filter], reading: asyncio.Task[Chunk]) -> None:
        """Keep what was read for who asks next, in the place of what was read before; not what failed or led no further."""
        if reading.cancelled() or reading.exception() is not None or reading.result().through <= asked[2]:
            if self._readings.get(asked) is reading:
                del self._readings[asked]
        else:
            done = [other for other, task in self._readings.items() if task.done()]
            for other in done[:-KEPT_CHUNKS]:
                del self._readings[other]

    @asynccontextmanager
    async def _turn(self, reader: Reader) -> AsyncIterator[None]:
        """Wait for a turn at reading the log: the account's first, so that it never keeps the others from theirs."""
        async with self._account_turns.turn(reader.subscription.account), self._log_turns:
            yield

    async def _read(self, reader: Reader, after: int) -> Chunk:
        channel, epoch, selection = reader.channel, reader.channel.epoch, reader.selection
        async with self._turn(reader):
            self._log_reads.inc()
            page = await self._log.page(
                channel.workspace,
                selection=selection,
                order="asc",
                limit=self._chunk_bytes // USUAL_BYTES,
                max_bytes=self._chunk_bytes,
                after=Position(epoch, after),
                before=Position(epoch, channel.flushed + 1),
                seconds=READ_SECONDS,
            )
        return Chunk([Frame(Position(epoch, event.seq), event.body) for event in page.events], page.examined)

    async def _step_over(self, reader: Reader) -> None:
        """Tell a reader that what it wanted next was removed meanwhile. Raises _Moved: the log is another one now."""
        channel = reader.channel
        log = await self._log.head(channel.workspace)
        gaps = reader.session.trimmed(log) if log.epoch == channel.epoch else []
        if not gaps:  # made anew, or restored to an earlier state under a running server
            raise _Moved
        channel.earliest = max(channel.earliest, log.earliest)
        for gap in gaps:
            reader.sink.write(reader.wire.gap(gap))
            reader.noted = reader.session.position


class _Moved(Exception):
    """The log is not the one that the channel stands for: who comes back gets a new channel."""


def _bytes_counted(selection: Filter) -> int:
    """Return the bytes of a filter that the node's budget counts: none of a short one."""
    size = selection.size() if selection.conditions else 0
    return size if size > SHORT_FILTER else 0


def _ignore(_reason: Reason) -> None:
    """Do nothing."""
