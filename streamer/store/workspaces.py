"""Workspaces as records: made, named, listed, deleted. Their logs are the writer's and the log's."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, delete, select, true, update

from streamer.core.clock import now_us
from streamer.core.errors import WorkspaceNotFound
from streamer.core.ids import new_epoch
from streamer.core.position import LogHead
from streamer.store.database import Database, reads, writes
from streamer.store.schema import credentials, events, idempotency, tickets, workspaces
from streamer.store.writer import workspace_row

PURGE_ROWS = 5000
"""Events of deleted workspaces that one transaction removes."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace's record, and what its log holds."""

    id: str
    name: str | None
    org_id: str
    settings: Mapping[str, Any]
    created_at: int
    created_by: str
    log: LogHead


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

    @writes
    def put(
        self, connection: Connection, workspace: str, changes: Mapping[str, Any], *, creator: str
    ) -> tuple[Workspace, bool]:
        """Make a workspace or change one; values that `changes` leaves out stay. Returns it, and whether it was made."""
        values = dict(changes)
        if "settings" in values:
            values["settings"] = orjson.dumps(values["settings"]).decode()
        row = workspace_row(workspace, created_by=creator, now=self._clock())
        this = workspaces.c.id == workspace
        # One statement decides who makes it: others may be at the same, on this node or another.
        made = connection.execute(self._database.insert(workspaces).on_conflict_do_nothing(), row | values)
        if not made.rowcount and values:
            connection.execute(update(workspaces).where(this).values(**values))
        stored = connection.execute(select(workspaces).where(this)).one()
        return _workspace(stored), bool(made.rowcount)

    @reads
    def listing(
        self, connection: Connection, among: Collection[str] | None, *, after: str, limit: int
    ) -> list[Workspace]:
        """Return workspaces in order of id: all of them, or those `among` the given ids."""
        query = select(workspaces).where(
            workspaces.c.id > after, true() if among is None else workspaces.c.id.in_(sorted(among))
        )
        rows = connection.execute(query.order_by(workspaces.c.id).limit(limit))
        return [_workspace(row) for row in rows]

    @writes
    def delete(self, connection: Connection, workspace: str) -> None:
        """Delete a workspace with its keys and tickets, at once; its events go in the background (`purge`). Raises WorkspaceNotFound."""
        gone = connection.execute(delete(workspaces).where(workspaces.c.id == workspace))
        if not gone.rowcount:
            raise WorkspaceNotFound
        connection.execute(delete(credentials).where(credentials.c.workspace == workspace))
        connection.execute(delete(tickets).where(tickets.c.workspace == workspace))

    @writes
    def renew_epochs(self, connection: Connection) -> int:
        """Give every log another epoch: all positions that readers hold are of the past. Returns how many logs there are."""
        keys = connection.execute(select(workspaces.c.key).order_by(workspaces.c.id)).scalars().all()
        for key in keys:
            connection.execute(update(workspaces).where(workspaces.c.key == key).values(epoch=new_epoch()))
        return len(keys)

    async def purge(self) -> bool:
        """Remove some events that no workspace refers to any more. Returns whether there may be more."""
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
        """Remove a log's events before `bound` (None: all of them)."""
        connection.execute(
            delete(events).where(events.c.workspace == key, true() if bound is None else events.c.seq < bound)
        )
        connection.execute(delete(idempotency).where(idempotency.c.workspace == key))


def _workspace(row: Any) -> Workspace:
    return Workspace(
        row.id,
        row.name,
        row.org_id,
        orjson.loads(row.settings),
        row.created_at,
        row.created_by,
        LogHead(row.epoch, row.head, row.earliest),
    )
