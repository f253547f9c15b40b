"""Evershell's streams: of one workspace, whose ids are the events' own; and of all that the caller may read, whose ids hold a position of each.

Its document has the client resume by time and drop what it had already. Ours resume exactly, by `Last-Event-ID`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from streamer.access.keys import Keyring
from streamer.access.principal import Principal
from streamer.access.visibility import Visibility
from streamer.core.errors import (
    Overloaded,
    PermissionDenied,
    RateLimited,
    ValidationError,
    WorkspaceNotFound,
)
from streamer.core.event import id_in
from streamer.core.filter import Filter
from streamer.core.frame import Frame, sse_message
from streamer.core.ports import Bound, Log
from streamer.core.position import LogHead, Position
from streamer.fanout.connection import Connection, Reader, Subscription
from streamer.fanout.subscribers import Subscribers
from streamer.feed.reasons import Reason
from streamer.feed.session import Gap
from streamer.http import merge
from streamer.http.dialects.evershell.shape import shape
from streamer.http.merge import positions_text
from streamer.transports.sse import SseEncoder, SseSink

LOOK_SECONDS = 1
"""Time between looks for workspaces that the readers of all may read now."""
HEADS = 200
"""Workspaces whose heads one query asks for."""

PLACE = "at/"
"""What a resume point begins with that is a position: no id holds a slash."""
NO_LOG = "0"
"""Stands for an epoch in the id of a stream that has no workspaces yet."""
NOWHERE = b"id: %b.0\n\n" % NO_LOG.encode()
GONE = sse_message("gap", {"from": None, "to": None, "reason": "reset", "position": None})
"""Said of workspaces in an id that are not there, or not open to the caller, any more."""


def _block(event_id: str, body: bytes, org_id: str) -> bytes:
    data = orjson.dumps(shape(orjson.loads(body), org_id))
    return b"event: activity\nid: %b\ndata: %b\n\n" % (event_id.encode(), data)


def _gap(gap: Gap) -> bytes:
    data = {"from": gap.first, "to": gap.last, "reason": gap.reason, "position": str(gap.position)}
    return sse_message("gap", data)


def _resume_point(text: str) -> bytes:
    return b"id: %b\n" % text.encode()


def place_of(position: Position) -> str:
    """Write a position so that it is no event's id: events have ids that their writers chose, and readers resume by both."""
    return f"{PLACE}{position}"


def parse_place(text: str) -> Position | None:
    """Read what `place_of` wrote; None if it is something else."""
    try:
        return Position.parse(text.removeprefix(PLACE)) if text.startswith(PLACE) else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class EvershellEncoder(SseEncoder):
    """The events of a workspace of an organisation. Where no event is, the resume point is a position."""

    org_id: str

    def frames(self, frames: Sequence[Frame]) -> bytes:
        """Encode events."""
        return self.chunk(b"".join([_block(id_in(frame.body), frame.body, self.org_id) for frame in frames]))

    def synced(self, position: Position) -> bytes:
        """Encode nothing that the client hears of, but where it stands: before the first event it has no id yet."""
        return self.checkpoint(position)

    def gap(self, gap: Gap) -> bytes:
        """Encode: these events are gone."""
        return self.chunk(_resume_point(place_of(gap.position)) + _gap(gap))

    def checkpoint(self, position: Position) -> bytes:
        """Encode: nothing for this reader up to here."""
        return self.chunk(_resume_point(place_of(position)) + b"\n")


class EvershellSink(SseSink):
    """A stream's connection."""

    __slots__ = ()

    def __init__(self, *args: Any, encoder: SseEncoder, **options: Any) -> None:
        super().__init__(*args, encoder=encoder, **options)
        self.heartbeat = encoder.chunk(b": heartbeat\n")

    def close(self, reason: Reason) -> None:  # noqa: ARG002 - clients of this dialect know no reasons
        """End the stream. The client reconnects, and is refused then if it has lost access."""
        self.end()


