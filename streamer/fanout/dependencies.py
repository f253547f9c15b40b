"""What is open by which link (`access.principal.Principal.chain`): connections by credentials, subscriptions by roles."""

import asyncio
from collections.abc import Collection, Sequence

from streamer.fanout.connection import Connection, Reader
from streamer.feed.reasons import Reason
from streamer.observe.watchdog import Watchdog

AT_ONCE = 500
"""Connections that are closed before others have their turn."""
ENDED_SECONDS = 5
"""How long an ended link is remembered: longer than a request takes from its access check to opening what it asked for."""


class Dependencies:
    """Knows what depends on each link, and closes it when the link ends."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._by_link: dict[str, set[Connection | Reader]] = {}
        self._ended: dict[str, tuple[float, Reason]] = {}
        """Links that were ended here, why, and until when that is remembered, on the event loop's clock."""

    def links(self) -> list[str]:
        """Return all links that something open depends on."""
        return list(self._by_link)

    def count(self, link: str) -> int:
        """Return how much depends on a link."""
        return len(self._by_link.get(link, ()))

    def add(self, one: Connection | Reader, links: Sequence[str]) -> None:
        """Note what something depends on. It is closed at once if one of its links has just ended."""
        for link in links:
            self._by_link.setdefault(link, set()).add(one)
            until, reason = self._ended.get(link, (0, None))
            if reason is not None and until > asyncio.get_running_loop().time():
                one.close(reason)
                return

    def leave(self, one: Connection | Reader, links: Sequence[str]) -> None:
        """Forget what something depends on: it has ended."""
        for link in links:
            bound = self._by_link.get(link, set())
            bound.discard(one)
            if not bound:
                self._by_link.pop(link, None)

    def close_link(self, link: str, reason: Reason) -> None:
        """Close what depends on a link."""
        self.close_all(list(self._by_link.get(link, ())), reason)

    def end_links(self, links: Collection[str], reason: Reason) -> None:
        """Close what depends on these links, and what a request that was let in just before opens a moment later."""
        now = asyncio.get_running_loop().time()
        self._ended = {link: ended for link, ended in self._ended.items() if ended[0] > now}
        for link in links:
            self._ended[link] = now + ENDED_SECONDS, reason
            self.close_link(link, reason)

    def renew_link(self, link: str) -> None:
        """Let what depends on a link be opened again."""
        self._ended.pop(link, None)

    def close_all(self, ones: Sequence[Connection | Reader], reason: Reason) -> None:
        """Close some at once, and the others one bounded part after another: closing takes some microseconds each."""
        for one in ones[:AT_ONCE]:
            one.close(reason)
        if len(ones) > AT_ONCE:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._watchdog.call, "close", self.close_all, ones[AT_ONCE:], reason)
