"""Group commit: the appends that wait are stored together, in one transaction.

A writer has one loop. It takes all waiting requests (up to a bound), and while the database commits them, the next
group gathers; a single append is not delayed. Within the transaction the workspaces' rows are locked, so commit order
is seq order on any number of nodes, and a rollback returns the numbers. After the commit the requests are answered,
then the commit is announced on the bus.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, cast

import structlog
from sqlalchemy import Connection

from streamer.core.clock import now_us
from streamer.core.errors import (
    IdConflict,
    IdempotencyConflict,
    InternalError,
    Overloaded,
    StoreUnavailable,
    StreamerError,
    WorkspaceNotFound,
)
from streamer.core.event import Event
from streamer.core.ids import SYSTEM_WORKSPACE
from streamer.core.ports import Append, Appended, Change, Committed, T
from streamer.observe.metrics import Metrics
from streamer.store.engine.database import Database
from streamer.store.engine.outages import Contended, Refused
from streamer.store.engine.pools import STOPPING
from streamer.store.engine.steady import SteadyClock
from streamer.store.log.ahead import Ahead
from streamer.store.log.held import HELD, LOCKED, Held, Waiting
from streamer.store.log.queue import Queue
from streamer.store.log.repeats import is_same, repeats
from streamer.store.log.statements import LockedLog, Statements

GROUP_EVENTS = 4096
"""Events in one transaction, unless a single request has more."""
GROUP_BYTES = 8 * 2**20
LOOP_GROUP_EVENTS = 1024
LOOP_GROUP_BYTES = 2 * 2**20
"""The limit in bytes if the transaction runs on the event loop, where the work between two statements is one step."""
GATHER_SECONDS = 0.02
"""The longest pause between two groups."""


Outcome = Appended | StreamerError
_Result = tuple[list[Any], list[LockedLog], set[str]]
"""Of a transaction: the outcomes of its requests, the logs that it changes, and the workspaces that others hold."""


class GroupCommit:
    """The writer as `core.ports.Writer` describes it; its loop takes one `turn` after another."""

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        database: Database,
        publish: Callable[[Committed], None],
        metrics: Metrics,
        *,
        max_waiting_events: int,
        max_waiting_bytes: int,
        idempotency_seconds: int,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._database = database
        self._publish = publish
        self._metrics = metrics
        self._remember_us = idempotency_seconds * 1_000_000
        self._clock = clock
        self._queue = Queue(max_waiting_events, max_waiting_bytes)
        self._held = Held()
        self._under_way: Sequence[Waiting] = ()
        on_loop = database.runs_on_loop
        self._group_events = LOOP_GROUP_EVENTS if on_loop else GROUP_EVENTS
        self._group_bytes = LOOP_GROUP_BYTES if on_loop else GROUP_BYTES
        self._wake = asyncio.Event()
        self._is_idle = asyncio.Event()
        """Nothing waits, and nothing is being committed."""
        self._is_idle.set()
        self._closing = self._given_up = False
        self._sweep_at = 0
        self._age = SteadyClock()
        self._news: list[Committed] = []
        self._logger = structlog.get_logger("writer")
        self._statements = Statements(database)
        self._ahead = Ahead(metrics)
        metrics.append_queue.set_function(lambda: self._queue.events)

    async def append(self, request: Append) -> Appended:
        """Store a request durably; return after the commit."""
        appended: Appended = await self._enqueue(
            request, events=len(request.drafts), size=sum(draft.size for draft in request.drafts)
        )
        return appended

    async def change(self, change: Change[T]) -> T:
        """Store a change with its events durably, in its turn among the appends; return after the commit."""
        changed: T = await self._enqueue(change, events=1, size=0)
        return changed

    async def _enqueue(self, request: Append | Change[Any], *, events: int, size: int) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closing or not self._queue.add(request, answer, events, size):
            self._metrics.appends_refused.inc()
            raise Overloaded("too many appends are queued; nothing of this request was stored")
        self._is_idle.clear()
        self._wake.set()
        return await answer

    async def turn(self) -> None:
        """Commit the next group; wait for one if there is none, or for `nudge`.

        While several callers append, a pause as long as the commit lets the next group grow, because a commit costs
        about the same whatever its size. A single append never waits.
        """
        if not self._queue:
            self._wake.clear()
            await self._held.until(self._wake)
        self._queue.put_back(self._held.due())
        group = self._under_way = self._queue.take(self._held, self._group_events, self._group_bytes)
        if not group:
            return
        self._is_idle.clear()
        started = time.perf_counter()
        outcomes: list[Any]
        try:
            outcomes = await self._commit(group)
        except BaseException:
            outcomes = [InternalError("the append failed; repeat it with the same id or Idempotency-Key")] * len(group)
            raise
        finally:
            self._answer(group, outcomes)
        spent = time.perf_counter() - started
        self._metrics.commit_seconds.observe(spent)
        news, self._news = self._news, []
        for committed in news:
            self._metrics.events_appended.inc(len(committed.frames))
            self._publish(committed)
        if len(group) > 1:
            await asyncio.sleep(min(spent, GATHER_SECONDS))

    def _answer(self, group: Sequence[Waiting], outcomes: Sequence[Any]) -> None:
        self._under_way = ()
        skipped: list[Waiting] = []
        for waiting, outcome in zip(group, outcomes, strict=True):
            if outcome is HELD and not self._given_up:
                if not waiting.is_late():
                    if not self._held.takes(waiting):
                        skipped.append(waiting)
                    continue
                outcome = StoreUnavailable(LOCKED, reason="locked")  # noqa: PLW2901
            self._queue.finish(waiting)
            if waiting.answer.done():  # its client left, but its events are stored
                continue
            if isinstance(outcome, StreamerError):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)
        self._queue.put_back(skipped)
        if not self._queue and not self._held:
            self._is_idle.set()

    def give_up(self) -> None:
        """Fail all waiting and future requests: the server is stopping, and its time is over."""
        self._closing = self._given_up = True
        waiting = [*self._under_way, *self._queue.clear(), *self._held.clear()]
        for each in waiting:
            if not each.answer.done():
                each.answer.set_exception(StoreUnavailable(STOPPING))
        self._is_idle.set()

    def nudge(self) -> None:
        """End a turn that waits for appends."""
        self._wake.set()

    async def close(self) -> None:
        """Accept no more appends; return once the waiting ones are answered."""
        self._closing = True
        await self._is_idle.wait()

    async def _commit(self, group: Sequence[Waiting], *, retried: bool = False) -> list[Any]:
        """Store a group. If the database fails, try once more; if a request fails, store them one by one, so that it fails alone."""
        try:
            return await self._transact(group)
        except StoreUnavailable as error:
            if retried:
                return [error] * len(group)
        except Exception as error:  # noqa: BLE001 - each request gets its own error
            return [self._failure(error)] if len(group) == 1 else await self._commit_each(group)
        for waiting in group:
            waiting.may_be_stored = True
        return await self._commit(group, retried=True)

    async def _commit_each(self, group: Sequence[Waiting]) -> list[Any]:
        outcomes: list[Any] = []
        for waiting in group:
            last = outcomes[-1] if outcomes else None
            # Do not try an unavailable database once per request, and let no request overtake one of its workspace.
            is_over = last is HELD or isinstance(last, StoreUnavailable)
            outcomes += [last] if is_over else await self._commit([waiting])
        return outcomes

    def _failure(self, error: Exception) -> StreamerError:
        if isinstance(error, Refused):
            self._logger.error("append_refused_by_database", error=str(error))
        elif isinstance(error, StreamerError):
            return error
        else:
            self._logger.error("append_failed", exc_info=error)
        return InternalError("the database rejected the append; nothing of it was stored")

    async def _transact(self, group: Sequence[Waiting]) -> list[Any]:
        """Store a group in one transaction, and keep its announcement. The outcome of requests whose workspaces are locked is `HELD`."""
        first = group[0].request
        work: Callable[[Connection], _Result]
        wait_for: Collection[str]
        if isinstance(first, Change):
            wanted = first.locks
            wait_for = wanted if self._held.can_wait(wanted) else ()
            work = partial(self._change, change=first, wait_for=wait_for)
        else:
            appends = [cast("Append", waiting.request) for waiting in group]  # a change forms its own group
            wanted = tuple(dict.fromkeys(request.workspace for request in appends))
            wait_for = self._held.wait_for(wanted)
            may_be_stored = any(waiting.may_be_stored for waiting in group)
            work = partial(self._apply, group=appends, wait_for=wait_for, may_be_stored=may_be_stored)
        try:
            outcomes, logs, skipped = await self._database.write(work)
        except Contended:
            stuck = wait_for or wanted
            self._held.give_up_on(stuck)
            self._logger.warning("workspaces_locked", workspaces=sorted(stuck)[:10], count=len(stuck))
            return [HELD] * len(group)
        self._held.note(wanted, skipped)
        self._metrics.append_skipped.inc(len(skipped))
        if any(log.frames for log in logs):
            self._database.writing.proved()
        self._statements.remember(logs)
        self._news += [Committed(log.key, log.epoch, log.frames) for log in logs if log.frames]
        return outcomes

    def _change(self, connection: Connection, change: Change[Any], wait_for: Collection[str]) -> _Result:
        """Apply a change and store its events; return its outcome, the logs that it extends, and locked workspaces."""
        wanted = {ws: ws if ws == SYSTEM_WORKSPACE else None for ws in change.locks}
        logs, skipped, now = self._lock(connection, wanted, wait_for)
        if skipped:
            return [HELD], [], skipped
        age = self._read_age(connection, now)
        result, told = change.apply(connection, logs)
        for workspace, draft in told:
            log = logs[workspace]
            # It exists already if the previous commit succeeded although it seemed to fail.
            if not self._statements.known(connection, [(log.key, draft.id)]):
                log.add(draft, now)
        changed = [log for log in logs.values() if log.added]
        self._store(connection, changed, now, age)
        return [result], changed, skipped

    def _apply(
        self, connection: Connection, group: Sequence[Append], wait_for: Collection[str], *, may_be_stored: bool
    ) -> _Result:
        """Process a whole group; return its outcomes, the logs that it changes, and locked workspaces."""
        wanted = {request.workspace: request.creator for request in reversed(group)}
        logs, skipped, now = self._lock(connection, wanted, wait_for)
        age = self._read_age(connection, now)
        found = [(request, logs[request.workspace]) for request in group if request.workspace in logs]
        self._look_up(connection, found, age, all_ids=may_be_stored)
        outcomes = [
            HELD if request.workspace in skipped else _decide(request, logs.get(request.workspace), now)
            for request in group
        ]
        changed = [log for log in logs.values() if log.added or log.new_keys]
        self._store(connection, changed, now, age)
        return outcomes, changed, skipped

    def _lock(
        self, connection: Connection, wanted: Mapping[str, str | None], wait_for: Collection[str]
    ) -> tuple[dict[str, LockedLog], set[str], int]:
        """Lock the rows of workspaces; create those that have a creator.

        Return those that exist, those that other transactions hold, and the time.
        """
        found, skipped, now = self._statements.lock(connection, list(wanted), wait_for)
        missing = {
            ws: creator
            for ws, creator in wanted.items()
            if ws not in found and ws not in skipped and creator is not None
        }
        if missing:
            self._statements.make(connection, missing, now or self._clock())
            # Again, without waiting: another node may have created some of them meanwhile, and hold them.
            found, skipped, now = self._statements.lock(connection, list(wanted), ())
        return found, skipped, now or self._clock()

    def _read_age(self, connection: Connection, now: int) -> int:
        """Return the time by which idempotency keys expire: a clock that is set ahead must not expire them."""
        if not self._age.runs:
            self._age.start(min(now, self._statements.newest(connection) or now))
        return self._age.read(now)

    def _look_up(
        self, connection: Connection, group: Sequence[tuple[Append, LockedLog]], now: int, *, all_ids: bool
    ) -> None:
        """Look up the clients' own ids, or all, and the idempotency keys of these requests."""
        logs = {log.key: log for _, log in group}
        keys = {(log.key, request.idempotency[0]) for request, log in group if request.idempotency}
        for key, idempotency_key, fingerprint, answered in self._statements.remembered(connection, keys, now):
            logs[key].remembered[idempotency_key] = fingerprint, answered
        # Bodies are read back only if a request sent as much itself: a few bytes can refer to much stored data.
        seqs = {
            (log.key, seq)
            for request, log in group
            if request.idempotency and repeats(request, log)
            for seq in log.remembered[request.idempotency[0]][1]
        }
        drafts = [(log.key, draft) for request, log in group for draft in request.drafts if draft.given_id or all_ids]
        sizes = {(key, draft.id, draft.size) for key, draft in drafts}
        sent = {(key, draft.id, draft.fingerprint) for key, draft in drafts}
        wanted = {(key, draft.id) for key, draft in drafts}
        for key, seq, event_id, timestamp, size, fingerprint in self._statements.known(connection, wanted):
            logs[key].keep(Event(seq, event_id, b""), timestamp)  # no draft equals it, unless it is read below
            logs[key].fingerprints[event_id] = fingerprint
            same = fingerprint is not None and (key, event_id, fingerprint) in sent
            if same or (key, event_id, size - len(str(seq))) in sizes:
                seqs.add((key, seq))
        for key, event, timestamp in self._statements.stored(connection, seqs):
            logs[key].keep(event, timestamp)

    def _store(self, connection: Connection, logs: Sequence[LockedLog], now: int, age: int) -> None:
        if not logs:
            return
        # The later of the two: another node's clock may be right, and it uses its own.
        self._statements.store(connection, logs, max(now, age) + self._remember_us)
        self._ahead.note(logs, now)
        if age > self._sweep_at:
            self._sweep_at = age + 60_000_000
            self._statements.sweep(connection, age)


def _decide(request: Append, log: LockedLog | None, now: int) -> Outcome:
    """Decide one request against the locked log: repeat the earlier response, refuse the whole request, or assign seqs to its new events."""
    if log is None:
        return WorkspaceNotFound()
    if request.idempotency:
        key, fingerprint = request.idempotency
        if key in log.remembered:
            if not repeats(request, log):
                return IdempotencyConflict("this Idempotency-Key was used for another request in the last 24 hours")
            return Appended([log.by_seq[seq] for seq in log.remembered[key][1] if seq in log.by_seq], created=False)
    for index, draft in enumerate(request.drafts):
        known_event = log.stored.get(draft.id)
        if known_event and not is_same(draft, known_event, log):
            where = f"events[{index}].id" if len(request.drafts) > 1 else "id"
            return IdConflict("an event with this id is stored with other content", fields={where: draft.id})
    before = log.head
    answer = [log.stored.get(draft.id) or log.add(draft, now) for draft in request.drafts]
    if request.idempotency:
        log.remembered[key] = fingerprint, [event.seq for event in answer]
        log.new_keys.append(key)
    return Appended(answer, created=log.head > before)
