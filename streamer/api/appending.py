"""Appending, the same by POST and over a WebSocket: from parsed JSON to the log."""

import re
from typing import Any

from streamer.api import schemas
from streamer.auth.principal import Principal
from streamer.core.errors import ValidationError
from streamer.core.ports import Appended
from streamer.edge.appending import author_of
from streamer.edge.bodies import loads, split_ndjson
from streamer.ingest.intake import Intake

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def check_idempotency_key(key: str | None, field: str) -> None:
    """See that an idempotency key is of the right form; `field` is what it was sent in. Raises ValidationError."""
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ValidationError({field: "must be 1-255 visible ASCII characters"})


async def append_ndjson(  # noqa: PLR0913 - what an append is made of
    intake: Intake,
    principal: Principal,
    workspace: str,
    data: bytes,
    *,
    idempotency_key: str | None,
    max_events: int,
    max_values: int,
) -> Appended:
    """Append the events of newline-delimited JSON. Raises PayloadTooLarge and what `append` raises."""
    lines = await split_ndjson(data, max_lines=max_events, max_values=max_values)

    def event_of(line: bytes, where: str) -> schemas.EventIn:
        return schemas.check(schemas.EVENT, loads(line, where), prefix=where)

    author = author_of(principal, workspace)
    return await intake.append(workspace, lines, author, event_of=event_of, batch=True, idempotency_key=idempotency_key)


async def append(
    intake: Intake, principal: Principal, workspace: str, parsed: Any, *, idempotency_key: str | None
) -> Appended:
    """Append one event or, if `parsed` is a list, several. Raises ValidationError and what `Intake.append` raises."""
    batch = isinstance(parsed, list)
    author = author_of(principal, workspace)
    return await intake.append(
        workspace,
        parsed if batch else [parsed],
        author,
        event_of=_event_of,
        batch=batch,
        idempotency_key=idempotency_key,
    )


def _event_of(parsed: Any, where: str) -> schemas.EventIn:
    return schemas.check(schemas.EVENT, parsed, prefix=where)
