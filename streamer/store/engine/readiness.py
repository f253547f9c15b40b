"""Readiness: whether the database can be read, and whether it can be written."""

import asyncio
import base64
import os
import secrets
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import Connection, delete, false, insert, select, update

from streamer.core.clock import now_us
from streamer.core.errors import StoreUnavailable
from streamer.observe.metrics import Metrics
from streamer.observe.tasks import detached
from streamer.store.engine.database import Database
from streamer.store.engine.outages import Outage
from streamer.store.schema import audit_counts, entities, events, idempotency, run_issues, workspaces

ANSWER_SECONDS = 1.0
"""Time limit for a check; one that takes longer has failed."""
FRESH_SECONDS = 1.0
"""How long the outcome of a check is reused, so that a thousand callers cost no more than one."""
FILLER_BYTES = 48 * 1024
"""Bytes to write after a failure: a few would still fit on a disk that is too full for events."""

NO_WORKSPACE = 0
"""No workspace has this key, so the row is not an `Idempotency-Key`."""
_ROW_US = 24 * 3600 * 1_000_000
"""When the row of a removed node expires; it is removed like other keys."""

NEEDED = (
    update(workspaces).values({column.name: column for column in workspaces.columns}).where(false()),
    *(
        insert(table).from_select(table.columns.keys(), select(table).where(false()))
        for table in (events, entities, run_issues, audit_counts)
    ),
)
"""Writes no row, but needs everything that an append needs: the tables, their columns and their locks."""


class Readiness:
    """Checks the database with a read, and with a committed write. A recent append counts as a check."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._row = f"probe:{secrets.token_hex(8)}"  # a row for each node, so that no other node's lock is in the way
        self._reads, self._writes = _Check(database.ping, database.reading), _Check(self._write, database.writing)
        metrics.store_up.set(1)  # the database was migrated
        self._store_up = metrics.store_up
        metrics.store_writable.set_function(lambda: int(database.writing.cause is None and self._writes.error is None))

    async def expect(self, *, writes: bool) -> None:
        """Return if the database can be read and, with `writes`, written. Takes at most about a second.

        Raises: StoreUnavailable, with the reason.
        """
        # Both at once: with a frozen database, they would otherwise take twice as long.
        checks = [self._reads, self._writes] if writes else [self._reads]
        await asyncio.gather(*(check.done() for check in checks))
        self._store_up.set(int(self._reads.error is None))
        for check in checks:
            if check.error is not None:
                raise StoreUnavailable(check.error.message, **check.error.details)

    async def turn(self) -> None:
        """Repeat the last failed checks, so that the end of an outage is noticed without callers."""
        if self._database.writing.cause is not None:
            await self._writes.done()
        if self._database.reading.cause is not None:
            await self._reads.done()

    async def _write(self) -> None:
        writing = self._database.writing
        if writing.cause is not None or time.monotonic() - writing.proved_at >= FRESH_SECONDS:
            await self._database.write(self._probe)
            writing.proved()

    def _probe(self, connection: Connection) -> None:
        failing = self._database.writing.cause is not None
        filler = base64.b64encode(os.urandom(FILLER_BYTES)).decode() if failing else ""
        self._database.hurry(connection)
        for statement in NEEDED:
            connection.execute(statement)
        here = idempotency.c.workspace == NO_WORKSPACE, idempotency.c.key == self._row
        connection.execute(delete(idempotency).where(*here))
        row = {"workspace": NO_WORKSPACE, "key": self._row, "fingerprint": "", "seqs": filler}
        connection.execute(insert(idempotency).values(**row, expires_at=now_us() + _ROW_US))


class _Check:
    """A check that runs once at a time, and is not repeated while its outcome is fresh."""

    def __init__(self, try_it: Callable[[], Awaitable[None]], outage: Outage) -> None:
        self._try = try_it
        self._outage = outage
        self._trying: asyncio.Task[None] | None = None
        self._began = self._ended = float("-inf")
        self.error: StoreUnavailable | None = None
        """The last outcome, None if it succeeded."""

    async def done(self) -> None:
        """Return when the outcome is fresh; a check that is late has failed."""
        now = time.monotonic()
        if self._trying is None or self._trying.done():
            if now - self._ended < FRESH_SECONDS:
                return
            self._began = now
            self._trying = detached(self._run())
        done, _ = await asyncio.wait([self._trying], timeout=max(self._began + ANSWER_SECONDS - now, 0))
        if not done:
            before = self.error.details.get("reason") if self.error else None
            reason = self._outage.waits_for or before or "timeout"
            self.error = StoreUnavailable("the database does not answer", reason=reason)

    async def _run(self) -> None:
        try:
            await self._try()
        except StoreUnavailable as error:
            self.error = error
        except Exception:
            self.error = StoreUnavailable("the check of the database failed", reason="error")
            raise
        else:
            self.error = None
        finally:
            self._ended = time.monotonic()
