"""Workspaces as records: created, named, listed, deleted.

The writer and the log handle their logs, and record these changes there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, delete, select, true, update

from streamer.core.clock import now_us
from streamer.core.errors import StoreUnavailable, WorkspaceNotFound
from streamer.core.ids import SYSTEM_WORKSPACE, new_epoch
from streamer.core.ports import AuditDraft, Change
from streamer.core.position import LogHead
from streamer.store.engine.database import Database, reads, writes
from streamer.store.log.entities import cut
from streamer.store.log.lookup import log_head
from streamer.store.log.statements import workspace_row
from streamer.store.records.installation import renew
from streamer.store.schema import audit_counts, credentials, events, idempotency, members, tickets, workspaces

PURGE_ROWS = 5000
"""Events of deleted workspaces that one transaction removes."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace's record, and the extent of its log."""

    id: str
    name: str | None
    org_id: str
    settings: Mapping[str, Any]
    created_at: int
    created_by: str
    maker: str | None
    """Who created it with `PUT`; None: an append created it."""
    log: LogHead


@dataclass(frozen=True, slots=True)
class Deleted:
    """Removed with a workspace: ids of keys; members and their roles."""

    keys: Sequence[str]
    members: Sequence[tuple[str, str]]


class Workspaces:
    """The table of workspaces."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock = clock

    @reads
    def get(self, connection: Connection, workspace: str) -> Workspace:
        """Return a workspace. Raises WorkspaceNotFound."""
        row = connection.execute(select(workspaces).where(workspaces.c.id == workspace)).one_or_none()
        if row is None:
            raise WorkspaceNotFound
        return _workspace(row)

    def put(
        self,
        workspace: str,
        changes: Mapping[str, Any],
        *,
        creator: str,
        tell: Callable[[Workspace | None, Workspace], AuditDraft | None],
    ) -> Change[tuple[Workspace, bool]]:
        """Return the change that creates or changes a workspace; its result: the workspace, and whether it was created.

        Args:
            workspace: its id.
            changes: the new values; those that are left out stay.
            creator: its creator, if it is created.
            tell: called with the workspace before and after the change; raises an error, or returns the audit event, if there is one.
        """
        values = dict(changes)
        if "settings" in values:
            values["settings"] = orjson.dumps(values["settings"]).decode()
        this = workspaces.c.id == workspace

        def apply(connection: Connection, found: Collection[str]) -> tuple[tuple[Workspace, bool], list[AuditDraft]]:
            row = workspace_row(workspace, created_by=creator, now=self._clock()) | {"maker": creator}
            insertion = self._database.insert(workspaces).on_conflict_do_nothing()
            before = None
            if not connection.execute(insertion, row | values).rowcount:
                if workspace not in found:  # an append created it a moment ago: it is not locked
                    raise StoreUnavailable("the workspace was created meanwhile")
                before = _workspace(connection.execute(select(workspaces).where(this)).one())
                if values:
                    connection.execute(update(workspaces).where(this).values(**values))
            after = _workspace(connection.execute(select(workspaces).where(this)).one())
            told = tell(before, after)
            return (after, before is None), [told] if told else []

        return Change((workspace, SYSTEM_WORKSPACE), apply)

    @reads
    def listing(
        self,
        connection: Connection,
        among: Collection[str] | None,
        *,
        after: str,
        limit: int,
        org_id: str | None = None,
    ) -> list[Workspace]:
        """Return workspaces ordered by id: all of them, or those `among` the given ids; of one organisation, if one is given."""
        query = select(workspaces).where(
            workspaces.c.id > after,
            true() if among is None else self._database.is_any_of(workspaces.c.id, "among"),
            true() if org_id is None else workspaces.c.org_id == org_id,
        )
        values = {} if among is None else {"among": self._database.list_value(sorted(among))}
        rows = connection.execute(query.order_by(workspaces.c.id).limit(limit), values)
        return [_workspace(row) for row in rows]

    def delete(self, workspace: str, tell: Callable[[Workspace], AuditDraft]) -> Change[Deleted]:
        """Return the change that deletes a workspace with its members, keys and tickets; `purge` removes its events in the background.

        It raises WorkspaceNotFound if there is none.
        """

        def apply(connection: Connection, found: Collection[str]) -> tuple[Deleted, list[AuditDraft]]:
            if workspace not in found:
                raise WorkspaceNotFound
            this = workspaces.c.id == workspace
            told = tell(_workspace(connection.execute(select(workspaces).where(this)).one()))
            keys = connection.execute(select(credentials.c.id).where(credentials.c.workspace == workspace)).scalars()
            people = connection.execute(select(members).where(members.c.workspace == workspace))
            deleted = Deleted(list(keys), [(row.user_id, row.role) for row in people])
            connection.execute(delete(workspaces).where(this))
            for table in (credentials, members, tickets):
                connection.execute(delete(table).where(table.c.workspace == workspace))
            return deleted, [told]

        return Change((workspace, SYSTEM_WORKSPACE), apply)

    @writes
    def renew_epochs(self, connection: Connection) -> int:
        """Give every log a new epoch, which invalidates all positions that readers hold. Return the number of logs."""
        renew(connection)
        keys = connection.execute(select(workspaces.c.key).order_by(workspaces.c.id)).scalars().all()
        for key in keys:
            connection.execute(update(workspaces).where(workspaces.c.key == key).values(epoch=new_epoch()))
        return len(keys)

    async def purge(self) -> bool:
        """Remove some events that no workspace refers to any more. Return whether there may be more."""
        orphaned = await self._orphaned()
        if orphaned is None:
            return False
        await self._remove(*orphaned)
        return True

    @reads
    def _orphaned(self, connection: Connection) -> tuple[int, int | None] | None:
        """Return the key of a log that no workspace refers to, and the seq up to which it has `PURGE_ROWS` events, if it has more."""
        living = select(workspaces.c.key)
        orphans = select(events.c.workspace).where(events.c.workspace.not_in(living)).limit(1)
        key = connection.execute(orphans).scalar_one_or_none()
        if key is None:
            return None
        highest = (
            select(events.c.seq).where(events.c.workspace == key).order_by(events.c.seq).limit(1).offset(PURGE_ROWS)
        )
        return key, connection.execute(highest).scalar_one_or_none()

    @writes
    def _remove(self, connection: Connection, key: int, bound: int | None) -> None:
        """Remove a log's events before `bound` (None: all of them), after its entities: its events lead to what is left."""
        if cut(connection, key) or cut(connection, -key):
            return
        connection.execute(
            delete(events).where(events.c.workspace == key, true() if bound is None else events.c.seq < bound)
        )
        for table in (idempotency, audit_counts):
            connection.execute(delete(table).where(table.c.workspace == key))


def _workspace(row: Any) -> Workspace:
    return Workspace(
        row.id,
        row.name,
        row.org_id,
        orjson.loads(row.settings),
        row.created_at,
        row.created_by,
        row.maker,
        log_head(row),
    )
