"""Credentials as records: only hashes of secrets are kept, and nothing here returns one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import Connection, Row, and_, delete, insert, or_, select

from streamer.core.errors import NotFound
from streamer.store.database import Database, reads, writes
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

    @writes
    def add(self, connection: Connection, credential: Credential, *, replace: bool = False) -> None:
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
        if replace:
            connection.execute(delete(credentials).where(credentials.c.id == credential.id))
        connection.execute(insert(credentials), row)

    @reads
    def find(self, connection: Connection, secret_hash: str) -> Credential | None:
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
        row = connection.execute(query).one_or_none()
        return None if row is None else _credential(row)

    @reads
    def get(self, connection: Connection, credential_id: str) -> Credential | None:
        """Return the credential with this id."""
        query = select(credentials).where(credentials.c.id == credential_id)
        row = connection.execute(query).one_or_none()
        return None if row is None else _credential(row)

    @reads
    def standing(self, connection: Connection, ids: Sequence[str]) -> list[Credential]:
        """Return those of these credentials that are there, expired or not."""
        query = select(credentials).where(self._database.is_any_of(credentials.c.id, "ids"))
        rows = connection.execute(query, {"ids": self._database.list_value(list(ids))})
        return [_credential(row) for row in rows]

    @reads
    def of_workspace(self, connection: Connection, workspace: str) -> list[Credential]:
        """Return a workspace's keys, in the order in which they were made."""
        query = (
            select(credentials)
            .where(credentials.c.workspace == workspace, credentials.c.kind == "key")
            .order_by(credentials.c.created_at, credentials.c.id)
        )
        return [_credential(row) for row in connection.execute(query)]

    @writes
    def take(self, connection: Connection, secret_hash: str, kind: Kind) -> Credential | None:
        """Remove a one-time credential and return it: of several takers one gets it."""
        query = delete(credentials).where(credentials.c.secret_hash == secret_hash, credentials.c.kind == kind)
        row = connection.execute(query.returning(credentials)).one_or_none()
        return None if row is None else _credential(row)

    @writes
    def remove(self, connection: Connection, credential_id: str, *, workspace: str | None = None) -> None:
        """Remove a credential and what was made from it. Raises NotFound: there is none (in this workspace)."""
        this = credentials.c.id == credential_id
        if workspace is not None:
            this = and_(this, credentials.c.workspace == workspace, credentials.c.kind == "key")
        gone = connection.execute(delete(credentials).where(this))
        if not gone.rowcount:
            raise NotFound("no such key in this workspace")
        connection.execute(delete(credentials).where(credentials.c.parent == credential_id))

    @writes
    def sweep(self, connection: Connection, now: int) -> None:
        """Remove sessions and sign-in codes whose time is over; keys stay listed."""
        over = and_(credentials.c.expires_at <= now, credentials.c.kind.in_(("session", "sign_in")))
        connection.execute(delete(credentials).where(over))


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
