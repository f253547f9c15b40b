"""The writer's SQL: a log while its row is locked, and the statements of one transaction."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import BigInteger, Connection, bindparam, delete, func, literal, select

from streamer.core.event import Draft, Event, Facets
from streamer.core.frame import LiveFrame
from streamer.core.ids import new_epoch
from streamer.core.position import Position
from streamer.store.engine.database import Database
from streamer.store.log.entities import EventFacts, Folding, Known
from streamer.store.log.ranges import count_audit
from streamer.store.log.rows import Changes, Find, Insert, Update
from streamer.store.schema import audit_counts, events, idempotency, workspaces

KEPT_LOGS = 100
KEPT_ROWS = 500
"""Number of logs whose entities and links a node caches, and number of rows per log; beyond that they are dropped and read again."""
INSERT_ROWS = 512
INSERT_BYTES = 2**20
"""Events that are inserted with one statement, and their approximate bytes."""
SWEEP_ROWS = 1000
"""Expired idempotency keys that one group removes."""

DEFAULT_ORG = "default"

_EVENTS = Insert(events, ("workspace", "seq", "timestamp", "size", "id", "fingerprint", *Facets._fields, "body"))
_COUNTS = Insert(
    audit_counts,
    ("workspace", "block", "action", "events"),
    on_conflict="ON CONFLICT (workspace, block, action) DO UPDATE SET events = audit_counts.events + excluded.events",
)
_KEYS = Insert(
    idempotency,
    ("workspace", "key", "fingerprint", "seqs", "expires_at"),
    # Only an expired key can exist already.
    on_conflict="ON CONFLICT (workspace, key) DO UPDATE SET fingerprint = excluded.fingerprint, "
    "seqs = excluded.seqs, expires_at = excluded.expires_at",
)


@dataclass(slots=True)
class LockedLog:
    """One workspace's log while its row is locked: its head, and the additions of this transaction."""

    key: int
    id: str
    epoch: str
    head: int
    last_timestamp: int
    timeline: str | None = None
    previous: Position | None = None
    """The end of the epoch before, if this is the first write after a failover."""
    is_moved: bool = False
    """The row gets the timeline, and perhaps a new epoch, with this write."""
    stored: dict[str, Event] = field(default_factory=dict)
    """Events by id, requested or created by the group; their timestamps are in `times`.

    The body is empty if the size already shows that the stored event differs from the sent one.
    """
    times: dict[int, int] = field(default_factory=dict)
    fingerprints: dict[str, str | None] = field(default_factory=dict)
    """The fingerprints of those events, as they were sent; None: unknown."""
    remembered: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    """Idempotency keys: fingerprint, and the seqs of the response."""
    by_seq: dict[int, Event] = field(default_factory=dict)
    frames: list[LiveFrame] = field(default_factory=list)
    added: list[tuple[Event, int, Draft]] = field(default_factory=list)
    """The additions of this transaction: event, timestamp, draft."""
    facts: list[EventFacts] = field(default_factory=list)
    audit: list[tuple[int, int, str]] = field(default_factory=list)
    """Audit events: key, seq, action."""
    known: Known = field(default_factory=Known)
    new_keys: list[str] = field(default_factory=list)

    def move_to(self, timeline: str) -> None:
        """Continue on another timeline of the database.

        A failover can have lost the end of the log, whose seqs are given to other events: so they belong to a new epoch.
        """
        if self.timeline is not None:
            self.previous = Position(self.epoch, self.head)
            self.epoch = new_epoch()
        self.timeline, self.is_moved = timeline, True

    def keep(self, event: Event, timestamp: int) -> None:
        """Record an event that is stored, or will be by this transaction."""
        self.stored[event.id] = event
        self.by_seq[event.seq] = event
        self.times[event.seq] = timestamp

    def add(self, draft: Draft, now: int) -> Event:
        """Assign a draft its seq and timestamp."""
        self.head += 1
        self.last_timestamp = max(now, self.last_timestamp + 1)
        event = Event(self.head, draft.id, draft.seal(self.head, self.last_timestamp))
        self.keep(event, self.last_timestamp)
        self.frames.append(LiveFrame(Position(self.epoch, event.seq), event.body, draft.facets))
        self.added.append((event, self.last_timestamp, draft))
        self.fingerprints[draft.id] = draft.fingerprint
        if draft.facets.category == "audit":
            self.audit.append((self.key, event.seq, draft.facets.action))
        if draft.facts:
            self.facts.append((event.seq, self.last_timestamp, draft.facts))
        return event


