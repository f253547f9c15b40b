"""Entities and the links between runs and issues, derived from the log: updated by the writer, read, and rebuilt.

The rows are a fold of the log (`core.entities`). The writer folds each group's events in its transaction, so they never
lag behind.
"""

import asyncio
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, or_, select, true, update

from streamer.core.entities import ISSUE, MAX_TEXT, RUN, Entity, EntityFact, entity_type, facts, fold, issue_of
from streamer.core.errors import EntityNotFound, StreamerError, WorkspaceNotFound
from streamer.core.ids import new_epoch
from streamer.store.engine.database import Database, reads
from streamer.store.log.lookup import bodies
from streamer.store.log.rows import Changes, Find, Insert
from streamer.store.schema import entities, events, run_issues, workspaces

FOUND_ROWS = 20
"""Maximum number of entities for a reference."""
STEP_EVENTS = 500
STEP_BYTES = 4 * 2**20
"""Bytes of events that one step of a rebuild folds, while appends to the workspace wait."""
CUT_ROWS = 5000
"""Rows that one transaction removes."""

EventFacts = tuple[int, int, Sequence[EntityFact]]
"""The seq, timestamp and facts of one event."""

_NAMES = ("workspace", *Entity._fields)
_ENTITY = [entities.c[name] for name in Entity._fields]
_PUT = Insert(
    entities,
    _NAMES,
    on_conflict="ON CONFLICT (workspace, id, type) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _NAMES if name not in {"workspace", "id", "type"}),
)
_LINK = Insert(run_issues, ("workspace", "issue_id", "run_id"), on_conflict="ON CONFLICT DO NOTHING")
_IDENTIFIER = re.compile("[A-Z][A-Z0-9]*-[0-9]+")


@dataclass(slots=True)
class Known:
    """A cached part of the rows of one log: entities by id and type, and links as issue and run."""

    entities: dict[tuple[str, str], Entity] = field(default_factory=dict)
    links: set[tuple[str, str]] = field(default_factory=set)


class Folding:
    """Applies the facts in events to the rows, with at most three statements per call."""

    def __init__(self, database: Database) -> None:
        self._find = Find(database, entities, ("workspace", "id", "type"), _NAMES)

    def fold(self, changes: Changes, logs: Sequence[tuple[int, Sequence[EventFacts], Known]]) -> None:
        """Apply the facts in events, in order of seq, to the rows; the logs' rows are locked.

        Args:
            changes: takes the changes to the rows.
            logs: for each log its key, its events, and the known part of its rows, which is extended with the rows read and written.
        """
        absent = {
            (log, fact.id, fact.type)
            for log, log_facts, known in logs
            for _, _, found in log_facts
            for fact in found
            if (fact.id, fact.type) not in known.entities
        }
        if absent:
            of = {log: known for log, _, known in logs}
            for log, *values in self._find.run(changes.connection, absent):
                entity = _entity(values)
                of[log].entities[entity.id, entity.type] = entity
        changed: list[tuple[object, ...]] = []
        linked: list[tuple[object, ...]] = []
        for log, log_facts, known in logs:
            places: dict[tuple[str, str], None] = {}
            for seq, timestamp, found in log_facts:
                for fact in found:
                    place = fact.id, fact.type
                    places[place] = None
                    known.entities[place] = fold(known.entities.get(place), fact, seq, timestamp)
                    if fact.issue is not None and (link := (fact.issue, fact.id)) not in known.links:
                        known.links.add(link)
                        linked.append((log, *link))
            changed += [_row(log, known.entities[place]) for place in places]
        changes.add(_PUT, changed)
        changes.add(_LINK, linked)


def _row(log: int, entity: Entity) -> tuple[object, ...]:
    type_, id_, identifier, name, status, attributes, *rest = entity
    return log, type_, id_, identifier, name, status, orjson.dumps(attributes).decode(), *rest


def _entity(values: Iterable[Any]) -> Entity:
    type_, id_, identifier, name, status, attributes, *rest = values
    return Entity(type_, id_, identifier, name, status, orjson.loads(attributes), *rest)


class RebuildOvertaken(StreamerError):
    """Another rebuild of the same workspace has started, or the workspace was deleted, during this one."""

    def __init__(self) -> None:
        super().__init__("another rebuild of this workspace has started meanwhile, or the workspace was deleted")


