"""PostgreSQL URLs: libpq's parameters work or are refused by name; TLS, PgBouncer and other encodings."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from sqlalchemy import Connection

from streamer.app import running
from streamer.core.errors import StoreUnavailable
from streamer.settings import Settings
from streamer.store.engine.database import Database
from streamer.store.engine.postgresql import BadDatabaseUrl
from streamer.store.migrate import DatabaseUnfit, migrate
from tests.conftest import ADMIN_KEY
from tests.support.api import Api
from tests.support.cli import Cli
from tests.support.databases import Cluster, OwnCluster, run_sql, unprivileged
from tests.support.pgbouncer import pgbouncer_before
from tests.support.process import free_port
from tests.support.tools import require
from tests.support.waiting import eventually

REFUSED = {
    "sslmode=fast": "sslmode must be one of",
    "sslrootcert=/nowhere": "sslrootcert: there is no such file",
    "connect_timeout=soon": "connect_timeout",
    "port=http": "port",
    "channel_binding=require": "channel_binding",
    "gssencmode=require": "gssencmode",
    "client_encoding=latin1": "client_encoding",
    "pgbouncer=maybe": "pgbouncer",
    "tcp_user_timeout=1": "tcp_user_timeout",
    "sslmode=require&nonsense=1": "nonsense",
}


@pytest.mark.parametrize("query", REFUSED)
def test_parameters_that_cannot_be_honoured_are_refused_by_name(query: str) -> None:
    """An unsupported parameter is named. The URL, which may contain a password, is not quoted."""
    with pytest.raises(BadDatabaseUrl) as failure:
        Database(f"postgresql://ann:hunter2@db/name?{query}")
    assert REFUSED[query] in str(failure.value)
    assert "hunter2" not in str(failure.value)


async def test_a_start_with_a_wrong_url_ends_in_one_line(tmp_path: Path) -> None:
    """A wrong URL ends the start with one line, the variable, the parameter and exit code 2, without a traceback."""
    url = "postgresql://ann:hunter2@db/name?sslmode=fast"
    done = await Cli(tmp_path, {"STREAMER_DATABASE_URL": url})("migrate")
    assert done.code == 2
    assert "STREAMER_DATABASE_URL: sslmode must be one of" in done.err
    assert "Traceback" not in done.err
    assert "hunter2" not in done.err


async def test_parameters_are_understood(postgresql_url: str) -> None:
    """Application names, session options, socket directories and several hosts with required attributes are supported."""
    parts = urlsplit(postgresql_url)
    folder, name = parts.query.removeprefix("host="), parts.path
    for url in (
        f"{postgresql_url}&application_name=mine&options=-c%20work_mem%3D8MB&connect_timeout=3&sslmode=disable&gssencmode=disable",
        f"postgresql://postgres@{name}?host=/nowhere&host={folder}&target_session_attrs=read-write",
        f"postgresql://{name}?user=postgres&host={folder}&port=5432&client_encoding=utf8&channel_binding=prefer",
        f"{postgresql_url}&fallback_application_name=mine",
    ):
        database = Database(url)
        ((application, memory),) = await run_sql(
            database, "SELECT current_setting('application_name'), current_setting('work_mem')"
        )
        assert application == ("mine" if "mine" in url else "streamer")
        assert (memory == "8MB") == ("work_mem" in url)
        await database.close()


async def test_several_hosts(own_cluster: OwnCluster, postgresql: Cluster) -> None:
    """Hosts can be listed in libpq's and in SQLAlchemy's form, with ports; they are tried in turn until one has the required attributes."""
    closed, port = free_port(), free_port()
    with (own_cluster.folder / "data" / "postgresql.conf").open("a") as file:
        file.write(f"listen_addresses = '127.0.0.1'\nport = {port}\ndefault_transaction_read_only = on\n")
    (own_cluster.folder / "data" / "pg_hba.conf").write_text("local all all trust\nhost all all all trust\n")
    own_cluster.stop()
    own_cluster.restart()
    here = "127.0.0.1"
    reading = "target_session_attrs=read-only"
    for url in (
        f"postgresql://postgres@{here}:{closed},{here}:{port}/postgres?{reading}",
        f"postgresql://postgres@/postgres?host={here}:{closed}&host={here}:{port}&{reading}",
        f"postgresql://postgres@/postgres?host={here}&host={here}&port={closed}&port={port}&{reading}",
        f"{postgresql.url('postgres')}&host={here}&port=5432&port={port}&{reading}",
        f"postgresql://postgres@/postgres?host={here}&host={postgresql.folder}&port={port}&port=5432&target_session_attrs=read-write",
    ):
        database = Database(url)
        ((reached,),) = await database.read(lambda connection: rows_of(connection, "SHOW port"))
        assert int(reached) == (5432 if "read-write" in url else port), url
        await database.close()


async def test_a_database_of_another_encoding_is_refused(postgresql: Cluster) -> None:
    """A database whose encoding cannot store a euro sign is refused before use."""
    name = f"latin_{os.getpid()}"
    postgresql.sql(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
    database = Database(postgresql.url(name))
    with pytest.raises(DatabaseUnfit, match="LATIN1"):
        await migrate(database)
    await database.close()
    postgresql.sql(f"DROP DATABASE {name}")


# ---- TLS


def make_certificate(certificate: Path, key: Path) -> None:
    """Create a self-signed certificate for localhost."""
    command = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    subject = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([str(require("openssl")), *command, *subject], check=True, capture_output=True)


@pytest.fixture
def tls(own_cluster: OwnCluster) -> tuple[OwnCluster, int, Path]:
    """Start a PostgreSQL that accepts TLS connections only; return its port and certificate."""
    data, port = own_cluster.folder / "data", free_port()
    certificate, key = own_cluster.folder / "server.crt", own_cluster.folder / "server.key"
    make_certificate(certificate, key)
    key.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(key, unprivileged().pw_uid, unprivileged().pw_gid)
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"listen_addresses = 'localhost'\nport = {port}\nssl = on\n")
        file.write(f"ssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n")
    (data / "pg_hba.conf").write_text("local all all trust\nhostssl all all all trust\n")
    own_cluster.stop()
    own_cluster.restart()
    return own_cluster, port, certificate


async def test_tls(tls: tuple[OwnCluster, int, Path]) -> None:
    """TLS works with and without verification of certificate and name. A mismatch is an outage, not a traceback."""
    cluster, port, certificate = tls
    url = f"postgresql://postgres@localhost:{port}/postgres"
    good = ("sslmode=require", f"sslmode=verify-full&sslrootcert={certificate}", "ssl=require", "")
    for query in good:
        database = Database(f"{url}?{query}")
        ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert await run_sql(database, ssl) == [(True,)], query
        await database.close()
    other = cluster.folder / "other.crt"
    make_certificate(other, cluster.folder / "other.key")
    for wrong in ("sslmode=disable", f"sslmode=verify-ca&sslrootcert={other}"):
        database = Database(f"{url}?{wrong}")
        with pytest.raises(StoreUnavailable):
            await database.ping()
        await database.close()


# ---- PgBouncer


@pytest.fixture
def pgbouncer(postgresql_url: str) -> Iterator[str]:
    """Start a PgBouncer in transaction mode before the test's database, with a small pool; return its URL."""
    with pgbouncer_before(postgresql_url, "pool_mode = transaction\ndefault_pool_size = 6") as url:
        yield url


