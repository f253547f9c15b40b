"""Appending, the same by POST and over a WebSocket: from parsed JSON to the log."""

import re
from typing import Any

from streamer.api import schemas
from streamer.auth.principal import ADMIN, EVERYWHERE, WRITE, Principal
from streamer.core.errors import ValidationError
from streamer.core.ids import SYSTEM_WORKSPACE, is_id
from streamer.core.ports import Appended
from streamer.ingest.intake import Author, Intake

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def check_writable(workspace: str) -> str:
    """Return a workspace's id if it is of the right form and not reserved. Raises ValidationError."""
    if not is_id(workspace):
        raise ValidationError({"workspace": "1-128 of A-Z a-z 0-9 . _ : ~ @ -"})
    if workspace == SYSTEM_WORKSPACE:
        raise ValidationError({"workspace": f"{SYSTEM_WORKSPACE} is reserved for the server's own events"})
    return workspace


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
    may_create = bool({WRITE, ADMIN} & principal.grants.get(EVERYWHERE, frozenset()))
    author = Author(
        principal.id,
        principal.actor,
        may_create,
        principal.account,
        name=principal.actor_name,
        may_claim=bool({workspace, EVERYWHERE} & principal.may_claim),
    )
    return await intake.append(workspace, events, author, batch=batch, idempotency_key=idempotency_key)
