"""Fixtures for servers, databases and readers, and a hook that lets no test be skipped unnoticed.

A test that takes `database_url` or a server runs once on SQLite and once on PostgreSQL. Each run gets a database of its
own.
"""

import asyncio
import gc
import os
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import hypothesis
import pytest

from streamer.app import Server, running
from streamer.observe import logs
from streamer.observe.loops import Loops, Turn
from streamer.settings import Settings
from streamer.store.engine.database import Database
from tests.support import forked, run_dir
from tests.support.api import Api
from tests.support.browser import browser_server, connected
from tests.support.cli import Cli
from tests.support.databases import Cluster, OwnCluster, fresh_database, shared_cluster, sqlite_url
from tests.support.nginx import Nginx
from tests.support.process import ServerProcess
from tests.support.queued import Queued
from tests.support.tools import IN_CI, TOOLS, find, require

if TYPE_CHECKING:
    from playwright.async_api import Browser

ADMIN_KEY = "sk_admin_of_the_tests_0123456789"

TICK_SECONDS = 0.1
"""The length of a second for the loops of a server in this process: heartbeats, and checks for revoked access and for events of other nodes."""

READ_SECONDS = 60
"""Time limit for a server's database reads. It exceeds the default, because the machine may be busy, except where a test is about it."""

MakeServer = Callable[..., Awaitable[Server]]
MakeProcess = Callable[..., ServerProcess]

