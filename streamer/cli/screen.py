"""What people see of events: a line each, and a status line below them that is never in their way."""

import asyncio
import shutil
import sys
from collections import deque
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.text import Text

from streamer.client import Activity, Connected, Gap, Lost, seq_of

TimeStyle = Literal["local", "utc", "relative"]

TICK_SECONDS = 0.5
RATE_TICKS = 10
"""The rate that is shown is the mean of so many ticks."""

_COLOURS = {"user": "green", "agent": "magenta", "system": "cyan"}
_OTHER = "yellow"
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class EventLines:
    """Writes events as lines for people, in colour and cut to the width on a terminal, plain and whole elsewhere."""

    def __init__(self, out: TextIO, time: TimeStyle) -> None:
        self._console = Console(file=out, highlight=False, soft_wrap=not out.isatty())
        self._time = time

    def line(self, event: dict[str, Any]) -> str:
        """Return an event's line, with its end."""
        return self._render(self._text(event))

    def gap(self, text: str) -> str:
        """Return the line of a gap, with its end."""
        return self._render(Text(text, "bold red"))

    def _render(self, text: Text) -> str:
        with self._console.capture() as captured:
            self._console.print(text, no_wrap=True, overflow="ellipsis")
        return captured.get()

    def _text(self, event: dict[str, Any]) -> Text:
        actor = event["actor"]
        name = actor.get("name") or actor["id"]
        sentence = event.get("description") or event["action"]
        style = _COLOURS.get(actor["type"], _OTHER)
        text = Text.assemble((self._when(event["timestamp"]), "dim"), "  ", (printable(name), style))
        text.append(printable(sentence[len(name) :] if sentence.startswith(name) else f": {sentence}"))
        if actor.get("on_behalf_of"):
            text.append(f" for {printable(actor['on_behalf_of'])}", "dim")
        text.append(f"  {printable(event['action'])} #{event['seq']}", "dim")
        return text

    def _when(self, timestamp: str) -> str:
        moment = datetime.fromisoformat(timestamp)
        if self._time == "utc":
            return f"{moment:%Y-%m-%d %H:%M:%SZ}"
        if self._time == "local":
            return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"
        seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
        size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
        return f"{seconds // size:>4} {unit:<3} ago"


def printable(text: str) -> str:
    """Replace what could steer a terminal or hide text in it: events come from anyone."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )


class StatusLine:
    """One line at the bottom of the terminal, on stderr; nothing at all where there is no terminal."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._drawn = False

    def draw(self, text: str) -> None:
        """Show `text` in place of what was shown."""
        if self._shown:
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\x1b[K{text[: width - 1]}")
            sys.stderr.flush()
            self._drawn = True

    def clear(self) -> None:
        """Take the line away, for others to write there."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def remark(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class TailScreen:
    """Where a run's output goes: events to stdout, all else to stderr."""

    def __init__(self, *, output: Literal["pretty", "ndjson"], time: TimeStyle, follow: bool) -> None:
        self._lines = EventLines(sys.stdout, time) if output == "pretty" else None
        self._terminal = sys.stdout.isatty() and sys.stderr.isatty()
        self._status = StatusLine(shown=self._terminal and follow)
        self._state = "connecting"
        self._seq: int | None = None
        self._fresh = 0
        self._rates: deque[int] = deque(maxlen=RATE_TICKS)
        self._ticking: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._caught_up: int | None = None

    async def __aenter__(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def __aexit__(self, *_: object) -> None:
        if self._ticking:
            self._ticking.cancel()
        self._status.clear()

    def event(self, activity: Activity) -> None:
        """Write an event and let it go out at once."""
        self._status.clear()
        line = activity.body + b"\n" if self._lines is None else self._lines.line(activity.event).encode()
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        self._seq = activity.seq
        self._fresh += 1
        if self._caught_up is not None:
            self._caught_up += 1

    def gap(self, gap: Gap) -> None:
        """Say that events are missing: among the events for people, on stderr for programs."""
        count = gap.count
        what = "an unknown number of events" if count is None else f"{count:,} event{'s' * (count != 1)}"
        text = f"~~ {what} missing ({gap.reason}) ~~"
        if self._lines is None:
            self._status.remark(text)
        else:
            self._status.clear()
            sys.stdout.buffer.write(self._lines.gap(text).encode())
            sys.stdout.buffer.flush()

    def synced(self, position: str) -> None:
        """Note that what follows is live."""
        self._state = "live"
        self._fresh = 0  # what was there before has no rate
        self._rates.clear()
        self._seq = seq_of(position)
        if self._lost_at is not None and self._caught_up is not None:
            seconds = asyncio.get_running_loop().time() - self._lost_at
            if self._terminal:
                self._status.remark(f"reconnected after {seconds:.0f} s, caught up {self._caught_up:,}")
            self._lost_at = self._caught_up = None

    def notice(self, notice: Connected | Lost) -> None:
        """Note that a connection was found or lost."""
        if isinstance(notice, Connected):
            self._state = "catching up"
            self._caught_up = 0 if self._lost_at is not None else None
            return
        self._state = f"{notice.cause}; trying again in {notice.delay:.0f} s"
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()

    async def _tick(self) -> None:
        while True:
            self._rates.append(self._fresh)
            self._fresh = 0
            rate = sum(self._rates) / (len(self._rates) * TICK_SECONDS)
            seq = "" if self._seq is None else f" - seq {self._seq:,}"
            self._status.draw(f"{self._state} - {rate:.0f}/s{seq}")
            await asyncio.sleep(TICK_SECONDS)
