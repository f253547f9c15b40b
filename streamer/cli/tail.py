"""`streamer tail`: a workspace's events, those that were and those that come."""

import contextlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from streamer.cli.cursor import CursorFile
from streamer.cli.remote import EventsMissing, Failure, connection, ending_with_reader, open_client, run
from streamer.cli.screen import TailScreen, TimeStyle
from streamer.cli.when import moment_of
from streamer.client import (
    Activity,
    ApiError,
    Checkpoint,
    Client,
    Closed,
    Gap,
    StreamMessage,
    Synced,
)
from streamer.core.clock import parse_timestamp
from streamer.core.position import MAX_SEQ

PAGE = 1000

_POSITION = re.compile(r"[a-z0-9]{1,32}\.\d{1,19}", re.ASCII)
_FIELDS = {"action": "action", "actor": "actor_id", "actor-type": "actor_type", "target": "entity_id", "q": "q"}


@dataclass(frozen=True)
class Wanted:
    """What the options ask for."""

    workspace: str
    follow: bool
    since: str | None
    until: str | None
    last: int | None
    filters: dict[str, list[str]]
    count: int | None
    cursor_file: Path | None
    output: Literal["pretty", "ndjson"]
    time: TimeStyle
    strict: bool


@click.command(
    epilog="Filters are the server's own: a comma means OR, a leading ! excludes, a backslash escapes. Exit codes: 0 ended as asked, "
    "1 failure, 2 wrong usage, 4 not allowed, 5 unreachable, 6 a gap under --strict, 130 interrupted."
)
@click.argument("workspace")
@click.option("-f", "--follow", is_flag=True, help="Stay, and show events as they come.")
@click.option(
    "--since", metavar="WHEN", help="Begin behind this: 90s, 1h, 7d, a time, a seq, an event's id, all or latest."
)
@click.option("--until", metavar="WHEN", help="End there: a time ago, a time, a seq or an event's id.")
@click.option(
    "-n",
    "--tail",
    "last",
    metavar="N",
    type=click.IntRange(min=0),
    help="Only the last N events before now. [default: 20, with --since: all]",
)
@click.option("--action", metavar="ACTION", multiple=True, help="Only this action, or issue.* (repeat: OR).")
@click.option("--actor", metavar="ID", multiple=True, help="Only what this actor did (repeat: OR).")
@click.option("--actor-type", metavar="TYPE", multiple=True, help="Only user, agent, system … (repeat: OR).")
@click.option("--target", metavar="ID", multiple=True, help="Only what was done to this entity (repeat: OR).")
@click.option("-q", "text", metavar="TEXT", help="Only events with this text in description or identifiers.")
@click.option(
    "--exclude",
    metavar="[FIELD=]VALUE",
    multiple=True,
    help="Leave out an action, or by another field: actor, actor-type, target, q (repeatable).",
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="Stop after N events.")
@click.option(
    "--cursor-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Go on where the last run with this file ended; written after each event.",
)
@click.option(
    "-o", "--output", type=click.Choice(["pretty", "ndjson"]), help="[default: pretty on a terminal, else ndjson]"
)
@click.option(
    "--time",
    type=click.Choice(["local", "utc", "relative"]),
    default="local",
    show_default=True,
    help="How pretty lines show the time.",
)
@click.option("--strict", is_flag=True, help="Stop with exit code 6 when events are missing.")
@connection
def command(  # noqa: PLR0913 - the options
    *,
    workspace: str,
    follow: bool,
    since: str | None,
    until: str | None,
    last: int | None,
    action: tuple[str, ...],
    actor: tuple[str, ...],
    actor_type: tuple[str, ...],
    target: tuple[str, ...],
    text: str | None,
    exclude: tuple[str, ...],
    count: int | None,
    cursor_file: Path | None,
    output: Literal["pretty", "ndjson"] | None,
    time: TimeStyle,
    strict: bool,
    url: str,
    key: str | None,
) -> None:
    """Show a workspace's events and, with -f, follow them over any interruption.

    \b
    streamer tail my                          the last 20 events
    streamer tail my -f                       the same, then live
    streamer tail my --since 1h --action 'issue.*' --exclude issue.deleted
    streamer tail my -f --actor-type agent -q login
    streamer tail my -f --since all --cursor-file my.cursor | ./consume

    Into a pipe go the events as the server has them, one JSON object a line.
    """  # fmt: skip
    if follow and until is not None:
        raise click.UsageError("--until ends before now, --follow does not end: give one of them")
    given = {"action": action, "actor": actor, "actor-type": actor_type, "target": target, "q": (text,) if text else ()}
    wanted = Wanted(
        workspace=workspace,
        follow=follow,
        since=since,
        until=until,
        last=last,
        filters=_filters(given, exclude),
        count=count,
        cursor_file=cursor_file,
        output=output or ("pretty" if sys.stdout.isatty() else "ndjson"),
        time=time,
        strict=strict,
    )
    run(_tail(wanted, open_client(url, key)), workspace=workspace)


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