@dataclass(slots=True, eq=False)
class OrgStream:
    """A connection that brings the activity of many workspaces."""

    principal: Principal
    selection: Filter
    is_chunked: bool
    connection: Connection | None = None
    readers: dict[str, Reader] = field(default_factory=dict)
    """By workspace."""
    left: dict[str, Position] = field(default_factory=dict)
    """Where it stood in workspaces that have no reader just now, and are to be read on."""
    told: Mapping[str, int] = field(default_factory=dict)
    """Where the client was last told that it stands, other than by an event."""

    def positions(self) -> dict[str, int]:
        """Return where the client stands in each workspace."""
        found = {place.epoch: place.seq for place in self.left.values()}
        # A loop for each event over all workspaces: it makes no objects.
        for reader in self.readers.values():
            found[reader.session.epoch] = reader.seq
        return found

    def resume_point(self, reached: Position) -> bytes:
        """Return what moves the client's resume point to where it stands, if that is known of all workspaces.

        Nothing, if it was told with another workspace's that it has `reached` this.
        """
        if self.told.get(reached.epoch, -1) >= reached.seq or not all(one.is_synced for one in self.readers.values()):
            return b""
        self.told = self.positions()
        return _resume_point(positions_text(self.told)) + b"\n"


class OrgEncoder:
    """How one workspace's part of such a stream is written. No two are equal: the ids are of their connection alone."""

    def __init__(self, stream: OrgStream, org_id: str) -> None:
        self._stream = stream
        self._org_id = org_id
        self._chunk = SseEncoder(stream.is_chunked).chunk

    def frames(self, frames: Sequence[Frame]) -> bytes:
        """Encode events, each with the positions of all workspaces once it is delivered."""
        elsewhere = self._stream.positions()
        elsewhere.pop(frames[0].position.epoch, None)
        others = positions_text(elsewhere)
        ids = [f"{frame.position},{others}".rstrip(",") for frame in frames]
        blocks = [_block(event_id, frame.body, self._org_id) for event_id, frame in zip(ids, frames, strict=True)]
        return self._chunk(b"".join(blocks))

    def synced(self, position: Position) -> bytes:
        """Encode the resume point, once all workspaces have come so far."""
        return self.checkpoint(position)

    def gap(self, gap: Gap) -> bytes:
        """Encode: these events are gone."""
        return self._chunk(_gap(gap))

    def checkpoint(self, position: Position) -> bytes:
        """Encode the resume point."""
        data = self._stream.resume_point(position)
        return self._chunk(data) if data else b""


