"""Output of a run besides its events: a status line that never mixes with them, and remarks."""

import asyncio
import os
import shutil
import sys
from collections import deque
from typing import TextIO

from streamer.cli.formats import Format
from streamer.cli.pretty import printable
from streamer.client import Activity, Closed, Connected, Gap, Lost, seq_of
from streamer.observe.output import takes_escapes

TICK_SECONDS = 0.5
RATE_TICKS = 10
"""The displayed rate is the mean over this many ticks."""
AGENT_VARIABLES = (
    "AI_AGENT",
    "AGENT",
    "CLAUDECODE",
    "CODEX_SANDBOX",
    "CODEX_THREAD_ID",
    "CURSOR_AGENT",
    "GEMINI_CLI",
    "OPENCODE",
)
"""Set by AI agents for the commands that they run: the first two by convention, the others by one agent each."""


def for_people(*streams: TextIO) -> bool:
    """Return whether a person sees the output: all streams are terminals, and no AI agent runs the command."""
    return all(stream.isatty() for stream in streams) and not any(map(os.environ.get, AGENT_VARIABLES))


class StatusLine:
    """One line at the bottom of the terminal, on stderr; nothing without a terminal."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and takes_escapes(sys.stderr)
        self._drawn = False

    def draw(self, text: str) -> None:
        """Show `text` instead of the previous text."""
        if self._shown:
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\x1b[K{printable(text)[: width - 1]}")
            sys.stderr.flush()
            self._drawn = True

    def clear(self) -> None:
        """Remove the line, so that other output can be written there."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def remark(self, text: str) -> None:
        """Write a permanent line."""
        self.clear()
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


class TailScreen:
    """The output of a run: events to stdout, everything else to stderr."""

    def __init__(self, form: Format | None, *, status: bool, remarks: bool, verbose: bool) -> None:
        """Prepare the output; nothing is written yet.

        Args:
            form: the format of events; None: they are not written.
            status: show the status line.
            remarks: report the cost of a lost connection.
            verbose: report everything.
        """
        self.count = 0
        """Number of events."""
        self._form = form
        self._status = StatusLine(shown=status)
        self._remarks = remarks or verbose
        self._verbose = verbose
        self._state = "connecting"
        self._seq: int | None = None
        self._fresh = 0
        self._rates: deque[int] = deque(maxlen=RATE_TICKS)
        self._ticking: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._caught_up = 0

    async def __aenter__(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def __aexit__(self, *_: object) -> None:
        if self._ticking:
            self._ticking.cancel()
        self._status.clear()
        if self._form:
            self._write((b"" if self.count else self._form.first) + self._form.end)

    def event(self, activity: Activity) -> None:
        """Write an event and flush it."""
        if self._form:
            before = self._form.other if self.count else self._form.first
            self._write(before + self._form.render(activity))
        self.count += 1
        self._seq = activity.seq
        self._fresh += 1
        self._caught_up += 1

    def gap(self, gap: Gap) -> None:
        """Report missing events: between the events if the format allows it, else on stderr."""
        count = gap.count
        what = "an unknown number of events" if count is None else f"{count:,} event{'s' * (count != 1)}"
        text = f"~~ {what} missing ({gap.reason}) ~~"
        if self._form and self._form.gap:
            self._write(self._form.gap(text))
        else:
            self._status.remark(text)
        last = gap.last or "nobody knows where"
        self.detail(f"gap from seq {gap.first} to {last}; continuing at position {gap.position}")

    def synced(self, position: str) -> None:
        """Note that the following events are live."""
        self._state = "live"
        self._fresh = 0  # history does not count for the rate
        self._rates.clear()
        self._seq = seq_of(position)
        if self._lost_at is not None:
            seconds = asyncio.get_running_loop().time() - self._lost_at
            self._lost_at = None
            if self._remarks:
                self._status.remark(f"reconnected after {seconds:.0f} s, caught up {self._caught_up:,}")
        self.detail(f"caught up, at position {position}")

    def notice(self, notice: Connected | Lost) -> None:
        """Note that a connection was made or lost."""
        if isinstance(notice, Connected):
            self._state = "catching up"
            self.detail("connected again" if notice.again else "connected")
            return
        if isinstance(notice.cause, Closed):  # as servers do when they restart: no reason for a warning
            self._state = f"closed by the server ({notice.cause.reason}); reconnecting in {notice.delay:.0f} s"
        else:
            self._state = f"{notice.cause}; retrying in {notice.delay:.0f} s"
            if self._lost_at is None:
                self._lost_at = asyncio.get_running_loop().time()
                self._caught_up = 0
        self.detail(self._state)

    def detail(self, text: str) -> None:
        """Write a line for --verbose."""
        if self._verbose:
            self._status.remark(text)

    def _write(self, data: bytes) -> None:
        self._status.clear()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    async def _tick(self) -> None:
        while True:
            self._rates.append(self._fresh)
            self._fresh = 0
            rate = sum(self._rates) / (len(self._rates) * TICK_SECONDS)
            seq = "" if self._seq is None else f" - seq {self._seq:,}"
            self._status.draw(f"{self._state} - {rate:.0f}/s{seq}")
            await asyncio.sleep(TICK_SECONDS)
