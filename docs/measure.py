"""Make the figures of docs/performance.md: measure, and write its tables and pictures.

    python docs/measure.py run [--quick] [NAME …]     measure all works, or these, into docs/performance.json
    python docs/measure.py write                      write tables and pictures from it

A full run takes half an hour, on a machine that does nothing else; with POSTGRESQL_URL, that database is measured, too. It uses `./run bench` only, by the commands that the page shows.
"""

import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.report import number

HERE = Path(__file__).parent
RESULTS = HERE / "performance.json"
PAGE = HERE / "performance.md"
RATES = (20, 50, 100, 200, 500, 1000)
"""Events a second to 1,000 subscribers, for the picture of latency."""
ONCE = ("soak", "history")
"""Works that take minutes: one run each."""
CONNECTIONS = (1000, 2500, 5000, 7500, 10_000)
"""For the picture of memory."""
ELSEWHERE = "postgresql://…"
"""Stands for the environment's POSTGRESQL_URL; without that its row stays as it is."""


@dataclass(frozen=True)
class Work:
    """A row of a table: what is done, what it is to reach, the arguments of `./run bench`, and how the result is told.

    `told` is a format; `result`, `peer` and `ratio` are those of the document.
    """

    name: str
    table: str
    text: str
    reach: str
    arguments: str
    told: str


WORKS = (
    Work("fanout-50", "fanout", "1,000 subscribers, 50 events/s", "CPU a delivery ≤ nchan's", "fanout --rate 50 --peer nchan",
         "{result[cpu_per_delivery]} µs, nchan {peer[cpu_per_delivery]} µs; p99 {result[p99]} ms, nchan {peer[p99]} ms"),
    Work("fanout-200", "fanout", "1,000 subscribers, 200 events/s", "CPU a delivery ≤ nchan's", "fanout --rate 200 --peer nchan",
         "{result[cpu_per_delivery]} µs, nchan {peer[cpu_per_delivery]} µs; p99 {result[p99]} ms, nchan {peer[p99]} ms"),
    Work("fanout-1000", "fanout", "1,000 subscribers, 1,000 events/s", "≥ 900,000 deliveries/s, ≥ 3 times nchan's without loss, p99 ≤ 50 ms", "fanout --rate 1000 --peer nchan",
         "{result[deliveries_per_second]} deliveries/s, p99 {result[p99]} ms; nchan {peer[deliveries_per_second]}, {peer[lost]} lost"),
    Work("fanout-websocket", "fanout", "the same over WebSocket", "within 15 % of SSE", "fanout --rate 1000 --transport websocket",
         "{result[deliveries_per_second]} deliveries/s, p99 {result[p99]} ms, {result[cpu_per_delivery]} µs a delivery"),
    # Both deliver 2,000 a second: each event is for ten subscribers.
    Work("fanout-filters", "fanout", "100 filters over 1,000 subscribers, 200 events/s (2,000 deliveries/s)", "≤ 1.5 times the CPU of no filter at equal deliveries", "fanout --rate 200 --filters 100",
         "{result[cpu]} of a core"),
    Work("fanout-no-filter", "fanout", "no filter: 10 subscribers, 200 events/s (2,000 deliveries/s)", "", "fanout --rate 200 --subscribers 10",
         "{result[cpu]} of a core"),
    Work("fanout-workspaces", "fanout", "5,000 workspaces with 2 subscribers each, 1,000 events/s by Zipf", "p99 ≤ 50 ms", "fanout --workspaces 5000 --subscribers 10000 --rate 1000",
         "p99 {result[p99]} ms"),
    Work("latency", "fanout", "1 subscriber, 20 events/s", "p50 ≤ 2 ms, p99 ≤ 10 ms", "fanout --subscribers 1 --rate 20",
         "p50 {result[p50]} ms, p99 {result[p99]} ms"),
    Work("ingest", "ingest", "one event a request, 256 connections, SQLite `synchronous=FULL`", "≥ 8,000/s, p99 ≤ 60 ms", "ingest",
         "{result[events_per_second]}/s, p99 {result[p99]} ms, {result[cpu_per_append]} µs each"),
    Work("ingest-batches", "ingest", "batches of 1,000", "≥ 40,000 events/s", "ingest --batch 1000",
         "{result[events_per_second]} events/s, {result[cpu_per_event]} µs each"),
    Work("ingest-postgresql", "ingest", "the same on PostgreSQL, all of whose settings are the default", "≥ 25,000 events/s", f"ingest --batch 1000 --database-url {ELSEWHERE}",
         "{result[events_per_second]} events/s, {result[cpu_per_event]} µs each in streamer"),
    Work("ingest-praisonai", "ingest", "one connection, beside praisonai-platform (which makes an issue for each)", "", "ingest --connections 1 --peer praisonai",
         "{result[events_per_second]}/s, praisonai {peer[events_per_second]}/s"),
    Work("history", "history", "a page of 50 out of 1,000,000 events", "p50 ≤ 2 ms in the server; the deepest ≤ 1.5 times the newest", "history --events 1000000 --seconds 3",
         "p50 newest {result[newest_p50]} ms, deepest {result[deepest_p50]} ms, slowest kind {result[worst_p50]} ms; deepest by newest at most {result[deepest_by_newest]}"),
    Work("history-praisonai", "history", "the same of 100,000, beside praisonai-platform", "", "history --events 100000 --peer praisonai",
         "newest {result[newest_p50]} ms, praisonai {peer[newest_p50]} ms; deepest {result[deepest_p50]} ms, praisonai {peer[deepest_p50]} ms"),
    Work("slow", "readers", "1 % slow readers among 1,000", "the others' p99 ≤ 1.3 times that without them", "slow",
         "{result[p99_by_alone]} times; RSS at most {result[rss_peak]} MiB"),
    Work("idle", "readers", "10,000 idle SSE streams", "≤ 12 KiB each", "idle",
         "{result[rss_per_connection]} KiB each, {result[cpu_idle]} of a core"),
    Work("resume", "readers", "2,000 subscribers reconnect at once, 1,000 missed events each", "all exact; time given", "resume",
         "{result[catch_up_seconds]} s, {result[deliveries_per_second]} deliveries/s, {result[lost]} lost, {result[doubled]} doubled"),
    Work("soak", "readers", "ten minutes of 50 streams a second that open and close", "no growth after the first minute", "soak",
         "RSS {result[rss_growth]} MiB, files {result[files_growth]}, over {result[visitors]} visitors"),
)  # fmt: skip