class OrgStreams:
    """All such streams of a node. One loop opens the workspaces to them that were made, or that their readers may read since."""

    def __init__(  # noqa: PLR0913, PLR0917 - what they read with
        self,
        feed: Subscribers,
        log: Log,
        visibility: Visibility,
        keyring: Keyring,
        workspaces_of: Callable[[Principal], Any],
        orgs_of: Callable[[Collection[str]], Any],
    ) -> None:
        self._feed = feed
        self._log = log
        self._visibility = visibility
        self._keyring = keyring
        self._workspaces_of = workspaces_of
        self._orgs_of = orgs_of
        self._open: set[OrgStream] = set()

    async def prepare(
        self, stream: OrgStream, heads: Mapping[str, LogHead], starts: Mapping[str, Bound]
    ) -> list[tuple[Reader, str]]:
        """Open the channels of workspaces for a stream that has not begun; whoever gets the readers starts them, or has them leave.

        Args:
            stream: which one.
            heads: the workspaces, and what their logs hold.
            starts: where to begin in each, by workspace.

        Returns: the readers, each with its workspace's organisation.
        """
        orgs: Mapping[str, str] = await self._orgs_of(heads)
        opened: list[tuple[Reader, str]] = []
        try:
            for workspace in heads:
                try:
                    reader = await self._follow(stream, workspace, starts.get(workspace))
                except WorkspaceNotFound:
                    continue  # it was deleted just now
                opened.append((reader, orgs.get(workspace, "")))
        except BaseException:
            for reader, _ in opened:
                self._feed.leave(reader)
            raise
        return opened

    async def _follow(self, stream: OrgStream, workspace: str, start: Bound) -> Reader:
        principal = stream.principal
        selection = await self._visibility.authorize(principal, workspace, stream.selection)
        wanted = Subscription(workspace, principal.account, selection, start, principal.links(workspace))
        return await self._feed.follow(wanted)

    def begin(self, stream: OrgStream, connection: Connection, readers: Iterable[tuple[Reader, str]]) -> None:
        """Start a stream on its connection."""
        stream.connection = connection
        self._open.add(stream)
        self._start(stream, readers)

    def end(self, stream: OrgStream) -> None:
        """Forget a stream: its connection is gone."""
        self._open.discard(stream)
        if stream.connection is not None:
            self._feed.leave_connection(stream.connection)

    def _start(self, stream: OrgStream, readers: Iterable[tuple[Reader, str]]) -> None:
        connection = stream.connection
        assert connection is not None  # noqa: S101 - it has begun
        for reader, org_id in readers:
            workspace, start = reader.subscription.workspace, reader.subscription.start
            if connection.closed or not reader.channel.is_open:
                self._feed.leave(reader)
                # Its channel was closed meanwhile: the next look opens another.
                stream.left[workspace] = start if isinstance(start, Position) else reader.position
                continue
            stream.left.pop(workspace, None)
            stream.readers[workspace] = reader
            # Which may end it at once.
            self._feed.start(reader, connection, OrgEncoder(stream, org_id), partial(self._ended, stream, workspace))

    def _ended(self, stream: OrgStream, workspace: str, reason: Reason) -> None:
        """Keep where a workspace's reader stood that the server ended; it is read on from there when it may be again."""
        reader = stream.readers.pop(workspace, None)
        if reader is not None and reason is not Reason.WORKSPACE_DELETED:
            stream.left[workspace] = reader.position

    async def look(self) -> None:
        """Read on where somebody may read now what it did not: the log is asked once for all streams."""
        wanted: dict[OrgStream, set[str]] = {}
        known: dict[object, list[str]] = {}
        for stream in list(self._open):
            stream.principal = await self._keyring.current(stream.principal)
            may = stream.principal.readable(), tuple(stream.principal.roles)
            try:
                if may not in known:
                    known[may], _ = await self._workspaces_of(stream.principal)
            except PermissionDenied:
                continue  # all that it could read is closed, or about to be
            except ValidationError:
                _turn_away(stream)  # more than one stream can bring
                continue
            wanted[stream] = set(known[may]) - set(stream.readers)
            if len(wanted[stream]) + len(stream.readers) > merge.MAX_WORKSPACES:
                del wanted[stream]
                _turn_away(stream)  # others are preferred now
        missing = sorted(set().union(*wanted.values()))
        heads: dict[str, LogHead] = {}
        for start in range(0, len(missing), HEADS):
            heads |= await self._log.heads(missing[start : start + HEADS])
        for stream, workspaces in wanted.items():
            found = {workspace: heads[workspace] for workspace in sorted(workspaces) if workspace in heads}
            if not found or stream not in self._open:
                continue
            # What this stream never read it reads from its beginning.
            starts = {ws: _going_on(stream.left.get(ws), head) for ws, head in found.items()}
            try:
                readers = await self.prepare(stream, found, starts)
            except (RateLimited, Overloaded):
                _turn_away(stream)  # no matter of the other streams
                continue
            if stream in self._open:
                self._start(stream, readers)
            else:
                for reader, _ in readers:
                    self._feed.leave(reader)


def _turn_away(stream: OrgStream) -> None:
    """End a stream that cannot deliver all its events: a client that reconnects gets the reason."""
    if stream.connection is not None:
        stream.connection.close(Reason.RESET)


def _going_on(left: Position | None, head: LogHead) -> Position:
    """Return where a log is read on: from where it was left, or if it is another one by now, from its beginning."""
    at = None if left is None else head.translated(left)
    return at if at is not None and at.epoch == head.epoch else Position(head.epoch, 0)
