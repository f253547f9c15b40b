"""Events as readable lines."""

import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from streamer.cli.when import unit_of
from streamer.observe.output import takes_escapes

TimeStyle = Literal["local", "utc", "relative"]

_COLOURS = {"user": "green", "agent": "magenta", "system": "cyan"}
_OTHER = "yellow"
_STEERING = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
"""Control characters, line and paragraph separators, direction characters (Unicode's `Bidi_Control`), and surrogates."""


class EventLines:
    """Formats events as lines: on a terminal in colour and cut to its width, elsewhere plain and complete."""

    def __init__(self, time: TimeStyle, *, terminal: bool) -> None:
        self._console = Console(
            color_system="auto" if takes_escapes(sys.stdout) else None,
            file=sys.stdout,
            highlight=False,
            soft_wrap=not terminal,
            force_terminal=None if terminal else False,
        )
        self._time = time

    def line(self, event: dict[str, Any]) -> bytes:
        """Return an event's line, with its line end."""
        return self._render(self._text(event))

    def gap(self, text: str) -> bytes:
        """Return a gap's line, with its line end."""
        return self._render(Text(text, "bold red"))

    def _render(self, text: Text) -> bytes:
        with self._console.capture() as captured:
            self._console.print(text, no_wrap=True, overflow="ellipsis")
        return captured.get().encode()

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
        size, unit = unit_of(seconds)
        return f"{seconds // size:>4} {unit:<3} ago"


def printable(text: str) -> str:
    """Replace characters that could control a terminal, end a line or change its direction, because events can come from anyone. Everything else stays; changing it could turn one id into another."""
    return text if text.isprintable() else _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)
