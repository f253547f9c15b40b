"""Ends connections whose credential has ended: by the clock, here, or on another node."""

import asyncio

import structlog

from streamer.auth.keys import Keyring
from streamer.auth.tickets import Tickets, is_ticket
from streamer.core.errors import StoreUnavailable
from streamer.feed.hub import Hub

WATCH_SECONDS = 1
"""Time between looks: one query, whatever the number of connections."""


class Watch:
    """Asks the store once a second for the credentials by which connections are open."""

    def __init__(self, hub: Hub, keyring: Keyring, tickets: Tickets) -> None:
        self._hub = hub
        self._keyring = keyring
        self._tickets = tickets

    async def run(self) -> None:
        """Look until cancelled."""
        logger = structlog.get_logger("watch")
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.look()
            except StoreUnavailable:
                pass  # nothing can be stored meanwhile, so nothing is read that should not be
            except Exception:
                logger.exception("watch_failed")

    async def look(self) -> None:
        """End the connections whose credential has ended. Raises StoreUnavailable."""
        chain = self._hub.credentials()
        for ended, links in (
            (self._tickets.ended, [link for link in chain if is_ticket(link)]),
            (self._keyring.ended, [link for link in chain if not is_ticket(link)]),
        ):
            for link, reason in (await ended(links)).items() if links else ():
                self._hub.close_credential(link, reason)
