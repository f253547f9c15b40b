"""`tail --idle-exit`: stop after a time without events."""

import asyncio
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from streamer.client import Activity, StreamMessage, Synced


class Idle:
    """Ends the block it wraps once the stream was live for `limit` seconds (None: never) without an event.

    Only time in which an event would have been seen counts: not while catching up, without a connection or while
    handling an event. The count continues after such a pause; an event restarts it.
    """

    def __init__(self, limit: float | None) -> None:
        self.ended = False
        """The limit ended the block."""
        self._limit = limit
        self._left = limit
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            self.ended = True
        return self.ended

    @contextlib.contextmanager
    def handling(self, message: StreamMessage) -> Iterator[None]:
        """Pause the count while a message is handled; then continue or restart it, depending on the message."""
        live = self.stop() or isinstance(message, Synced)
        yield
        if isinstance(message, Activity):
            self._left = self._limit
        if live and self._left is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._left)

    def stop(self) -> bool:
        """Stop the count; return whether it was running."""
        until = self._timeout.when()
        if until is None or self._timeout.expired():
            return False
        self._left = max(0.0, until - asyncio.get_running_loop().time())
        self._timeout.reschedule(None)
        return True