async def _tail(wanted: Wanted, client: Client) -> None:
    """Do what is wanted, until the end or until nobody reads the output any more."""
    async with client:
        tail = _Tail(wanted, client)
        with ending_with_reader(), contextlib.closing(tail):
            await tail.run()


class _Tail:
    """One run of the command."""

    def __init__(self, wanted: Wanted, client: Client) -> None:
        self._wanted = wanted
        self._client = client
        self._cursor = CursorFile(wanted.cursor_file) if wanted.cursor_file else None
        self._screen = TailScreen(output=wanted.output, time=wanted.time, follow=wanted.follow)
        self._left = wanted.count
        self._until: str | None = None

    async def run(self) -> None:
        """Show history, then what comes."""
        wanted = self._wanted
        log = await self._client.workspace(wanted.workspace)  # also tells at once if the server or the key is no good
        saved = self._cursor.read() if self._cursor else None
        since = saved or (await self._bound("--since", wanted.since, log) if wanted.since else None)
        self._until = await self._bound("--until", wanted.until, log) if wanted.until else None
        last = wanted.last if wanted.last is not None or wanted.since else 20
        async with self._screen:
            if last is not None and saved is None:
                since = await self._show_last(last, since)
                if not wanted.follow or self._left == 0:
                    return
            await self._show_stream(since)

    def close(self) -> None:
        """Leave the cursor file in order."""
        if self._cursor:
            self._cursor.close()

    async def _bound(self, option: str, text: str, log: dict[str, str]) -> str:
        """Return the position or timestamp that WHEN means."""
        epoch, _, head = log["position"].rpartition(".")
        if text in {"all", "latest"} and option == "--since":
            return log["earliest"] if text == "all" else log["position"]
        if text.isascii() and text.isdigit() and int(text) <= MAX_SEQ:
            if int(text) > int(head):
                raise click.UsageError(f"{option} {text}: the log ends at seq {head}")
            return f"{epoch}.{text}"
        moment = moment_of(text)
        if moment is not None:
            return moment
        if _POSITION.fullmatch(text) and text.startswith(f"{epoch}."):
            return await self._bound(option, text.rpartition(".")[2], log)
        try:
            return f"{epoch}.{(await self._client.event(self._wanted.workspace, text))['seq']}"
        except ApiError as error:
            if error.code != "event_not_found":
                raise
            raise click.UsageError(f"{option} {text}: not a time, not a seq, and no event has this id") from None

    async def _show_last(self, count: int, since: str | None) -> str:
        """Show the last events, oldest first; return the position behind them."""
        wanted = self._wanted
        before = self._until
        if before is not None and (seq := _seq(before)) is not None:
            before = f"{before.rpartition('.')[0]}.{seq + 1}"
        found: list[Activity] = []
        page = await self._client.page(
            wanted.workspace,
            order="desc",
            limit=min(max(count, 1), PAGE),
            after=since,
            before=before,
            filters=wanted.filters,
        )
        position = page.position
        found += page.events[:count]
        while page.cursor is not None and len(found) < count:
            limit = min(count - len(found), PAGE)
            page = await self._client.page(wanted.workspace, limit=limit, cursor=page.cursor, filters=wanted.filters)
            found += page.events
        for activity in reversed(found):
            if not self._show(activity):
                return activity.position
        self._save(position)
        return position

    async def _show_stream(self, since: str | None) -> None:
        """Show what is behind `since`, to the end of the log or for ever."""
        wanted = self._wanted
        stream = self._client.stream(
            wanted.workspace,
            after=since,
            filters=wanted.filters,
            attempts=None if wanted.follow else 4,
            notice=self._screen.notice,
        )
        async with contextlib.aclosing(stream):
            async for message in stream:
                if not self._handle(message):
                    return

    def _handle(self, message: StreamMessage) -> bool:
        """Show a message; False if that was the last one wanted."""
        match message:
            case Activity():
                return not self._is_beyond(message) and self._show(message)
            case Checkpoint(position):
                self._save(position)
            case Synced(position):
                self._screen.synced(position)
                self._save(position)
                return self._wanted.follow
            case Gap():
                self._screen.gap(message)
                if self._wanted.strict:
                    raise EventsMissing("events are missing, and --strict was given")
                self._save(message.position)
            case Closed(reason, reconnect):
                if not reconnect:
                    raise Failure(f"the server ended the stream: {reason.replace('_', ' ')}")
        return True

    def _is_beyond(self, activity: Activity) -> bool:
        if self._until is None:
            return False
        seq = _seq(self._until)
        if seq is not None:
            return activity.seq > seq
        return parse_timestamp(activity.event["timestamp"]) >= parse_timestamp(self._until)

    def _show(self, activity: Activity) -> bool:
        """Write an event, then its position; False if no more are wanted."""
        self._screen.event(activity)
        self._save(activity.position)
        if self._left is not None:
            self._left -= 1
        return self._left != 0

    def _save(self, position: str) -> None:
        if self._cursor:
            self._cursor.write(position)


def _seq(bound: str) -> int | None:
    """Return a position's number, None if it is a timestamp."""
    return int(bound.rpartition(".")[2]) if _POSITION.fullmatch(bound) else None
