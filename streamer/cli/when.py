"""Times as people type them."""

import re
from datetime import UTC, datetime, timedelta

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def moment_of(text: str) -> str | None:
    """Return the timestamp of a time (local without a zone) or of so long ago, None if the text is neither."""
    match = _DURATION.fullmatch(text)
    try:
        if match is not None and text:
            weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            span = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
            moment = datetime.now(UTC) - span
        else:
            moment = datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        return "1970-01-01T00:00:00Z"
    except ValueError:
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