class Entities:
    """Entities of workspaces. `heartbeat_run` is a second name of the type `run`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folding = Folding(database)

    @reads
    def get(self, connection: Connection, workspace: str, type_: str, entity_id: str) -> Entity:
        """Return an entity, including a deleted one. Raises WorkspaceNotFound, EntityNotFound."""
        key = _key(connection, workspace)
        if "\0" in type_ + entity_id:
            raise EntityNotFound
        this = (entities.c.workspace == key, entities.c.id == entity_id, entities.c.type == entity_type(type_))
        row = connection.execute(select(*_ENTITY).where(*this)).one_or_none()
        if row is None:
            raise EntityNotFound
        return _entity(row)

    @reads
    def names(self, connection: Connection, workspace: str, type_: str, ids: Collection[str]) -> dict[str, str]:
        """Return the known names of entities by id, including deleted ones. Raises WorkspaceNotFound."""
        query = select(entities.c.id, entities.c.name).where(
            entities.c.workspace == _key(connection, workspace),
            entities.c.type == entity_type(type_),
            entities.c.name.is_not(None),
            self._database.is_any_of(entities.c.id, "ids"),
        )
        return dict(connection.execute(query, {"ids": self._database.list_value(sorted(ids))}).all())

    @reads
    def find(
        self,
        connection: Connection,
        type_: str,
        ref: str,
        among: Collection[str] | None,
        rank: Callable[[str], int] = lambda _workspace: 0,
    ) -> list[tuple[str, Entity]]:
        """Resolve a reference in some workspaces (None: in all): an id, else an identifier, else an identifier in another case (`pap-1`).

        Only the workspaces with the lowest `rank` that have a match count. There is at most one result per workspace,
        the newest; deleted entities are left out. Ordered by workspace id; for all workspaces at most `FOUND_ROWS`.
        """
        if not 0 < len(ref) <= MAX_TEXT or "\0" in ref:
            return []
        tried = [entities.c.id == ref, entities.c.identifier == ref]
        if _IDENTIFIER.fullmatch(upper := ref.strip().upper()):
            tried.append(entities.c.identifier == upper)
        newest = func.row_number().over(
            partition_by=entities.c.workspace, order_by=(entities.c.created_at.desc(), entities.c.id)
        )
        found: list[tuple[str, Entity]] = []
        for same in tried:
            each = (
                select(workspaces.c.id.label("of"), *_ENTITY, newest.label("place"))
                .join(workspaces, workspaces.c.key == entities.c.workspace)
                .where(
                    same,
                    entities.c.type == entity_type(type_),
                    entities.c.deleted_at.is_(None),
                    true() if among is None else self._database.is_any_of(workspaces.c.id, "among"),
                )
                .subquery()
            )
            query = (
                select(each).where(each.c.place == 1).order_by(each.c.of).limit(FOUND_ROWS if among is None else None)
            )
            values = {} if among is None else {"among": self._database.list_value(sorted(among))}
            rows = connection.execute(query, values).all()
            lowest = min([rank(row.of) for row in rows], default=0)
            # An id takes precedence over an identifier only in workspaces of the same rank.
            if rows and (not found or lowest < rank(found[0][0])):
                found = [(of, _entity(values)) for of, *values, _ in rows if rank(of) == lowest]
        return found

    @reads
    def runs_of(
        self, connection: Connection, workspace: str, issue_id: str, limit: int, after: tuple[int, str] | None = None
    ) -> list[Entity]:
        """Return the runs that worked on an issue, newest first, those `after` a time and id.

        Raises WorkspaceNotFound.
        """
        return _linked(connection, workspace, RUN, run_issues.c.run_id, run_issues.c.issue_id == issue_id, limit, after)

    @reads
    def issues_of(
        self, connection: Connection, workspace: str, run_id: str, limit: int, after: tuple[int, str] | None = None
    ) -> list[Entity]:
        """Return the known issues that a run worked on, newest first, those `after` a time and id.

        Raises WorkspaceNotFound.
        """
        return _linked(connection, workspace, ISSUE, run_issues.c.issue_id, run_issues.c.run_id == run_id, limit, after)

    async def rebuild(self, workspace: str, on_progress: Callable[[int, int], None]) -> None:
        """Rebuild a workspace's entities from its log while appends continue, and set the issue of its older events.

        The new rows are written under the negative of the workspace's key, in steps that delay appends by some ten
        milliseconds each. The last step, at the end of the log, swaps them in for the old ones.

        Args:
            workspace: its id.
            on_progress: called with the current seq and the log's head.

        Raises: WorkspaceNotFound, RebuildOvertaken, StoreUnavailable.
        """
        token = new_epoch()
        reached = await self._database.write(lambda connection: _begin(connection, workspace, token))
        more = True
        while more:
            more = await self._database.write(lambda connection: _clear(connection, workspace, token))
        while True:
            started = time.perf_counter()
            step = partial(self._step, workspace=workspace, token=token, after=reached)
            reached, head, done = await self._database.write(step)
            on_progress(reached, head)
            if done:
                return
            await asyncio.sleep(time.perf_counter() - started)  # let other transactions run

    def _step(self, connection: Connection, workspace: str, token: str, after: int) -> tuple[int, int, bool]:
        """Fold some events; the last step swaps the rows. Return the current seq, the head, and whether it is done."""
        key, head, _ = _lock(connection, workspace)
        _check(connection, key, token)
        rows, full = bodies(connection, key, after=after, limit=STEP_EVENTS, max_bytes=STEP_BYTES)
        log_facts: list[EventFacts] = []
        belonging: list[dict[str, object]] = []
        for seq, timestamp, body in rows:
            event = orjson.loads(body)
            log_facts.append((seq, timestamp, facts(event)))
            if issue := issue_of(event):
                belonging.append({"key": key, "at": seq, "issue": issue})
        changes = Changes(connection)
        self._folding.fold(changes, [(-key, log_facts, Known())])
        changes.send()
        if belonging:
            connection.execute(_BELONGS, belonging)
        if full:
            return rows[-1][0], head, False
        _mark(connection, key, None)
        for table in (entities, run_issues):
            connection.execute(delete(table).where(table.c.workspace == key))
            connection.execute(update(table).where(table.c.workspace == -key).values(workspace=key))
        # This shows the writers that their cached rows are out of date (`store.log.writer`).
        later = workspaces.c.last_timestamp + 1
        connection.execute(update(workspaces).where(workspaces.c.key == key).values(last_timestamp=later))
        return head, head, True


_BELONGS = (
    update(events)
    .where(events.c.workspace == bindparam("key"), events.c.seq == bindparam("at"), events.c.issue_id.is_(None))
    .values(issue_id=bindparam("issue"))
)
_MARK = ""
"""The type and id of the row whose name identifies the running rebuild. No entity has them."""


def _key(connection: Connection, workspace: str) -> int:
    query = select(workspaces.c.key).where(workspaces.c.id == workspace)
    key: int | None = connection.execute(query).scalar_one_or_none()
    if key is None:
        raise WorkspaceNotFound
    return key


def _lock(connection: Connection, workspace: str) -> tuple[int, int, int]:
    """Lock a workspace's row, as an append does; return its key, head and earliest seq."""
    columns_ = (workspaces.c.key, workspaces.c.head, workspaces.c.earliest)
    row = connection.execute(select(*columns_).where(workspaces.c.id == workspace).with_for_update()).one_or_none()
    if row is None:
        raise WorkspaceNotFound
    return row.key, row.head, row.earliest


