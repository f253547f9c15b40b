"""`./run bench` as users run it: every scenario in small is exact and leaves nothing behind, however it ends."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamer.store.engine.database import Database
from tests.support.cli import Cli, Ended
from tests.support.databases import Cluster, fresh_database, run_sql
from tests.support.tools import require
from tests.support.waiting import eventually

SMALL = ("--subscribers", "6", "--connections", "2")
BRIEF = ("--rate", "40", "--seconds", "0.5", "--warmup", "0.1")
PATIENCE_SECONDS = 50
"""A measurement starts half a dozen processes, and each start can be slow on a busy machine."""
DEPTHS = ("newest", "middle", "deep")
EXACT = ("lost", "doubled", "out_of_order", "unexpected", "gaps", "failed", "ended")


@pytest.fixture
def bench_cli(tmp_path: Path) -> Cli:
    """Run the command line with a temporary folder of its own."""
    (tmp_path / "temporary").mkdir()
    # The variables of a user's server must not affect the measured one.
    nonsense = {"STREAMER_FLUSH_WINDOW_MS": "nonsense"}
    return Cli(
        tmp_path,
        {"TMPDIR": str(tmp_path / "temporary"), "XDG_CACHE_HOME": str(tmp_path / "cache"), **nonsense},
        "bench",
    )


@pytest.fixture
def cold_cli(bench_cli: Cli) -> Cli:
    """The same, but started without forking, so that each process has its own command line."""
    bench_cli.variables["PYTHONHASHSEED"] = "0"  # tests/support/forked.py does not fork for another Python
    return bench_cli


async def run(cli: Cli, *arguments: str) -> Ended:
    """Run a measurement to its end, with a long timeout."""
    async with asyncio.timeout(PATIENCE_SECONDS), cli.started(*arguments) as process:
        out, err = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Ended(process.returncode, out.decode(), err.decode())


async def measured(cli: Cli, *arguments: str) -> Any:
    """Run a measurement and return its document; it must be exact and leave nothing behind."""
    ended = await run(cli, *arguments, "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    for result in (
        document["result"],
        *document["runs"],
        *([document["peer"]["result"]] if "peer" in document else []),
    ):
        assert {name: result[name] for name in EXACT if result.get(name)} == {}
    assert document["scenario"] == arguments[0]
    assert ended.err == ""
    assert document["machine"]["cores"] >= 1
    assert left_over(cli) == []
    return document


def left_over(cli: Cli) -> list[Path]:
    """Return the folders that measurements left."""
    return list(Path(cli.variables["TMPDIR"]).iterdir())


def has_cache(cli: Cli) -> bool:
    """Return whether there is a folder for installed peers."""
    return Path(cli.variables["XDG_CACHE_HOME"]).exists()


# ---- every scenario


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_fanout(bench_cli: Cli, transport: str) -> None:
    """Every subscriber receives every event, and latency, CPU time and memory are reported."""
    document = await measured(bench_cli, "fanout", *SMALL, *BRIEF, "--transport", transport)
    result = document["result"]
    assert document["parameters"]["transport"] == transport
    assert (result["events"], result["deliveries"]) == (20, 120)
    assert 0 < result["p50"] <= result["p95"] <= result["p99"] <= result["max"]
    assert 0 < result["deliveries_per_second"] < 300
    assert result["megabytes_per_second"] > 0
    assert result["rss_peak"] >= result["rss_before"] > 1


async def test_fanout_with_filters(bench_cli: Cli) -> None:
    """With filters, each event reaches the subscribers of one filter only."""
    result = (await measured(bench_cli, "fanout", *SMALL, *BRIEF, "--filters", "3", "--reader-processes", "2"))[
        "result"
    ]
    assert result["deliveries"] == 20 * 2


async def test_fanout_over_workspaces(bench_cli: Cli) -> None:
    """Subscribers are spread over the workspaces, and each receives the events of its own only."""
    result = (await measured(bench_cli, "fanout", *SMALL, *BRIEF, "--workspaces", "3"))["result"]
    assert result["deliveries"] == 20 * 2


async def test_runs_and_settings(bench_cli: Cli) -> None:
    """Each run has a server of its own with the given settings, and the result is the median of the runs."""
    document = await measured(bench_cli, "fanout", *SMALL, *BRIEF, "--runs", "2", "--set", "flush_window_ms=1")
    first, second = document["runs"]
    assert document["result"]["p50"] == pytest.approx((first["p50"] + second["p50"]) / 2)
    assert document["parameters"]["settings"] == {"flush_window_ms": "1"}


async def test_fanout_beside_nchan(bench_cli: Cli) -> None:
    """The peer gets the same load and the same checks, and the ratio is reported."""
    require("nginx")
    require("nchan")
    document = await measured(bench_cli, "fanout", *SMALL, *BRIEF, "--peer", "nchan")
    ours, theirs = document["result"], document["peer"]["result"]
    assert document["peer"]["name"] == "nchan"
    assert theirs["deliveries"] == ours["deliveries"] == 120
    assert document["ratio"]["p50"] == pytest.approx(ours["p50"] / theirs["p50"], rel=0.01)


async def test_ingest(bench_cli: Cli) -> None:
    """Acknowledged events are in the log. Without a rate, the load is as high as possible."""
    result = (await measured(bench_cli, "ingest", "--connections", "4", "--seconds", "0.5", "--warmup", "0.1"))[
        "result"
    ]
    assert result["events"] == result["appends"] > 4
    assert 0 < result["p50"] <= result["max"]


async def test_ingest_of_batches_at_a_rate(bench_cli: Cli) -> None:
    """A batch is one append of several events."""
    arguments = ("--batch", "50", "--rate", "1000", "--seconds", "0.5", "--warmup", "0", "--workspaces", "2")
    result = (await measured(bench_cli, "ingest", *arguments))["result"]
    assert (result["events"], result["appends"]) == (500, 10)


async def test_ingest_into_postgresql(bench_cli: Cli, postgresql: Cluster) -> None:
    """It creates and drops a database of its own on the named server. The named database stays unchanged."""
    databases = "SELECT datname FROM pg_database ORDER BY datname"
    with fresh_database(postgresql) as url:
        database = Database(url)
        arguments = ("ingest", "--connections", "4", "--seconds", "0.5", "--warmup", "0", "--database-url", url)
        document = await measured(bench_cli, *arguments)
        assert document["result"]["events"] > 0
        assert document["parameters"]["database"] == "postgresql"
        assert url not in json.dumps(document)
        # A server on this database still has its own keys only.
        assert await run_sql(database, "SELECT * FROM credentials") == []
        assert await run_sql(database, "SELECT * FROM events") == []
        after = await run_sql(database, databases)
        assert not [name for (name,) in after if name.startswith("streamer_bench_")]
        await database.close()


async def test_history(bench_cli: Cli) -> None:
    """Pages of every kind are read, at both ends of the log."""
    result = (await measured(bench_cli, "history", "--events", "500", "--seconds", "0.3"))["result"]
    kinds = (
        "newest",
        "deepest",
        "after_middle",
        "actor_id_deepest",
        "category_newest",
        "run_id_newest",
        "task_id_deepest",
    )
    assert all(result[f"{kind}_p50"] > 0 for kind in kinds)
    assert result["deepest_by_newest"] > 0
    assert result["pages_per_second_16"] > 0


async def test_dialects(bench_cli: Cli) -> None:
    """Every API lists the same log, at both ends and in the middle, over one connection and over eight."""
    document = await measured(bench_cli, "dialects", "--events", "500", "--seconds", "0.5")
    result = document["result"]
    kinds = [f"{api}_{length}_{depth}" for api in ("native", "praisonai") for length in (50, 100) for depth in DEPTHS]
    kinds += [f"paperclip_100_{depth}" for depth in (*DEPTHS, "deep_by_link")]
    kinds += [f"evershell_100_{depth}" for depth in ("newest", "deep_by_after", "deep_by_cursor")]
    for kind in (*kinds, "praisonai_member_50_deep"):
        assert 0 < result[f"{kind}_p50"] <= result[f"{kind}_p99"]
        assert 0 < result[f"{kind}_by_8_p50"] <= result[f"{kind}_by_8_p99"]
        assert min(result[f"{kind}_per_second_1"], result[f"{kind}_per_second_8"]) > 0
        assert result[f"cpu_per_page_{kind}"] >= 0
    assert result["pages"] >= 9 * (len(kinds) + 1)


async def test_only_the_dialects_that_are_served(bench_cli: Cli) -> None:
    """A dialect that the measured server does not have is left out."""
    arguments = ("--events", "200", "--seconds", "0.1", "--set", "dialects=evershell")
    result = (await measured(bench_cli, "dialects", *arguments))["result"]
    assert {name.split("_")[0] for name in result if name.endswith("_p50")} == {"native", "evershell"}


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_resume(bench_cli: Cli, transport: str) -> None:
    """All disconnected readers receive what they missed and are live again."""
    result = (await measured(bench_cli, "resume", *SMALL, "--missed", "150", "--transport", transport))["result"]
    assert result["deliveries"] == 6 * 150
    assert 0 < result["p50"] <= result["max"]
    assert result["catch_up_seconds"] > 0


async def test_slow(bench_cli: Cli) -> None:
    """Slow subscribers read slowly and are exact in the end."""
    arguments = ("--slow", "50%", "--slow-rate", "2000", *BRIEF, "--rate", "200")
    result = (await measured(bench_cli, "slow", *SMALL, *arguments))["result"]
    assert result["slow"] == 3
    assert 3 * 100 <= result["deliveries"] < 6 * 100  # those that are not released yet
    assert result["p99_by_alone"] > 0


async def test_idle(bench_cli: Cli) -> None:
    """The memory and file descriptors of open idle streams are measured, and the streams are live."""
    result = (await measured(bench_cli, "idle", "--subscribers", "50", "--seconds", "0.2"))["result"]
    assert result["connections"] == 50
    assert result["files"] >= 50
    assert result["deliveries"] == 50 * 20


async def test_soak(bench_cli: Cli) -> None:
    """Permanent readers receive everything and others a part without gaps, and descriptors do not grow."""
    result = (await measured(bench_cli, "soak", *SMALL, "--seconds", "1.5", "--churn", "40", "--rate", "40"))["result"]
    assert result["visitors"] > 20
    assert result["deliveries"] > 6 * 40
    assert result["files_growth"] < 20
    assert "rss_growth" in result


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_beside_praisonai(bench_cli: Cli) -> None:
    """The released praisonai-platform gets the same load. Requests that it refuses over several connections are counted."""
    for said in ("is installed in", "is already installed in"):
        async with bench_cli.started("install-peer", "praisonai") as process:
            out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert said in out.decode()
        assert left_over(bench_cli) == []
    ended = await run(bench_cli, "ingest", "--seconds", "1", "--connections", "1", "--peer", "praisonai", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["peer"]["result"]["events"] > 0
    document = await measured(bench_cli, "history", "--events", "500", "--seconds", "0.5", "--peer", "praisonai")
    assert document["ratio"]["deepest_p50"] < 1
    document = await measured(bench_cli, "dialects", "--events", "500", "--seconds", "0.5", "--peer", "praisonai")
    assert document["ratio"]["praisonai_50_deep_p50"] < 1
    assert document["ratio"]["cpu_per_page_praisonai_100_newest"] < 1


@pytest.mark.parametrize("scenario", ["ingest", "history", "dialects"])
async def test_a_run_installs_no_peer(bench_cli: Cli, scenario: str) -> None:
    """Without the peer's server, nothing is measured, and the error names the command that installs it."""
    ended = await run(bench_cli, scenario, "--peer", "praisonai", "--json")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines() == [
        "Error: praisonai-platform is not installed",
        "Install it: ./run bench install-peer praisonai",
    ]
    assert left_over(bench_cli) == []
    assert not has_cache(bench_cli)


