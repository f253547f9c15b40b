"""Turns at something that has only so much room: a few for each account, so that none waits behind all that another one asks for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from streamer.core.errors import RateLimited


class Turns:
    """So many turns at once for each account; who wants more waits for its own to end."""

    def __init__(
        self, each: int, seconds: float | None = None, message: str = "", refused: Callable[[], object] = int
    ) -> None:
        """Make the turns.

        Args:
            each: turns of one account at once.
            seconds: how long one waits; None: for ever.
            message: the error's text after that.
            refused: called then.
        """
        self._each = each
        self._seconds = seconds
        self._message = message
        self._refused = refused
        self._accounts: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}
        """The turns of each account that has some or waits, and an item for each of those."""

    @asynccontextmanager
    async def turn(self, account: str) -> AsyncIterator[None]:
        """Wait for a turn and have it while the block runs. Raises RateLimited."""
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
            await turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._seconds):
                await turns.acquire()
        except TimeoutError:
            self._refused()
            raise RateLimited(self._message, retry_after=2) from None
