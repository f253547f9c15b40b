"""A run of `streamer tail`: from the options to the server, the screen and the cursor file."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from streamer.cli.bounds import behind, bound, is_beyond, is_position
from streamer.cli.cursor import CursorFile
from streamer.cli.execute import execute
from streamer.cli.idle import Idle
from streamer.cli.remote import EventsMissing, Failure, NotAllowed, ending_with_reader
from streamer.cli.screen import TailScreen
from streamer.client import Activity, Checkpoint, Client, Closed, Connected, Gap, Lost, StreamMessage, Synced

ATTEMPTS = 4
"""Attempts for a stream of history; a followed stream retries indefinitely."""
DEFAULT_LAST = 20
PAGE = 1000


@dataclass(frozen=True)
class Wanted:
    """The options of a run."""

    workspace: str
    follow: bool
    since: str | None
    until: str | None
    last: int | None
    filters: dict[str, list[str]]
    count: int | None
    cursor_file: Path | None
    execute: str | None
    idle_seconds: float | None
    strict: bool


async def tail(wanted: Wanted, screen: TailScreen, client: Client) -> None:
    """Run until the end, or until nobody reads the output any more.

    Raises:
        click.ClickException: the run failed.
        ClientError: the server does not answer, or rejects a request.
        BrokenPipeError: nobody reads the output any more.
    """
    async with client:
        run = _Run(wanted, screen, client)
        with ending_with_reader(), contextlib.closing(run):
            await run.run()


class _Run:
    def __init__(self, wanted: Wanted, screen: TailScreen, client: Client) -> None:
        self._wanted = wanted
        self._screen = screen
        self._client = client
        self._cursor = CursorFile(wanted.cursor_file) if wanted.cursor_file else None
        self._idle = Idle(wanted.idle_seconds)
        self._until: str | None = None

    async def run(self) -> None:
        """Show history, then new events."""
        wanted = self._wanted
        log = await self._client.workspace(wanted.workspace)  # also fails at once if the server or the key is wrong
        saved = self._cursor.read() if self._cursor else None
        since, self._until = [
            text and await bound(option, text, self._client, wanted.workspace, log)
            for option, text in (("--since", None if saved else wanted.since), ("--until", wanted.until))
        ]
        last = wanted.last if wanted.last is not None or wanted.since else DEFAULT_LAST
        async with self._screen:
            if saved:
                self._screen.detail(f"{wanted.cursor_file}: continuing after position {saved}")
                await self._show_stream(saved)
            elif last is None:
                await self._show_stream(await self._begin(since))
            elif (position := await self._show_last(last, since)) and wanted.follow:
                await self._show_stream(position)
            self._screen.detail(f"ended after {self._screen.count:,} events")

    def close(self) -> None:
        """Close the cursor file."""
        if self._cursor:
            self._cursor.close()

    async def _begin(self, since: str | None) -> str | None:
        """Save where the run starts, in case it ends before its first event; return that position.

        Otherwise the next run would find fewer events after `--since 1h`, and none after `--since latest`.
        """
        if self._cursor is None or since is None:
            return since
        if not is_position(since):
            page = await self._client.page(self._wanted.workspace, after=since, limit=1)
            since = _before(page.events[0]) if page.events else page.position
        self._save(since)
        return since

    async def _show_last(self, count: int, since: str | None) -> str | None:
        """Show the last events, oldest first; return the position after them, None if no more are wanted."""
        wanted = self._wanted
        found: list[Activity] = []
        page = await self._client.page(
            wanted.workspace,
            order="desc",
            limit=min(max(count, 1), PAGE),
            after=since,
            before=behind(self._until) if self._until else None,
            filters=wanted.filters,
        )
        position = page.position
        found += page.events[:count]
        while page.cursor is not None and len(found) < count:
            limit = min(count - len(found), PAGE)
            page = await self._client.page(wanted.workspace, limit=limit, cursor=page.cursor, filters=wanted.filters)
            found += page.events
        if found:
            self._save(_before(found[-1]))
        for activity in reversed(found):
            if not await self._show(activity):
                return None
        if self._until is None:
            self._save(position)
        return position

    async def _show_stream(self, since: str | None) -> None:
        """Show the events after `since`, to the end of the log or indefinitely."""
        wanted = self._wanted
        stream = self._client.stream(
            wanted.workspace,
            after=since,
            filters=wanted.filters,
            attempts=None if wanted.follow else ATTEMPTS,
            notice=self._notice,
        )
        async with self._idle, contextlib.aclosing(stream):
            async for message in stream:
                with self._idle.handling(message):
                    if not await self._handle(message):
                        return
        if self._idle.ended:
            self._screen.detail(f"no event for {wanted.idle_seconds:g} s")

    def _notice(self, notice: Connected | Lost) -> None:
        self._idle.stop()
        self._screen.notice(notice)

    async def _handle(self, message: StreamMessage) -> bool:
        """Show a message; return False if it was the last one wanted."""
        match message:
            case Activity():
                return not (self._until and is_beyond(message, self._until)) and await self._show(message)
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
                    raise _end(reason)
        return True

    async def _show(self, activity: Activity) -> bool:
        """Write an event, run its command, then save its position; return False if no more are wanted."""
        self._screen.event(activity)
        if self._wanted.execute:
            await execute(self._wanted.execute, self._wanted.workspace, activity)
        self._save(activity.position)
        return self._screen.count != self._wanted.count

    def _save(self, position: str) -> None:
        if self._cursor:
            self._cursor.write(position)


def _before(activity: Activity) -> str:
    """Return the position of a reader that has seen everything before this event."""
    return f"{activity.position.rpartition('.')[0]}.{activity.seq - 1}"


def _end(reason: str) -> Failure:
    """Return the failure for a stream that the server ended without reconnect."""
    text = f"the server ended the stream: {reason.replace('_', ' ')}"
    if reason.startswith(("credential_", "access_")):
        return NotAllowed(text, hint="Give a valid key with --key or STREAMER_KEY.")
    return Failure(text)
