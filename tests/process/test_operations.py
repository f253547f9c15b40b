"""Operation: health, metrics, logs, validated settings, and starts that succeed or explain their failure."""

import asyncio
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from structlog.testing import capture_logs

from streamer.app import running
from streamer.http.native import params
from streamer.observe.metrics import Metrics
from streamer.settings import Settings, SettingsError, load
from streamer.store.engine.database import Database
from streamer.store.migrate import HEAD
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.support.api import Api, events
from tests.support.databases import OwnCluster
from tests.support.process import free_port
from tests.support.raw import RawConnection, request_head
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS, eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def metrics_of(api: Api) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return every sample by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families((await api.get("/metrics")).body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


# ---- health


async def test_a_healthy_server(api: Api) -> None:
    """A healthy server reports it to everybody."""
    nobody = api.with_key(None)
    for path in ("/livez", "/readyz"):
        answer = await nobody.get(path)
        assert answer.expect(200)["status"] == "ok"
        assert (await nobody.request("HEAD", path)).status == 200


async def is_ready(api: Api) -> bool:
    """Check whether the server reports that it is ready."""
    return (await api.get("/readyz")).status == 200


async def unready_within(api: Api, seconds: float) -> None:
    """Require that the server soon reports that it cannot work."""
    clock = asyncio.get_running_loop().time

    async def unready() -> bool:
        return not await is_ready(api)

    await eventually(unready)  # the last result is cached for a second
    started = clock()
    answer = await api.with_key(None).get("/readyz")
    assert clock() - started < seconds
    assert (answer.status, answer.error) == (503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await api.get("/livez")).status == 200


async def test_postgresql_stops_and_comes_back(
    own_cluster: OwnCluster, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Without PostgreSQL, everything that needs it gets 503 at once. When it returns, everything works without a restart."""
    settings = Settings(
        data_dir=tmp_path, port=0, admin_key=ADMIN_KEY, database_url=own_cluster.url("postgres"), metrics_public=True
    )
    async with running(settings) as server:
        api = Api(http, server.url, ADMIN_KEY)
        stored = (await api.append("w")).expect(201)
        assert await is_ready(api)
        assert (await metrics_of(api))["streamer_store_up"] == {(): 1}
        async with await api.stream("w") as reader:
            await reader.next("synced")
            await asyncio.to_thread(own_cluster.stop)
            await unready_within(api, 3)

            async def is_down() -> bool:  # reads and writes are checked separately, once a second
                return not await is_ready(api) and (await metrics_of(api))["streamer_store_up"] == {(): 0}

            await eventually(is_down)
            for answer in (await api.append("w"), await api.get(events("w")), await api.put("/v1/workspaces/v")):
                assert (answer.status, answer.error) == (503, "store_unavailable")
                assert int(answer.headers["Retry-After"]) > 0
            await asyncio.to_thread(own_cluster.restart)
            await eventually(lambda: is_ready(api))
            again = (await api.append("w")).expect(201)
            assert again["seq"] == 2
            assert await api.history("w", order="asc") == [stored, again]
            assert await reader.events(1) == [again]
        assert (await metrics_of(api))["streamer_store_up"] == {(): 1}


async def test_postgresql_hangs(own_cluster: OwnCluster, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """A database that does not respond is detected within seconds, before its own timeouts."""
    settings = Settings(data_dir=tmp_path, port=0, admin_key=ADMIN_KEY, database_url=own_cluster.url("postgres"))
    async with running(settings) as server:
        api = Api(http, server.url, ADMIN_KEY)
        assert await is_ready(api)
        own_cluster.freeze()
        try:
            await unready_within(api, 5)
            await unready_within(api, 5)
        finally:
            own_cluster.thaw()
        await eventually(lambda: is_ready(api))
        (await api.append("w")).expect(201)


@on_sqlite
@pytest.mark.parametrize("harm", ["removed", "replaced", "folder removed"])
async def test_the_file_of_sqlite_is_gone(api: Api, tmp_path: Path, harm: str) -> None:
    """If the database file is gone, the server is not ready, because new events would be lost."""
    (await api.append("w")).expect(201)
    file = tmp_path / "streamer.db"
    if harm == "removed":
        file.unlink()
    elif harm == "replaced":
        shutil.copyfile(file, tmp_path / "other")
        (tmp_path / "other").replace(file)
    else:
        tmp_path.rename(f"{tmp_path}-away")  # noqa: ASYNC240
    await unready_within(api, 3)


# ---- metrics


async def test_metrics_are_for_the_admin(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """`/metrics` needs the admin key unless a setting makes it public."""
    closed = Api(http, (await make_server()).url, ADMIN_KEY)
    opened = Api(http, (await make_server(metrics_public=True)).url, None)
    (await closed.append("w")).expect(201)
    assert (await closed.with_key(None).get("/metrics")).status == 401
    assert (await closed.with_key(await closed.create_key("w", scopes=["admin"])).get("/metrics")).status == 403
    for api in (closed, opened):
        answer = await api.get("/metrics")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_metrics_count_what_they_say(api: Api) -> None:
    """Every metric has a name and help text and counts what it describes. No label contains a client's text."""
    answer = await api.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    for name in Metrics().names():
        family = families[name.removesuffix("_total")]
        assert family.documentation, name
    assert {"process_resident_memory_bytes", "python_info"} <= set(families)

    async with await api.stream("nothing") as nobody:
        assert nobody.status == 404
    (await api.append_all("w", [{}, {}, {"details": {"password": "hunter2"}}])).expect(201)
    async with await api.stream("w") as one, await api.stream("w", run_id="r") as two:
        for reader in (one, two):
            await reader.next("synced")
        (await api.append("w")).expect(201)
        await one.events(1)
        found = await metrics_of(api)
        assert found["streamer_events_appended_total"] == {(): 4}
        assert found["streamer_redactions_total"] == {(): 1}
        assert found["streamer_subscribers"] == {(("transport", "sse"),): 2}
        assert found["streamer_deliveries_total"] == {(): 1}
        assert found["streamer_feeds"] == {(): 1}
        assert found["streamer_append_queue_events"] == {(): 0}
        assert found["streamer_commit_seconds_count"][()] >= 2
    await eventually(lambda: no_readers(api))
    for path in (
        "/nothing/at/all",
        "/v1/workspaces/secret-name/nothing",
        "/v1/workspaces/secret-name",
        f"{events('secret-name')}?q=x",
    ):
        await api.get(path)
    (await api.request("TRACE", "/v1/workspaces")).expect(405)
    requests = (await metrics_of(api))["streamer_requests_total"]
    append = (("method", "POST"), ("route", "/v1/workspaces/{ws}/events"), ("status", "201"))
    assert requests[append] == 2
    assert {dict(labels)["route"] for labels in requests} <= {
        "unknown", "/metrics", "/v1/workspaces/{ws}", "/v1/workspaces/{ws}/events", "/v1/workspaces/{ws}/events/stream"
    }  # fmt: skip
    assert {dict(labels)["method"] for labels in requests} <= {"GET", "POST", "other"}


async def no_readers(api: Api) -> bool:
    """Check whether no stream is counted."""
    return (await metrics_of(api))["streamer_subscribers"] == {(("transport", "sse"),): 0}


# ---- logs


async def test_a_line_for_each_request(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """Each request has one JSON log line with the id of its error body and header, and without the query string."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    answer = await api.get(events("w"), limit=0, q="find me")
    request_id = answer.json["error"]["request_id"]
    assert answer.headers["X-Request-Id"] == request_id
    async with await api.stream("w") as reader:
        await reader.next("synced")
        stream_id = reader.headers["x-request-id"]
    await eventually(lambda: stream_id in process.log)
    assert await process.stop() == 0
    lines = process.log_lines
    line = next(line for line in lines if line.get("request_id") == request_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert isinstance(line.pop("ms"), float)
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": request_id,
        "method": "GET",
        "path": "/v1/workspaces/w/events",
        "status": 400,
        "principal": "admin",
    }
    assert [line["status"] for line in lines if line.get("request_id") == stream_id] == [200]
    assert "find me" not in process.log
    assert "find+me" not in process.log
    ids = [line["request_id"] for line in lines if line["event"] == "request"]
    assert len(set(ids)) == len(ids)


@on_sqlite
async def test_a_fault_of_the_server_leads_to_its_log_entry(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is a 500 without details, and its request id leads to the traceback in the log."""
    (await api.append("w")).expect(201)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the bug")

    monkeypatch.setattr(params, "parse_filter", broken)
    with capture_logs() as entries:
        answer = await api.get(events("w"))
    assert (answer.status, answer.error) == (500, "internal_error")
    assert b"bug" not in answer.body
    request_id = answer.json["error"]["request_id"]
    found = [entry for entry in entries if entry["log_level"] == "error"]
    assert [(entry["event"], entry["request_id"]) for entry in found] == [("request_failed", request_id)]
    assert found[0]["exc_info"]
    monkeypatch.undo()
    assert (await api.get(events("w"))).status == 200


def logged_by(program: str) -> str:
    """Run a program and return what it logs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stderr


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_values(form: str) -> None:
    """A traceback in the log shows lines of code but no variables, because they may hold secrets."""
    program = (
        "import structlog, logging\n"
        "from streamer.observe.logs import configure\n"
        f"configure({form!r}, 'info')\n"
        "def fail(secret):\n"
        "    raise RuntimeError('the reason')\n"
        "try:\n"
        "    fail('hun' + 'ter2')\n"
        "except RuntimeError:\n"
        "    structlog.get_logger('x').exception('failed')\n"
        "    logging.getLogger('y').exception('failed')\n"
    )
    log = logged_by(program)
    assert log.count("the reason") >= 2
    assert "hunter2" not in log


def test_what_is_logged_stays_on_its_line() -> None:
    """Text from a client can neither start another log line nor control the terminal that displays it."""
    program = (
        "import structlog\n"
        "from streamer.observe.logs import configure\n"
        "configure('console', 'info')\n"
        "structlog.get_logger('x').info('request', path='/v1/a\\nforged=line', principal='user:\\x1b[2Jgone\\r')\n"
    )
    log = logged_by(program)
    assert log.count("\n") == 1
    assert "\x1b" not in log
    assert "\r" not in log
    assert "forged=line" in log


MALFORMED = [
    pytest.param(b"GET /livez HTTP/1.1\r\n\r\n", id="no Host"),
    pytest.param(b"NONSENSE\r\n\r\n", id="no request"),
    pytest.param(b"BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n", id="method"),
    pytest.param(b"GET /livez HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", id="header without colon"),
    pytest.param(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", id="NUL in a header"),
    pytest.param(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", id="long header"),
    pytest.param(b"GET /livez?" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="long query"),
    pytest.param(b"GET /liv\xffez HTTP/1.1\r\nHost: x\r\n\r\n", id="bytes in the path"),
    pytest.param(b"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="negative length"),
    pytest.param(
        b"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        id="two lengths",
    ),
    pytest.param(
        b"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Encoding: br\r\n"
        b"Content-Length: 2\r\n\r\n{}",
        id="encoding that is not known",
    ),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
]


@on_sqlite
@pytest.mark.parametrize("request_bytes", MALFORMED)
async def test_malformed_requests(api: Api, request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Malformed HTTP gets a 4xx in the usual form, without a traceback in the log."""
    async with await RawConnection.open(api.url) as connection:
        await connection.send(request_bytes)
        answer = await connection.answer()
    assert 400 <= answer.status < 500, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.error
    assert [record for record in caplog.records if record.exc_info] == []


@on_sqlite
@pytest.mark.parametrize("key", [None, ADMIN_KEY])
async def test_a_body_that_is_not_what_it_says(api: Api, key: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """A body that cannot be decompressed leaves no traceback, read or not, and the connection stays open."""
    data = b"not gzip" * 100
    caller = api.with_key(key)
    head = (
        f"POST {events('w')} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(data)}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in caller.headers.items())
        + "\r\n"
    )
    async with await RawConnection.open(api.url) as connection:
        await connection.send(head.encode() + data)
        answer = await connection.answer()
        assert answer.status == (400 if key else 401)
        await connection.send(request_head("GET", "/livez"))
        assert (await connection.answer()).status == 200
    assert [record for record in caplog.records if record.exc_info] == []


# ---- settings


def start(folder: Path, *flags: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `streamer serve` where it is expected to exit by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "streamer", "serve", *flags],
        env={
            **clean,
            "PYTHONPATH": str(ROOT),
            "STREAMER_PORT": "0",
            "STREAMER_DATA_DIR": str(folder / "data"),
            **(environment or {}),
        },
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"STREAMER_FOO": "1"}, "STREAMER_FOO"),
        ({"STREAMER_foo": "1"}, "STREAMER_foo"),
        ({"STREAMER_PORT": "http"}, "STREAMER_PORT"),
        ({"STREAMER_PORT": "70000"}, "STREAMER_PORT"),
        ({"STREAMER_PORT": "-1"}, "STREAMER_PORT"),
        ({"STREAMER_HEARTBEAT_SECONDS": "0"}, "STREAMER_HEARTBEAT_SECONDS"),
        ({"STREAMER_HEARTBEAT_SECONDS": "1.5"}, "STREAMER_HEARTBEAT_SECONDS"),
        ({"STREAMER_METRICS_PUBLIC": "perhaps"}, "STREAMER_METRICS_PUBLIC"),
        ({"STREAMER_LOG_FORMAT": "xml"}, "STREAMER_LOG_FORMAT"),
        ({"STREAMER_LOG_LEVEL": "loud"}, "STREAMER_LOG_LEVEL"),
        ({"STREAMER_BODY_TIMEOUT": "nan"}, "STREAMER_BODY_TIMEOUT"),
        ({"STREAMER_MAX_EVENT_BYTES": "256k"}, "STREAMER_MAX_EVENT_BYTES"),
        ({"STREAMER_DATABASE_URL": "mysql://ann:hunter2@db/x"}, "STREAMER_DATABASE_URL"),
        ({"STREAMER_DATABASE_URL": "postgresql+psycopg://ann:hunter2@db/x"}, "STREAMER_DATABASE_URL"),
        ({"STREAMER_DATABASE_URL": "postgresql://ann:hunter2@db:port/x"}, "STREAMER_DATABASE_URL"),
        ({"STREAMER_DATABASE_URL": "sqlite://"}, "STREAMER_DATABASE_URL"),
        ({"STREAMER_DATABASE_URL": "sqlite:///:memory:"}, "STREAMER_DATABASE_URL"),
        ({"STREAMER_CONFIG": "nowhere.toml"}, "STREAMER_CONFIG"),
    ],
)
def test_a_wrong_variable_stops_the_start(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    """An unknown or invalid variable stops the start. The error names it and shows no password."""
    done = start(tmp_path, environment=environment)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--foo", "1"], "--foo"),
        (["--port", "http"], "--port"),
        (["--port"], "--port"),
        (["--admin-key", "x" * 30], "--admin-key"),  # the process list would show it
        (["--database-url", "sqlite:///x"], "--database-url"),
        (["--max-batch-events=0"], "--max-batch-events"),
        (["extra"], "extra"),
    ],
)
def test_a_wrong_flag_stops_the_start(tmp_path: Path, flags: list[str], said: str) -> None:
    """An unknown or invalid flag stops the start with its name."""
    done = start(tmp_path, *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("foo = 1", "foo"),
        ("PORT = 1", "PORT"),
        ('port = "http"', "port"),
        ("[server]\nport = 1", "server"),
        ("port = ", "TOML"),
        ("port = 1\nport = 2", "TOML"),
        ('ring_bytes = ["a"]', "ring_bytes"),
    ],
)
def test_a_wrong_file_stops_the_start(tmp_path: Path, content: str, said: str) -> None:
    """An unknown or invalid key of the TOML file stops the start with its name and the file's."""
    file = tmp_path / "streamer.toml"
    file.write_text(content)
    clean = {"STREAMER_CONFIG": str(file)}
    with pytest.raises(SettingsError) as caught:
        load({}, clean)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    done = start(tmp_path, environment=clean | {"STREAMER_PORT": ""})
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_flags_win_over_variables_over_the_file(tmp_path: Path) -> None:
    """Flags take precedence over variables, variables over the file, and the file over defaults. An empty variable is unset."""
    file = tmp_path / "streamer.toml"
    file.write_text('port = 1\nhost = "file"\nring_bytes = 20000\n')
    environment = {
        "STREAMER_CONFIG": str(file),
        "STREAMER_PORT": "2",
        "STREAMER_HOST": "variable",
        "STREAMER_RING_BYTES": "",
        "X": "y",
    }
    settings = load({"port": "3", "log_level": None}, environment)
    assert (settings.port, settings.host, settings.ring_bytes, settings.log_level) == (3, "variable", 20_000, "info")
    assert load({}, {"STREAMER_URL": "http://x", "STREAMER_KEY": "x"}) == Settings()  # the client's variables


