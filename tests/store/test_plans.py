"""Query plans of history pages: they walk an index in page order, whatever the filter, and never scan the whole log."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection

from streamer.core.filter import Filter, parse_filter
from streamer.core.ports import Order, Page
from streamer.core.position import Position
from streamer.store.engine.database import Database
from streamer.store.log.reader import SqlLog
from tests.support.databases import run_sql, statements

WS = "planned"
EVENTS = 20_000
RARE = 1000
"""One event in this many has each rare value."""

# Two in three events have the most common value in each column; half have no entity.
_FILL = f"""
INSERT INTO events (workspace, seq, timestamp, size, id, category, action, actor_type, actor_id, entity_type, entity_id,
                    agent_id, run_id, task_id, search, body)
SELECT w.key, n.i, n.i * 1000, 2, 'e' || n.i,
       CASE WHEN n.i % {RARE} = 1 THEN 'audit' ELSE 'activity' END,
       CASE WHEN n.i % {RARE} = 2 THEN 'rare.thing' WHEN n.i % 3 = 0 THEN 'issue.created' ELSE 'issue.updated' END,
       CASE WHEN n.i % {RARE} = 3 THEN 'bot' WHEN n.i % 3 = 0 THEN 'user' ELSE 'agent' END,
       'actor' || n.i % 20,
       CASE WHEN n.i % 2 = 0 THEN 'issue' END, CASE WHEN n.i % 2 = 0 THEN 'i' || n.i % 500 END,
       'agent' || n.i % 10, 'r' || n.i / 100, 't' || n.i % 50, '', '{{}}'
FROM workspaces w, ({{numbers}}) n
"""
_NUMBERS = {
    True: f"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {EVENTS}) SELECT i FROM c",
    False: f"SELECT i FROM generate_series(1, {EVENTS}) i",
}

INDEXED = {
    "": "",  # the log itself is sorted by seq
    "actor_id=actor7": "actor",
    "actor_id=nobody": "actor",
    "actor_type=user": "actor_type",
    "actor_type=bot": "actor_type",
    "actor_type=bot,robot": "actor_type",
    "entity_id=i40": "entity",
    "entity_id=i40,i41,i42": "entity",
    "agent_id=agent3": "agent",
    "run_id=r0": "run",
    "run_id=r7": "run",
    "task_id=t9": "task",
    "action=rare.thing": "action",
    "action=issue.updated": "action",
    "action=rare.thing,issue.created": "action",
    "category=audit": "audit",
    "category=activity": "",
    "category=audit&actor_type=user": "audit",
    "actor_type=agent&entity_id=i40": "entity",
    "actor_type=agent&run_id=r7&action=issue.updated": "run",
    "actor_id=actor7&category=audit": "actor",
    "actor_id=actor7&q=needle": "actor",
    "action=issue.updated&actor_id=!actor7": "action",
}
"""Filters, and the index that SQLite uses for them, independent of statistics."""


def selection_of(text: str) -> Filter:
    """Parse a filter as written in a URL."""
    return parse_filter({name: [value] for name, _, value in (part.partition("=") for part in text.split("&") if part)})


@pytest.fixture
async def log(database: Database) -> SqlLog:
    """Create a log with many events of some kinds and few of others."""
    await run_sql(
        database,
        "INSERT INTO workspaces (id, epoch, head, earliest, last_timestamp, org_id, settings, created_at, created_by) "
        f"VALUES ('{WS}', 'abc', {EVENTS}, 1, {EVENTS * 1000}, 'o', '{{}}', 1, 'ann')",
        _FILL.replace("{numbers}", _NUMBERS[database.is_sqlite]),
        *(() if database.is_sqlite else ("ANALYZE",)),
    )
    return SqlLog(database)


async def page(log: SqlLog, selection: Filter, order: Order = "desc", limit: int = 50, **bounds: Any) -> Page:
    """Read a page."""
    return await log.page(WS, selection=selection, order=order, limit=limit, max_bytes=2**20, **bounds)


async def plan(database: Database, statement: str, parameters: Any) -> list[str]:
    """Return the steps of a plan in the database's words; on PostgreSQL, only event reads and large sorts."""

    def explain(connection: Connection) -> list[str]:
        if database.is_sqlite:
            return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        found = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
        return list(_steps((json.loads(found) if isinstance(found, str) else found)[0]["Plan"]))

    return await database.read(explain)


def _steps(node: dict[str, Any]) -> Iterator[str]:
    # A sort after a limit is short, as is a bitmap of a rare value.
    if node.get("Relation Name") == "events" or node["Node Type"].startswith("Bitmap Index"):
        yield f"{node['Node Type']} {node.get('Index Name', '')} {node['Plan Rows']}"
    elif "Sort" in node["Node Type"]:
        yield f"Sort {node['Plan Rows']}"
    for inner in node.get("Plans", ()):
        yield from _steps(inner)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_walk_an_index(log: SqlLog, database: Database, order: Order) -> None:
    """By position or by any indexed filter, alone or combined, no plan scans the events or sorts many of them."""
    middle = Position("abc", EVENTS // 2)
    for text, index in INDEXED.items():
        for bounds in ({}, {"after": middle}, {"before": middle}, {"after": 5_000_000, "before": 9_000_000}):
            with statements() as seen:
                await page(log, selection_of(text), order, **bounds)
            steps = [
                step
                for statement, parameters in seen
                if "events" in statement
                for step in await plan(database, statement, parameters)
            ]
            told = f"{text or 'everything'} {bounds}: {steps}"
            if database.is_sqlite:
                assert not any(step.startswith("SCAN events") or "TEMP B-TREE" in step for step in steps), told
                name = f"events_of_{index}" if index == "audit" else f"events_by_{index} "
                assert not index or any(name in step for step in steps), told
            else:
                assert not any(step.startswith("Seq Scan") for step in steps), told
                assert all(int(step.split()[-1]) <= 1000 for step in steps if step.startswith(("Sort", "Bitmap"))), told


async def test_a_page_takes_as_many_statements_at_any_depth(log: SqlLog) -> None:
    """The number of statements does not grow with the depth, the limit, or the events that the filter skips."""
    counts = set()
    for text in INDEXED:
        for depth in (1, EVENTS // 2, EVENTS - 1):
            for limit in (1, 50, 1000):
                with statements() as seen:
                    await page(log, selection_of(text), "asc", limit, after=Position("abc", depth))
                counts.add(len(seen))
    assert len(counts) == 1


async def test_a_log_is_found_again_by_time_without_a_scan(log: SqlLog, database: Database) -> None:
    """A timestamp or an event's id is turned into a position through an index."""
    for bound in (0, 5_000_000, EVENTS * 2000):
        with statements() as seen:
            await log.resolve(WS, bound)
        for statement, parameters in seen:
            if "events" in statement:
                steps = await plan(database, statement, parameters)
                assert not any(step.startswith(("SCAN events", "Seq Scan", "Sort")) for step in steps), steps
    with statements() as seen:
        assert (await log.event(WS, "e77", selection_of("actor_type=agent"))).seq == 77
    for statement, parameters in seen:
        if "events" in statement:
            assert any("events_by_id" in step for step in await plan(database, statement, parameters))