def bench(arguments: str, runs: int) -> Any:
    """Run `./run bench`; return its document."""
    print(f"./run bench {arguments} --runs {runs} --json", file=sys.stderr)
    given = shlex.split(arguments.replace(ELSEWHERE, os.environ.get("POSTGRESQL_URL", "")))
    command = [sys.executable, "-m", "bench", *given, "--runs", str(runs), "--json"]
    return orjson.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)  # noqa: S603 - commands of this file


def run(names: Sequence[str], *, quick: bool) -> None:
    """Measure into the file of results; what is not measured now stays as it is."""
    results = orjson.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    # Each is kept at once: a long run that is interrupted has not been for nothing.
    for name, arguments, runs in _commands(quick=quick):
        if ELSEWHERE in arguments and "POSTGRESQL_URL" not in os.environ:
            continue
        if not names or name in names or name.partition("@")[0] in names:
            results[name] = bench(arguments, 1 if quick else runs)
            RESULTS.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")


def _commands(*, quick: bool) -> list[tuple[str, str, int]]:
    """Return name, arguments and number of runs of all measurements: the rows of the tables, then the points of the pictures."""
    brief = " --seconds 3" if quick else ""
    found = [
        (work.name, work.arguments + ("" if work.name == "resume" else brief), 1 if work.name in ONCE else 3)
        for work in WORKS
    ]
    found += [
        (f"latency-{transport}@{rate}", f"fanout --rate {rate} --transport {transport} --seconds 5{brief}" + peer, 1)
        for transport, peer in (("sse", " --peer nchan"), ("websocket", ""))
        for rate in RATES
    ]
    found += [
        (f"memory-{transport}@{count}", f"idle --subscribers {count} --transport {transport} --seconds 1" + peer, 1)
        for transport, peer in (("sse", " --peer nchan"), ("websocket", ""))
        for count in CONNECTIONS
    ]
    return found


# ---- writing


def write() -> None:
    """Write the tables into the page, between their marks, and the pictures beside it."""
    results = orjson.loads(RESULTS.read_bytes())
    text = PAGE.read_text()
    for table in dict.fromkeys(work.table for work in WORKS):
        rows = ["| work | to reach | reached | command |", "|---|---|---|---|"]
        for work in WORKS:
            if work.table == table and work.name in results:
                document = results[work.name]
                told = work.told.format(
                    result=_Told(document["result"]), peer=_Told(document.get("peer", {}).get("result", {}))
                )
                rows.append(f"| {work.text} | {work.reach} | {told} | `{work.arguments}` |")
        text = _between(text, table, "\n".join(rows))
    machine = next(iter(results.values()))["machine"]
    text = _between(text, "machine", ", ".join(f"{name} {value}" for name, value in machine.items()))
    PAGE.write_text(text)
    (HERE / "latency.svg").write_text(
        plot(
            "Latency over load: 1,000 subscribers",
            ("events a second", True),
            ("ms from intended send to receipt", True),
            {
                "streamer SSE p99": _points(results, "latency-sse", "result", "p99"),
                "streamer WebSocket p99": _points(results, "latency-websocket", "result", "p99"),
                "streamer SSE p50": _points(results, "latency-sse", "result", "p50"),
                "nchan SSE p99": _points(results, "latency-sse", "peer", "p99"),
                "nchan SSE p50": _points(results, "latency-sse", "peer", "p50"),
            },
        )
    )
    (HERE / "memory.svg").write_text(
        plot(
            "Memory over idle connections",
            ("connections", False),
            ("MiB resident", False),
            {
                "streamer SSE": _points(results, "memory-sse", "result", "rss_connected"),
                "streamer WebSocket": _points(results, "memory-websocket", "result", "rss_connected"),
                "nchan SSE": _points(results, "memory-sse", "peer", "rss_connected"),
            },
        )
    )


