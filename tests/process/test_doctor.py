"""`streamer doctor` finds what is wrong with an installation, with real parts that are broken in each way, and names the next step."""

import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg  # type: ignore[import-untyped]
import pytest
from pydantic import SecretStr

from streamer.cli.doctor import own_key
from streamer.doctor.clocks import judge_skew
from streamer.doctor.database import judge_snapshots, judge_wal
from streamer.doctor.findings import Finding, State
from streamer.doctor.machine import judge_log, judge_space
from streamer.settings import MiB, Settings
from streamer.store.engine.health import Snapshot, Snapshots
from streamer.store.migrate import HEAD
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api
from tests.support.cli import Cli
from tests.support.databases import OwnCluster
from tests.support.nginx import Nginx
from tests.support.pgbouncer import pgbouncer_before
from tests.support.process import ServerProcess, free_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

NAMES = (
    *("database", "encoding", "migrations", "writes", "snapshots", "pooler", "database clock", "bus", "output limit"),
    *("server", "stream", "websocket", "nodes", "node clocks", "certificate", "open files", "disk", "log"),
)
SECRET = "hunter2-and-more"
SOON = ("--timeout", 1)
"""For checks that must run into their deadline."""

PLAIN = {" ssl http2;": ";", "ssl_certificate ": "#", "ssl_certificate_key ": "#"}
"""Changes of nginx's configuration: no TLS."""

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@dataclass(frozen=True)
class Report:
    """What the doctor found."""

    code: int
    findings: dict[str, dict[str, str]]

    def state(self, name: str) -> str:
        """Return the state of a check."""
        return self.findings[name]["state"]

    def expect(self, name: str, state: str, *parts: str) -> None:
        """Require a state, and texts in the finding or its next step."""
        finding = self.findings[name]
        assert finding["state"] == state, finding
        for part in parts:
            assert part in finding["text"] + finding.get("fix", ""), finding

    def expect_all_but(self, *names: str) -> None:
        """Require that nothing else failed. Limits of this machine may be low."""
        failed = {name: finding for name, finding in self.findings.items() if finding["state"] == "fail"}
        assert failed.keys() == set(names), [failed, *map(self.findings.get, names)]
        assert self.code == (7 if names else 0)


class Doctor:
    """Runs the command with the settings of an installation."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.environment: dict[str, str] = {}
        """Variables that are no settings."""
        self._folder = folder
        self._variables = {f"STREAMER_{name.upper()}": str(value) for name, value in settings.items()}

    def cli(self, **settings: object) -> Cli:
        """Return the command line with these settings, and further ones."""
        changed = {f"STREAMER_{name.upper()}": str(value) for name, value in settings.items()}
        return Cli(self._folder, self._variables | changed | self.environment)

    async def __call__(self, *arguments: object, **settings: object) -> Report:
        """Run it, with further settings. No line of its output has a secret."""
        done = await self.cli(**settings)("doctor", "--json", *arguments)
        assert done.code in {0, 7}, done.err
        assert SECRET not in done.out + done.err
        assert ADMIN_KEY not in done.out + done.err
        document = json.loads(done.out)
        findings = {check["name"]: check for check in document["checks"]}
        assert tuple(findings) == NAMES
        states = [finding["state"] for finding in findings.values()]
        assert (document["failed"], document["warned"]) == (states.count("fail"), states.count("warn"))
        assert all("fix" in finding for finding in findings.values() if finding["state"] in {"warn", "fail"})
        return Report(done.code, findings)


@pytest.fixture
def doctor(tmp_path: Path, database_url: str) -> Doctor:
    """Run the command on the test's database, without a server."""
    url = f"http://127.0.0.1:{free_port()}"
    return Doctor(tmp_path, database_url=database_url, data_dir=tmp_path / "data", url=url, admin_key=ADMIN_KEY)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """Start a Redis."""
    server = RedisServer(tmp_path / "redis")
    await server.start()
    yield server
    server.kill()


async def started(process: ServerProcess, http: aiohttp.ClientSession) -> str:
    """Start a server with a workspace; return its URL."""
    await process.start()
    (await Api(http, process.url, ADMIN_KEY).append("w")).expect(201)
    return process.url


