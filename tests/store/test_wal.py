"""SQLite's write-ahead log while another program reads the file."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from streamer.store.engine.pools import WAL_BYTES
from tests.support.api import Api
from tests.support.waiting import eventually


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_write_ahead_log_shrinks_after_an_outside_reader(api: Api, database_url: str) -> None:
    """The log grows while another program holds a snapshot, and later appends truncate it to its limit."""
    file = database_url.removeprefix("sqlite:///")
    log = Path(f"{file}-wal")
    (await api.append("w")).expect(201)
    batch = [{"details": {"blob": "x" * 100_000}}] * 8
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()
        while log.stat().st_size < 2 * WAL_BYTES:  # noqa: ASYNC240 - at once
            (await api.append_all("w", batch)).expect(201)
        reader.execute("ROLLBACK")

    async def shrunk() -> bool:
        (await api.append("w")).expect(201)
        return log.stat().st_size <= WAL_BYTES  # noqa: ASYNC240

    await eventually(shrunk)
