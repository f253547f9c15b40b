"""Parts of the log for readers that catch up: read and encoded once for all that ask for the same."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from streamer.core.filter import Filter
from streamer.core.frame import Frame
from streamer.core.ports import Log
from streamer.core.position import Position
from streamer.fanout.cohort import TURN_SEARCH, search_steps
from streamer.fanout.connection import Encoder, Reader
from streamer.observe.metrics import Metrics
from streamer.observe.tasks import detached
from streamer.observe.turns import Turns

USUAL_BYTES = 512
"""About the size of an event: a query for a chunk asks for as many as may fill it."""
LOG_TURNS = 3
"""Reads of the log at once, for all readers: however many catch up, the database has room for other requests, and readers wait here, where
nothing times out."""
ACCOUNT_TURNS = LOG_TURNS - 1
"""How many of these one account has at once."""
READ_SECONDS = 0.5
"""How long one read looks for events. A reader whose filter lets few through moves on by checkpoints, and lets others have their turn."""
KEPT_CHUNKS = 32
"""Chunks that are kept for readers that ask for the same: after a restart all reconnect at once, and from the same position."""
KEPT_ENCODERS = 2
"""Encoder formats in which the bytes of such a chunk are kept: nearly all readers have the same one."""


class Chunk:
    """Some of a log's frames, as one filter lets them through."""

    __slots__ = ("_encoded", "frames", "size", "through")

    def __init__(self, frames: Sequence[Frame], through: int) -> None:
        self.frames = frames
        self.size = sum([len(frame.body) for frame in frames])
        """Bytes of the events, before they are encoded."""
        self.through = through
        """Up to this seq only events that the filter stops are left out."""
        self._encoded: dict[Encoder, bytes] = {}

    def encode(self, frames: Sequence[Frame], encoder: Encoder) -> bytes:
        """Encode the frames that a reader has not had: once for all readers that have had none."""
        if len(frames) < len(self.frames):
            return encoder.frames(frames)
        data = self._encoded.get(encoder)
        if data is None:
            data = encoder.frames(frames)
            # WebSocket clients name their subscriptions as they like: what is kept must not grow with the names.
            if len(self._encoded) == KEPT_ENCODERS:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[encoder] = data
        return data


class Replay:
    """Reads chunks for readers, from their channel's ring or from the log."""

    def __init__(self, log: Log, metrics: Metrics, *, chunk_bytes: int, event_bytes: int) -> None:
        """Create it with the size of a chunk and that of the longest event, which can be a chunk of its own."""
        self.most_bytes = max(chunk_bytes, event_bytes)
        """The size of the largest chunk."""
        self._chunk_bytes = chunk_bytes
        self._log = log
        self._log_reads = metrics.log_reads
        self._log_turns = asyncio.Semaphore(LOG_TURNS)
        self._account_turns = Turns(ACCOUNT_TURNS)
        self._reads: dict[tuple[str, str, int, Filter], asyncio.Task[Chunk]] = {}
        """By workspace, epoch, the seq that they begin after, and filter: those under way, and the last ones that are done."""

    def from_ring(self, reader: Reader) -> Chunk | None:
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
            if reader.selection.matches(frame.facets):
                size += len(frame.body)
                if passed and size > self._chunk_bytes:
                    break
                passed.append(frame)
            through = frame.seq
        return Chunk(passed, through)

    async def from_log(self, reader: Reader) -> Chunk:
        """Read a chunk after the reader's position, not beyond where its channel stands: once for all that ask for it.

        A log only grows, so a chunk stays right for good; it may end before the log does by now.

        Raises: PositionExpired, StoreUnavailable, WorkspaceNotFound.
        """
        channel, after, selection = reader.channel, reader.session.position, reader.selection
        asked = (channel.workspace, channel.epoch, after, selection)
        read = self._reads.get(asked)
        if read is None:
            read = self._reads[asked] = detached(self._read(reader, after))
            read.add_done_callback(lambda done: self._keep(asked, done))
        return await asyncio.shield(read)  # a reader that leaves does not take it from the others

    @asynccontextmanager
    async def turn(self, reader: Reader) -> AsyncIterator[None]:
        """Wait for a turn at reading the log: the account's first, so that it never keeps others from theirs."""
        async with self._account_turns.turn(reader.subscription.account), self._log_turns:
            yield

    def _keep(self, asked: tuple[str, str, int, Filter], read: asyncio.Task[Chunk]) -> None:
        """Keep a chunk for readers that ask for it next, in place of an older one; not one that failed or led no further."""
        if read.cancelled() or read.exception() is not None or read.result().through <= asked[2]:
            if self._reads.get(asked) is read:
                del self._reads[asked]
        else:
            done = [other for other, task in self._reads.items() if task.done()]
            for other in done[:-KEPT_CHUNKS]:
                del self._reads[other]

    async def _read(self, reader: Reader, after: int) -> Chunk:
        channel, epoch, selection = reader.channel, reader.channel.epoch, reader.selection
        async with self.turn(reader):
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