# ---- starts


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    """An impossible data directory stops the start with its path, without a traceback."""
    (tmp_path / "data").write_text("a file")
    done = start(tmp_path)
    assert done.returncode == 1
    assert str(tmp_path / "data") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A file that is not a database is not changed, and the start reports it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "streamer.db").write_text("my diary" * 1000)
    done = start(tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "database" in done.stderr
    assert (tmp_path / "data" / "streamer.db").read_text() == "my diary" * 1000


def test_no_database_there(tmp_path: Path) -> None:
    """If PostgreSQL is unreachable, the start fails soon. The error names the database and hides the password."""
    url = f"postgresql://ann:hunter2@127.0.0.1:{free_port()}/x"
    done = start(tmp_path, environment={"STREAMER_DATABASE_URL": url})
    assert done.returncode == 1
    assert "database" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    """A port in use is a clear error with the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = start(tmp_path, "--port", address.split(":")[1])
    assert done.returncode == 1
    assert address in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_second_start_goes_on(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """A restart on the same data continues with the same events, positions, keys and numbers."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    stored = (await api.append_all("w", [{}] * 5)).expect(201)["events"]
    key = await api.create_key("w")
    before = (await api.get("/v1/workspaces/w")).expect(200)
    page = (await api.get(events("w"), limit=2)).expect(200)
    for _ in range(2):
        assert await process.stop() == 0
        await process.start()
        caller = api.with_key(key)
        assert (await caller.get("/v1/workspaces/w")).expect(200) == before
        assert await caller.history("w", order="asc") == stored
        assert (await caller.get(events("w"), cursor=page["cursor"], limit=3)).expect(200)["events"] == stored[3:0:-1]
    assert (await caller.append("w")).expect(201)["seq"] == 7  # the sixth event records the key
    assert "Traceback" not in process.log


@on_sqlite
async def test_the_files_of_sqlite_are_for_their_user(
    make_process: MakeProcess, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """SQLite's files are private even if folder and umask allow more. An existing file keeps its mode."""
    folder, umask = tmp_path / "data", os.umask(0o022)
    try:
        folder.mkdir(mode=0o755)
        (folder / "streamer.db").symlink_to(tmp_path / "elsewhere.db")  # one that SQLite would follow
        process = make_process(database_url=None)
        await process.start()
        (await Api(http, process.url, ADMIN_KEY).append("w")).expect(201)
        files = [tmp_path / "elsewhere.db", *(tmp_path / f"elsewhere.db-{kind}" for kind in ("wal", "shm"))]
        assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
        assert await process.stop() == 0
        files[0].chmod(0o640)
        await process.start()
        (await Api(http, process.url, ADMIN_KEY).append("w")).expect(201)
        assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o640] * 3
        assert await process.stop() == 0
    finally:
        os.umask(umask)


def test_migrate_makes_the_file_of_sqlite_for_its_user(tmp_path: Path) -> None:
    """A file that `streamer migrate` creates in an existing folder is private, too, whatever path the URL names."""
    for name, environment in (
        ("data/streamer.db", {"STREAMER_DATA_DIR": "data"}),
        ("other.db", {"STREAMER_DATABASE_URL": "sqlite:///other.db"}),
    ):
        (tmp_path / "data").mkdir(mode=0o755, exist_ok=True)
        subprocess.run(
            [sys.executable, "-P", "-m", "streamer", "migrate"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            check=True,
            umask=0o022,
        )
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


async def test_a_stop_ends_streams_and_keeps_what_was_sent(
    make_process: MakeProcess, http: aiohttp.ClientSession
) -> None:
    """On SIGTERM, the process exits cleanly: readers are told to reconnect, and every acknowledged append is stored."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    acknowledged = 1
    reader = await api.stream("w")
    await reader.next("synced")

    async def append() -> None:
        nonlocal acknowledged
        while True:
            if (await api.append("w")).status != 201:
                return
            acknowledged += 1

    appends = [asyncio.create_task(append()) for _ in range(8)]
    await reader.events(50)
    assert await process.stop() == 0
    assert (await reader.next("closed")).json == {"reason": "shutdown", "reconnect": True}
    reader.close()
    for result in await asyncio.gather(*appends, return_exceptions=True):
        assert result is None or isinstance(result, aiohttp.ClientError), result
    assert "Traceback" not in process.log
    await process.start()
    found = await api.history("w", limit=1000, order="asc")
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert len(found) >= acknowledged


async def test_a_database_of_a_newer_version(make_process: MakeProcess, database_url: str) -> None:
    """The server refuses a database that a newer version has migrated, and does not change it."""
    database = Database(database_url)
    try:
        await database.write(lambda sql: sql.execute(text("UPDATE alembic_version SET version_num = '9999'")))
        process = make_process()
        process.spawn()
        assert await process.ended() == 1
        assert "9999" in process.log
        assert HEAD in process.log
        assert "newer" in process.log
        assert "Traceback" not in process.log
        query = text("SELECT version_num FROM alembic_version")
        assert await database.read(lambda sql: sql.execute(query).scalar_one()) == "9999"
    finally:
        await database.close()


async def test_a_restored_backup(make_process: MakeProcess, http: aiohttp.ClientSession, database_url: str) -> None:
    """After `migrate --restored`, every reader gets a gap, even if the log has grown past its position again."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append_all("w", [{}] * 5)).expect(201)
    before = (await api.get(events("w"))).expect(200)["position"]
    assert await process.stop() == 0
    migrate = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamer", "migrate", "--restored",
        env=os.environ | {"STREAMER_DATABASE_URL": database_url}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await migrate.communicate()
    assert migrate.returncode == 0
    assert b"1 logs have a new epoch" in said
    await process.start()
    (await api.append_all("w", [{}] * 5)).expect(201)
    assert (await api.get(events("w"), after=before)).error == "position_expired"
    async with await api.stream("w", last_event_id=before) as reader:
        gap = await reader.next()
        assert (gap.event, gap.json["from"], gap.json["to"], gap.json["reason"]) == ("gap", 6, None, "reset")
        assert [event["seq"] for event in await reader.events(10)] == list(range(1, 11))


@on_sqlite
async def test_a_client_that_sends_no_request(
    make_server: MakeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection with an incomplete request, or none, is closed after a while. An idle stream is not."""
    monkeypatch.setattr("streamer.server.connection.HEAD_SECONDS", 0.3)
    api = Api(http, (await make_server()).url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    host, port = urlsplit(api.url).hostname, urlsplit(api.url).port
    async with await api.stream("w") as stream:
        await stream.next("synced")
        for sent in (b"", b"GET /livez HTTP/1.1\r\nHo"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
        (await api.append("w")).expect(201)
        assert (await stream.events(1))[0]["seq"] == 2


@on_sqlite
async def test_the_page_runs_only_its_own_code(api: Api) -> None:
    """The page is HTML with a policy that forbids foreign content. Its files are served with their types."""
    answer = await api.with_key(None).get("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    page = answer.body.decode()
    linked = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert linked
    for path in linked:
        assert not path.startswith("/"), "relative: a proxy may serve the page under a path"
        found = await api.with_key(None).get(f"/{path}")
        assert found.status == 200, path
        assert found.headers["Content-Type"].split(";")[0] in {"text/javascript", "text/css", "image/svg+xml"}
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:", page)