async def test_a_peer_that_cannot_be_installed(bench_cli: Cli) -> None:
    """The reason is reported, and an unknown peer is wrong usage."""
    bench_cli.variables["XDG_CACHE_HOME"] = "/dev/null"
    ended = await run(bench_cli, "install-peer", "praisonai")
    assert ended.code == 1
    assert "praisonai-platform could not be installed" in ended.err
    assert "Not a directory: '/dev/null/" in ended.err
    assert left_over(bench_cli) == []
    assert (await run(bench_cli, "install-peer", "nchan")).code == 2


# ---- output


async def test_table(bench_cli: Cli) -> None:
    """People get a line with the parameters, one with the machine, and a table."""
    ended = await run(bench_cli, "fanout", *SMALL, *BRIEF)
    assert ended.code == 0
    asked, machine, empty, *rows = ended.lines
    assert asked.startswith("fanout: transport=sse subscribers=6 ")
    assert "python=" in machine
    assert "sqlite=" in machine
    assert empty == ""
    assert any(row.split() == ["deliveries", "120"] for row in rows)


async def test_progress(bench_cli: Cli) -> None:
    """On a terminal, a progress bar is displayed, and removed at the end."""
    async with bench_cli.on_terminal("fanout", *SMALL, *BRIEF, "--runs", "2") as terminal:
        assert await terminal.ended() == 0
    assert "fanout: streamer, run 1 of 2 [#" in terminal.shown
    assert "fanout: streamer, run 2 of 2 [###############" in terminal.shown
    assert "run" not in terminal.shown.rpartition("\x1b[K")[2]


