"""`tail --idle-exit`: enough is enough."""

import asyncio
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from streamer.client import Activity, StreamMessage, Synced


class Idle:
    """Ends the block that it stands around once the stream was live for `limit` seconds (None: never) without an event.

    Only time in which an event would have been seen counts: not that of catching up, of a lost connection or of handling an
    event. After such time the count goes on; an event starts it anew.
    """

    def __init__(self, limit: float | None) -> None:
        self.ended = False
        """That was how the block ended."""
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
        """Stop the count while a message is handled; then go on as it asks for."""
        live = self.stop() or isinstance(message, Synced)
        yield
        if isinstance(message, Activity):
            self._left = self._limit
        if live and self._left is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._left)

    def stop(self) -> bool:
        """Stop the count; tell whether it ran."""
        until = self._timeout.when()
        if until is None or self._timeout.expired():
            return False
        self._left = max(0.0, until - asyncio.get_running_loop().time())
        self._timeout.reschedule(None)
        return True
