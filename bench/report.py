"""What a measurement comes to: names and units, medians, ratios, thresholds. Pure."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.crowd import Metrics

WORST = ("lost", "doubled", "out_of_order", "unexpected", "gaps", "failed", "ended")
"""Of these a median would hide one: the highest of all runs counts."""

_UNITS = {
    "us": ("time", 1e-6),
    "ms": ("time", 1e-3),
    "s": ("time", 1.0),
    "B": ("size", 1.0),
    "KiB": ("size", 2.0**10),
    "MiB": ("size", 2.0**20),
    "GiB": ("size", 2.0**30),
    "k": ("number", 1e3),
    "": ("number", 1.0),
}
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_PIECE = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(<=|>=|<|>|=)\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def unit_of(name: str) -> str:
    """Return the unit of a metric, by its name."""
    if name in {"p50", "p95", "p99", "max"} or name.endswith(("_p50", "_p99")):
        return "ms"
    if name.startswith("cpu_per"):
        return "us"
    if name.startswith("rss"):
        return "KiB" if name.endswith("connection") else "MiB"
    return "s" if name.endswith("seconds") else ""


@dataclass(frozen=True)
class Threshold:
    """What a metric must be: `p99<50ms`. `value` is in the metric's own unit."""

    text: str
    name: str
    operator: str
    value: float

    def holds(self, metrics: Metrics) -> bool:
        """Tell whether it is so; a metric that was not measured is not."""
        found = metrics.get(self.name)
        return found is not None and _OPERATORS[self.operator](found, self.value)


def parse_thresholds(text: str) -> list[Threshold]:
    """Read `p99<50ms,lost=0`.

    Raises:
        ValueError: a piece is not a threshold; the text names it.
    """
    result = []
    for piece in text.split(","):
        match = _PIECE.fullmatch(piece)
        if match is None:
            raise ValueError(f"{piece.strip()!r} is not a threshold such as p99<50ms or lost=0")
        name, sign, number, unit = match.groups()
        own = unit_of(name)
        unit = unit or own
        if unit not in _UNITS or _UNITS[unit][0] != _UNITS[own][0]:
            allowed = ", ".join(each for each, (kind, _) in _UNITS.items() if each and kind == _UNITS[own][0])
            raise ValueError(f"{piece.strip()!r}: {name} has no unit {unit!r}; it takes {allowed}")
        result.append(Threshold(piece.strip(), name, sign, float(number) * _UNITS[unit][1] / _UNITS[own][1]))
    return result


def middle(runs: Sequence[Metrics]) -> Metrics:
    """Return the median of each metric over the runs; of what is wrong the most."""
    names = dict.fromkeys(name for run in runs for name in run)
    result: Metrics = {}
    for name in names:
        values = [value for run in runs if (value := run.get(name)) is not None]
        result[name] = None if not values else max(values) if name in WORST else median(values)
    return result


def ratios(ours: Metrics, theirs: Metrics) -> Metrics:
    """Return our number for each one of theirs, where both have one."""
    result: Metrics = {}
    for name, value in ours.items():
        other = theirs.get(name)
        if value is not None and other and name not in WORST:
            result[name] = round(value / other, 3)
    return result


def number(value: float | None, unit: str = "") -> str:
    """Write a number for people."""
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}".rstrip("0").rstrip(".")  # noqa: PLR2004
    return f"{text} {unit}".rstrip()


def table(rows: Mapping[str, Metrics]) -> str:
    """Return the metrics for people, one a line, a column for each row of `rows`."""
    names = dict.fromkeys(name for metrics in rows.values() for name, value in metrics.items() if value is not None)
    lines = [["", *rows]]
    for name in names:
        unit = unit_of(name).replace("us", "µs")
        first, _, last = name.rpartition("_")
        if first and last == "p99" and f"{first}_p50" in names:
            continue  # it stands beside the other
        both = [name, f"{first}_p99"] if first and last == "p50" and f"{first}_p99" in names else [name]
        label = name.replace("_per_", "/").replace("_", " ") + " / p99" * (len(both) - 1)
        lines.append(
            [
                label,
                *(
                    " / ".join(number(metrics.get(each), "" if column == "ratio" else unit) for each in both)
                    for column, metrics in rows.items()
                ),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for first, *cells in lines
    )
