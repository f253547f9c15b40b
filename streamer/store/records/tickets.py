"""Tickets as records: only hashes of secrets are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, and_, delete, false, func, insert, or_, select, update

from streamer.store.engine.database import Database, reads, writes
from streamer.store.schema import tickets

SWEPT = 100
"""Expired tickets that are removed with each new one: more than one, so that they do not accumulate."""


@dataclass(frozen=True, slots=True)
class TicketRecord:
    """A stored ticket; times are microseconds since 1970."""

    id: str
    secret_hash: str
    credential: str
    """The link of the credential that created it (`auth.principal.Principal.chain`)."""
    claims: Mapping[str, Any] | None
    """The token's claims, if it was created with one (`auth.keys.claims_of`)."""
    workspace: str
    parameters: Mapping[str, Sequence[str]]
    """The filter, as query parameters."""
    created_at: int
    expires_at: int
    """Before the first opening: the deadline for it. After that: `ends_at`."""
    ends_at: int
    account: str | None = None
    """The account for limits."""
    openings: int = 0
    epoch: str | None = None
    """The log's epoch at the last opening."""


class TicketStore:
    """The table of tickets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @writes
    def add(self, connection: Connection, ticket: TicketRecord, most: int) -> bool:
        """Store a ticket unless its account has reached its limit; remove some expired ones.

        Args:
            connection: the store's.
            ticket: the new one.
            most: the account's limit.

        Returns:
            whether it was stored.
        """
        row = {name: getattr(ticket, name) for name in tickets.c.keys()}  # noqa: SIM118
        row["parameters"] = orjson.dumps(dict(ticket.parameters)).decode()
        row["claims"] = orjson.dumps(dict(ticket.claims)).decode() if ticket.claims is not None else None
        over = select(tickets.c.id).where(tickets.c.expires_at <= ticket.created_at).limit(SWEPT)
        connection.execute(delete(tickets).where(tickets.c.id.in_(over)))
        mine = (tickets.c.account == ticket.account, tickets.c.expires_at > ticket.created_at)
        if connection.execute(select(func.count()).select_from(tickets).where(*mine)).scalar_one() >= most:
            return False
        connection.execute(insert(tickets), row)
        return True

    @reads
    def find(self, connection: Connection, secret_hash: str) -> TicketRecord | None:
        """Return the ticket with this hash, expired or not."""
        row = connection.execute(select(tickets).where(tickets.c.secret_hash == secret_hash)).one_or_none()
        return None if row is None else _record(row)

    @writes
    def open(
        self, connection: Connection, ticket_id: str, now: int, *, epoch: str, resumed: str | None = None
    ) -> int | None:
        """Open a ticket that has not expired: for the first time, or again with the epoch of its stream.

        Args:
            connection: the store's.
            ticket_id: the ticket.
            now: the time.
            epoch: the log's.
            resumed: the epoch of the client's position, if it resumes.

        Returns:
            the number of this opening (1 …); None: it must not be opened.
        """
        this = and_(tickets.c.id == ticket_id, tickets.c.expires_at > now)
        if resumed is None or resumed != epoch:
            known = false() if resumed is None else tickets.c.epoch == resumed
            this = and_(this, or_(tickets.c.openings == 0, known))
        opened = {"openings": tickets.c.openings + 1, "expires_at": tickets.c.ends_at, "epoch": epoch}
        query = update(tickets).where(this).values(opened)
        opening: int | None = connection.execute(query.returning(tickets.c.openings)).scalar_one_or_none()
        return opening

    @reads
    def standing(self, connection: Connection, ids: Sequence[str]) -> list[TicketRecord]:
        """Return those of these tickets that exist, expired or not."""
        query = select(tickets).where(self._database.is_any_of(tickets.c.id, "ids"))
        rows = connection.execute(query, {"ids": self._database.list_value(list(ids))})
        return [_record(row) for row in rows]


def _record(row: Row[Any]) -> TicketRecord:
    claims = orjson.loads(row.claims) if row.claims is not None else None
    return TicketRecord(**{**row._mapping, "parameters": orjson.loads(row.parameters), "claims": claims})  # noqa: SLF001
