"""A table is renamed under a running server: the reason is `schema` at once, and the repair is not blocked."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Sql = Callable[[str], object]


@pytest.fixture
def other_program(database_url: str) -> Iterator[Sql]:
    """Run SQL on the SQLite file without any wait for a lock."""
    file = Path(database_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as connection:
        yield connection.execute


async def reason(api: Api, path: str = "", **query: str) -> str | None:
    """Return why an append, or a GET of `path`, is refused; None if it is not."""
    answer = await (api.get(path, **query) if path else api.append("w"))
    if answer.status < 300:
        return None
    assert answer.status == 503, answer.body
    return str(answer.json["error"]["details"].get("reason"))


async def works(api: Api, path: str = "", **query: str) -> bool:
    """Tell whether an append, or a GET of `path`, is answered."""
    return await reason(api, path, **query) is None


@on_sqlite
async def test_a_failed_write_leaves_no_lock(api: Api, other_program: Sql) -> None:
    """A write that fails by the schema holds no lock: another program can write at once, and appends work after the repair."""
    assert await works(api)
    other_program("ALTER TABLE events RENAME TO ex")
    for _ in range(2):
        assert await reason(api) == "schema"
        other_program("BEGIN IMMEDIATE")
        other_program("ROLLBACK")
    other_program("ALTER TABLE ex RENAME TO events")
    assert await eventually(lambda: works(api))
