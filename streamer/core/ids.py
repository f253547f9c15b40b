"""Identifiers the server makes, and the form of those it accepts."""

import re
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ID_PATTERN = r"^[A-Za-z0-9._:~@-]{1,128}$"
"""The form of event and workspace ids, as clients may give them."""

RESERVED_EVENT_IDS = frozenset({"stream", "ws", "stats", "export"})
"""Words that stand in the place of an event id in the API's paths."""

SYSTEM_WORKSPACE = "system"
"""Reserved for the server's own events: those about the instance, not about one workspace."""

OWN_EVENT_IDS = "streamer:"
"""What the ids of the server's own events begin with, and no client's: that tells them apart, whatever else they say."""

CHANCES = 200
"""Ids for which the system is asked for random bits at once: 19 hexadecimal digits each."""

_ID = re.compile(ID_PATTERN[:-1] + r"\Z")
_EPOCH_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def is_id(text: str) -> bool:
    """Tell whether `text` may be an event or a workspace id (1-128 of `A-Z a-z 0-9 . _ : ~ @ -`)."""
    # "." and ".." are of the form too, but no URL can carry them as a path segment (RFC 3986, 5.2.4).
    return _ID.match(text) is not None and text not in {".", ".."}


class Uuid7s:
    """Makes UUIDv7s (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits of the system's source.

    The source is asked for many at once: a call for each, with its switch of threads, took longer than all else that an event needs.
    """

    def __init__(self) -> None:
        self._chances: Iterator[str] = iter(())

    def make(self) -> str:
        """Make one."""
        clock = f"{time.time_ns() // 1_000_000:012x}"
        chance = next(self._chances, "") or self._refill()
        variant = "89ab"[int(chance[3], 16) % 4]
        return f"{clock[:8]}-{clock[8:]}-7{chance[:3]}-{variant}{chance[4:7]}-{chance[7:]}"

    def _refill(self) -> str:
        text = secrets.token_hex(CHANCES * 19 // 2)
        self._chances = iter([text[start : start + 19] for start in range(0, len(text), 19)])
        return next(self._chances)


def new_epoch() -> str:
    """Make the random name of a new log's epoch: 10 letters and digits, 50 bits."""
    return "".join(secrets.choice(_EPOCH_ALPHABET) for _ in range(10))
