"""Times as people type them."""

import re
from datetime import UTC, datetime, timedelta

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def span_of(text: str) -> timedelta | None:
    """Return the length of `90s`, `1h30m`, `7d` or `2w`, None if the text is none; one that is too long is the longest there is."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    try:
        return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        return timedelta.max


def moment_of(text: str) -> str | None:
    """Return the timestamp of a time (local without a zone) or of so long ago, None if the text is neither."""
    span = span_of(text)
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC) if span is None else datetime.now(UTC) - span
    except OverflowError:
        return "1970-01-01T00:00:00Z"
    except ValueError:
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
