"""One thread for what would hold the event loop too long: walking through large events."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from streamer.core.errors import Overloaded

T = TypeVar("T")


class Worker:
    """Runs functions in one thread, while the event loop goes on. Of each account one waits there at a time, so accounts take turns."""

    def __init__(self, max_waiting_bytes: int) -> None:
        """Prepare the thread; `max_waiting_bytes` is what may wait for it, over all accounts."""
        self._max_bytes = max_waiting_bytes
        self._bytes = 0
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}
        """By account: its turn, and how many of its requests want it."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intake")

    async def run(self, account: str, size: int, function: Callable[[], T]) -> T:
        """Run a function for an account, on an event of this size. Raises Overloaded, and what the function raises."""
        if self._bytes and self._bytes + size > self._max_bytes:
            raise Overloaded(
                "too many large events wait to be searched for secrets; nothing of this request was stored"
            )
        turn, wanted = self._turns.get(account) or (asyncio.Lock(), 0)
        self._turns[account] = turn, wanted + 1
        self._bytes += size
        try:
            async with turn:
                return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        finally:
            self._bytes -= size
            _, wanted = self._turns.pop(account)
            if wanted > 1:
                self._turns[account] = turn, wanted - 1

    def close(self) -> None:
        """End the thread, once what it does is done; what waits is dropped."""
        self._thread.shutdown(cancel_futures=True)
