"""Tickets: credentials for one stream, for browsers, whose `EventSource` and `WebSocket` cannot send headers.

A ticket must open its stream soon and is then bound to it: each later opening needs a position to resume from, and
closes the previous one. It gives no more access than the credential that created it, and only while that one is valid.
Tickets are stored in SQL, so any node accepts them.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from streamer.access.keys import SECOND, Keyring, claims_of, hash_secret
from streamer.access.principal import AUDIT, AUDIT_OWN, READ, READ_OWN, TICKET, Principal
from streamer.core.clock import now_us
from streamer.core.errors import RateLimited, Unauthenticated, ValidationError
from streamer.core.filter import parse_filter
from streamer.core.position import Position
from streamer.feed.reasons import Reason
from streamer.ingest.limits import AppendRate
from streamer.store.records.tickets import TicketRecord, TicketStore

OPEN_SECONDS = 60
"""How long a ticket can stay unopened."""
TICKET_SECONDS = 12 * 3600
"""How long a ticket can resume its stream."""


MAX_FILTER = 4096
"""Maximum characters of a ticket's filter, all values together, because it is stored with the ticket."""


@dataclass(frozen=True, slots=True)
class TicketLimits:
    """Limits for one account."""

    outstanding: int = 20_000
    """Tickets that can still open or resume a stream."""
    rate: float = 0
    """Tickets per second, on each node."""
    burst: int = 1000
    """Tickets at once, after a pause."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket that a client sent; its filter is its principal's `within`."""

    id: str


class Tickets:
    """Creates tickets, and finds the principal of a ticket."""

    def __init__(
        self,
        store: TicketStore,
        keyring: Keyring,
        limits: TicketLimits = TicketLimits(),
        *,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._most = limits.outstanding
        self._rate = AppendRate(limits.rate, limits.burst, what="tickets per second can be created")
        self._clock = clock

    async def issue(
        self, principal: Principal, workspace: str, parameters: Mapping[str, Sequence[str]]
    ) -> tuple[str, int]:
        """Create a ticket; the principal must be able to read the workspace.

        Return the secret, and the ticket's expiry.

        Raises:
            ValidationError: the filter is too long.
            RateLimited: the account creates tickets too fast, or has too many.
        """
        if sum(len(value) for values in parameters.values() for value in values) > MAX_FILTER:
            raise ValidationError({"filter": f"a ticket's filter has at most {MAX_FILTER} characters"})
        self._rate.take(principal.account, 1)
        secret = "stk_" + secrets.token_urlsafe(32)
        now = self._clock()
        ends_at = min(now + TICKET_SECONDS * SECOND, principal.expires_at or now + TICKET_SECONDS * SECOND)
        stored = await self._store.add(
            TicketRecord(
                id=TICKET + secrets.token_hex(8),
                secret_hash=hash_secret(secret),
                credential=principal.chain[0],
                claims=claims_of(principal),
                workspace=workspace,
                parameters=parameters,
                created_at=now,
                expires_at=min(now + OPEN_SECONDS * SECOND, ends_at),
                ends_at=ends_at,
                account=principal.account,
            ),
            self._most,
        )
        if not stored:
            raise RateLimited(
                f"this key has {self._most} tickets, which is the limit; unopened ones expire after {OPEN_SECONDS} s",
                retry_after=OPEN_SECONDS,
            )
        return secret, ends_at

    async def find(self, secret: str) -> tuple[Principal, Ticket]:
        """Return a ticket with its principal, without opening it. Raises Unauthenticated."""
        found = await self._store.find(hash_secret(secret))
        issuer = await self._keyring.holder(found.credential, found.claims) if found else None
        if found is None or issuer is None or found.expires_at <= self._clock():
            raise _refused()
        principal = Principal(
            id=found.id,
            name="ticket",
            grants={found.workspace: issuer.scopes(found.workspace) & {READ, READ_OWN, AUDIT, AUDIT_OWN}},
            actor=issuer.actor,
            expires_at=found.ends_at,
            within=parse_filter(found.parameters),
            parents=(*issuer.chain, *issuer.links(found.workspace)),
            derived_from=issuer.account,
        )
        return principal, Ticket(found.id)

    async def open(
        self, ticket: Ticket, principal: Principal, epoch: str, resumed: Position | None
    ) -> tuple[Principal, str | None]:
        """Open a ticket's stream.

        A position proves that a client had the stream, because nobody else knows its epoch.

        Args:
            ticket: the result of `find`.
            principal: its principal.
            epoch: the log's.
            resumed: the position that the client resumes from.

        Returns:
            the principal of this opening, and the previous opening's link in its chain.

        Raises:
            Unauthenticated: it has been opened before, and this does not resume its stream; or it has expired.
        """
        opening = await self._store.open(
            ticket.id, self._clock(), epoch=epoch, resumed=resumed.epoch if resumed else None
        )
        if opening is None:
            raise _refused()
        before = f"{ticket.id}.{opening - 1}" if opening > 1 else None
        return replace(principal, version=str(opening)), before

    async def ended(self, chain: Sequence[str]) -> dict[str, Reason]:
        """Return which of these openings (as in `Principal.chain`) are no longer valid, and why."""
        now = self._clock()
        # A missing ticket was removed because it had expired.
        ended = dict.fromkeys(chain, Reason.CREDENTIAL_EXPIRED)
        standing = {found.id: found for found in await self._store.standing([link.partition(".")[0] for link in chain])}
        for link in chain:
            ticket_id, _, opening = link.partition(".")
            found = standing.get(ticket_id)
            if found is not None and str(found.openings) != opening:
                ended[link] = Reason.REPLACED
            elif found is not None and found.expires_at > now:
                del ended[link]
        return ended


def _refused() -> Unauthenticated:
    return Unauthenticated(
        "the ticket is unknown or expired, or was used and this does not resume its stream: get a new one"
    )
