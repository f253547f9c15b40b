"""An event, before and after it gets its number.

The canonical JSON is encoded once, as three pieces around the two values that only the writer can know; `seal` splices them
in. The result is what is stored and what is served: a page or a frame is a join of these bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from streamer.core.clock import format_timestamp
from streamer.core.entities import Trace, issue_of, traces


class Facets(NamedTuple):
    """The values of an event that filters look at, in the order of the store's columns."""

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
    """The person behind the actor: with `actor_id`, whose event it is."""
    issue_id: str | None
    """The issue that an event about something else belongs to (`core.entities`)."""
    search: str
    """What `q` looks in: description and identifiers, one a line, ASCII letters in lower case."""


FACET_FIELDS = Facets._fields[:-3]
"""The facets that are filters by their own name (all but `on_behalf_of`, `issue_id` and `search`)."""


def fold(text: str) -> str:
    """Lower the ASCII letters, and only those: the same on every database and in memory."""
    # `bytes.lower` knows no other letters, and takes a hundredth of the time of `str.translate`.
    return (
        text.lower()
        if text.isascii()
        else text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")
    )


def search_text(event: Mapping[str, Any]) -> str:
    """Return what `q` looks in: description, then the identifiers, one a line.

    NUL cannot be stored as text by PostgreSQL; nobody can search for it either.
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
    return fold("\n".join([part for part in parts if part])).replace("\0", "")


@dataclass(slots=True)
class Event:
    """A stored event: `body` is its canonical JSON in UTF-8, with seq and timestamp in place."""

    seq: int
    id: str
    body: bytes


@dataclass(slots=True)
class Draft:
    """A validated, redacted and encoded event that waits for its seq and timestamp."""

    id: str
    given_id: bool
    """The client chose the id: it may be stored already."""
    facets: Facets
    content: bytes
    """From after `seq` to before `timestamp`: all the client's own values but the id."""
    tail: bytes
    traces: tuple[Trace, ...]
    """What it tells of entities."""
    fingerprint: str | None = None
    """Of the event as the client sent it (`fingerprint`), where a repetition must be known again."""

    @property
    def size(self) -> int:
        """The length of the sealed body in bytes, but for the digits of its seq."""
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


def encode(event: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Encode a complete event (all keys of the canonical form but `id`, `seq` and `timestamp`): a draft's content and its tail.

    Raises:
        orjson.JSONEncodeError: the value nests deeper than orjson writes (254 levels).
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
        traces=traces(event),
    )


def fingerprint(event: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits that stand for an event as it was sent, whatever the order of its keys.

    Not for what is stored: templates of descriptions and rules of redaction change, and a repetition must still be known. `1` and `1.0`
    are not the same here, as they are not in what is stored.
    """
    given = {name: value for name, value in event.items() if value is not None}
    return blake2b(orjson.dumps(given, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def size_of(event_id: str, encoded: tuple[bytes, bytes]) -> int:
    """Return the length of the sealed body in bytes, but for the digits of its seq."""
    content, tail = encoded
    return len(event_id) + len(content) + len(tail) + 58