hypothesis.settings.register_profile("quick", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("slow", max_examples=2000, deadline=None, print_blob=True)


# ---- the test run


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the --slow option."""
    parser.addoption("--slow", action="store_true", help="run the slow tier too")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the run: create its folder, load the hypothesis profile, and clear settings from the environment."""
    for name in [name for name in os.environ if name.startswith("STREAMER_")]:
        del os.environ[name]
    # A shell starts background jobs with SIGINT ignored, and the processes of the tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        run_dir.create()
    forked.install()
    logs.configure("json", "info")
    profile = "slow" if config.getoption("slow") else "ci" if IN_CI else "quick"
    hypothesis.settings.load_profile(profile)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the run's folder. The first process does this after all workers have ended."""
    forked.remove()
    if not hasattr(config, "workerinput"):
        run_dir.remove()


def pytest_report_header() -> list[str]:
    """Report the tools that are available to the tests."""
    return [f"{tool}: {find(tool) or 'not found, its tests are left out'}" for tool in TOOLS]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the slow tier unless --slow is given."""
    if config.getoption("slow") or "slow" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_collection_finish() -> None:
    """Freeze all modules and tests for the garbage collector, whose repeated scans took a fifth of the tests' CPU time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failure where every tool must be available."""
    # A report parses source code. On Python 3.11 this fails if a finalizer formats a traceback meanwhile, because that
    # parses source code, too.
    gc.disable()
    try:
        report = yield
    finally:
        gc.enable()
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"With CI=true nothing is left out, but: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the time per file with --durations, and repeat at the end what `./run test` found before the tests."""
    if terminalreporter.config.getoption("durations"):
        _write_files(terminalreporter)
    failed = os.environ.get("LINT_FAILED")
    if failed:
        terminalreporter.section("linters", red=True)
        terminalreporter.line(f"FAILED: {failed}; see above. The run fails even if all tests pass.", red=True)


def _write_files(terminalreporter: pytest.TerminalReporter) -> None:
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section(f"{sum(seconds.values()):.0f} worker seconds, by file")
    for file, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.line(f"{spent:7.1f} {file}")


# ---- databases


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """Return the PostgreSQL cluster of the run."""
    with closing(shared_cluster(require("postgresql"))) as cluster:
        yield cluster


@pytest.fixture
def postgresql_url(postgresql: Cluster) -> Iterator[str]:
    """Create a migrated PostgreSQL database."""
    with fresh_database(postgresql) as url:
        yield url


@pytest.fixture
async def own_cluster() -> AsyncIterator[OwnCluster]:
    """Start a PostgreSQL cluster for this test alone."""
    # The path is short because a socket's path is limited to about a hundred characters.
    cluster = OwnCluster(require("postgresql"), run_dir.run_dir() / f"pg-{uuid.uuid4().hex[:8]}")
    await asyncio.to_thread(cluster.start)
    yield cluster
    if (cluster.folder / "data" / "postmaster.pid").exists():
        cluster.thaw()
        await asyncio.to_thread(cluster.stop)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Create a migrated database. The test runs once for each kind of database."""
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Open the test's database, for operations that the server does not offer yet."""
    opened = Database(database_url)
    yield opened
    await opened.close()


# ---- servers


@pytest.fixture
def queued(database: Database) -> Queued:
    """Create a writer that is paused."""
    return Queued(database)


@pytest.fixture
async def make_server(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeServer]:
    """Start servers in this process, on real sockets; keywords are settings. All servers of a test share its database."""
    start = Loops.start

    def start_fast(loops: Loops, name: str, turn: Turn, *, every: float = 0, **nudge: Any) -> None:
        # Nobody waits for the others, and some tests count statements of the database.
        is_fast = name in {"beat", "evershell", "watch"}
        start(loops, name, turn, every=every * TICK_SECONDS if is_fast else every, **nudge)

    monkeypatch.setattr(Loops, "start", start_fast)
    monkeypatch.setattr("streamer.access.keys.CACHE_SECONDS", TICK_SECONDS)
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> Server:
            given = {
                "data_dir": tmp_path / "data",
                "port": 0,
                "poll_seconds": TICK_SECONDS,
                "database_url": database_url,
                "admin_key": ADMIN_KEY,
                "read_seconds": READ_SECONDS,
            }
            return await stack.enter_async_context(running(Settings(**(given | settings))))

        yield make


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """Start a server in this process, on a real socket."""
    return await make_server()


@pytest.fixture
def make_process(database_url: str, tmp_path: Path) -> Iterator[MakeProcess]:
    """Prepare servers that run as separate processes; keywords are settings. The test starts them."""
    made: list[ServerProcess] = []

    def make(**settings: object) -> ServerProcess:
        given = {"database_url": database_url, "admin_key": ADMIN_KEY, "read_seconds": READ_SECONDS, **settings}
        process = ServerProcess(
            tmp_path, {f"STREAMER_{name.upper()}": str(value) for name, value in given.items() if value is not None}
        )
        made.append(process)
        return process

    yield make
    for process in made:
        process.clean()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """Prepare an nginx configured as in docs/deploy.md. The test starts it."""
    made = Nginx(tmp_path / "nginx")
    yield made
    made.stop()


class WallClock:
    """The wall clock of this process's servers, ahead of the machine's."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass at once. Connections are told within a tick if their access has expired."""
        self.ahead_seconds += seconds

    def time_ns(self) -> int:
        """Return the time as `time.time_ns`."""
        return time.time_ns() + int(self.ahead_seconds * 1e9)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """A wall clock that the test can advance, instead of waiting for an expiry."""
    made = WallClock()
    monkeypatch.setattr("streamer.core.clock.time", made)
    return made


@pytest.fixture
def one_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record the reading of audit events once in a test, even if a new hour begins during the test."""
    monkeypatch.setattr("streamer.access.visibility.HOUR", 10**18)


# ---- clients


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Create an HTTP client without cookies and without a connection limit."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield session


@pytest.fixture
def api(http: aiohttp.ClientSession, server: Server) -> Api:
    """Call the API of `server` with the admin key."""
    return Api(http, server.url, ADMIN_KEY)


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    """Run commands against the server."""
    return Cli(tmp_path, {"STREAMER_URL": server.url, "STREAMER_KEY": ADMIN_KEY})


@pytest.fixture(scope="session")
def browser_url() -> Iterator[str]:
    """The system's Chromium, started once per worker."""
    with browser_server() as url:
        yield url


@pytest.fixture
async def browser(browser_url: str) -> "AsyncIterator[Browser]":
    """A connection to the system's Chromium, without the profiles of other tests."""
    async with connected(browser_url) as browser:
        yield browser
