"""`streamer tail`: show a workspace's past events and follow new ones."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from streamer.cli.formats import format_of
from streamer.cli.pretty import TimeStyle
from streamer.cli.remote import connection, open_client, run
from streamer.cli.screen import TailScreen, for_people
from streamer.cli.tailing import Wanted, tail
from streamer.cli.values import not_empty, workspace_argument
from streamer.cli.when import span_of

_FIELDS = {
    "category": "category",
    "action": "action",
    "actor": "actor_id",
    "actor-type": "actor_type",
    "target": "entity_id",
    "q": "q",
}


@click.command(
    epilog="Filters are the server's own: a comma means OR, a leading ! excludes, a backslash escapes. Exit codes: 0 ended as asked, "
    "1 failure, 2 invalid usage, 4 not allowed, 5 unreachable, 6 a gap under --strict, 130 interrupted, 143 terminated."
)
@workspace_argument
@click.option("-f", "--follow", is_flag=True, help="Keep running, and show new events as they arrive.")
@click.option(
    "--since",
    metavar="WHEN",
    callback=not_empty,
    help="Start after this: 90s, 1h, 7d, a time, a seq, an event's id, all or latest.",
)
@click.option(
    "--until", metavar="WHEN", callback=not_empty, help="End here: a time ago, a time, a seq or an event's id."
)
@click.option(
    "-n",
    "--tail",
    "last",
    metavar="N",
    type=click.IntRange(min=0),
    help="Only the newest N events. [default: 20, with --since: all]",
)
@click.option("--category", metavar="CATEGORY", multiple=True, help="Only activity, or only audit events.")
@click.option("--action", metavar="ACTION", multiple=True, help="Only this action, or issue.* (repeat: OR).")
@click.option("--actor", metavar="ID", multiple=True, help="Only events of this actor (repeat: OR).")
@click.option("--actor-type", metavar="TYPE", multiple=True, help="Only user, agent, system … (repeat: OR).")
@click.option("--target", metavar="ID", multiple=True, help="Only events about this entity (repeat: OR).")
@click.option("-q", "text", metavar="TEXT", help="Only events with this text in description or identifiers.")
@click.option(
    "--exclude",
    metavar="[FIELD=]VALUE",
    multiple=True,
    help="Leave out an action, or a value of another field: category, actor, actor-type, target, q (repeatable).",
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="Stop after N events.")
@click.option(
    "--cursor-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Continue where the last run with this file stopped; written after each event.",
)
@click.option(
    "--exec",
    "execute",
    metavar="CMD",
    help="For each event run this shell command, one after the other, with the event on its stdin and in STREAMER_… "
    "variables. If one fails, the run ends.",
)
@click.option(
    "--idle-exit", metavar="SPAN", help="With -f: end when no event arrived for this time (30s, 5m, 1h30m) while live."
)
@click.option(
    "-o",
    "--output",
    metavar="FORMAT",
    help="pretty, ndjson, json, cloudevents or template=TEXT. [default: pretty on a terminal, else ndjson; "
    "with --exec: none]",
)
@click.option(
    "--time",
    type=click.Choice(["local", "utc", "relative"]),
    default="local",
    show_default=True,
    help="How pretty lines show the time.",
)
@click.option("--strict", is_flag=True, help="Exit with code 6 when events are missing.")
@click.option("-v", "--verbose", is_flag=True, help="Print details on stderr.")
@click.option("--quiet", is_flag=True, help="Print only errors and gaps on stderr. (-q is a filter.)")
@connection
def command(  # noqa: PLR0913 - the options
    *,
    workspace: str,
    follow: bool,
    since: str | None,
    until: str | None,
    last: int | None,
    category: tuple[str, ...],
    action: tuple[str, ...],
    actor: tuple[str, ...],
    actor_type: tuple[str, ...],
    target: tuple[str, ...],
    text: str | None,
    exclude: tuple[str, ...],
    count: int | None,
    cursor_file: Path | None,
    execute: str | None,
    idle_exit: str | None,
    output: str | None,
    time: TimeStyle,
    strict: bool,
    verbose: bool,
    quiet: bool,
    url: str,
    key: str | None,
) -> None:
    """Show a workspace's events and, with -f, follow them across interruptions.

    \b
    streamer tail my                          the last 20 events
    streamer tail my -f                       the same, then live
    streamer tail my --since 1h --action 'issue.*' --exclude issue.deleted
    streamer tail my -f --actor-type agent -q login
    streamer tail my -f --category audit      who got access, and what was set
    streamer tail my -f --since all --cursor-file my.cursor | ./consume
    streamer tail my -f -o 'template={timestamp} {actor.name} {action}'
    streamer tail my -f --cursor-file my.cursor --exec 'jq -r .action >> actions'

    A pipe gets the events as the server sent them, one JSON object per line.
    """  # fmt: skip
    if follow and until is not None:
        raise click.UsageError("--until and --follow cannot be combined")
    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet cannot be combined")
    if execute is not None and not execute.strip():
        raise click.UsageError("--exec: the command is empty")
    given = {
        "category": category,
        "action": action,
        "actor": actor,
        "actor-type": actor_type,
        "target": target,
        "q": (text,) if text else (),
    }
    wanted = Wanted(
        workspace=workspace,
        follow=follow,
        since=since,
        until=until,
        last=last,
        filters=_filters(given, exclude),
        count=count,
        cursor_file=cursor_file,
        execute=execute,
        idle_seconds=_idle_seconds(idle_exit, follow=follow),
        strict=strict,
    )
    people = for_people(sys.stdout, sys.stderr) and not quiet
    if output is None and execute is None:
        output = "pretty" if for_people(sys.stdout) else "ndjson"
    try:
        form = None
        if output is not None:
            form = format_of(output, workspace=workspace, time=time, terminal=for_people(sys.stdout))
    except ValueError as error:
        raise click.UsageError(f"--output: {error}") from None
    # The output of --exec must not be mixed with a status line.
    screen = TailScreen(form, status=people and follow and execute is None, remarks=people, verbose=verbose)
    run(tail(wanted, screen, open_client(url, key)), workspace=workspace)


def _idle_seconds(text: str | None, *, follow: bool) -> float | None:
    if text is None:
        return None
    if not follow:
        raise click.UsageError("--idle-exit needs --follow")
    span = span_of(text)
    if span is None:
        raise click.UsageError(f"--idle-exit {text}: not a span of time, such as 30s, 5m or 1h30m")
    return span.total_seconds()


def _filters(given: dict[str, tuple[str, ...]], excluded: Sequence[str]) -> dict[str, list[str]]:
    filters = {_FIELDS[name]: list(values) for name, values in given.items() if values}
    for text in excluded:
        name, equals, value = text.partition("=")
        if not equals:
            name, value = "action", text
        if name not in _FIELDS:
            raise click.UsageError(f"--exclude {text}: no field {name}; there are {', '.join(_FIELDS)}")
        filters.setdefault(_FIELDS[name], []).append(f"!{value}")
    return filters
