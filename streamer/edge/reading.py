"""Whose turn it is to read pages of events: each account has a few at once, and fewer of those that may have to look at many events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamer.core.filter import Filter
from streamer.observe.metrics import Metrics
from streamer.observe.turns import Turns
from streamer.store.ranges import is_scan

PAGE_WAIT_SECONDS = 5
SCAN_WAIT_SECONDS = 2
"""How long a page or a scan waits while the account has as many as it may."""


class PageTurns:
    """Turns at reading pages."""

    def __init__(self, metrics: Metrics, *, pages: int, scans: int) -> None:
        """Make the turns: so many pages of one account at once, and so many scans."""
        self._metrics = metrics
        self._pages = Turns(pages, PAGE_WAIT_SECONDS, f"this key reads {pages} pages at once already")
        self._scans = Turns(
            scans, SCAN_WAIT_SECONDS, f"this key runs {scans} scans at once already", metrics.scans_refused.inc
        )

    @asynccontextmanager
    async def turn(self, account: str, selection: Filter | None) -> AsyncIterator[None]:
        """Wait for a turn and have it while the block runs.

        Args:
            account: who reads.
            selection: what the page lets through; None: it is read in many workspaces, which counts as a scan.

        Raises: RateLimited.
        """
        if selection is not None and not is_scan(selection):
            async with self._pages.turn(account):
                yield
            return
        async with self._scans.turn(account):
            with self._metrics.scans.track_inprogress():
                yield
