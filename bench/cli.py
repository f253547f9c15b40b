"""The command line of `./run bench`: load-test temporary servers and print the results."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import orjson

from bench import praisonai, scale
from bench.load import Load
from bench.machine import machine
from bench.report import Threshold, parse_thresholds, table
from bench.run import SCENARIOS, Outcome, measure
from bench.sandbox import BenchError, need_files, sandbox
from bench.scratch import scratch_database
from streamer.cli.remote import INTERRUPTED, Failure, say_no_more
from streamer.cli.screen import StatusLine, for_people
from streamer.cli.streams import guarded
from streamer.cli.values import Number
from streamer.core.errors import StoreUnavailable
from streamer.settings import Settings
from streamer.store.engine.postgresql import BadDatabaseUrl

BAR = 30
HELP = {"help_option_names": ["-h", "--help"]}
MISSED = 7
"""The exit code when a threshold was missed."""
OURS = ("admin_key", "data_dir", "database_url", "host", "port")
"""Settings that the measurement chooses itself."""


def _thresholds(_context: click.Context, _option: click.Parameter, text: str | None) -> list[Threshold]:
    try:
        return parse_thresholds(text) if text else []
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _settings(_context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        written, equals, value = pair.partition("=")
        name = written.lower().replace("-", "_").removeprefix("streamer_")
        if not equals or not name:
            raise click.BadParameter(f"{written}: write it as flush_window_ms=10")
        if name not in Settings.model_fields:
            raise click.BadParameter(f"there is no setting {name}")
        if name in OURS:
            raise click.BadParameter(f"{name} is given by the measurement, which is on fresh data")
        settings[name] = value
    return settings


def _share(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1
    if not 0 <= share < 1:
        raise click.BadParameter("write it as 1%")
    return share


_RATE = Number(min=0, min_open=True, max=1_000_000)
_SECONDS = Number(min=0, max=7 * 86_400, min_open=True)
_COUNT = click.IntRange(1, 100_000)


@click.command(
    context_settings=HELP,
    epilog="Exit codes: 0 measured, 1 failure, 2 wrong usage, 7 a threshold was missed, 130 interrupted.",
)
@click.argument("scenario", type=click.Choice(list(SCENARIOS)))
@click.option("--subscribers", metavar="N", type=click.IntRange(min=0), help="Open streams.")
@click.option(
    "--rate", metavar="N", type=_RATE, help="Events per second; for ingest the default is the highest possible rate."
)
@click.option("--seconds", metavar="N", type=_SECONDS, help="Duration of the measurement.")
@click.option("--warmup", metavar="N", type=Number(0, 3600), help="Seconds of the same load before it.")
@click.option("--transport", type=click.Choice(["sse", "websocket"]), help="Transport of the subscribers.")
@click.option(
    "--filters", metavar="N", type=click.IntRange(0, 100_000), help="Different filters, spread over the subscribers."
)
@click.option("--workspaces", metavar="N", type=_COUNT, help="Workspaces; events are spread over them by Zipf's law.")
@click.option("--connections", metavar="N", type=_COUNT, help="Connections that append.")
@click.option("--batch", metavar="N", type=click.IntRange(1, 1000), help="Events per append.")
@click.option("--slow", metavar="1%", callback=_share, help="Share of slow subscribers.")
@click.option(
    "--slow-rate", metavar="N", type=click.IntRange(min=10), help="Bytes per second that a slow subscriber reads."
)
@click.option("--events", metavar="N", type=click.IntRange(200, 100_000_000), help="Events in the history.")
@click.option("--missed", metavar="N", type=_COUNT, help="Events appended while no subscriber is connected.")
@click.option("--churn", metavar="N", type=_RATE, help="Streams per second that open and close.")
@click.option(
    "--reader-processes",
    metavar="N",
    type=click.IntRange(1, 64),
    help="Processes that run the subscribers.",
)
@click.option(
    "--nodes",
    metavar="N",
    type=click.IntRange(1, 16),
    help="Servers on one PostgreSQL; publishers use the first, reader processes the second and so on.",
)
@click.option("--workers", metavar="N", type=click.IntRange(1, 16), help="Processes of each server.")
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1, 99),
    default=1,
    show_default=True,
    help="Runs, each on a new server; the median counts.",
)
@click.option(
    "--peer", type=click.Choice(["nchan", "praisonai"]), help="Run the same work on this server in alternation."
)
@click.option(
    "--database-url",
    metavar="URL",
    help="A PostgreSQL, on which each run creates a database [default: SQLite in a new folder].",
)
@click.option(
    "--set", "settings", metavar="NAME=VALUE", multiple=True, callback=_settings, help="A setting of the server."
)
@click.option(
    "--assert", "thresholds", metavar="LIST", callback=_thresholds, help="Required results: 'p99<50ms,lost=0'."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every run.")
def command(
    *,
    scenario: str,
    runs: int,
    peer: str | None,
    thresholds: list[Threshold],
    as_json: bool,
    **options: Any,
) -> None:
    """Load-test a temporary server and check every delivery.

    \b
    ./run bench fanout --subscribers 1000 --rate 200 --transport websocket
    ./run bench fanout --runs 3 --peer nchan
    ./run bench ingest --connections 256 --assert 'events_per_second>8k,p99<60ms'

    \b
    ingest   appends: one event per request, or batches
    fanout   events at a rate, to many subscribers
    history  pages of a long log: the newest, the deepest, by every index
    dialects the same log listed through each API
    resume   all subscribers are cut off, miss events, and reconnect at once
    slow     a fan-out with slow subscribers, compared with one without
    idle     the cost of an open stream
    soak     streams open and close, and nothing may grow

    ./run bench install-peer praisonai installs praisonai-platform, which --peer praisonai needs.
    ./run bench scale computes what an installation of any size needs.
    """  # fmt: skip
    if not sys.platform.startswith("linux"):
        raise Failure("bench runs on Linux only", hint="It reads CPU time and memory from /proc, and sockets by epoll.")
    try:
        load = SCENARIOS[scenario].ask({name: value for name, value in options.items() if value not in (None, {})})
    except ValueError as error:
        raise click.UsageError(f"{scenario} has no use for --{str(error).replace('_', '-')}") from None
    if peer and peer not in SCENARIOS[scenario].peers:
        can = ", ".join(name for name, each in SCENARIOS.items() if peer in each.peers)
        raise click.UsageError(f"{peer} cannot do {scenario}; it can do {can}")
    if load.nodes * load.workers > 1 and not load.database_url:
        raise click.UsageError("several nodes or workers need PostgreSQL: --database-url")
    with _work() as status:
        if not as_json:
            click.echo(f"{scenario}: {_words(SCENARIOS[scenario].words(load))}\n{_words(machine())}")
        need_files(SCENARIOS[scenario].files(load))
        outcome = measure(scenario, load, peer=peer, runs=runs, tick=_bar(status), scratch=scratch_database)
    unknown = [each.name for each in thresholds if each.name not in outcome.result]
    try:
        if as_json:
            _print_json(scenario, load, outcome)
        else:
            _print(outcome)
    except BrokenPipeError:
        say_no_more()
    if unknown:
        raise click.UsageError(
            f"--assert: {scenario} does not measure {unknown[0]}; it does {', '.join(outcome.result)}"
        )
    missed = [each for each in thresholds if not each.holds(outcome.result)]
    for each in missed:
        click.echo(f"missed: {each.text}, but it is {outcome.result[each.name]}", err=True)
    if missed:
        raise click.exceptions.Exit(MISSED)


@click.command(context_settings=HELP)
@click.argument("peer", type=click.Choice(["praisonai"]))
def install_peer(peer: str) -> None:  # noqa: ARG001 - there is only one
    """Install another project's server, for --peer, into a cache folder of this user.

    praisonai: praisonai-platform and its dependencies, with pip.
    """
    if praisonai.is_installed():
        click.echo(f"{praisonai.PACKAGES[0]} is already installed in {praisonai.folder()}")
        return
    with _work() as status, sandbox(lambda: status.draw(f"installing {praisonai.PACKAGES[0]}")) as place:
        praisonai.install(place)
    click.echo(f"{praisonai.PACKAGES[0]} is installed in {praisonai.folder()}")


def _costs(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> scale.Costs:
    try:
        return scale.with_costs({name: float(number) for name, _, number in (text.partition("=") for text in values)})
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(context_settings=HELP)
@click.option("--workspaces", type=click.IntRange(1, 10_000_000), default=50_000, show_default=True)
@click.option("--readers", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Of each workspace.")
@click.option("--events", type=Number(0, 1_000_000), default=2.0, show_default=True, help="Per workspace and second.")
@click.option("--nodes", type=click.IntRange(1, 10_000), default=64, show_default=True, help="Node processes.")
@click.option(
    "--affinity", type=Number(0, 1), default=0.0, show_default=True, help="Share of connections to the own node."
)
@click.option("--batch", type=Number(1, 1000), default=1.0, show_default=True, help="Events of each append.")
@click.option("--websockets", type=Number(0, 1), default=0.0, show_default=True, help="Share of subscribers.")
@click.option("--cost", "costs", metavar="NAME=VALUE", multiple=True, callback=_costs, help="Another unit cost.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def scale_command(*, costs: scale.Costs, as_json: bool, **options: Any) -> None:
    """Compute what an installation of any size needs, and what breaks first.

    \b
    ./run bench scale --workspaces 50000 --readers 20 --events 2 --nodes 64
    ./run bench scale --nodes 64 --affinity 0.95 --cost delivery=3.6

    docs/scale.md has the unit costs and where they come from.
    """
    demand = scale.Demand(**options)
    found = scale.needs(demand, costs)
    if as_json:
        click.echo(orjson.dumps({"demand": demand, "costs": costs, "needs": found}).decode())
        return
    click.echo(scale.table(demand, found))


@contextlib.contextmanager
def _work() -> Iterator[StatusLine]:
    """Give the block a status line; turn its errors and interrupts into a message and an exit code."""
    status = StatusLine(shown=for_people(sys.stderr))
    # SIGTERM does what Ctrl-C does: the processes and the folder are removed before the command ends.
    ended: list[int] = []

    def end(number: int, _frame: object) -> None:
        ended.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield status
    except BenchError as error:
        raise Failure(str(error), hint=error.hint) from None
    except (BadDatabaseUrl, StoreUnavailable) as error:
        hint = "--database-url names a PostgreSQL; its user must be allowed to make databases (CREATEDB)."
        raise Failure(str(error), hint=hint) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(128 + ended[0] if ended else INTERRUPTED) from None
    finally:
        status.clear()


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = sys.argv[1:] if args is None else args
    with guarded(arguments):
        if arguments[:1] == ["install-peer"]:
            install_peer.main(arguments[1:], prog_name="./run bench install-peer")
        if arguments[:1] == ["scale"]:
            scale_command.main(arguments[1:], prog_name="./run bench scale")
        command.main(arguments, prog_name="./run bench")


def _bar(status: StatusLine) -> Callable[[str, float], None]:
    """Return a function that draws a progress bar."""

    def tick(what: str, share: float) -> None:
        done = int(share * BAR)
        status.draw(f"{what} [{'#' * done}{'-' * (BAR - done)}] {share:.0%}")

    return tick


def _words(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _print_json(scenario: str, load: Load, outcome: Outcome) -> None:
    document = {
        "scenario": scenario,
        "parameters": SCENARIOS[scenario].words(load),
        "machine": machine(),
        **outcome.document(),
    }
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def _print(outcome: Outcome) -> None:
    click.echo("\n" + table(outcome.columns()))
    for remark in outcome.remarks():
        click.echo(f"\n{remark}", err=True)
