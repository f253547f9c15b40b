"""Detects repeated appends: by an event's own id, or by a request's `Idempotency-Key`."""

from collections.abc import Sequence
from hashlib import sha256

import orjson

from streamer.core.event import Draft, Event
from streamer.core.ports import Append
from streamer.store.log.statements import LockedLog

_OLD_LENGTH = 64
"""Digits of request fingerprints from versions before migration 0009, which were computed from the events as they were stored."""


def is_same(draft: Draft, stored: Event, log: LockedLog) -> bool:
    """Return whether a stored event with the same id was sent with the same content, or would be stored with it."""
    fingerprint = log.fingerprints.get(draft.id)
    if fingerprint is not None and fingerprint == draft.fingerprint:
        return True
    sealed = draft.seal(stored.seq, log.times[stored.seq])
    if sealed == stored.body:
        return True
    # For an older event only the body is known; it is empty if its size differs.
    return fingerprint is None and bool(stored.body) and _sorted(sealed) == _sorted(stored.body)


def repeats(request: Append, log: LockedLog) -> bool:
    """Return whether a request has the key and the content of a recorded one."""
    if request.idempotency is None or request.idempotency[0] not in log.remembered:
        return False
    key, fingerprint = request.idempotency
    known, _ = log.remembered[key]
    return known == fingerprint or (len(known) == _OLD_LENGTH and known == _old_fingerprint(request.drafts))


def _sorted(body: bytes) -> bytes:
    return orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)


def _old_fingerprint(drafts: Sequence[Draft]) -> str:
    content = sha256()
    for draft in drafts:
        content.update(draft.id.encode() if draft.given_id else b"")
        content.update(b"\0" + draft.content + draft.tail)
    return content.hexdigest()