# ---- all is well


@on_sqlite
async def test_a_server_on_sqlite(make_process: MakeProcess, http: aiohttp.ClientSession, doctor: Doctor) -> None:
    """Nothing is wrong with a server that runs on SQLite; what does not apply is skipped with a reason."""
    found = await doctor(url=await started(make_process(max_streams=100), http), max_streams=100)
    found.expect_all_but()
    for name in ("database", "encoding", "migrations", "writes", "snapshots", "server", "stream", "websocket", "log"):
        found.expect(name, "ok")
    for name in ("pooler", "database clock", "bus", "output limit", "nodes", "node clocks", "certificate"):
        found.expect(name, "skip")


@on_postgresql
async def test_two_nodes_with_redis(
    make_process: MakeProcess, http: aiohttp.ClientSession, redis: RedisServer, doctor: Doctor
) -> None:
    """Nothing is wrong with two nodes on PostgreSQL and Redis: all that concerns them is checked."""
    here, there = (make_process(node_name=name, redis_url=redis.url) for name in ("one", "two"))
    url = await started(here, http)
    alone = await doctor(url=url, redis_url=redis.url)
    alone.expect("nodes", "warn", "hears no other")
    alone.expect("node clocks", "skip")
    await there.start()
    nodes = Api(http, url, ADMIN_KEY)

    async def both() -> bool:
        return len((await nodes.get("/v1/nodes")).expect(200)["nodes"]) == 2

    await eventually(both)
    found = await doctor(url=url, redis_url=redis.url)
    found.expect_all_but()
    found.expect("nodes", "ok", "one, two")
    found.expect("bus", "ok", "Redis ")
    found.expect("output limit", "ok", "32 MiB", "8 MiB for 60 s")
    for name in NAMES:
        assert found.state(name) != "skip" or name == "certificate"


@on_postgresql
async def test_notifications_of_postgresql(doctor: Doctor) -> None:
    """Without Redis, the bus over PostgreSQL is checked both ways."""
    found = await doctor()
    found.expect("bus", "ok", "LISTEN and NOTIFY")
    found.expect("output limit", "skip")


@on_sqlite
async def test_lines_for_people(make_process: MakeProcess, http: aiohttp.ClientSession, doctor: Doctor) -> None:
    """Each check is one line with its state, name and next step; the terminal shows what is running, and colours."""
    cli = doctor.cli()
    done = await cli("doctor", "--url", await started(make_process(), http))
    assert [line[6:21].strip() for line in done.lines] == list(NAMES)
    assert {line[:4].strip() for line in done.lines} <= {"ok", "warn", "skip"}
    assert "ok" in done.err
    async with cli.on_terminal("doctor", "--url", f"http://127.0.0.1:{free_port()}") as terminal:
        assert await terminal.ended() == 7
    assert "checking database" in terminal.shown
    assert "\x1b[31mfail\x1b[0m  server" in terminal.shown
    assert "Next: start the server" in terminal.shown


# ---- the database


@on_sqlite
async def test_nothing_is_there(doctor: Doctor, tmp_path: Path) -> None:
    """Before the first start, the doctor creates nothing and says what to do."""
    found = await doctor(database_url=f"sqlite:///{tmp_path}/none.db")
    found.expect_all_but("database", "server")
    found.expect("database", "fail", "there is no database", "streamer migrate")
    found.expect("server", "fail", "Connection refused", "start the server")
    assert not (tmp_path / "none.db").exists()
    assert not (tmp_path / "data").exists()


async def test_migrations(doctor: Doctor, database_url: str) -> None:
    """An older and a newer schema, and no schema, fail with the next step; nothing is written then."""
    for version, part in (("0001", "streamer migrate"), ("9999", "newer version")):
        await _run_sql(database_url, f"UPDATE alembic_version SET version_num = '{version}'")
        found = await doctor()
        found.expect("migrations", "fail", version, HEAD, part)
        found.expect("writes", "skip")
    await _run_sql(database_url, "DROP TABLE alembic_version")
    (await doctor()).expect("migrations", "fail", "no tables", "streamer migrate")


