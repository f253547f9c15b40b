"""A writer that runs only when the test says so."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

from sqlalchemy import Connection

from streamer.core.ports import Append, AuditDraft, Change, Committed
from streamer.ingest.intake import Intake, Limits
from streamer.ingest.limits import AppendRate
from streamer.ingest.redact import Redactor
from streamer.ingest.worker import Worker
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.store.engine.database import Database
from streamer.store.log.writer import GroupCommit
from tests.support.api import make_event
from tests.support.waiting import eventually

EVENTS, BYTES = 6400, 2**23
"""The bounds of its queue."""


class Queued:
    """A writer whose loop runs only when the test says so."""

    def __init__(self, database: Database) -> None:
        self.news: list[Committed] = []
        self._metrics = Metrics()
        self._writer = GroupCommit(
            database,
            self.news.append,
            self._metrics,
            max_waiting_events=EVENTS,
            max_waiting_bytes=BYTES,
            idempotency_seconds=3600,
        )
        self._intake = Intake(
            self._writer, self._metrics, Limits(2**18, 32, 1000), Redactor(), AppendRate(0, 1), worker=Worker(2**20)
        )
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._loops = Loops(self._metrics)

    async def append(
        self, account: str, name: str = "", *, workspace: str = "w", count: int = 1, size: int = 0
    ) -> None:
        """Append, and record when it is stored."""
        event = make_event(details={"x": "y" * size} if size else {})
        drafts = [self._intake.tell(workspace, event) for _ in range(count)]  # no other task runs in between
        await self._writer.append(Append(workspace, drafts, creator=account, account=account))
        self.order.append(name or account)

    async def change(self, account: str, name: str, *workspaces: str) -> None:
        """Make an empty change, and record when it is stored."""

        def apply(_connection: Connection, _found: Collection[str]) -> tuple[None, list[AuditDraft]]:
            return None, []

        await self._writer.change(Change(workspaces, apply, account))
        self.order.append(name)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start something that waits for the writer."""
        self.tasks.append(asyncio.create_task(work))

    async def waits(self, count: int) -> None:
        """Wait until this many events are in the queue."""
        await eventually(lambda: self.metric("append_queue_events") == count)

    def metric(self, name: str) -> float:
        """Return the value of a metric."""
        lines = self._metrics.render().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"streamer_{name} "))

    async def run(self) -> None:
        """Run the writer until every request has a response."""
        self._loops.start("writer", self._writer.turn)
        await asyncio.gather(*self.tasks)
        await self._writer.close()
        await self._loops.stop()
