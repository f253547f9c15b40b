"""Times as people type and read them."""

import re
from datetime import UTC, datetime, timedelta

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def span_of(text: str) -> timedelta | None:
    """Return the duration of `90s`, `1h30m`, `7d` or `2w`, None if the text is not one; too long a duration becomes the longest possible."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    try:
        return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        return timedelta.max


def moment_of(text: str) -> str | None:
    """Return the timestamp of a time (local without a zone) or of a duration ago, None if the text is neither."""
    span = span_of(text)
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC) if span is None else datetime.now(UTC) - span
    except OverflowError:
        return "1970-01-01T00:00:00Z"
    except ValueError:
        return None
    return _timestamp(moment)


def expiry_of(text: str) -> str | None:
    """Return the timestamp of a time (local without a zone) or of a duration from now, None if the text is neither."""
    span = span_of(text)
    if span is None:
        return moment_of(text)
    try:
        return _timestamp(datetime.now(UTC) + span)
    except OverflowError:
        return _timestamp(datetime.max.replace(tzinfo=UTC))


def unit_of(seconds: float) -> tuple[int, str]:
    """Return the largest unit that a duration fills: its seconds and its name."""
    return next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])


def until(timestamp: str | None) -> str:
    """Return the time left until an expiry, rounded: `in 3 d`, `expired`, or `never` if there is none."""
    if timestamp is None:
        return "never"
    seconds = (datetime.fromisoformat(timestamp) - datetime.now(UTC)).total_seconds()
    size, unit = unit_of(seconds + 1)  # 30 d that were given a moment ago are not 29
    return f"in {round(seconds / size)} {unit}" if seconds > 0 else "expired"


def local(timestamp: str) -> str:
    """Return a timestamp in local time, to the minute."""
    return f"{datetime.fromisoformat(timestamp).astimezone():%Y-%m-%d %H:%M}"


def _timestamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
