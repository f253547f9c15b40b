"""Credentials as records: only hashes of secrets are kept, and nothing here returns one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import Connection, Row, and_, delete, insert, or_, select

from streamer.core.errors import NotFound
from streamer.store.database import Database
from streamer.store.schema import credentials

Kind = Literal["admin", "key", "sign_in", "session"]


@dataclass(frozen=True, slots=True)
class Credential:
    """A stored credential. `grants` maps workspace ids (or `*`) to scopes; times are microseconds since 1970."""

    id: str
    kind: Kind
    secret_hash: str
    workspace: str | None
    name: str
    grants: Mapping[str, Sequence[str]]
    actor: tuple[str, str] | None
    parent: str | None
    created_at: int
    created_by: str
    expires_at: int | None


class Credentials:
    """The table of credentials."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, credential: Credential, *, replace: bool = False) -> None:
        """Store a credential; with `replace`, in the place of one with the same id."""
        actor_type, actor_id = credential.actor or (None, None)
        row = {
            "id": credential.id,
            "kind": credential.kind,
            "secret_hash": credential.secret_hash,
            "workspace": credential.workspace,
            "name": credential.name,
            "grants": orjson.dumps(dict(credential.grants)).decode(),
            "actor_type": actor_type,
            "actor_id": actor_id,
            "parent": credential.parent,
            "created_at": credential.created_at,
            "created_by": credential.created_by,
            "expires_at": credential.expires_at,
        }

        def work(connection: Connection) -> None:
            if replace:
                connection.execute(delete(credentials).where(credentials.c.id == credential.id))
            connection.execute(insert(credentials), row)

        await self._database.write(work)

    async def find(self, secret_hash: str) -> Credential | None:
        """Return the credential whose secret has this hash, expired or not; not one whose parent is gone."""
        parents = credentials.alias()
        query = (
            select(credentials)
            .outerjoin(parents, parents.c.id == credentials.c.parent)
            .where(
                credentials.c.secret_hash == secret_hash,
                or_(credentials.c.parent.is_(None), parents.c.id.is_not(None)),
            )
        )
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _credential(row)

    async def get(self, credential_id: str) -> Credential | None:
        """Return the credential with this id."""
        query = select(credentials).where(credentials.c.id == credential_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _credential(row)

    async def standing(self, ids: Sequence[str]) -> list[Credential]:
        """Return those of these credentials that are there, expired or not."""
        query = select(credentials).where(self._database.is_any_of(credentials.c.id, "ids"))
        values = {"ids": self._database.list_value(list(ids))}
        rows = await self._database.read(lambda connection: connection.execute(query, values).all())
        return [_credential(row) for row in rows]

    async def of_workspace(self, workspace: str) -> list[Credential]:
        """Return a workspace's keys, in the order in which they were made."""
        query = (
            select(credentials)
            .where(credentials.c.workspace == workspace, credentials.c.kind == "key")
            .order_by(credentials.c.created_at, credentials.c.id)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [_credential(row) for row in rows]

    async def take(self, secret_hash: str, kind: Kind) -> Credential | None:
        """Remove a one-time credential and return it: of several takers one gets it."""
        this = and_(credentials.c.secret_hash == secret_hash, credentials.c.kind == kind)
        query = delete(credentials).where(this).returning(credentials)
        row = await self._database.write(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _credential(row)

    async def remove(self, credential_id: str, *, workspace: str | None = None) -> None:
        """Remove a credential and what was made from it. Raises NotFound: there is none (in this workspace)."""
        this = credentials.c.id == credential_id
        if workspace is not None:
            this = and_(this, credentials.c.workspace == workspace, credentials.c.kind == "key")

        def work(connection: Connection) -> None:
            if not connection.execute(delete(credentials).where(this)).rowcount:
                raise NotFound("no such key in this workspace")
            connection.execute(delete(credentials).where(credentials.c.parent == credential_id))

        await self._database.write(work)

    async def sweep(self, now: int) -> None:
        """Remove sessions and sign-in codes whose time is over; keys stay listed."""
        over = and_(credentials.c.expires_at <= now, credentials.c.kind.in_(("session", "sign_in")))
        await self._database.write(lambda connection: connection.execute(delete(credentials).where(over)))


def _credential(row: Row[Any]) -> Credential:
    return Credential(
        id=row.id,
        kind=row.kind,
        secret_hash=row.secret_hash,
        workspace=row.workspace,
        name=row.name,
        grants=orjson.loads(row.grants),
        actor=(row.actor_type, row.actor_id) if row.actor_type else None,
        parent=row.parent,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
    )
