"""A stream that reconnects by itself, as an iterator whose waits can be cancelled: its state is in the object, not in a suspended frame."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

from streamer.client.backoff import Backoff
from streamer.client.calls import Caller, StreamedAnswer
from streamer.client.errors import ClientError, Unreachable
from streamer.client.messages import Closed, Connected, Lost, Reader, StreamMessage
from streamer.eventsource import EventStreamParser


class Stream(AsyncIterator[StreamMessage]):
    """The messages of a workspace's stream, across all its connections."""

    def __init__(  # noqa: PLR0913 - what a stream is made of
        self,
        caller: Caller,
        path: str,
        reader: Reader,
        filters: Sequence[tuple[str, str]],
        *,
        attempts: int | None,
        notice: Callable[[Connected | Lost], None],
    ) -> None:
        """Prepare the stream; the first wait for a message connects."""
        self._caller = caller
        self._path = path
        self._reader = reader
        self._filters = filters
        self._attempts = attempts
        self._notice = notice
        self._backoff = Backoff(caller.timing)
        self._failures = 0
        self._ready: deque[StreamMessage] = deque()
        """Messages from the last piece of the response; the reader has already advanced past all of them."""
        self._answer: StreamedAnswer | None = None
        self._parser = EventStreamParser()
        self._connected: float | None = None
        self._cause: ClientError | Closed | None = None
        """Why there is no connection any more; the next step waits for another one."""
        self._next_attempt = 0.0
        self._ended = False

    def __del__(self) -> None:
        # Dropped without `aclose`, for example by a break: aiohttp would complain about an open connection.
        if self._answer is not None:
            self._answer.drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamMessage:
        # There is no await between taking a message and returning it, so a cancelled wait has taken none.
        while not self._ready:
            if self._ended:
                await self._disconnect()
                raise StopAsyncIteration
            if self._cause is not None:
                await self._lose()
                continue
            try:
                await self._advance()
            except ClientError as failure:
                self._cause = failure
        message = self._ready.popleft()
        if isinstance(message, Closed):
            if message.reconnect:
                self._cause = message
            else:
                self._ended = True
        return message

    async def aclose(self) -> None:
        """End the stream and its connection; calling it again has no effect."""
        self._ended = True
        self._ready.clear()
        await self._disconnect()

    async def _advance(self) -> None:
        """Make one step: connect, or read the next bytes."""
        if self._answer is None:
            await asyncio.sleep(max(0.0, self._next_attempt - _now()))
            await self._connect()
            return
        chunk = await self._answer.read()
        if not chunk:
            raise Unreachable("the stream ended")
        for item in self._parser.feed(chunk):  # an error in one item is raised after the items before it
            message = self._reader.take(item)
            if message is not None:
                self._ready.append(message)
            if isinstance(message, Closed):
                break

    async def _connect(self) -> None:
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        query = list(self._filters)
        if self._reader.position is not None:
            headers["Last-Event-ID"] = self._reader.position
        elif self._reader.after is not None:
            query.append(("after", self._reader.after))
        answer = await self._caller.open_stream(self._path, query=query, headers=headers)
        if not answer.is_stream_of_events():
            try:
                refusal = await answer.refusal()
            finally:
                await answer.close()
            raise refusal
        self._answer = answer
        self._parser = EventStreamParser(self._reader.position or "")
        self._connected, self._failures = _now(), 0
        self._notice(self._reader.connect())

    async def _lose(self) -> None:
        """Note that a connection was lost, or could not be made, and when to retry.

        Raises errors that a retry cannot fix.
        """
        timing = self._caller.timing
        cause, self._cause = self._cause, None
        if cause is None:
            return
        connected, self._connected = self._connected, None
        if connected is None:
            self._failures += 1
        elif _now() - connected >= timing.stable * timing.unit:
            self._backoff.reset()
        if isinstance(cause, ClientError):
            if not cause.temporary or self._failures == self._attempts:
                await self.aclose()
                raise cause
            delay = self._backoff.delay(max(self._reader.retry, cause.retry_after or 0))
        else:  # not a failure: the server has given each reader a different time to reconnect
            delay = self._backoff.granted(self._reader.retry) * timing.unit or self._backoff.delay(0)
        self._next_attempt = _now() + delay
        self._notice(Lost(cause, delay))
        await self._disconnect()

    async def _disconnect(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