class Statements:
    """The writer's SQL, compiled once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        clock = (literal(0) if database.is_sqlite else _POSTGRESQL_CLOCK).label("now")
        listed = database.is_any_of(workspaces.c.id, "ids")
        head = (workspaces.c.epoch, workspaces.c.head, workspaces.c.last_timestamp, workspaces.c.timeline)
        rows = select(workspaces.c.key, workspaces.c.id, *head).where(listed)
        # SQLite has no such clause: there, BEGIN IMMEDIATE has locked everything.
        self._lock = rows.add_columns(clock).order_by(workspaces.c.id).with_for_update(key_share=True)
        free = rows.with_for_update(key_share=True, skip_locked=True).cte("free")
        self._lock_free = (
            select(free.c.key, workspaces.c.id, *(free.c[column.name] for column in head), clock)
            .select_from(workspaces.outerjoin(free, free.c.key == workspaces.c.key))
            .where(listed)
        )
        self._make = database.insert(workspaces).on_conflict_do_nothing()
        facts = ("workspace", "seq", "id", "timestamp", "size", "fingerprint")
        self._known = Find(database, events, ("workspace", "id"), facts)
        self._stored = Find(database, events, ("workspace", "seq"), ("workspace", "seq", "id", "timestamp", "body"))
        answer = ("workspace", "key", "fingerprint", "seqs", "expires_at")
        self._remembered = Find(database, idempotency, ("workspace", "key"), answer)
        self._heads = Update(workspaces, ("key", "head", "last_timestamp"))
        self._moved = Update(
            workspaces, ("key", "head", "last_timestamp", "timeline", "epoch", "previous_epoch", "fork")
        )
        self._timeline = Update(workspaces, ("key", "head", "last_timestamp", "timeline"))
        self._folding = Folding(database)
        self._memory: dict[int, tuple[tuple[int, int], Known]] = {}
        """By a log's key: its head and last timestamp at its last write, and the cached rows of that state."""

    def lock(
        self, connection: Connection, ids: Sequence[str], wait_for: Collection[str]
    ) -> tuple[dict[str, LockedLog], set[str], int]:
        """Lock workspaces: first wait for some of them, in the order of their ids, then take the free ones of the others.

        Return those that are locked, those that other transactions hold, and the database's time, 0 if it has none.
        """
        if self._database.is_sqlite:
            wait_for = ids
        now = 0
        timeline = self._database.timeline(connection)
        found: dict[str, LockedLog] = {}
        skipped: set[str] = set()
        for statement, some in (
            (self._lock, list(wait_for)),
            (self._lock_free, [each for each in ids if each not in wait_for]),
        ):
            rows = connection.execute(statement, {"ids": self._database.list_value(some)}) if some else ()
            for key, workspace, epoch, head, last_timestamp, written_on, now in rows:  # noqa: B007 - the last one is the latest
                if key is None:
                    skipped.add(workspace)
                    continue
                found[workspace] = log = LockedLog(key, workspace, epoch, head, last_timestamp, written_on)
                if timeline is not None and timeline != written_on:
                    log.move_to(timeline)
                # Removed from the cache, and returned to it only if this transaction is committed.
                at, known = self._memory.pop(key, (None, None))
                if known is not None and at == (head, last_timestamp):
                    log.known = known
        return found, skipped, now

    def newest(self, connection: Connection) -> int | None:
        """Return the newest timestamp of all logs; None: there are none."""
        found: int | None = connection.execute(select(func.max(workspaces.c.last_timestamp))).scalar()
        return found

    def remember(self, logs: Sequence[LockedLog]) -> None:
        """Cache the known rows of these logs, valid as long as nobody else writes to them; the transaction is committed."""
        for log in logs:
            if len(log.known.entities) + len(log.known.links) <= KEPT_ROWS:
                self._memory[log.key] = (log.head, log.last_timestamp), log.known
        if len(self._memory) > KEPT_LOGS:
            self._memory.clear()

    def make(self, connection: Connection, creators: dict[str, str], now: int) -> None:
        """Create workspaces, each in the name of its creator, unless another node already has."""
        # Ordered by id, like the locks: two nodes that create the same workspaces must not deadlock.
        rows = [workspace_row(ws, created_by=creators[ws], now=now) for ws in sorted(creators)]
        connection.execute(self._make, rows)

    def known(self, connection: Connection, wanted: Collection[tuple[int, str]]) -> Sequence[Any]:
        """Return log, seq, id, timestamp, size and fingerprint of the events that have one of these ids in these logs."""
        return self._known.run(connection, wanted)

    def stored(self, connection: Connection, wanted: Collection[tuple[int, int]]) -> list[tuple[int, Event, int]]:
        """Return the events with these seqs in these logs: log, event, timestamp."""
        rows = self._stored.run(connection, wanted)
        return [(row.workspace, Event(row.seq, row.id, row.body.encode()), row.timestamp) for row in rows]

    def remembered(
        self, connection: Connection, wanted: Collection[tuple[int, str]], now: int
    ) -> list[tuple[int, str, str, list[int]]]:
        """Return the valid idempotency keys among these: log, key, fingerprint, and the seqs of the response."""
        rows = self._remembered.run(connection, wanted)
        return [
            (row.workspace, row.key, row.fingerprint, orjson.loads(row.seqs)) for row in rows if row.expires_at > now
        ]

    def store(self, connection: Connection, logs: Sequence[LockedLog], forget_at: int) -> None:
        """Store the additions to these logs: heads, events, counts, entities, and idempotency keys until `forget_at`."""
        changes = Changes(connection)
        written = [log for log in logs if log.added]
        # One row must not be updated twice by one statement.
        changes.add(self._heads, [_head(log) for log in written if not log.is_moved])
        changes.add(
            self._timeline, [(*_head(log), log.timeline) for log in written if log.is_moved and not log.previous]
        )
        changes.add(
            self._moved,
            [
                (*_head(log), log.timeline, log.epoch, log.previous.epoch, log.previous.seq)
                for log in written
                if log.is_moved and log.previous
            ],
        )
        changes.add(_COUNTS, count_audit(event for log in logs for event in log.audit))
        changes.add(
            _KEYS,
            [
                (log.key, key, fingerprint, orjson.dumps(seqs).decode(), forget_at)
                for log in logs
                for key in log.new_keys
                for fingerprint, seqs in (log.remembered[key],)
            ],
        )
        for rows in _rows(logs):
            changes.add(_EVENTS, rows)
        for portion in _portions(logs):
            self._folding.fold(changes, portion)
        changes.send()

    def sweep(self, connection: Connection, now: int) -> None:
        """Remove expired idempotency keys, a bounded number at once."""
        old = (
            select(idempotency.c.workspace, idempotency.c.key)
            .where(idempotency.c.expires_at <= now)
            .order_by(idempotency.c.expires_at)
            .limit(SWEEP_ROWS)
        )
        rows = connection.execute(old).all()
        if rows:
            gone = delete(idempotency).where(
                idempotency.c.workspace == bindparam("log"), idempotency.c.key == bindparam("old")
            )
            connection.execute(gone, [{"log": row.workspace, "old": row.key} for row in rows])


