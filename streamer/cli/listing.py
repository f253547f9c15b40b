"""Output for people and programs: a table on a terminal, JSON elsewhere."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TextIO

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamer.cli.pretty import printable
from streamer.cli.screen import for_people
from streamer.cli.when import local, until
from streamer.observe.output import takes_escapes

Output = Literal["table", "ndjson", "json"]
Columns = Mapping[str, Callable[[Mapping[str, Any]], str]]
"""The columns of a table by heading: each returns the text for an item."""

WIDE = 100_000
"""The width of a table that is not for a terminal, so that nothing is folded."""


output_of_list = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "ndjson", "json"]),
    help="[default: table on a terminal, else ndjson]",
)


def show(items: Sequence[Mapping[str, Any]], output: Output | None, columns: Columns, *, none: str) -> None:
    """Write items to stdout as `output` says. For an empty table, write a sentence to stderr."""
    match output or ("table" if for_people(sys.stdout) else "ndjson"):
        case "json":
            write(orjson.dumps(items) + b"\n")
        case "ndjson":
            write(b"".join(orjson.dumps(item) + b"\n" for item in items))
        case _ if items:
            write(table(items, columns, sys.stdout).encode())
        case _:
            click.echo(none, err=True)


def write(data: bytes) -> None:
    """Write to stdout at once. Raise OSError here if that fails, not only when the process exits."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def table(items: Sequence[Mapping[str, Any]], columns: Columns, stream: TextIO) -> str:
    """Return items as lines for a stream. On a terminal, cells are folded to fit its width, except ids."""
    terminal = for_people(stream)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        grid.add_column(heading, overflow="fold", no_wrap=heading == "ID")
    for item in items:
        grid.add_row(*(Text(printable(cell(item))) for cell in columns.values()))
    return _render(grid, terminal=terminal, colours=takes_escapes(stream))


def facts(pairs: Mapping[str, str]) -> str:
    """Return names and values, one per line."""
    width = max(map(len, pairs))
    return "".join(f"{name:<{width}}  {printable(value)}\n" for name, value in pairs.items())


def actor_of(item: Mapping[str, Any]) -> str:
    """Return the actor that a key acts as, as text; empty if it can claim any."""
    return " ".join((item["actor"]["type"], item["actor"]["id"])) if item["actor"] else ""


def expiry_in_full(timestamp: str | None) -> str:
    """Return an expiry as a date and relative to now."""
    return f"{local(timestamp)} ({until(timestamp)})" if timestamp else until(timestamp)


def _render(grid: Table, *, terminal: bool, colours: bool) -> str:
    console = Console(
        color_system="auto" if colours else None,
        highlight=False,
        width=None if terminal else WIDE,
        force_terminal=None if terminal else False,
    )
    with console.capture() as captured:
        console.print(grid)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
