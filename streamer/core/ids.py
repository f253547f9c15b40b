"""Identifiers the server makes, and the form of those it accepts."""

import re
import secrets
import time

ID_PATTERN = r"^[A-Za-z0-9._:~@-]{1,128}$"
"""The form of event and workspace ids, as clients may give them."""

RESERVED_EVENT_IDS = frozenset({"stream", "ws", "stats", "export"})
"""Words that stand in the place of an event id in the API's paths."""

_ID = re.compile(ID_PATTERN[:-1] + r"\Z")
_EPOCH_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def is_id(text: str) -> bool:
    """Tell whether `text` may be an event or a workspace id (1-128 of `A-Z a-z 0-9 . _ : ~ @ -`)."""
    # "." and ".." are of the form too, but no URL can carry them as a path segment (RFC 3986, 5.2.4).
    return _ID.match(text) is not None and text not in {".", ".."}


def uuid7() -> str:
    """Make a UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits."""
    clock = f"{time.time_ns() // 1_000_000:012x}"
    chance = secrets.token_hex(10)
    variant = "89ab"[int(chance[4], 16) % 4]
    return f"{clock[:8]}-{clock[8:]}-7{chance[1:4]}-{variant}{chance[5:8]}-{chance[8:]}"


def new_epoch() -> str:
    """Make the random name of a new log's epoch: 10 letters and digits, 50 bits."""
    return "".join(secrets.choice(_EPOCH_ALPHABET) for _ in range(10))
