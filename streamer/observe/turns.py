"""Turns at limited resources: a few for each account, so that no account waits for all the work of another one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from streamer.core.errors import RateLimited


class Turns:
    """A fixed number of concurrent turns per account; further work waits for the account's own turns to end."""

    def __init__(
        self, each: int, seconds: float | None = None, message: str = "", refused: Callable[[], object] = int
    ) -> None:
        """Create the turns.

        Args:
            each: concurrent turns of one account.
            seconds: how long a turn is waited for; None: indefinitely.
            message: the error's message after that.
            refused: called then.
        """
        self._each = each
        self._seconds = seconds
        self._message = message
        self._refused = refused
        self._accounts: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}
        """The turns of each account that has some or waits, with one item per user."""

    @asynccontextmanager
    async def turn(self, account: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it while the block runs. Raises RateLimited."""
        turns, those = self._accounts.setdefault(account, (asyncio.Semaphore(self._each), []))
        those.append(None)
        try:
            await self._wait(turns)
            try:
                yield
            finally:
                turns.release()
        finally:
            those.pop()
            if not those:
                del self._accounts[account]

    async def _wait(self, turns: asyncio.Semaphore) -> None:
        if not turns.locked():
            await turns.acquire()  # without waiting
            return
        try:
            async with asyncio.timeout(self._seconds):
                await turns.acquire()
        except TimeoutError:
            self._refused()
            raise RateLimited(self._message, retry_after=2) from None
