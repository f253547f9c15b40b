"""Pages of events: each account reads a few at once, and fewer of those that may have to look at many events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamer.access.principal import Principal
from streamer.core.errors import ReadTimeout
from streamer.core.filter import Filter
from streamer.core.ports import Log, Page
from streamer.http.paging import PageRange
from streamer.observe.metrics import Metrics
from streamer.observe.turns import Turns
from streamer.store.log.ranges import is_scan

PAGE_WAIT_SECONDS = 5
SCAN_WAIT_SECONDS = 2
"""How long a page or a scan waits while the account has as many as it may."""


class Pages:
    """Reads pages of logs."""

    def __init__(self, log: Log, metrics: Metrics, *, pages: int, scans: int, max_bytes: int) -> None:
        """Make the reader: so many pages of one account at once, so many scans, and so many bytes of events in a page."""
        self.max_bytes = max_bytes
        self._log = log
        self._metrics = metrics
        self._pages = Turns(pages, PAGE_WAIT_SECONDS, f"this key reads {pages} pages at once already")
        self._scans = Turns(
            scans, SCAN_WAIT_SECONDS, f"this key runs {scans} scans at once already", metrics.scans_refused.inc
        )

    async def read(
        self, principal: Principal, workspace: str, selection: Filter, page_range: PageRange, limit: int
    ) -> Page:
        """Read a page of at most `limit` events; `selection` is narrowed to what the caller may see.

        The page may be cut (`Page.is_cut`). Raises: RateLimited, and what `Log.page` raises.
        """
        async with self.turn(principal.account, selection):
            page = await self._log.page(
                workspace,
                selection=selection,
                order=page_range.order,
                limit=limit,
                max_bytes=self.max_bytes,
                after=page_range.after,
                before=page_range.before,
                skip=page_range.skip,
            )
        if page.is_cut:
            self._metrics.scans_cut.inc()
        return page

    async def read_whole(
        self, principal: Principal, workspace: str, selection: Filter, page_range: PageRange, limit: int
    ) -> Page:
        """Read a page for an answer that cannot say that it was cut. Raises: ReadTimeout, and what `read` raises."""
        page = await self.read(principal, workspace, selection, page_range, limit)
        if page.is_cut:
            raise ReadTimeout
        return page

    @asynccontextmanager
    async def turn(self, account: str, selection: Filter | None) -> AsyncIterator[None]:
        """Wait for a turn and have it while the block runs.

        Args:
            account: the reader's.
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
