"""One thread for work that would block the event loop too long: walking large events."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from streamer.core.errors import Overloaded
from streamer.core.shares import has_room

T = TypeVar("T")


class Worker:
    """Runs functions in one thread, while the event loop continues.

    One function per account is queued at a time, so accounts take turns.
    """

    def __init__(self, max_waiting_bytes: int) -> None:
        """Prepare the thread; up to `max_waiting_bytes` can be queued, shared by the accounts as in `has_room`."""
        self._max_bytes = max_waiting_bytes
        self._bytes = 0
        self._turns: dict[str, tuple[asyncio.Lock, int, int]] = {}
        """By account: its turn, the number of its requests that want it, and their bytes."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intake")

    async def run(self, account: str, size: int, function: Callable[[], T]) -> T:
        """Run a function for an account, on an event of this size. Raises Overloaded, and the function's exceptions."""
        turn, wanted, own = self._turns.get(account) or (asyncio.Lock(), 0, 0)
        if self._bytes and not has_room(self._max_bytes, self._bytes, own, size):
            raise Overloaded("too many large events are waiting for redaction; nothing of this request was stored")
        self._turns[account] = turn, wanted + 1, own + size
        self._bytes += size
        try:
            async with turn:
                return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        finally:
            self._bytes -= size
            _, wanted, own = self._turns.pop(account)
            if wanted > 1:
                self._turns[account] = turn, wanted - 1, own - size

    def close(self) -> None:
        """Stop the thread after its current function; queued ones are dropped."""
        self._thread.shutdown(cancel_futures=True)
