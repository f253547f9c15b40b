"""Long poll: a page of history that waits for its first event. Waiting costs no query: the answer's bytes come from the feed, shared."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from streamer.core.errors import Unauthenticated, WorkspaceNotFound
from streamer.core.frame import Frame, page_body
from streamer.core.position import Position
from streamer.fanout.connection import Reader
from streamer.fanout.subscribers import Subscribers
from streamer.feed.reasons import Reason
from streamer.feed.session import Gap

NOTHING, ASK_THE_LOG = b"", b"?"
"""What an encoder returns in place of a page: wait on; or, the log knows the answer (more events than the page takes, or an error)."""

_POLL_AGAIN = {Reason.SHUTDOWN, Reason.ACCESS_CHANGED}
"""Nothing more is read in the name of what was allowed when the poll came."""
_GONE = {Reason.CREDENTIAL_REVOKED, Reason.CREDENTIAL_EXPIRED, Reason.SIGNED_OUT, Reason.REPLACED}


@dataclass(frozen=True, slots=True)
class LongPollEncoder:
    """Events as the body of a page of at most `limit`."""

    limit: int

    def frames(self, frames: Sequence[Frame]) -> bytes:
        """Encode events."""
        if len(frames) >= self.limit:
            return ASK_THE_LOG  # the page is full: it has a cursor, and may be cut
        return page_body([frame.body for frame in frames], frames[-1].position)

    def synced(self, _position: Position) -> bytes:
        """Encode nothing: now the wait begins."""
        return NOTHING

    def gap(self, _gap: Gap) -> bytes:
        """Encode: the log says what is missing."""
        return ASK_THE_LOG

    def checkpoint(self, _position: Position) -> bytes:
        """Encode nothing: the answer has the position."""
        return NOTHING


class LongPollSink:
    """A request that waits for its answer."""

    transport = "longpoll"
    heartbeat = NOTHING

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def is_ready(self) -> bool:
        """Tell that one answer can always be taken."""
        return True

    def offer(self, data: bytes, share: int) -> bool:  # noqa: ARG002 - the answer is counted when it is written
        """Take the first answer."""
        self.write(data)
        return True

    def write(self, data: bytes) -> None:
        """Take the first answer."""
        if data != NOTHING and not self.answer.done():
            self.answer.set_result(data)

    async def drain(self) -> None:
        """There is nothing to wait for."""

    def room(self, size: int) -> AbstractAsyncContextManager[None]:  # noqa: ARG002 - the answer is counted when it is written
        """One answer always has room."""
        return nullcontext()

    def progress(self) -> None:
        """Nothing waits for the peer."""

    def close(self, reason: Reason) -> None:
        """End the wait."""
        if self.answer.done():
            return
        if reason in _GONE:
            self.answer.set_exception(Unauthenticated(reason.word.replace("_", " ")))
        elif reason is Reason.ACCESS_REVOKED:
            self.answer.set_exception(WorkspaceNotFound())
        elif reason in _POLL_AGAIN:
            self.answer.cancel()
        else:
            self.answer.set_result(ASK_THE_LOG)

    def abort(self) -> None:
        """End the wait without an answer."""
        self.answer.cancel()


async def wait(feed: Subscribers, reader: Reader, chain: Sequence[str], *, limit: int, seconds: float) -> bytes | None:
    """Wait for a reader's first events; it begins at a position, and the caller forgets it.

    Returns:
        the body of a page, an empty one if nothing came in time; None: read the log again.

    Raises:
        Unauthenticated: the credential was revoked or has expired.
        WorkspaceNotFound: the person is no member any more.
    """
    sink = LongPollSink()
    connection = feed.connect(sink, chain)
    try:
        feed.start(reader, connection, LongPollEncoder(limit), connection.close)
        await asyncio.wait([sink.answer], timeout=seconds)
        if not sink.answer.done() or sink.answer.cancelled():
            start = reader.subscription.start
            assert isinstance(start, Position)  # noqa: S101
            return page_body((), reader.position if reader.is_synced else start)
        body = sink.answer.result()
        return None if body == ASK_THE_LOG else body
    finally:
        feed.leave_connection(connection)