async def test_pgbouncer_in_transaction_mode(pgbouncer: str, tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """With `pgbouncer=true`, everything works through PgBouncer. Without it, the start reports it."""
    plain = Database(pgbouncer)

    async def refused() -> bool:
        try:
            await plain.ping()
        except BadDatabaseUrl as error:
            return "add ?pgbouncer=true" in str(error)
        except StoreUnavailable:  # it is still starting
            return False
        raise AssertionError("the URL was accepted")

    await eventually(refused)
    await plain.close()
    url = f"{pgbouncer}?pgbouncer=true"
    settings = Settings(data_dir=tmp_path, port=0, admin_key=ADMIN_KEY, database_url=url)
    async with running(settings) as server:
        api = Api(http, server.url, ADMIN_KEY)
        answers = await asyncio.gather(*(api.append(f"w{n % 7}", details={"n": n}) for n in range(100)))
        assert [answer.status for answer in answers] == [201] * 100
        pages = await asyncio.gather(*(api.history(f"w{n % 7}", q="issue") for n in range(50)))
        assert sum(len(page) for page in pages[:7]) == 100
        assert (await api.get("/readyz")).status == 200
    database = Database(url)
    ((timeout,),) = await database.write(lambda connection: rows_of(connection, "SHOW lock_timeout"))
    assert timeout == "1s"
    await database.close()


def rows_of(connection: Connection, statement: str) -> list[tuple[str]]:
    """Run a statement; return its rows."""
    return [tuple(row) for row in connection.exec_driver_sql(statement)]
