"""Timestamps of the log: whole microseconds since 1970 in UTC, written as RFC 3339.

Integers compare and store exactly; they are formatted as text only in the API.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
"""The last microsecond that `format_timestamp` can write; a time zone can lead slightly beyond it."""

_RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,32}))?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


def now_us() -> int:
    """Return the wall clock in microseconds since 1970 (UTC). It can jump; timestamps in the log never go back."""
    return time.time_ns() // 1000


def format_timestamp(us: int) -> str:
    """Write microseconds as RFC 3339 with six digits: `2026-11-21T06:22:04.123456Z`."""
    seconds, fraction = divmod(us, 1_000_000)
    return f"{_format_seconds(seconds)}.{fraction:06d}Z"


@lru_cache(maxsize=16)  # thousands of events arrive per second
def _format_seconds(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def parse_timestamp(text: str) -> int:
    """Parse an RFC 3339 timestamp into microseconds; digits after the sixth are dropped.

    A zone is required (RFC 3339, section 5.6). A leap second (`:60`) counts as the following second.

    Raises:
        ValueError: the text is not RFC 3339 or names a day or time that does not exist.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 timestamp with a zone, such as 2026-11-21T06:22:04Z")
    date, clock, fraction, zone = match.groups()
    leap = clock.endswith(":60")
    if leap:
        clock = clock[:-2] + "59"
    offset = "+00:00" if zone in "Zz" else zone
    moment = datetime.fromisoformat(f"{date}T{clock}{offset}")
    micros = int((fraction or "").ljust(6, "0")[:6])
    return (moment - EPOCH) // MICROSECOND + micros + (1_000_000 if leap else 0)
