"""Tickets as records: only hashes of secrets are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, and_, delete, false, func, insert, or_, select, update

from streamer.store.database import Database, reads, writes
from streamer.store.schema import tickets

SWEPT = 100
"""Tickets that are over and removed with each new one: more than one, so that none pile up."""


@dataclass(frozen=True, slots=True)
class TicketRecord:
    """A stored ticket; times are microseconds since 1970."""

    id: str
    secret_hash: str
    credential: str
    """What stands for the credential that it was made with (`auth.principal.Principal.chain`)."""
    claims: Mapping[str, Any] | None
    """What the token said, if it was made with one (`auth.keys.claims_of`)."""
    workspace: str
    parameters: Mapping[str, Sequence[str]]
    """The filter, as parameters of a query."""
    created_at: int
    expires_at: int
    """Before the first opening: the end of the time for that. After it: `ends_at`."""
    ends_at: int
    account: str | None = None
    """Whose limit it counts for."""
    openings: int = 0
    epoch: str | None = None
    """Of the log, when the ticket was opened last."""


class TicketStore:
    """The table of tickets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @writes
    def add(self, connection: Connection, ticket: TicketRecord, most: int) -> bool:
        """Store a ticket unless its account has as many as it may; remove some of those that are over.

        Args:
            connection: the store's.
            ticket: the new one.
            most: tickets that its account may have.

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
        """Return the ticket whose secret has this hash, over or not."""
        row = connection.execute(select(tickets).where(tickets.c.secret_hash == secret_hash)).one_or_none()
        return None if row is None else _record(row)

    @writes
    def open(
        self, connection: Connection, ticket_id: str, now: int, *, epoch: str, resumed: str | None = None
    ) -> int | None:
        """Open a ticket that is not over: for the first time, or again by who knows the epoch of what it was opened for.

        Args:
            connection: the store's.
            ticket_id: which.
            now: the time.
            epoch: the log's.
            resumed: of the position that the client brings, if it resumes.

        Returns:
            which opening this is (1 …); None: it may not be opened.
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
        """Return those of these tickets that are there, over or not."""
        query = select(tickets).where(self._database.is_any_of(tickets.c.id, "ids"))
        rows = connection.execute(query, {"ids": self._database.list_value(list(ids))})
        return [_record(row) for row in rows]


def _record(row: Row[Any]) -> TicketRecord:
    claims = orjson.loads(row.claims) if row.claims is not None else None
    return TicketRecord(**{**row._mapping, "parameters": orjson.loads(row.parameters), "claims": claims})  # noqa: SLF001