async def _run_sql(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as file:
            file.execute(statement)
        return
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


@on_postgresql
async def test_a_database_that_is_read_only(doctor: Doctor, database_url: str) -> None:
    """A read-only database can be read; that it cannot be written fails with the next step."""
    found = await doctor(database_url=f"{database_url}&options=-c%20default_transaction_read_only%3Don")
    found.expect_all_but("writes", "server")
    found.expect("writes", "fail", "read_only", "target_session_attrs=read-write")


@on_postgresql
async def test_a_password_is_not_shown(doctor: Doctor) -> None:
    """A database and a Redis that refuse connections are reported without the passwords in their URLs."""
    port = free_port()
    urls = {
        "database_url": f"postgresql://ann:{SECRET}@127.0.0.1:{port}/name",
        "redis_url": f"redis://:{SECRET}@127.0.0.1:{port}/0",
    }
    found = await doctor(**urls)
    found.expect_all_but("database", "bus", "server")
    found.expect("database", "fail", "unreachable", "start the database")
    found.expect("bus", "fail", "cannot connect", "start Redis")
    (await doctor(redis_url=f"redis://:{SECRET}/slash@127.0.0.1:{port}/0")).expect("bus", "skip", "percent-encode")


@on_postgresql
async def test_an_encoding_that_cannot_store_all(doctor: Doctor, own_cluster: OwnCluster) -> None:
    """A database with another encoding fails, and the rest of its checks are skipped."""
    own_cluster.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0")
    found = await doctor(database_url=own_cluster.url("latin"))
    found.expect("encoding", "fail", "LATIN1", "ENCODING 'UTF8'")
    found.expect("migrations", "skip")
    found.expect("writes", "skip")


@on_postgresql
async def test_an_old_snapshot(doctor: Doctor, database_url: str) -> None:
    """An open transaction is shown with its age. It is no problem until it is old."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.execute("SELECT count(*) FROM workspaces")
            (await doctor()).expect("snapshots", "ok", "the oldest is 0 s old")
    finally:
        await connection.close()


@on_postgresql
async def test_a_frozen_database(doctor: Doctor, own_cluster: OwnCluster) -> None:
    """A database that does not answer is reported within the deadline, and what depends on it is skipped."""
    own_cluster.sql("CREATE DATABASE frozen")
    own_cluster.freeze()
    found = await doctor(*SOON, database_url=own_cluster.url("frozen"))
    found.expect("database", "fail", "does not answer in time")
    found.expect("writes", "skip")
    found.expect("disk", "ok")


@pytest.fixture
def pgbouncer(postgresql_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Start a PgBouncer in front of the test's database; return its URL. The parameter is its mode."""
    with pgbouncer_before(postgresql_url, request.param) as url:
        yield url


@on_postgresql
@pytest.mark.parametrize("pgbouncer", ["pool_mode = transaction"], indirect=True)
async def test_a_pooler(doctor: Doctor, database_url: str, pgbouncer: str) -> None:
    """A pooler in between is noticed: whether the URL says so, and what it means for the bus."""

    async def refused() -> bool:
        found = await doctor(database_url=pgbouncer)
        found.expect("database", "fail")
        return "add ?pgbouncer=true" in found.findings["database"]["text"]

    await eventually(refused)
    url = f"{pgbouncer}?pgbouncer=true"
    (await doctor(database_url=url, bus="none")).expect("pooler", "ok", "the URL says so")
    found = await doctor(database_url=url)
    found.expect("pooler", "warn", "STREAMER_REDIS_URL")
    found.expect("bus", "skip", "pooler")
    (await doctor()).expect("pooler", "ok", "there is none")
    (await doctor(database_url=f"{database_url}&pgbouncer=true", bus="none")).expect(
        "pooler", "warn", "remove pgbouncer"
    )


_IGNORING = (
    "pool_mode = session\nignore_startup_parameters = jit,statement_timeout,idle_in_transaction_session_timeout,"
    "tcp_keepalives_idle,tcp_keepalives_interval,tcp_keepalives_count,tcp_user_timeout,lock_timeout"
)


@on_postgresql
@pytest.mark.parametrize("pgbouncer", [_IGNORING], indirect=True)
async def test_a_pooler_that_drops_settings(doctor: Doctor, database_url: str, pgbouncer: str) -> None:
    """A pooler that ignores the settings of our sessions fails, because a frozen node would keep its locks."""

    async def reached() -> bool:
        found = await doctor(database_url=pgbouncer)
        if found.state("database") != "ok":
            return False
        found.expect("pooler", "fail", "drops the settings", "pgbouncer=true")
        return True

    await eventually(reached)


# ---- Redis


@on_postgresql
async def test_users_of_redis(doctor: Doctor, redis: RedisServer) -> None:
    """A user that must not publish, or use the channels, fails with the ACL rule that is missing; the smallest user that nodes need is enough."""
    rules = "resetchannels -@all +subscribe +unsubscribe +select"  # as in docs/nodes.md
    for user, rule, state, part in (
        ("mute", f"{rules} &streamer:*", "fail", "ACL SETUSER mute +publish"),
        ("deaf", f"{rules} +publish", "fail", "ACL SETUSER deaf +subscribe"),
        ("node", f"{rules} &streamer:* +publish", "ok", "Redis "),
    ):
        assert (await redis.command("ACL", "SETUSER", user, "on", f">{SECRET}", *rule.split())).startswith(b"+OK")
        found = await doctor(redis_url=f"redis://{user}:{SECRET}@127.0.0.1:{redis.port}/0")
        found.expect("bus", state, part)
        found.expect("output limit", "skip")
    (await doctor(redis_url=f"redis://node:wrong-{SECRET}@127.0.0.1:{redis.port}/0")).expect(
        "bus", "fail", "cannot connect"
    )


@on_postgresql
async def test_output_limits_of_redis(doctor: Doctor, redis: RedisServer) -> None:
    """An output limit that a busy node exceeds, and none at all, are warnings."""
    for limit, part in (("pubsub 1mb 0 0", "1 MiB unread"), ("pubsub 0 0 0", "no limit")):
        await redis.command("CONFIG", "SET", "client-output-buffer-limit", limit)
        (await doctor(redis_url=redis.url)).expect("output limit", "warn", part, "CONFIG SET")


@on_postgresql
async def test_a_redis_that_sentinel_names(doctor: Doctor, redis: RedisServer, tmp_path: Path) -> None:
    """With a URL of Redis Sentinel, the master that it names is checked."""
    folder = tmp_path / "sentinel"
    folder.mkdir()
    (folder / "sentinel.conf").write_text(f"sentinel monitor streamer 127.0.0.1 {redis.port} 1\n")
    sentinel = RedisServer(folder, sentinel=True)
    await sentinel.start()
    try:
        found = await doctor(redis_url=f"redis+sentinel://127.0.0.1:{sentinel.port}/streamer/0")
        found.expect("bus", "ok", "Redis ")
        found.expect("output limit", "ok")
    finally:
        sentinel.kill()


@on_postgresql
async def test_a_frozen_redis(doctor: Doctor, redis: RedisServer) -> None:
    """A Redis that does not answer is reported within the deadline."""
    redis.freeze()
    found = await doctor(*SOON, redis_url=redis.url)
    found.expect("bus", "fail", "no answer in time", "frozen")
    found.expect("output limit", "skip")


# ---- the server, through a proxy


@on_sqlite
async def test_a_proxy_that_buffers(
    make_process: MakeProcess, http: aiohttp.ClientSession, nginx: Nginx, doctor: Doctor
) -> None:
    """A proxy that buffers streams and does not forward upgrades fails both checks; the server itself is found ready."""
    spoilt = {
        "proxy_buffering off;": "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;",
        "proxy_http_version 1.1;": "proxy_http_version 1.0;",
    }
    await nginx.start(await started(make_process(), http), changes=PLAIN | spoilt)
    found = await doctor(*SOON, url=nginx.url.replace("https", "http"))
    found.expect_all_but("stream", "websocket")
    found.expect("server", "ok")
    found.expect("stream", "fail", "nothing of a stream arrives", "proxy_buffering off")
    found.expect("websocket", "fail", "not 101", "Upgrade")


@on_sqlite
async def test_a_certificate(
    make_process: MakeProcess, http: aiohttp.ClientSession, nginx: Nginx, doctor: Doctor
) -> None:
    """A certificate that is not trusted fails, and no key is sent; one that is trusted and expires soon is a warning."""
    await nginx.start(await started(make_process(), http))
    found = await doctor(url=nginx.url, key=ADMIN_KEY)
    found.expect_all_but("server", "certificate")
    found.expect("certificate", "fail", "self-signed", "SSL_CERT_FILE")
    found.expect("server", "fail", "its certificate is not trusted (self-signed certificate)")
    found.expect("stream", "skip")
    # Another variable of Python, so that a real one starts, which reads SSL_CERT_FILE.
    doctor.environment = {"SSL_CERT_FILE": str(nginx.certificate), "PYTHON_IS_REAL": "yes"}
    found = await doctor(url=nginx.url, key=ADMIN_KEY)
    found.expect_all_but()
    found.expect("certificate", "warn", "valid for 1 more days", "renew")
    found.expect("stream", "ok")
    found.expect("websocket", "ok")


@on_sqlite
async def test_a_frozen_server(make_process: MakeProcess, http: aiohttp.ClientSession, doctor: Doctor) -> None:
    """A server that does not answer is reported within the deadline; the database is still checked."""
    process = make_process()
    url = await started(process, http)
    process.send(signal.SIGSTOP)
    found = await doctor(*SOON, url=url)
    found.expect("server", "fail", "does not answer in time", "frozen")
    found.expect("stream", "skip")
    found.expect("writes", "ok")


@on_postgresql
async def test_keys(make_process: MakeProcess, http: aiohttp.ClientSession, doctor: Doctor, tmp_path: Path) -> None:
    """Without a key, or with one that permits less, checks are skipped and say what they need."""
    process = make_process(bus="postgres")
    url = await started(process, http)
    api = Api(http, url, ADMIN_KEY)
    made = await api.request("POST", "/v1/workspaces/w/keys", body={"name": "reader", "scopes": ["workspace:read"]})
    found = await doctor(url=url, key=made.expect(201)["key"])
    found.expect_all_but()
    found.expect("stream", "ok")
    found.expect("websocket", "ok")
    found.expect("nodes", "skip", "admin key")
    found = await doctor(url=url, key="sk_nobody_0123456789abcdef")
    for name in ("stream", "websocket", "nodes"):
        found.expect(name, "skip", "key")
    other = Cli(tmp_path, {"STREAMER_URL": url, "STREAMER_DATA_DIR": str(tmp_path / "none")})
    done = await other("doctor", "--json")
    skipped = {check["name"]: check for check in json.loads(done.out)["checks"] if check["state"] == "skip"}
    assert "no key is given" in skipped["stream"]["text"]


async def test_addresses(tmp_path: Path) -> None:
    """A URL with a password is refused without quoting it; a port that is not known is skipped."""
    done = await Cli(tmp_path, {})("doctor", "--url", f"http://ann:{SECRET}@host")
    assert done.code == 2
    assert SECRET not in done.err
    done = await Cli(tmp_path, {"STREAMER_PORT": "0"})("doctor")
    assert "STREAMER_PORT is 0" in done.out


@on_sqlite
async def test_answers_of_others(
    make_process: MakeProcess, nginx: Nginx, http: aiohttp.ClientSession, doctor: Doctor
) -> None:
    """Another program, a redirect, a proxy without its server and a proxy that compresses are told apart."""
    process = make_process()
    compressing = {"gzip off;": "gzip on; gzip_min_length 0; gzip_proxied any; gzip_types text/event-stream;"}
    await nginx.start(await started(process, http), changes=PLAIN | compressing)
    url = nginx.url.replace("https", "http")
    (await doctor(url=f"{url}/v1")).expect("server", "fail", "404", "under a path")
    found = await doctor(url=url)
    found.expect_all_but()
    found.expect("stream", "warn", "compresses")
    await process.stop()
    found = await doctor(url=url)
    found.expect_all_but("server")
    found.expect("server", "fail", "502, which the server did not send")


async def test_a_reader_of_the_output_that_leaves(tmp_path: Path) -> None:
    """A closed pipe ends the command quietly."""
    async with Cli(tmp_path, {}).started("doctor") as process:
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.read()


@pytest.mark.parametrize(
    ("url", "public_url", "goes"),
    [
        ("http://127.0.0.1:8080", None, True),
        ("http://[::1]:8080", None, True),
        ("http://localhost:8080", "https://example.com", True),
        ("https://example.com/streamer", "https://example.com/streamer", True),
        ("http://example.com", "http://example.com", False),
        ("https://other.example", "https://example.com", False),
        ("https://other.example", None, False),
        (None, None, False),
    ],
)
def test_where_the_admin_key_goes(url: str | None, public_url: str | None, goes: bool) -> None:
    """The server's own admin key is used for this machine, and for the public URL over TLS."""
    settings = Settings(admin_key=SecretStr(ADMIN_KEY), public_url=public_url)
    assert own_key(settings, url) == (ADMIN_KEY if goes else None)


# ---- the machine


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (judge_snapshots(Snapshots(None, are_all=True)), "ok"),
        (judge_snapshots(Snapshots(Snapshot("process 7", "SELECT pg_terminate_backend(7)", 299), are_all=False)), "ok"),
        (
            judge_snapshots(Snapshots(Snapshot("process 7", "SELECT pg_terminate_backend(7)", 4000), are_all=True)),
            "warn",
        ),
        (judge_wal(8 * MiB), "ok"),
        (judge_wal(65 * MiB), "warn"),
        (judge_space("here", 2**40, 2**41), "ok"),
        (judge_space("here", 2 * 2**30, 2**30 * 100), "warn"),
        (judge_space("here", 2**29, 2**30), "warn"),
        (judge_space("here", 100 * MiB, 2**30), "fail"),
    ],
)
def test_thresholds(found: Finding, state: str) -> None:
    """Old snapshots, SQLite's log and free space are judged by their size."""
    assert (found.state, bool(found.fix)) == (State(state), state != "ok")


