"""An event, before and after it gets its seq.

The canonical JSON is encoded once, as three pieces around the two values that only the writer knows; `seal` splices
them in. The result is stored and served as it is: a page or a frame is a join of these bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from streamer.core.clock import format_timestamp
from streamer.core.entities import EntityFact, facts, issue_of


class Facets(NamedTuple):
    """The values of an event that filters use, in the order of the store's columns."""

    category: str
    action: str
    actor_type: str
    actor_id: str
    entity_type: str | None
    entity_id: str | None
    agent_id: str | None
    run_id: str | None
    task_id: str | None
    on_behalf_of: str | None
    """The person behind the actor; with `actor_id` it determines whose own event it is."""
    issue_id: str | None
    """The issue that an event about something else belongs to (`core.entities`)."""
    search: str
    """The text that `q` searches: description and identifiers, one per line, ASCII letters in lower case."""


FACET_FIELDS = Facets._fields[:-3]
"""The facets that are filters by their own name (all except `on_behalf_of`, `issue_id` and `search`)."""


def casefold_ascii(text: str) -> str:
    """Convert ASCII letters, and only those, to lower case: the same result on every database and in memory."""
    # `bytes.lower` changes only ASCII letters, and takes a hundredth of the time of `str.translate`.
    return (
        text.lower()
        if text.isascii()
        else text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")
    )


def search_text(event: Mapping[str, Any]) -> str:
    """Return the text that `q` searches: description, then the identifiers, one per line.

    PostgreSQL cannot store NUL as text, and filters cannot contain it.
    """
    entity = event["entity"] or {}
    parts = (
        event["description"],
        entity.get("identifier"),
        entity.get("id"),
        event["actor"]["id"],
        event["agent_id"],
        event["run_id"],
        event["task_id"],
    )
    return casefold_ascii("\n".join([part for part in parts if part])).replace("\0", "")


@dataclass(slots=True)
class Event:
    """A stored event: `body` is its canonical JSON in UTF-8, with seq and timestamp in place."""

    seq: int
    id: str
    body: bytes


@dataclass(slots=True)
class Draft:
    """A validated, redacted and encoded event without seq and timestamp."""

    id: str
    given_id: bool
    """The client chose the id, so the event may be stored already."""
    facets: Facets
    content: bytes
    """From after `seq` to before `timestamp`: all of the client's values except the id."""
    tail: bytes
    facts: tuple[EntityFact, ...]
    """The facts about entities in it."""
    fingerprint: str | None = None
    """The fingerprint of the event as the client sent it, if a repetition must be recognized."""

    @property
    def size(self) -> int:
        """The length of the sealed body in bytes, without the digits of its seq."""
        return size_of(self.id, (self.content, self.tail))

    def seal(self, seq: int, timestamp_us: int) -> bytes:
        """Return the canonical body with this seq and timestamp in place."""
        return b'{"id":"%b","seq":%d,%b"timestamp":"%b",%b' % (
            self.id.encode(),
            seq,
            self.content,
            format_timestamp(timestamp_us).encode(),
            self.tail,
        )


def id_in(body: bytes) -> str:
    """Return the id in a canonical body, without parsing it: its first value. Ids hold nothing that JSON would escape."""
    return body[7 : body.index(b'"', 7)].decode()


def timestamp_in(body: bytes) -> str:
    """Return the timestamp in a canonical body, without parsing it."""
    start = body.rindex(b'"timestamp":"') + len(b'"timestamp":"')
    return body[start : body.index(b'"', start)].decode()


def encode(event: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Encode a complete event (all keys of the canonical form except `id`, `seq` and `timestamp`) into a draft's content and its tail.

    Raises:
        orjson.JSONEncodeError: the value nests deeper than orjson can write (254 levels).
    """
    values = dict(event)
    traceparent = values.pop("traceparent")
    return orjson.dumps(values)[1:-1] + b",", orjson.dumps({"traceparent": traceparent})[1:]


def draft_of(
    event: Mapping[str, Any],
    encoded: tuple[bytes, bytes],
    *,
    id: str,  # noqa: A002 - the field's name
    given_id: bool,
) -> Draft:
    """Return the draft of a complete event that `encode` encoded."""
    entity = event["entity"] or {}
    actor = event["actor"]
    content, tail = encoded
    return Draft(
        id=id,
        given_id=given_id,
        facets=Facets(
            event["category"],
            event["action"],
            actor["type"],
            actor["id"],
            entity.get("type"),
            entity.get("id"),
            event["agent_id"],
            event["run_id"],
            event["task_id"],
            actor["on_behalf_of"],
            issue_of(event),
            search_text(event),
        ),
        content=content,
        tail=tail,
        facts=facts(event),
    )


def fingerprint(event: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits for an event as it was sent, independent of the order of its keys.

    It is not computed from the stored event: templates of descriptions and redaction rules change, and a repetition
    must still be recognized. `1` and `1.0` differ here, as they do in the stored event.
    """
    given = {name: value for name, value in event.items() if value is not None}
    return blake2b(orjson.dumps(given, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def size_of(event_id: str, encoded: tuple[bytes, bytes]) -> int:
    """Return the length of the sealed body in bytes, without the digits of its seq."""
    content, tail = encoded
    return len(event_id) + len(content) + len(tail) + 58
