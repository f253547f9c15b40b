"""What it costs to bound a page of the log in bytes: its time against that of a query that knows no bound, in the same run.

    python -m bench.history [--database-url URL] [--rounds 200]

The log holds 20,000 events of the usual size and 256 of 256 KiB. The two forms take turns; a row has their medians and the ratio.
Huge events are read under the bound only, from as many places.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

from bench.server import EVENT
from streamer.core.event import Event
from streamer.core.filter import EVERYTHING, Filter, parse_filter
from streamer.core.position import Position
from streamer.ingest.intake import Author, Intake, Limits
from streamer.observe.metrics import Metrics
from streamer.store.database import Database
from streamer.store.log import SqlLog, _find
from streamer.store.migrate import migrate
from streamer.store.schema import events
from streamer.store.writer import GroupCommit

SMALL, HUGE = 20_000, 256
MAX_BYTES = 8 * 2**20
FILTERS = {
    "all": EVERYTHING,
    "run_id=r1": parse_filter({"run_id": ["r1"]}),
    "action=!x": parse_filter({"action": ["!x"]}),
}


async def fill(database: Database, prefix: str) -> None:
    """Make the two workspaces."""
    writer = GroupCommit(
        database, lambda _: None, Metrics(), max_waiting_events=10_000, max_waiting_bytes=2**26, idempotency_seconds=60
    )
    writing = asyncio.create_task(writer.run())
    intake, author = (
        Intake(writer, Metrics(), Limits(2**18, 32, 1000)),
        Author("bench", None, may_create_workspace=True),
    )
    usual = [EVENT | {"run_id": f"r{n % 3}"} for n in range(1000)]
    huge = [EVENT | {"details": {"blob": "x" * 260_000}}] * 16
    for _ in range(SMALL // len(usual)):
        await intake.append(f"{prefix}small", usual, author, batch=True)
    for _ in range(HUGE // len(huge)):
        await intake.append(f"{prefix}huge", huge, author, batch=True)
    await writer.close()
    await writing


async def bounded(log: SqlLog, workspace: str, selection: Filter, limit: int, after: Position) -> int:
    """Read a page as the server does; return its events."""
    page = await log.page(
        workspace, selection=selection, order="asc", limit=limit, max_bytes=MAX_BYTES, after=after, before=None
    )
    return len(page.events)


async def unbounded(log: SqlLog, workspace: str, selection: Filter, limit: int, after: Position) -> int:
    """Read the same without a bound: bodies come with their rows, whatever their size."""
    async with log._database.read() as connection:  # noqa: SLF001 - all but the bound is the store's own
        key, head = await _find(connection, workspace)
        query = log._between(selection, key, after.seq, head.head, "asc", limit)  # noqa: SLF001
        rows = await connection.execute(query.with_only_columns(events.c.seq, events.c.id, events.c.body))
        found = rows.all()
    return len([Event(row.seq, row.id, row.body.encode()) for row in found])


Form = Callable[[SqlLog, str, Filter, int, Position], Awaitable[int]]


async def run(arguments: argparse.Namespace) -> None:
    """Fill a database and print the rows."""
    with tempfile.TemporaryDirectory() if arguments.database_url is None else nullcontext() as folder:
        database = Database(arguments.database_url or f"sqlite:///{folder}/bench.db")
        await migrate(database)
        prefix = f"bench-{time.time_ns()}-"
        await fill(database, prefix)
        log = SqlLog(database)
        print(f"history: database={'sqlite' if database.is_sqlite else 'postgresql'} rounds={arguments.rounds}")
        print("workspace  filter     limit  events  bounded ms  unbounded ms  ratio")
        for name, selection in FILTERS.items():
            for limit in (100, 1000):
                took: dict[Form, list[float]] = {bounded: [], unbounded: []}
                epoch = (await log.head(f"{prefix}small")).epoch
                for at in range(arguments.rounds):
                    after = Position(epoch, at * 53 % (SMALL - 3 * limit))
                    for form in (bounded, unbounded) if at % 2 else (unbounded, bounded):
                        started = time.perf_counter()
                        count = await form(log, f"{prefix}small", selection, limit, after)
                        took[form].append(time.perf_counter() - started)
                new, old = (statistics.median(took[form]) * 1000 for form in (bounded, unbounded))
                print(f"small      {name:<10} {limit:>5} {count:>7} {new:>11.2f} {old:>13.2f} {new / old:>6.2f}")
        epoch = (await log.head(f"{prefix}huge")).epoch
        times: list[float] = []
        for at in range(20):
            started = time.perf_counter()
            count = await bounded(log, f"{prefix}huge", EVERYTHING, 1000, Position(epoch, at))
            times.append(time.perf_counter() - started)
        print(f"huge       all         1000 {count:>7} {statistics.median(times) * 1000:>11.2f}             -      -")
        await database.close()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", help="a database to fill; else SQLite in a temporary folder")
    parser.add_argument("--rounds", type=int, default=200)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
