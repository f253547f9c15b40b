"""The members of workspaces, with their roles."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, insert, select, tuple_

from streamer.core.errors import NotFound, RateLimited, WorkspaceNotFound
from streamer.core.event import Draft
from streamer.core.ports import AuditDraft, Change
from streamer.store.engine.database import Database, reads
from streamer.store.records.credentials import Credential, take_keys_of
from streamer.store.schema import members

AT_ONCE = 5000
"""Memberships per query."""
OWNER = "owner"
PERSON = "user:"
"""Prefix of `added_by` for a person, followed by their id."""


@dataclass(frozen=True, slots=True)
class Member:
    """A person in a workspace; `added_at` is in microseconds since 1970."""

    user: str
    role: str
    added_at: int
    added_by: str


@dataclass(frozen=True, slots=True)
class Removed:
    """A removed member, and the keys that were revoked with them."""

    member: Member
    keys: Sequence[Credential]


class Members:
    """The table of members. The writer makes its changes, together with their audit events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @reads
    def roles(self, connection: Connection, user: str) -> dict[str, str]:
        """Return a person's roles by workspace, in the order of preference (`auth.principal.Principal.rank`).

        Workspaces that they added themselves to come first, then the others in the order in which they were added:
        adding a person to another workspace cannot move it before their existing ones.
        """
        by_others = case((members.c.added_by == PERSON + user, 0), else_=1)
        query = select(members.c.workspace, members.c.role).where(members.c.user_id == user)
        rows = connection.execute(query.order_by(by_others, members.c.added_at, members.c.workspace))
        return {row.workspace: row.role for row in rows}

    @reads
    def standing(self, connection: Connection, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the roles of these (workspace, user) pairs; users who are not members are absent."""
        pairs = sorted(asked)
        found: dict[tuple[str, str], str] = {}
        for start in range(0, len(pairs), AT_ONCE):
            these = tuple_(members.c.workspace, members.c.user_id).in_(pairs[start : start + AT_ONCE])
            for row in connection.execute(select(members).where(these)):
                found[row.workspace, row.user_id] = row.role
        return found

    @reads
    def listing(self, connection: Connection, workspace: str, *, after: str, limit: int) -> list[Member]:
        """Return a workspace's members, ordered by id."""
        here = (members.c.workspace == workspace, members.c.user_id > after)
        rows = connection.execute(select(members).where(*here).order_by(members.c.user_id).limit(limit))
        return [Member(row.user_id, row.role, row.added_at, row.added_by) for row in rows]

    @reads
    def get(self, connection: Connection, workspace: str, user: str) -> Member:
        """Return a member. Raises NotFound."""
        return _get(connection, workspace, user)

    def put(
        self, workspace: str, wanted: Member, tell: Callable[[Member | None, int], Draft | None], *, most: int
    ) -> Change[tuple[Member, Member | None]]:
        """Return the change that gives a person a role; its result: the member afterwards, and before.

        Args:
            workspace: the workspace.
            wanted: the member; for an existing one only the role changes.
            tell: called with the member before the change and the number of other owners; raises an error, or returns the audit event, if there is one.
            most: the workspace's limit of members; one more raises RateLimited.
        """

        def apply(
            connection: Connection, found: Collection[str]
        ) -> tuple[tuple[Member, Member | None], list[AuditDraft]]:
            if workspace not in found:
                raise WorkspaceNotFound
            before = _find(connection, workspace, wanted.user)
            if before is None:
                count = select(func.count()).where(members.c.workspace == workspace)
                if connection.execute(count).scalar_one() >= most:
                    raise RateLimited(f"this workspace has {most} members, which is the limit; remove some first")
            draft = tell(before, _other_owners(connection, workspace, wanted.user))
            after = replace(before, role=wanted.role) if before else wanted
            connection.execute(delete(members).where(_this(workspace, wanted.user)))
            row = {"workspace": workspace, "user_id": after.user, "role": after.role}
            connection.execute(insert(members), row | {"added_at": after.added_at, "added_by": after.added_by})
            return (after, before), [(workspace, draft)] if draft else []

        return Change((workspace,), apply)

    def remove(self, workspace: str, user: str, tell: Callable[[Removed, int], Sequence[Draft]]) -> Change[Removed]:
        """Return the change that removes a person from a workspace, with the keys that act as them there.

        Args:
            workspace: the workspace.
            user: the person.
            tell: called with the removed member and keys, and the number of other owners; raises an error, or returns the audit events.
        """

        def apply(connection: Connection, found: Collection[str]) -> tuple[Removed, list[AuditDraft]]:
            if workspace not in found:
                raise WorkspaceNotFound
            removed = Removed(_get(connection, workspace, user), take_keys_of(connection, workspace, ("user", user)))
            drafts = tell(removed, _other_owners(connection, workspace, user))
            connection.execute(delete(members).where(_this(workspace, user)))
            return removed, [(workspace, draft) for draft in drafts]

        return Change((workspace,), apply)


def _this(workspace: str, user: str) -> ColumnElement[bool]:
    return and_(members.c.workspace == workspace, members.c.user_id == user)


def _find(connection: Connection, workspace: str, user: str) -> Member | None:
    row = connection.execute(select(members).where(_this(workspace, user))).one_or_none()
    return None if row is None else Member(row.user_id, row.role, row.added_at, row.added_by)


def _get(connection: Connection, workspace: str, user: str) -> Member:
    found = _find(connection, workspace, user)
    if found is None:
        raise NotFound("no such member in this workspace")
    return found


def _other_owners(connection: Connection, workspace: str, user: str) -> int:
    others = and_(members.c.workspace == workspace, members.c.role == OWNER, members.c.user_id != user)
    return connection.execute(select(func.count()).where(others)).scalar_one()
