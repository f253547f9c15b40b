"""Prepares well-formed events for the writer."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, sha256
from typing import Any, TypeVar

import orjson

from streamer.core.actions import AUDIT_ACTIONS, category_of, describe
from streamer.core.errors import PayloadTooLarge, PermissionDenied, ValidationError
from streamer.core.event import Draft, draft_of, encode, fingerprint, size_of
from streamer.core.ids import OWN_EVENT_IDS, SYSTEM_WORKSPACE, Uuid7s
from streamer.core.ports import Append, Appended, Writer
from streamer.core.quoting import MAX_NAMED
from streamer.ingest.limits import AppendRate
from streamer.ingest.redact import Redactor
from streamer.ingest.worker import Worker
from streamer.observe.metrics import Metrics

Item = TypeVar("Item")

TURN_SECONDS = 0.003
"""How long events of one batch are prepared before other tasks run."""
LARGE_BYTES = 16 * 1024
"""Events above this size that must be walked, for secrets or for deep nesting, are walked by the worker."""
LONG_REQUEST = 2 * 1024 * 1024
"""Bytes of a request above which the texts of an event are measured before it is encoded: encoding escapes takes 7 ns a byte."""
LIKE_A_SECRET = "has the format of a token, which is never stored"  # noqa: S105 - no password
ACTOR_KEYS = ("type", "id", "name", "role", "on_behalf_of", "ip")
ENTITY_KEYS = ("type", "id", "identifier", "name")
# In the order in which they are written.
_NO_ACTOR: Mapping[str, Any] = dict.fromkeys(ACTOR_KEYS)
_NO_ENTITY: Mapping[str, Any] = dict.fromkeys(ENTITY_KEYS)
_EMPTY: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits: bytes of one event as stored, levels of its details, events of a batch."""

    event_bytes: int
    details_depth: int
    batch_events: int


@dataclass(frozen=True, slots=True)
class Author:
    """The author of an append: the principal's id, the actor that it is bound to, whether it can create the workspace, and the account for the rate."""

    principal: str
    actor: tuple[str, str] | None
    may_create_workspace: bool
    account: str
    name: str | None = None
    """The display name of the bound actor, if the credential has one; it overrides the event's."""
    may_claim: bool = False
    """The binding applies only if the event names no actor."""


_OURSELVES = Author(SYSTEM_WORKSPACE, None, may_create_workspace=False, account=SYSTEM_WORKSPACE)


def _as_it_is(item: Any, _where: str) -> Any:
    return item


