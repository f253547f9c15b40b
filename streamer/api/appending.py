"""Appending, the same by POST and over a WebSocket: from parsed JSON to the log."""

import re
from typing import Any

from streamer.api import schemas
from streamer.auth.principal import Principal
from streamer.core.errors import ValidationError
from streamer.core.ports import Appended
from streamer.edge.appending import author_of
from streamer.ingest.intake import Intake

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def check_idempotency_key(key: str | None, field: str) -> None:
    """See that an idempotency key is of the right form; `field` is what it was sent in. Raises ValidationError."""
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ValidationError({field: "must be 1-255 visible ASCII characters"})


async def append(  # noqa: PLR0913 - what an append is made of
    intake: Intake, principal: Principal, workspace: str, parsed: Any, *, idempotency_key: str | None, max_events: int
) -> Appended:
    """Append one event or, if `parsed` is a list, several. Raises ValidationError and what `Intake.append` raises."""
    batch = isinstance(parsed, list)
    # Before each item is checked: a batch over the limit is to cost nothing.
    if batch and len(parsed) > max_events:
        raise ValidationError({"events": f"{len(parsed)} events; at most {max_events} in one batch"})
    events = schemas.check(schemas.EVENTS, parsed, prefix="events") if batch else [schemas.check(schemas.EVENT, parsed)]
    author = author_of(principal, workspace)
    return await intake.append(workspace, events, author, batch=batch, idempotency_key=idempotency_key)
