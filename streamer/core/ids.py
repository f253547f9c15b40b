"""Identifiers that the server generates, and the format of those it accepts."""

import re
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ID_PATTERN = r"^[A-Za-z0-9._:~@-]{1,128}$"
"""The format of event and workspace ids from clients."""

RESERVED_EVENT_IDS = frozenset({"stream", "ws", "stats", "export"})
"""Words that the API's paths use in place of an event id."""

SYSTEM_WORKSPACE = "system"
"""Reserved for the server's own events about the instance rather than one workspace."""

OWN_EVENT_IDS = "streamer:"
"""The prefix of the ids of the server's own events. Clients cannot use it, so it identifies these events."""

CHANCES = 200
"""Ids for which random bits are requested from the system at once: 19 hexadecimal digits each."""

_ID = re.compile(ID_PATTERN[:-1] + r"\Z")
_EPOCH_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def is_id(text: str) -> bool:
    """Return whether `text` is a valid event or workspace id (1-128 of `A-Z a-z 0-9 . _ : ~ @ -`)."""
    # "." and ".." match the pattern, too, but a URL cannot have them as a path segment (RFC 3986, 5.2.4).
    return _ID.match(text) is not None and text not in {".", ".."}


class Uuid7s:
    """Generates UUIDv7s (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits from the system's source.

    Random bits are requested for many ids at once: one call per id, with its thread switch, took longer than everything
    else that an event needs.
    """

    def __init__(self) -> None:
        self._chances: Iterator[str] = iter(())

    def make(self) -> str:
        """Generate one."""
        clock = f"{time.time_ns() // 1_000_000:012x}"
        chance = next(self._chances, "") or self._refill()
        variant = "89ab"[int(chance[3], 16) % 4]
        return f"{clock[:8]}-{clock[8:]}-7{chance[:3]}-{variant}{chance[4:7]}-{chance[7:]}"

    def _refill(self) -> str:
        text = secrets.token_hex(CHANCES * 19 // 2)
        self._chances = iter([text[start : start + 19] for start in range(0, len(text), 19)])
        return next(self._chances)


def new_epoch() -> str:
    """Generate the random epoch of a new log: 10 letters and digits, 50 bits."""
    return "".join(secrets.choice(_EPOCH_ALPHABET) for _ in range(10))
