"""Drives one reader from the first byte to the last: the loop that every transport runs in the handler it has anyway."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from streamer.core.errors import PositionExpired, StoreUnavailable, WorkspaceNotFound
from streamer.core.filter import EVERYTHING, Filter
from streamer.core.frame import Frame
from streamer.core.ports import Bound, Log
from streamer.core.position import Position
from streamer.feed.channel import Channel, Reader, Sink, Wire
from streamer.feed.hub import Hub
from streamer.feed.session import Session, State

CHUNK_BYTES = 256 * 1024
"""About what is handed to a connection at once while a reader catches up."""
PAGE_EVENTS = 500
"""The most events that one query reads for a reader: usual ones make about `CHUNK_BYTES`."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a reader asked for: a workspace's events that pass the filter, from behind `start` (None: from now on)."""

    workspace: str
    credential: str
    selection: Filter = EVERYTHING
    start: Bound = None
    expires_at: int | None = None


class Feed:
    """Replay joined to live, for readers of any transport."""

    def __init__(self, hub: Hub, log: Log) -> None:
        self._hub = hub
        self._log = log

    async def run(self, subscription: Subscription, channel: Channel, wire: Wire, sink: Sink) -> None:
        """Serve a reader until it leaves (the task is cancelled) or is closed, which it is told.

        `channel` comes from `Hub.following`, entered before the transport has answered anything, so that an unknown workspace
        can still be an error response.
        """
        reader = Reader(
            selection=subscription.selection,
            wire=wire,
            sink=sink,
            session=Session(channel.log),
            credential=subscription.credential,
            expires_at=subscription.expires_at,
        )
        self._hub.enter(channel, reader)
        try:
            try:
                await self._begin(channel, reader, subscription.start)
                await self._go_on(channel, reader)
            except StoreUnavailable:
                reader.close("store_unavailable", reconnect=True)
            except WorkspaceNotFound:
                reader.close("workspace_deleted", reconnect=False)
            sink.write(wire.closed(reader.close_reason or "closed", reconnect=reader.reconnect))
        finally:
            self._hub.leave(channel, reader)

    async def _begin(self, channel: Channel, reader: Reader, start: Bound) -> None:
        session = reader.session
        if start is None:
            return
        if isinstance(start, int):
            start = await self._log.resolve(channel.workspace, start)
        if start.epoch == channel.epoch and start.seq > channel.flushed:
            # The reader is ahead of this node's channel, as after reading on another node: is it ahead of the log, too?
            log = await self._log.head(channel.workspace)
            if log.epoch == channel.epoch:
                await self._hub.reach(channel, min(start.seq, log.head))
        for gap in session.resume(channel.log, start):
            reader.sink.write(reader.wire.gap(gap))
            reader.noted = session.position

    async def _go_on(self, channel: Channel, reader: Reader) -> None:
        session, sink, wire = reader.session, reader.sink, reader.wire
        synced = False
        while session.state is not State.CLOSED:
            if channel.join(reader):
                if not synced:
                    synced = True
                    reader.noted = session.position
                    sink.write(wire.synced(Position(session.epoch, session.position)))
                await self._live(reader)
                continue
            await sink.drain()
            if session.position == channel.flushed:
                continue
            if session.position > channel.flushed:
                # Events that this node has not heard of were removed already: the channel is to be opened anew.
                reader.close("reset", reconnect=True)
                continue
            frames, through = self._from_ring(channel, reader)
            if frames is None:
                try:
                    frames, through = await self._from_log(channel, reader)
                except PositionExpired:
                    await self._step_over(channel, reader)
                    continue
            before = session.position
            fresh = session.read(frames, through)
            if fresh:
                sink.write(wire.frames(fresh))
                reader.noted = fresh[-1].seq
            elif session.position > before:
                reader.noted = session.position
                sink.write(wire.checkpoint(Position(session.epoch, session.position)))

    def _from_ring(self, channel: Channel, reader: Reader) -> tuple[Sequence[Frame] | None, int]:
        """Return what the ring holds for a reader, about a chunk of it; None if the ring has moved past the reader."""
        frames = channel.tail.after(reader.session.position)
        if frames is None:
            return None, 0
        passed: list[Frame] = []
        size = through = 0
        for frame in frames:
            if frame.seq > channel.flushed or size > CHUNK_BYTES:
                break
            through = frame.seq
            if reader.selection.matches(frame.facets):
                passed.append(frame)
                size += len(frame.body)
        return passed, through

    async def _from_log(self, channel: Channel, reader: Reader) -> tuple[Sequence[Frame], int]:
        """Read a page behind the reader's position, not beyond where the channel stands."""
        epoch = channel.epoch
        page = await self._log.page(
            channel.workspace,
            selection=reader.selection,
            order="asc",
            limit=PAGE_EVENTS,
            max_bytes=CHUNK_BYTES,
            after=Position(epoch, reader.session.position),
            before=Position(epoch, channel.flushed + 1),
        )
        return [Frame(Position(epoch, event.seq), event.body) for event in page.events], page.examined

    async def _step_over(self, channel: Channel, reader: Reader) -> None:
        """Tell a reader that what it wanted next was removed meanwhile."""
        log = await self._log.head(channel.workspace)
        if log.epoch != channel.epoch:
            reader.close("reset", reconnect=True)
            return
        channel.earliest = max(channel.earliest, log.earliest)
        gaps = reader.session.trimmed(log)
        if not gaps:  # the log was restored to an earlier state under a running server
            reader.close("reset", reconnect=True)
        for gap in gaps:
            reader.sink.write(reader.wire.gap(gap))
            reader.noted = reader.session.position

    async def _live(self, reader: Reader) -> None:
        """Wait until the reader is not live any more; the channel writes to it meanwhile."""
        left = asyncio.Event()
        reader.wake = left.set
        try:
            if reader.session.state is State.LIVE:
                await left.wait()
        finally:
            reader.wake = None
