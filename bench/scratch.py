"""A temporary database on a PostgreSQL server."""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from streamer.core.errors import StoreUnavailable
from streamer.store.engine.outages import is_outage
from streamer.store.engine.postgresql import CONNECT_SECONDS, BadDatabaseUrl

PREFIX = "streamer_bench_"


@contextmanager
def scratch_database(url: str) -> Iterator[str]:
    """Create an empty database on the server of a URL, and yield its URL; at the end the database is dropped, even if it is in use.

    The database that the URL names is not touched. A killed process leaves a database whose name begins with `PREFIX`.

    Raises:
        BadDatabaseUrl: it names no PostgreSQL; the text does not contain the URL, which may hold a password.
        StoreUnavailable: the server does not answer, or does not let this user create a database.
    """
    try:
        there = make_url(url)
    except Exception:  # noqa: BLE001 - whatever is wrong with it
        raise BadDatabaseUrl("not a database URL, such as postgresql://user:password@host/name") from None
    if there.drivername not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise BadDatabaseUrl(f"must begin with postgresql://, not {there.drivername}://")
    there = there.set(drivername="postgresql+asyncpg")
    name = f"{PREFIX}{secrets.token_hex(6)}"
    asyncio.run(_run(there, f"CREATE DATABASE {name}"))
    try:
        yield there.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(_run(there, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


async def _run(there: URL, statement: str) -> None:
    engine = create_async_engine(there, isolation_level="AUTOCOMMIT", connect_args={"timeout": CONNECT_SECONDS})
    try:
        async with engine.connect() as connection:
            await connection.execute(text(statement))
    except Exception as error:
        if isinstance(error, DBAPIError) or is_outage(error):
            raise StoreUnavailable(
                f"cannot {statement.partition(' streamer')[0]}: {error.__cause__ or error}"
            ) from error
        raise
    finally:
        await engine.dispose()
