"""Entities derived from the log: issues, agents' runs, and everything else that events are about.

`facts` extracts facts from one event, `fold` applies one to an entity. Both are pure, so the rows that the writer
maintains (`store.log.entities`) are the fold of the log, however its events were grouped, and can be rebuilt from it.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from streamer.core.clock import LAST, format_timestamp, parse_timestamp

ISSUE: Final = "issue"
RUN: Final = "run"
MAX_TEXT: Final = 512
"""Maximum characters of an id or value; longer ones, empty ones and those with U+0000 are ignored."""
MAX_TYPE: Final = 64
MAX_LINKED: Final = 256
"""Maximum characters of an entity's type, and of linked ids of runs and issues: an index row in PostgreSQL has at most 2.7 KB."""
MAX_LINK_BYTES: Final = 2600
"""Maximum bytes of an issue's and a run's id together: a row of PostgreSQL's indexes holds 2704, including overhead."""

_RUN_ACTIONS: Final = ("heartbeat.", "run.")
_RUN_STATUS: Final = {
    "invoked": "queued",
    "queued": "queued",
    "started": "running",
    "running": "running",
    "succeeded": "succeeded",
    "completed": "succeeded",
    "finished": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "timed_out": "timed_out",
}
"""A run's status by the last word of the action."""
_UNFINISHED: Final = frozenset({"queued", "running"})
_FINAL: Final = frozenset({"succeeded", "completed", "finished", "failed", "cancelled", "canceled", "timed_out"})

_DELETED: Final = {"deleted": True, "created": False}
_NAMING: Final = frozenset({"created", "updated", "imported", "hire_created"})
"""Last words of actions whose details contain the entity's own title or name."""

_RUN_DETAILS: Final = (
    ("invocation_source", ("invocationSource", "source")),
    ("error_code", ("errorCode",)),
    ("retry_of_run_id", ("retryOfRunId",)),
)
_RUN_TIMES: Final = (("started_at", "startedAt"), ("finished_at", "finishedAt"))
_NOTHING: Final[Mapping[str, str]] = {}


class EntityFact(NamedTuple):
    """The facts about one entity in one event; None: the event does not mention it."""

    type: str
    id: str
    identifier: str | None = None
    name: str | None = None
    status: str | None = None
    attributes: Mapping[str, str] = _NOTHING
    deleted: bool | None = None
    """True: it was deleted. False: it was created, perhaps again."""
    agent: Mapping[str, str] = _NOTHING
    """For a run: `agent_id`, `agent_name`, `responsible_user_id`, as far as the event has them."""
    within: bool = False
    """The event happened in this run, so its agent is the run's agent."""
    works: bool = False
    """The run acted on something else, so it is running."""
    issue: str | None = None
    """The issue that this run worked on."""


class Entity(NamedTuple):
    """The state of an entity. Times are microseconds since 1970; `last_seq` is the last event that changed it."""

    type: str
    id: str
    identifier: str | None
    name: str | None
    status: str | None
    attributes: Mapping[str, str]
    created_at: int
    updated_at: int
    deleted_at: int | None
    last_seq: int


def entity_type(name: str) -> str:
    """Return an entity's canonical type: `heartbeat_run` is a second name of `run`."""
    return RUN if name == "heartbeat_run" else name


def issue_of(event: Mapping[str, Any]) -> str | None:
    """Return the issue that an event about something else belongs to, from its details."""
    if (event.get("entity") or _NOTHING).get("type") == ISSUE:
        return None
    details = event.get("details")
    if not details:
        return None
    found = _first(details, "issue_id", "issueId")
    if found is None and event.get("action") == "project.created":
        return _text(details.get("sourceIssueId"))
    return found


def facts(event: Mapping[str, Any]) -> tuple[EntityFact, ...]:
    """Return the facts about entities in a complete event, redacted and with the canonical keys.

    Audit events contain none, because every reader of the workspace can see its entities.
    """
    if event.get("category") != "activity":
        return ()
    entity = event.get("entity") or _NOTHING
    entity_id, run_id = _text(entity.get("id")), _text(event.get("run_id"))
    given_type = entity.get("type")
    kind = entity_type(given_type) if given_type and entity_id and len(given_type) <= MAX_TYPE else None
    about = entity_id if kind == RUN else run_id if event["action"].startswith(_RUN_ACTIONS) else None
    found: list[EntityFact] = []
    if kind is not None and entity_id is not None and kind != RUN:
        # The details of `heartbeat.invoked` about an agent describe the run.
        found.append(_own(event, entity, kind, entity_id) if about is None else EntityFact(kind, entity_id))
    if about is None and run_id is None:
        return tuple(found)
    issue = entity_id if kind == ISSUE else _first(event.get("details") or _NOTHING, "issue_id", "issueId")
    if issue is not None and not _can_be_linked(issue, about or run_id or ""):
        issue = None
    if about is not None:
        found.append(_about_run(event, entity if kind == RUN else _NOTHING, about, issue, within=about == run_id))
    if run_id is not None and run_id != about:
        found.append(EntityFact(RUN, run_id, agent=_agent(event), within=True, works=True, issue=issue))
    return tuple(found)


def _can_be_linked(issue: str, run: str) -> bool:
    """Return whether the link of a run to its issue fits into an index of every database."""
    characters = len(issue) + len(run)
    if len(issue) > MAX_LINKED:
        return False
    return 4 * characters <= MAX_LINK_BYTES or len(issue.encode()) + len(run.encode()) <= MAX_LINK_BYTES


