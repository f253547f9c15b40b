"""Closes connections whose access was revoked or has expired, here or on another node.

A connection depends on the links of its chain (`access.principal.Principal.links`); this module checks each kind of link.
"""

import asyncio
from collections.abc import Callable, Sequence

from streamer.access.jwt import Tokens
from streamer.access.principal import MEMBER, PERSON, SIGNER, TICKET, UNTIL
from streamer.access.tickets import Tickets
from streamer.core.clock import now_us
from streamer.fanout.dependencies import Dependencies
from streamer.feed.reasons import Reason
from streamer.store.records.credentials import Credentials
from streamer.store.records.members import Members

WATCH_SECONDS = 1
"""Time between checks."""
AT_ONCE = 1000
"""Number of links that are checked before other tasks run: one query for each kind among them."""


class RevocationWatch:
    """Checks once a second whether the access of open connections is still valid."""

    def __init__(  # noqa: PLR0913, PLR0917 - the composition root names each of them
        self,
        dependencies: Dependencies,
        credentials: Credentials,
        members: Members,
        tickets: Tickets,
        tokens: Tokens | None,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._dependencies = dependencies
        self._credentials = credentials
        self._members = members
        self._tickets = tickets
        self._tokens = tokens
        self._clock = clock

    async def look(self) -> None:
        """Close the connections whose access is no longer valid. Raises StoreUnavailable."""
        links = self._dependencies.links()
        for start in range(0, len(links), AT_ONCE):
            await self._look_at(links[start : start + AT_ONCE])
            await asyncio.sleep(0)

    async def _look_at(self, links: Sequence[str]) -> None:
        kinds: dict[str, list[str]] = {}
        for link in links:
            kind = next((prefix for prefix in (TICKET, PERSON, UNTIL, SIGNER, MEMBER) if link.startswith(prefix)), "")
            kinds.setdefault(kind, []).append(link)
        now = self._clock()
        # First the checks without a database: an expired token must not wait for one.
        ended = {link: Reason.CREDENTIAL_EXPIRED for link in kinds.get(UNTIL, ()) if int(link[len(UNTIL) :]) <= now}
        ended |= await self._unpublished(kinds.get(SIGNER, ()))
        self._end(ended)
        for kind, look in ((TICKET, self._tickets.ended), (MEMBER, self._changed), ("", self._gone)):
            if kind in kinds:
                self._end(await look(kinds[kind]))

    def _end(self, ended: dict[str, Reason]) -> None:
        for link, reason in ended.items():
            self._dependencies.close_link(link, reason)

    async def _unpublished(self, chain: Sequence[str]) -> dict[str, Reason]:
        """Return the keys of tokens that are no longer in use."""

        def gone() -> list[str]:
            return [link for link in chain if self._tokens is None or not self._tokens.stands(link[len(SIGNER) :])]

        if gone() and self._tokens is not None:
            await self._tokens.refresh()  # this node may not know a key yet
        return dict.fromkeys(gone(), Reason.CREDENTIAL_REVOKED)

    async def _gone(self, chain: Sequence[str]) -> dict[str, Reason]:
        """Return the stored credentials that are no longer valid, and why."""
        now = self._clock()
        ended = dict.fromkeys(chain, Reason.CREDENTIAL_REVOKED)
        for credential in await self._credentials.standing([link.partition(".")[0] for link in chain]):
            if credential.expires_at is not None and credential.expires_at <= now:
                ended[credential.id] = Reason.CREDENTIAL_EXPIRED
            else:
                ended.pop(credential.id, None)
                ended.pop(f"{credential.id}.{credential.created_at}", None)
        return ended

    async def _changed(self, chain: Sequence[str]) -> dict[str, Reason]:
        """Return the memberships that have changed, and whether the person should reconnect."""
        asked = {link: link.removeprefix(MEMBER).split("/", 2) for link in chain}
        standing = await self._members.standing({(workspace, user) for workspace, _, user in asked.values()})
        ended: dict[str, Reason] = {}
        for link, (workspace, role, user) in asked.items():
            now = standing.get((workspace, user))
            if now is None:
                ended[link] = Reason.ACCESS_REVOKED
            elif now != role:
                ended[link] = Reason.ACCESS_CHANGED
        return ended