def _begin(connection: Connection, workspace: str, token: str) -> int:
    """Start a rebuild; a running one is cancelled. Return the seq after which the log begins."""
    key, _, earliest = _lock(connection, workspace)
    _mark(connection, key, token)
    return earliest - 1


def _mark(connection: Connection, key: int, token: str | None) -> None:
    """Record the running rebuild; None: there is none."""
    connection.execute(delete(entities).where(entities.c.workspace == -key, entities.c.type == _MARK))
    if token is not None:
        mark = Entity(_MARK, _MARK, None, token, None, {}, 0, 0, None, 0)
        connection.execute(insert(entities).values(dict(zip(_NAMES, _row(-key, mark), strict=True))))


def _check(connection: Connection, key: int, token: str) -> None:
    mark = select(entities.c.name).where(entities.c.workspace == -key, entities.c.id == _MARK, entities.c.type == _MARK)
    if connection.execute(mark).scalar_one_or_none() != token:
        raise RebuildOvertaken


def _clear(connection: Connection, workspace: str, token: str) -> bool:
    """Remove some rows of an interrupted rebuild. Return whether there may be more."""
    key, _, _ = _lock(connection, workspace)
    _check(connection, key, token)
    more = cut(connection, -key)
    _mark(connection, key, token)
    return more


def cut(connection: Connection, key: int) -> bool:
    """Remove some entities and links under a key. Return whether there may be more."""
    full = False
    for column in (entities.c.id, run_issues.c.issue_id):
        here = column.table.c.workspace == key
        last = select(column).where(here).order_by(column).limit(1).offset(CUT_ROWS)
        bound = connection.execute(last).scalar_one_or_none()
        connection.execute(delete(column.table).where(here, true() if bound is None else column <= bound))
        full = full or bound is not None
    return full


def _behind(created_at: int, id_: str) -> ColumnElement[bool]:
    """Return the condition for rows after a place in the order of `_linked`."""
    at = entities.c.created_at
    return or_(at < created_at, and_(at == created_at, entities.c.id > id_))


def _linked(  # noqa: PLR0913, PLR0917 - the parts of one query
    connection: Connection,
    workspace: str,
    type_: str,
    linked: Any,
    by: ColumnElement[bool],
    limit: int,
    after: tuple[int, str] | None,
) -> list[Entity]:
    query = (
        select(*_ENTITY)
        .join(run_issues, and_(run_issues.c.workspace == entities.c.workspace, linked == entities.c.id))
        .where(
            entities.c.workspace == _key(connection, workspace),
            entities.c.type == type_,
            entities.c.deleted_at.is_(None),
            by,
            true() if after is None else _behind(*after),
        )
        .order_by(entities.c.created_at.desc(), entities.c.id)
        .limit(limit)
    )
    return [_entity(row) for row in connection.execute(query)]