def fold(entity: Entity | None, fact: EntityFact, seq: int, timestamp_us: int) -> Entity:
    """Return an entity after one more event with the facts in `fact`."""
    if entity is None:
        entity = Entity(fact.type, fact.id, None, None, None, _NOTHING, timestamp_us, timestamp_us, None, seq)
    deleted_at = entity.deleted_at
    if fact.deleted is not None:
        deleted_at = timestamp_us if fact.deleted else None
    if fact.type == RUN:
        status, attributes = _run(entity, fact, timestamp_us)
    else:
        status = fact.status or entity.status
        attributes = {**entity.attributes, **fact.attributes} if fact.attributes else entity.attributes
    return Entity(
        entity.type,
        entity.id,
        fact.identifier or entity.identifier,
        fact.name or entity.name,
        status,
        attributes,
        entity.created_at,
        timestamp_us,
        deleted_at,
        seq,
    )


def _run(entity: Entity, fact: EntityFact, timestamp_us: int) -> tuple[str | None, Mapping[str, str]]:
    """Return a run's status and attributes after one more event."""
    known, agent = entity.attributes, fact.agent
    if fact.works and entity.status == "running" and agent.items() <= known.items():
        return entity.status, known  # the most frequent case
    attributes = {**known, **fact.attributes}
    # An agent that cancels another agent's run does not become the run's agent.
    if agent and (fact.within or known.get("agent_id", agent.get("agent_id")) == agent.get("agent_id")):
        if agent.get("agent_id", known.get("agent_id")) != known.get("agent_id"):
            attributes.pop("agent_name", None)
        attributes.update(agent)
    status = fact.status or entity.status
    if fact.works and status in {None, "queued"}:
        status = "running"
    elif entity.status in _FINAL and status in _UNFINISHED:
        status = entity.status
    if status == "running" and "started_at" not in attributes:
        attributes["started_at"] = format_timestamp(timestamp_us)
    elif status in _FINAL and "finished_at" not in attributes:
        attributes["finished_at"] = format_timestamp(timestamp_us)
    return status, attributes


def _own(event: Mapping[str, Any], entity: Mapping[str, Any], kind: str, entity_id: str) -> EntityFact:
    """Return the facts about the event's own entity."""
    details = event.get("details") or _NOTHING
    priority = _told(event, details, "priority")
    # `comment.deleted` about an issue means that a comment was deleted, `issue.document_created` has a document's title:
    # neither applies to the issue.
    noun, _, verb = event["action"].rpartition(".")
    is_its_own = entity_type(noun.rpartition(".")[2]) == kind
    named = is_its_own and verb in _NAMING
    return EntityFact(
        kind,
        entity_id,
        _text(entity.get("identifier")) or _text(details.get("identifier")),
        _text(entity.get("name"))
        or (_text(details.get("issueTitle")) if kind == ISSUE else None)
        or (_told(event, details, "title") or _told(event, details, "name") if named else None),
        _told(event, details, "status"),
        {"priority": priority} if priority else _NOTHING,
        _DELETED.get(verb) if is_its_own else None,
    )


def _about_run(
    event: Mapping[str, Any], entity: Mapping[str, Any], run_id: str, issue: str | None, *, within: bool
) -> EntityFact:
    """Return the facts about the run that an event is about."""
    details = event.get("details") or _NOTHING
    own = _own(event, entity, RUN, run_id)
    attributes = dict(own.attributes)
    if issue is not None:
        attributes["issue_id"] = issue
    for name, keys in _RUN_DETAILS:
        value = _first(details, *keys)
        if value is not None:
            attributes[name] = value
    for name, key in _RUN_TIMES:
        time = _time(details.get(key))
        if time is not None:
            attributes[name] = time
    agent = _agent(event)
    if "agent_id" not in agent:
        of = event.get("entity") or _NOTHING
        agent_id = _text(details.get("agentId")) or (_text(of.get("id")) if of.get("type") == "agent" else None)
        if agent_id is not None:
            agent = {**agent, "agent_id": agent_id}
    action = event["action"]
    by_action = _RUN_STATUS.get(action.rpartition(".")[2]) if action.startswith(_RUN_ACTIONS) else None
    status = own.status or by_action
    return own._replace(status=status, attributes=attributes, agent=agent, within=within, issue=issue)


def _agent(event: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the facts about the agent that caused the event."""
    actor = event.get("actor") or _NOTHING
    acting = _text(actor.get("id")) if actor.get("type") == "agent" else None
    agent_id = _text(event.get("agent_id")) or acting
    found: dict[str, str] = {}
    if agent_id is not None:
        found["agent_id"] = agent_id
        if agent_id == acting and (name := _text(actor.get("name"))):
            found["agent_name"] = name
    if responsible := _text(actor.get("on_behalf_of")):
        found["responsible_user_id"] = responsible
    return found


def _told(event: Mapping[str, Any], details: Mapping[str, Any], name: str) -> str | None:
    """Return a value in Paperclip's form (in `details`), PraisonAI's (in `details.fields`), or from `changes`."""
    value = _text(details.get(name))
    if value is None and isinstance(fields := details.get("fields"), dict):
        value = _text(fields.get(name))
    if value is None and (changes := event.get("changes")) and isinstance(change := changes.get(name), dict):
        value = _text(change.get("to"))
    return value


def _first(details: Mapping[str, Any], *keys: str) -> str | None:
    """Return the first valid value."""
    for key in keys:
        value = _text(details.get(key))
        if value is not None:
            return value
    return None


def _text(value: Any) -> str | None:
    """Return a value if it can be stored: a text of 1-512 characters without U+0000, which PostgreSQL cannot store."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TEXT and "\0" not in value else None


def _time(value: Any) -> str | None:
    """Convert a client's RFC 3339 timestamp to our form, if it is valid."""
    try:
        us = parse_timestamp(_text(value) or "")
    except ValueError:
        return None
    return format_timestamp(us) if 0 <= us <= LAST else None
