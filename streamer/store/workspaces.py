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
from streamer.store.database import Database
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

    async def get(self, workspace: str) -> Workspace:
        """Return a workspace. Raises WorkspaceNotFound."""
        query = select(workspaces).where(workspaces.c.id == workspace)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise WorkspaceNotFound
        return _workspace(row)

    async def put(self, workspace: str, changes: Mapping[str, Any], *, creator: str) -> tuple[Workspace, bool]:
        """Make a workspace or change one; values that `changes` leaves out stay. Returns it, and whether it was made."""
        values = dict(changes)
        if "settings" in values:
            values["settings"] = orjson.dumps(values["settings"]).decode()
        row = workspace_row(workspace, created_by=creator, now=self._clock())
        this = workspaces.c.id == workspace

        def work(connection: Connection) -> tuple[Workspace, bool]:
            # One statement decides who makes it: others may be at the same, on this node or another.
            made = connection.execute(self._database.insert(workspaces).on_conflict_do_nothing(), row | values).rowcount
            if not made and values:
                connection.execute(update(workspaces).where(this).values(**values))
            return _workspace(connection.execute(select(workspaces).where(this)).one()), bool(made)

        return await self._database.write(work)

    async def listing(self, among: Collection[str] | None, *, after: str, limit: int) -> list[Workspace]:
        """Return workspaces in order of id: all of them, or those `among` the given ids."""
        query = select(workspaces).where(
            workspaces.c.id > after, true() if among is None else workspaces.c.id.in_(sorted(among))
        )
        query = query.order_by(workspaces.c.id).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [_workspace(row) for row in rows]

    async def delete(self, workspace: str) -> None:
        """Delete a workspace with its keys and tickets, at once; its events go in the background (`purge`). Raises WorkspaceNotFound."""

        def work(connection: Connection) -> None:
            if not connection.execute(delete(workspaces).where(workspaces.c.id == workspace)).rowcount:
                raise WorkspaceNotFound
            connection.execute(delete(credentials).where(credentials.c.workspace == workspace))
            connection.execute(delete(tickets).where(tickets.c.workspace == workspace))

        await self._database.write(work)

    async def renew_epochs(self) -> int:
        """Give every log another epoch: all positions that readers hold are of the past. Returns how many logs there are."""

        def work(connection: Connection) -> int:
            keys = connection.execute(select(workspaces.c.key).order_by(workspaces.c.id)).scalars().all()
            for key in keys:
                connection.execute(update(workspaces).where(workspaces.c.key == key).values(epoch=new_epoch()))
            return len(keys)

        return await self._database.write(work)

    async def purge(self) -> bool:
        """Remove some events that no workspace refers to any more. Returns whether there may be more."""
        found = await self._database.read(_orphans)
        if found is None:
            return False
        key, bound = found

        def work(connection: Connection) -> None:
            connection.execute(
                delete(events).where(events.c.workspace == key, true() if bound is None else events.c.seq < bound)
            )
            connection.execute(delete(idempotency).where(idempotency.c.workspace == key))

        await self._database.write(work)
        return True


def _orphans(connection: Connection) -> tuple[int, int | None] | None:
    """Find events that no workspace refers to: the number of theirs, and the seq before which there are `PURGE_ROWS`."""
    orphans = select(events.c.workspace).where(events.c.workspace.not_in(select(workspaces.c.key))).limit(1)
    key = connection.execute(orphans).scalar_one_or_none()
    if key is None:
        return None
    highest = select(events.c.seq).where(events.c.workspace == key).order_by(events.c.seq).limit(1).offset(PURGE_ROWS)
    return key, connection.execute(highest).scalar_one_or_none()


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