class Intake:
    """Turns well-formed native events into drafts and stores them."""

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        writer: Writer,
        metrics: Metrics,
        limits: Limits,
        redactor: Redactor,
        rate: AppendRate,
        *,
        worker: Worker,
        audit_actions: AbstractSet[str] = AUDIT_ACTIONS,
    ) -> None:
        self.rate = rate
        """The append rate of each account.

        Callers check it before they read a request, so that a flood costs nothing.
        """
        self._writer = writer
        self._metrics = metrics
        self._limits = limits
        self._redactor = redactor
        self._worker = worker
        self.audit_actions = audit_actions
        """The actions whose events are audit events."""
        self.max_batch_events = limits.batch_events
        self._ids = Uuid7s()

    async def append(  # noqa: PLR0913 - what an append is made of
        self,
        workspace: str,
        items: Sequence[Item],
        author: Author,
        *,
        event_of: Callable[[Item, str], Mapping[str, Any]] = _as_it_is,
        batch: bool,
        size: int = 0,
        idempotency_key: str | None = None,
        no_details: Mapping[str, Any] | None = _EMPTY,
    ) -> Appended:
        """Store events, all or nothing, in order.

        Return after the commit. However many they are, other tasks can run in between.

        Args:
            workspace: the workspace to append to.
            items: the events, as arguments of `event_of`.
            author: the author of the append.
            event_of: converts an item into an event with the native keys and well-formed values; optional ones can be absent or None.
                It gets the item's place for its errors. Raises ValidationError.
            batch: the request is a list, so errors name its items.
            size: bytes of the request.
            idempotency_key: the request's own key; a repetition gets the same response.
            no_details: the value for an event without `details`: an empty object, or None if a dialect distinguishes the two.

        Raises:
            ValidationError: empty, too many, a duplicate id, no actor, details too deep, a token as an id; the fields are named, at most `MAX_NAMED`.
            PayloadTooLarge: an event is over its limit.
            PermissionDenied: the author is bound to another actor.
            RateLimited: its account has appended too much. Requests that are refused for another reason are not charged.
            Overloaded: the queue of the worker or of the writer is full.
        """
        if not items:
            raise ValidationError({"events": "an empty batch; at least one event is needed"})
        if len(items) > self.max_batch_events:
            raise ValidationError({"events": f"{len(items)} events; at most {self.max_batch_events} in one batch"})
        drafts: list[Draft] = []
        seen: dict[str, int] = {}
        wrong: dict[str, str] = {}
        due = time.perf_counter() + TURN_SECONDS
        for index, item in enumerate(items):
            if len(wrong) > MAX_NAMED:
                break
            if time.perf_counter() > due:
                await asyncio.sleep(0)
                due = time.perf_counter() + TURN_SECONDS
            where = f"events[{index}]" if batch else ""
            try:
                event = event_of(item, where)
                if size > LONG_REQUEST:
                    self._check_texts(event, where)
                draft = await self._draft(workspace, event, author, where, no_details)
                if draft.given_id or idempotency_key is not None:
                    draft.fingerprint = fingerprint(event)
            except ValidationError as error:
                wrong |= error.fields
                continue
            first = seen.setdefault(draft.id, index)
            if first != index:
                wrong[f"{where}.id"] = f"the same id as events[{first}]"
            drafts.append(draft)
        if wrong:
            raise ValidationError(wrong)
        request = Append(
            workspace,
            drafts,
            creator=author.principal if author.may_create_workspace else None,
            account=author.account,
            idempotency=None if idempotency_key is None else _idempotency(idempotency_key, author, drafts),
        )
        self.rate.take(author.account, len(drafts))
        return await self._writer.append(request)

    def tell(self, workspace: str, event: Mapping[str, Any]) -> Draft:
        """Return the draft of one of the server's own events; it can be longer than a client's. Thread-safe."""
        event_id = event.get("id") or OWN_EVENT_IDS + self._ids.make()
        complete = _complete(workspace, event, _OURSELVES, "", self.audit_actions, _EMPTY)
        complete = self._redacted(complete | {"changes": complete["changes"] or _changes(complete["details"])})
        return draft_of(complete, encode(complete), id=event_id, given_id=True)

    async def _draft(
        self,
        workspace: str,
        event: Mapping[str, Any],
        author: Author,
        where: str,
        no_details: Mapping[str, Any] | None,
    ) -> Draft:
        complete = _complete(workspace, event, author, where, self.audit_actions, no_details)
        given_id = event.get("id")
        event_id = given_id or self._ids.make()
        encoded, size = self._encoded(event_id, complete, where)
        # Derived only for an event that is not too large without them, because they can double its size.
        if complete["changes"] is None and (changes := _changes(complete["details"])) is not None:
            complete["changes"] = changes
            encoded, size = self._encoded(event_id, complete, where)
        content, tail = encoded
        # Every level needs a bracket: with fewer brackets than allowed levels, there is nothing to measure.
        if content.count(b"{") + content.count(b"[") > self._limits.details_depth:
            measure = partial(self._check_depth, complete, where)
            await self._worker.run(author.account, size, measure) if size > LARGE_BYTES else measure()
        given = content + tail
        if self._redactor.may_hold_secret(given + given_id.encode() if given_id else given):
            # An id must stay unique, so it cannot be redacted.
            if given_id and self._redactor.holds_token(given_id):
                raise ValidationError({f"{where}.id" if where else "id": LIKE_A_SECRET})
            if self._redactor.holds_token(workspace):
                raise ValidationError({"workspace": LIKE_A_SECRET})
            walk = partial(self._redacted, complete)
            complete = await self._worker.run(author.account, size, walk) if size > LARGE_BYTES else walk()
            encoded = encode(complete)
            self._check_size(event_id, encoded, where)  # the replacement can be longer than the secret
        return draft_of(complete, encoded, id=event_id, given_id=given_id is not None)

    def _redacted(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return a complete event without secrets.

        Key names are judged only where clients choose them, not for the event's own keys.
        """
        found = self._metrics.redactions.inc
        free = {"details", "changes"}
        clean: dict[str, Any] = self._redactor.redact_texts(
            {key: None if key in free else event[key] for key in event}, found=found
        )
        clean["details"] = self._redactor.redact(event["details"], found=found)
        if event["changes"] is not None:
            clean["changes"] = self._redactor.redact_changes(event["changes"], found=found)
        return clean

    def _encoded(self, event_id: str, complete: Mapping[str, Any], where: str) -> tuple[tuple[bytes, bytes], int]:
        """Return the result of `encode` for an event, and its size. Raises ValidationError, PayloadTooLarge."""
        try:
            encoded = encode(complete)
        except orjson.JSONEncodeError:
            raise self._too_deep(where) from None
        return encoded, self._check_size(event_id, encoded, where)

    def _check_size(self, event_id: str, encoded: tuple[bytes, bytes], where: str) -> int:
        size = size_of(event_id, encoded)
        if size > self._limits.event_bytes:
            raise self._too_large(f"{size}", where)
        return size

    def _check_texts(self, event: Mapping[str, Any], where: str) -> None:
        """Refuse an event whose texts alone are too long. Raises PayloadTooLarge."""
        most = self._limits.event_bytes
        if text_size(event, most) > most:
            raise self._too_large(f"more than {most}", where)

    def _too_large(self, size: str, where: str) -> PayloadTooLarge:
        most = self._limits.event_bytes
        return PayloadTooLarge(
            f"{where or 'the event'} has {size} bytes; at most {most} are stored",
            fields={where or "event": f"over {most} bytes"},
        )

    def _check_depth(self, complete: Mapping[str, Any], where: str) -> None:
        for name in ("details", "changes"):
            if depth_of(complete[name]) > self._limits.details_depth:
                raise self._too_deep(where, name)

    def _too_deep(self, where: str, name: str = "details") -> ValidationError:
        field = f"{where}.{name}" if where else name
        return ValidationError({field: f"nested deeper than {self._limits.details_depth} levels"})


def _complete(  # noqa: PLR0913, PLR0917 - what an event is made of
    workspace: str,
    event: Mapping[str, Any],
    author: Author,
    where: str,
    audit_actions: AbstractSet[str],
    no_details: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the event with every key of the canonical form, in order.

    Absent values are derived if possible, except `changes`.
    """
    actor = _actor(event.get("actor"), author, where)
    given_entity = event.get("entity")
    entity = {**_NO_ENTITY, **given_entity} if given_entity else None
    details = event.get("details")
    if details is None:
        details = no_details
    action = event["action"]
    called = entity or {}
    return {
        "workspace_id": workspace,
        "category": event.get("category") or category_of(action, audit_actions),
        "action": action,
        "actor": actor,
        "entity": entity,
        "agent_id": event.get("agent_id"),
        "run_id": event.get("run_id"),
        "task_id": event.get("task_id"),
        "description": event.get("description")
        or describe(
            action,
            actor["name"] or actor["id"],
            called.get("type"),
            called.get("identifier") or called.get("name") or called.get("id"),
        ),
        "details": details,
        "changes": event.get("changes"),
        "occurred_at": event.get("occurred_at"),
        "traceparent": event.get("traceparent"),
    }


def _actor(given: Mapping[str, Any] | None, author: Author, where: str) -> dict[str, Any]:
    actor = {**_NO_ACTOR, **(given or {})}
    prefix = f"{where}." if where else ""
    if author.actor is None:
        if actor["type"] is None or actor["id"] is None:
            missing = {f"{prefix}actor.{key}": "required" for key in ("type", "id") if actor[key] is None}
            raise ValidationError(missing)
        return actor
    bound_type, bound_id = author.actor
    if author.may_claim and actor["type"] is not None and actor["id"] is not None:
        return actor
    if actor["type"] not in {None, bound_type} or actor["id"] not in {None, bound_id}:
        raise PermissionDenied(f"this credential acts as {bound_type} {bound_id} and cannot claim another actor")
    if bound_type == "user" and actor["on_behalf_of"] not in {None, bound_id}:
        raise PermissionDenied(f"this credential acts as user {bound_id}, which cannot act on behalf of another person")
    return actor | {"type": bound_type, "id": bound_id, "name": author.name or actor["name"]}


def _changes(details: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Derive the values before and after from `details._previous`, which Paperclip's clients send."""
    previous = details.get("_previous") if details else None
    if details is None or not isinstance(previous, dict) or not previous:
        return None
    return {name: {"from": before, "to": details.get(name)} for name, before in previous.items()}


def depth_of(value: Any) -> int:
    """Count the levels of nested objects and arrays, without recursion."""
    deepest = 0
    waiting = [(value, 1)]
    while waiting:
        item, level = waiting.pop()
        children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        if children is None:
            continue
        deepest = max(deepest, level)
        waiting.extend((child, level + 1) for child in children)
    return deepest


def text_size(value: Any, most: int) -> int:
    """Count the characters of all texts in a value, without recursion; stop above `most`."""
    size = 0
    waiting = [value]
    while waiting and size <= most:
        item = waiting.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return size


def _idempotency(key: str, author: Author, drafts: Sequence[Draft]) -> tuple[str, str]:
    """Return the idempotency key, made unique per principal, and the fingerprint of the request's content."""
    content = "\n".join([draft.fingerprint or "" for draft in drafts])
    own_key = sha256(f"{author.principal}\0{key}".encode()).hexdigest()
    return own_key, blake2b(content.encode(), digest_size=16).hexdigest()