@pytest.mark.parametrize(
    ("ahead", "error", "state"),
    [
        (0, 0, "ok"),
        (-900_000, 0, "ok"),
        (1_500_000, 600_000, "ok"),
        (-2_000_000, 0, "warn"),
        (300_000_000, 1000, "fail"),
    ],
)
def test_clocks(ahead: int, error: int, state: str) -> None:
    """Clocks may differ by a second, give or take the error of the measurement; above five seconds it fails."""
    found = judge_skew("the clock", ahead, error)
    assert found.state == State(state)
    assert (state == "ok") or ("ahead" if ahead > 0 else "behind") in found.text


def test_where_a_log_goes(tmp_path: Path) -> None:
    """A file that was removed, and a device that is always full or discards, are not a log."""
    file = tmp_path / "log"
    with file.open("w") as log:
        link = f"/proc/self/fd/{log.fileno()}"
        assert judge_log("it", link, str(file), os.fstat(log.fileno())).state is State.OK
        file.unlink()
        found = judge_log("it", link, str(file), os.fstat(log.fileno()))
        assert (found.state, "was removed" in found.text) == (State.FAIL, True)
    for device, state in (("/dev/full", State.FAIL), ("/dev/null", State.WARN)):
        assert judge_log("it", device, device, Path(device).stat()).state is state


@on_sqlite
async def test_the_servers_process(make_process: MakeProcess, http: aiohttp.ClientSession, doctor: Doctor) -> None:
    """Limits and log are those of the server that uses the data directory, not of the doctor."""
    process = make_process()
    await process.start("2>/dev/full")
    found = await doctor(url=process.url)
    found.expect_all_but("log")
    found.expect("log", "fail", "the server's log", "/dev/full")
    found = await doctor(url=process.url, max_streams=100_000_000)
    found.expect("open files", "warn", "the server can open", "LimitNOFILE", "STREAMER_MAX_STREAMS")