async def test_thresholds(bench_cli: Cli) -> None:
    """A missed threshold is reported and the exit code is 7. Other thresholds are not mentioned."""
    ended = await run(bench_cli, "fanout", *SMALL, *BRIEF, "--assert", "lost=0,deliveries>1k,max<60s")
    assert ended.code == 7
    assert ended.err.splitlines()[-1] == "missed: deliveries>1k, but it is 120"
    assert ended.err.count("missed") == 1


async def test_thresholds_that_hold(bench_cli: Cli) -> None:
    """The exit code is 0 when all thresholds are met."""
    await measured(bench_cli, "fanout", *SMALL, *BRIEF, "--assert", "lost=0,deliveries=120,max<60s")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fanout", "--assert", "p99<50ms,lots=few"), "lots=few"),
        (("fanout", "--set", "nonsense"), "nonsense"),
        (("fanout", "--slow", "1%"), "fanout has no use for --slow"),
        (("slow", "--slow", "150%"), "write it as 1%"),
        (("resume", "--peer", "nchan"), "nchan cannot do resume"),
        (("fanout", "--subscribers", "9999999"), "open files"),
        (("fanout", "--set", "no_such_setting=1"), "there is no setting no_such_setting"),
        (("fanout", "--set", "data_dir=/tmp/x"), "data_dir is given by the measurement"),
        (("fanout", "--set", "STREAMER_ADMIN_KEY=sk_secret"), "admin_key is given by the measurement"),
        (("fanout", "--seconds", "nan"), "'nan' is not a number"),
        (("ingest", "--rate", "nan"), "'nan' is not a number"),
        (("fanout", "--rate", "inf"), "not in the range"),
        (("ingest", "--peer", "nchan"), "nchan cannot do ingest; it can do fanout"),
        (("everything",), "everything"),
    ],
)
async def test_wrong_usage(bench_cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    """Invalid parameters are reported before anything is measured."""
    ended = await run(bench_cli, *arguments)
    assert ended.code in (1, 2)
    assert said.lower() in " ".join(ended.err.lower().split())
    assert "sk_secret" not in ended.err
    assert left_over(bench_cli) == []


# ---- cleaning up


async def running(process: asyncio.subprocess.Process) -> list[psutil.Process]:
    """Wait until a measurement has started all its processes; return them."""
    bench = psutil.Process(process.pid)

    def all_of_them() -> list[psutil.Process]:
        found = bench.children(recursive=True)
        words = [" ".join(each.cmdline()) for each in found]
        wanted = ("reaper", "streamer serve", "bench.publishers", "bench.readers")
        return found if all(any(want in word for word in words) for want in wanted) else []

    return await eventually(all_of_them)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run."""
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_interrupted(cold_cli: Cli, number: signal.Signals, code: int) -> None:
    """Ctrl-C ends all processes and removes the folder before the command ends."""
    async with cold_cli.started("fanout", *SMALL, "--seconds", "60") as process:
        started = await running(process)
        assert left_over(cold_cli) != []
        process.send_signal(number)
        _, err = await process.communicate()
        assert process.returncode == code
        assert b"Traceback" not in err
        assert alive(started) == []
        assert left_over(cold_cli) == []


async def test_killed(cold_cli: Cli) -> None:
    """`kill -9` of the command leaves nothing behind, either."""
    async with cold_cli.started("fanout", *SMALL, "--seconds", "60") as process:
        started = await running(process)
        process.kill()
        await eventually(lambda: not alive(started))
        await eventually(lambda: not left_over(cold_cli))


async def test_server_that_dies(cold_cli: Cli) -> None:
    """If the server dies during the measurement, the command ends with an error."""
    async with cold_cli.started("fanout", *SMALL, "--rate", "20", "--seconds", "60") as process:
        (server,) = [each for each in await running(process) if "serve" in each.cmdline()]
        server.kill()
        _, err = await process.communicate()
        assert process.returncode == 1
        assert b"Traceback" not in err
        assert left_over(cold_cli) == []


async def test_a_database_that_is_none(bench_cli: Cli) -> None:
    """An invalid database URL is an error with the next step and without the URL's password."""
    for url in ("postgresql://u:pw-secret@127.0.0.1:9/none", "mysql://u:pw-secret@h/x", "::"):
        ended = await run(bench_cli, "ingest", "--seconds", "1", "--database-url", url)
        assert ended.code == 1
        assert "CREATEDB" in ended.err
        assert "pw-secret" not in ended.out + ended.err
        assert "Traceback" not in ended.err
