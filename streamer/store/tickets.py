"""Tickets as records: only hashes of secrets are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, and_, delete, insert, select, update

from streamer.store.database import Database
from streamer.store.schema import tickets


@dataclass(frozen=True, slots=True)
class TicketRecord:
    """A stored ticket; times are microseconds since 1970."""

    id: str
    secret_hash: str
    credential: str
    """What stands for the credential that it was made with (`auth.principal.Principal.chain`)."""
    workspace: str
    parameters: Mapping[str, Sequence[str]]
    """The filter, as parameters of a query."""
    created_at: int
    expires_at: int
    """Before the first opening: the end of the time for that. After it: `ends_at`."""
    ends_at: int
    openings: int = 0


class TicketStore:
    """The table of tickets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, ticket: TicketRecord) -> None:
        """Store a ticket, and remove those whose time is over."""
        row = {name: getattr(ticket, name) for name in tickets.c.keys() if name != "parameters"}  # noqa: SIM118
        row["parameters"] = orjson.dumps(dict(ticket.parameters)).decode()

        def work(connection: Connection) -> None:
            connection.execute(delete(tickets).where(tickets.c.expires_at <= ticket.created_at))
            connection.execute(insert(tickets), row)

        await self._database.write(work)

    async def find(self, secret_hash: str) -> TicketRecord | None:
        """Return the ticket whose secret has this hash, over or not."""
        query = select(tickets).where(tickets.c.secret_hash == secret_hash)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _record(row)

    async def open(self, ticket_id: str, now: int, *, again: bool) -> int | None:
        """Open a ticket that is not over: for the first time or, with `again`, whether or not it was opened before.

        Returns:
            which opening this is (1 …); None: it may not be opened.
        """
        this = and_(tickets.c.id == ticket_id, tickets.c.expires_at > now)
        if not again:
            this = and_(this, tickets.c.openings == 0)
        change = update(tickets).where(this).values(openings=tickets.c.openings + 1, expires_at=tickets.c.ends_at)
        query = change.returning(tickets.c.openings)
        return await self._database.write(lambda connection: connection.execute(query).scalar_one_or_none())

    async def standing(self, ids: Sequence[str]) -> list[TicketRecord]:
        """Return those of these tickets that are there, over or not."""
        query = select(tickets).where(self._database.is_any_of(tickets.c.id, "ids"))
        values = {"ids": self._database.list_value(list(ids))}
        rows = await self._database.read(lambda connection: connection.execute(query, values).all())
        return [_record(row) for row in rows]


def _record(row: Row[Any]) -> TicketRecord:
    return TicketRecord(**{**row._mapping, "parameters": orjson.loads(row.parameters)})  # noqa: SLF001