def _head(log: LockedLog) -> tuple[int, int, int]:
    return log.key, log.head, log.last_timestamp


def _rows(logs: Sequence[LockedLog]) -> Iterator[list[tuple[object, ...]]]:
    """Yield the rows of the new events in parts: on PostgreSQL, building a statement from them is one step of the event loop."""
    rows: list[tuple[object, ...]] = []
    total = 0
    for log in logs:
        for event, timestamp, draft in log.added:
            size = len(event.body)
            sent = draft.fingerprint if draft.given_id else None
            rows.append((log.key, event.seq, timestamp, size, event.id, sent, *draft.facets, event.body.decode()))
            total += size
            if total > INSERT_BYTES or len(rows) >= INSERT_ROWS:
                yield rows
                rows, total = [], 0
    if rows:
        yield rows


def _portions(logs: Sequence[LockedLog]) -> Iterator[list[tuple[int, Sequence[EventFacts], Known]]]:
    """Yield the events' facts about entities in parts, like `_rows`."""
    portion: list[tuple[int, Sequence[EventFacts], Known]] = []
    total = 0
    for log in logs:
        for start in range(0, len(log.facts), INSERT_ROWS):
            facts = log.facts[start : start + INSERT_ROWS]
            portion.append((log.key, facts, log.known))
            total += len(facts)
            if total >= INSERT_ROWS:
                yield portion
                portion, total = [], 0
    if portion:
        yield portion


_POSTGRESQL_CLOCK = func.floor(func.extract("epoch", func.clock_timestamp()) * 1_000_000).cast(BigInteger)
"""The database's clock: a node with a wrong clock cannot run ahead."""


def workspace_row(workspace: str, *, created_by: str, now: int) -> dict[str, object]:
    """Return the row of a new workspace with an empty log."""
    return {
        "id": workspace,
        "epoch": new_epoch(),
        "head": 0,
        "earliest": 1,
        "last_timestamp": 0,
        "name": None,
        "org_id": DEFAULT_ORG,
        "settings": "{}",
        "created_at": now,
        "created_by": created_by,
        "maker": None,
        "timeline": None,
        "previous_epoch": None,
        "fork": None,
    }