class _Told(dict[str, Any]):
    """Figures as people read them."""

    def __getitem__(self, name: str) -> str:
        return number(self.get(name))


def _between(text: str, mark: str, content: str) -> str:
    """Put content between the marks of that name."""
    pattern = rf"(<!-- {mark} -->\n).*?(<!-- / -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)


def _points(results: dict[str, Any], name: str, whose: str, metric: str) -> list[tuple[float, float]]:
    """Return the points of a line: those of the measurements `name@x`."""
    found = []
    for key, document in results.items():
        start, _, x = key.partition("@")
        if start == name and x:
            side = document[whose] if whose == "result" else document["peer"]["result"]
            found.append((float(x), float(side[metric])))
    return sorted(found)


# ---- pictures

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 770, 400, 88, 44, 220, 52
COLOURS = ("#2f7ed8", "#17a398", "#8bb8ee", "#d9534f", "#e9a3a1", "#8e6cc9")
STYLE = """
text{font:13px system-ui,sans-serif;fill:#333}.title{font-weight:600;font-size:15px}.grid{stroke:#8884;stroke-width:1}
@media(prefers-color-scheme:dark){text{fill:#ddd}}
"""


def plot(
    title: str, x_axis: tuple[str, bool], y_axis: tuple[str, bool], lines: dict[str, list[tuple[float, float]]]
) -> str:
    """Return a picture of lines as SVG, for light and dark pages.

    Args:
        title: above it.
        x_axis: what it is and its unit, and whether its scale is logarithmic.
        y_axis: the same.
        lines: the points of each, by its name. Zero cannot be shown on a logarithmic scale and is left out.
    """
    colours = dict(zip(lines, COLOURS, strict=False))
    lines = {name: points for name, points in lines.items() if points}
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points if y > 0 or not y_axis[1]]
    x_ticks, y_ticks = ticks(xs, logarithmic=x_axis[1]), ticks(ys, logarithmic=y_axis[1])
    across = scale(x_ticks, LEFT, WIDTH - RIGHT, logarithmic=x_axis[1])
    up = scale(y_ticks, HEIGHT - BOTTOM, TOP, logarithmic=y_axis[1])
    parts = [f'<text class="title" x="{LEFT}" y="24">{title}</text>']
    for tick in x_ticks:
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:,g}</text>')
    for tick in y_ticks:
        y = up(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{x_axis[0]}</text>')
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{y_axis[0]}</text>')
    for place, (name, points) in enumerate(lines.items()):
        colour = colours[name]
        shown = [(across(x), up(y)) for x, y in points if y > 0 or not y_axis[1]]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in shown]
        line = TOP + 14 + place * 22
        parts.append(f'<path d="M{WIDTH - RIGHT + 14} {line - 4}h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 38}" y="{line}">{name}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{title}</title>'
    return f"{head}<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"


def ticks(values: Sequence[float], *, logarithmic: bool) -> list[float]:
    """Return round numbers that span the values: 1, 2, 5, 10 … or steps of one of them."""
    if logarithmic:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        steps = [factor * 10.0**power for power in range(low, high + 1) for factor in (1, 2, 5)]
        first = max((step for step in steps if step <= min(values)), default=steps[0])
        last = min(step for step in steps if step >= max(values))
        return [step for step in steps if first <= step <= last]
    rough = max(values) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [index * step for index in range(math.ceil(max(values) / step) + 1)]


def scale(ticks: Sequence[float], first: float, last: float, *, logarithmic: bool) -> Callable[[float], float]:
    """Return what maps a value to its place: the first tick to `first`, the last one to `last`."""
    turn: Callable[[float], float] = math.log10 if logarithmic else float
    low, high = turn(ticks[0]), turn(ticks[-1])
    return lambda value: first + (turn(value) - low) / ((high - low) or 1) * (last - first)


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    match arguments:
        case ["run", *names]:
            run([name for name in names if name != "--quick"], quick="--quick" in names)
        case ["write"]:
            write()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
