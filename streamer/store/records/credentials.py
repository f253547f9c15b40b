"""Credentials as records: only hashes of secrets are stored, and nothing here returns a secret."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, or_, select

from streamer.core.errors import NotFound, PermissionDenied, RateLimited, WorkspaceNotFound
from streamer.core.event import Draft
from streamer.core.ports import AuditDraft, Change, T
from streamer.store.engine.database import Database, reads, writes
from streamer.store.schema import credentials, members

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
    def add(self, connection: Connection, credential: Credential) -> None:
        """Store a credential that was derived from another one."""
        connection.execute(insert(credentials), _row(credential))

    @writes
    def add_first(self, connection: Connection, credential: Credential) -> bool:
        """Store a credential unless there is one with its id; return whether it was stored."""
        insertion = self._database.insert(credentials).on_conflict_do_nothing()
        return bool(connection.execute(insertion, _row(credential)).rowcount)

    def create(self, credential: Credential, workspace: str, draft: Draft, *, most: int | None = None) -> Change[None]:
        """Return the change that stores a key, replacing one with the same id and everything derived from that.

        Args:
            credential: the key.
            workspace: the log for the audit event.
            draft: the audit event.
            most: the workspace's limit of keys; when it is reached, the change raises RateLimited.
        """

        def apply(connection: Connection, found: Collection[str]) -> tuple[None, list[AuditDraft]]:
            if workspace not in found:
                raise WorkspaceNotFound
            if most is not None:
                # Only keys have a workspace, so reading the index is enough.
                count = select(func.count()).where(credentials.c.workspace == workspace)
                if connection.execute(count).scalar_one() >= most:
                    raise RateLimited(f"this workspace has {most} keys, which is the limit; revoke unused keys first")
            _take(connection, credentials.c.id == credential.id)
            connection.execute(insert(credentials), _row(credential))
            return None, [(workspace, draft)]

        return Change((workspace,), apply)

    def revoke(self, key_id: str, workspace: str, tell: Callable[[Credential], Draft]) -> Change[None]:
        """Return the change that removes a workspace's key; it raises NotFound if there is none."""

        def apply(connection: Connection, found: Collection[str]) -> tuple[None, list[AuditDraft]]:
            if workspace not in found:
                raise WorkspaceNotFound
            this = and_(credentials.c.id == key_id, credentials.c.workspace == workspace, credentials.c.kind == "key")
            taken = _take(connection, this)
            if not taken:
                raise NotFound("no such key in this workspace")
            return None, [(workspace, tell(taken[0]))]

        return Change((workspace,), apply)

    @reads
    def find(self, connection: Connection, secret_hash: str) -> Credential | None:
        """Return the credential with this hash, expired or not, unless its parent was removed."""
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
        """Return those of these credentials that exist, expired or not."""
        query = select(credentials).where(self._database.is_any_of(credentials.c.id, "ids"))
        rows = connection.execute(query, {"ids": self._database.list_value(list(ids))})
        return [_credential(row) for row in rows]

    @reads
    def listing(self, connection: Connection, workspace: str, *, after: str, limit: int) -> list[Credential]:
        """Return a workspace's keys, ordered by id."""
        query = (
            select(credentials)
            .where(credentials.c.workspace == workspace, credentials.c.kind == "key", credentials.c.id > after)
            .order_by(credentials.c.id)
            .limit(limit)
        )
        return [_credential(row) for row in connection.execute(query)]

    @writes
    def take(self, connection: Connection, secret_hash: str, kind: Kind) -> Credential | None:
        """Remove a one-time credential and return it: only one of several concurrent callers gets it."""
        query = delete(credentials).where(credentials.c.secret_hash == secret_hash, credentials.c.kind == kind)
        row = connection.execute(query.returning(credentials)).one_or_none()
        return None if row is None else _credential(row)

    @writes
    def remove(self, connection: Connection, credential_id: str) -> None:
        """Remove a credential and everything derived from it."""
        _take(connection, credentials.c.id == credential_id)

    @writes
    def sweep(self, connection: Connection, now: int) -> None:
        """Remove expired sessions and sign-in codes; expired keys stay in the list."""
        over = and_(credentials.c.expires_at <= now, credentials.c.kind.in_(("session", "sign_in")))
        connection.execute(delete(credentials).where(over))


def guarded(change: Change[T], links: Sequence[str], role: tuple[str, str, str] | None) -> Change[T]:
    """Return the change, which raises PermissionDenied if its caller has lost the right meanwhile.

    A caller's cached permissions can be two seconds old; that must not be enough to create a key that outlasts them.

    Args:
        change: the change.
        links: ids of credentials that must exist.
        role: workspace, user and the role that they must have there.
    """

    def apply(connection: Connection, found: Collection[str]) -> tuple[T, Sequence[AuditDraft]]:
        known = select(func.count()).select_from(credentials).where(credentials.c.id.in_(links))
        stands = connection.execute(known).scalar_one() == len(set(links))
        if role is not None:
            workspace, user, name = role
            member = (members.c.workspace == workspace, members.c.user_id == user, members.c.role == name)
            stands = stands and connection.execute(select(members.c.role).where(*member)).first() is not None
        if not stands:
            raise PermissionDenied("the access of this request was revoked meanwhile")
        return change.apply(connection, found)

    return Change(change.locks, apply, change.account)


def take_keys_of(connection: Connection, workspace: str, actor: tuple[str, str]) -> list[Credential]:
    """Remove a workspace's keys that act as `actor`, and return them."""
    this = and_(
        credentials.c.workspace == workspace,
        credentials.c.kind == "key",
        credentials.c.actor_type == actor[0],
        credentials.c.actor_id == actor[1],
    )
    return _take(connection, this)


def _take(connection: Connection, these: ColumnElement[bool]) -> list[Credential]:
    """Remove credentials and everything derived from them; return the former."""
    taken = [
        _credential(row) for row in connection.execute(select(credentials).where(these).order_by(credentials.c.id))
    ]
    ids = [credential.id for credential in taken]
    connection.execute(delete(credentials).where(or_(credentials.c.id.in_(ids), credentials.c.parent.in_(ids))))
    return taken


def _row(credential: Credential) -> dict[str, Any]:
    actor_type, actor_id = credential.actor or (None, None)
    return {
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
