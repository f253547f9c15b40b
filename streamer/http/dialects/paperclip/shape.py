"""Events, runs and issues as Paperclip's server writes them. What cannot be known is null; what has no place there stands under `event`."""

from collections.abc import Mapping
from typing import Any

from streamer.core.clock import format_timestamp
from streamer.core.entities import Entity

_ELSEWHERE = (
    *("seq", "category", "actor", "entity", "task_id", "description", "changes"),
    *("occurred_at", "timestamp", "traceparent"),
)

_RUN_KEYS = (
    *("id", "runId", "runtimeMode", "status", "agentId", "agentName", "adapterType"),
    *("startedAt", "finishedAt", "createdAt", "invocationSource", "responsibleUserId", "errorCode"),
    *("usageJson", "resultJson", "logBytes"),
    *("retryOfRunId", "scheduledRetryAt", "scheduledRetryAttempt", "scheduledRetryReason"),
    *("livenessState", "livenessReason", "continuationAttempt", "lastUsefulActionAt", "nextAction"),
    *("wakeCommentIds", "wakeCommentId", "contextCommentId", "contextIssueId"),
    *("execution", "environment", "environmentLease", "retryExhaustedReason"),
)
_UNKNOWN: Mapping[str, Any] = dict.fromkeys(_RUN_KEYS)
"""A run of which nothing is known: the released server's keys, and `id` and `agentName`, which the document promises."""


def shape(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored event in the dialect's shape."""
    return {
        "id": event["id"],
        "companyId": event["workspace_id"],
        **_content(event),
        "createdAt": _milliseconds(event["timestamp"]),
        "event": _rest(event),
    }


def live(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored event as a message of the socket; its payload has the row's id, so that it can be joined to the list."""
    return {
        "id": event["seq"],
        "companyId": event["workspace_id"],
        "type": "activity.logged",
        "createdAt": _milliseconds(event["timestamp"]),
        "payload": {"id": event["id"], **_content(event), "event": _rest(event)},
    }


def run(entity: Entity, agents: Mapping[str, str]) -> dict[str, Any]:
    """Return a run that worked on an issue; `agents`: names by id, for those runs whose own events do not tell one."""
    known = entity.attributes
    return {
        **_UNKNOWN,
        "id": entity.id,
        "runId": entity.id,
        "status": entity.status,
        "agentId": known.get("agent_id"),
        "agentName": known.get("agent_name") or agents.get(known.get("agent_id", "")),
        "startedAt": _milliseconds(known.get("started_at")),
        "finishedAt": _milliseconds(known.get("finished_at")),
        "createdAt": _milliseconds(format_timestamp(entity.created_at)),
        "invocationSource": known.get("invocation_source"),
        "responsibleUserId": known.get("responsible_user_id"),
        "errorCode": known.get("error_code"),
        "retryOfRunId": known.get("retry_of_run_id"),
        "contextIssueId": known.get("issue_id"),
    }


def issue(entity: Entity) -> dict[str, Any]:
    """Return an issue that a run worked on, with its id as the document and as the released server call it."""
    return {
        "id": entity.id,
        "issueId": entity.id,
        "identifier": entity.identifier,
        "title": entity.name,
        "status": entity.status,
        "priority": entity.attributes.get("priority"),
    }


def _content(event: Mapping[str, Any]) -> dict[str, Any]:
    actor, entity = event["actor"], event["entity"] or {}
    return {
        "actorType": actor["type"],
        "actorId": actor["id"],
        "action": event["action"],
        "entityType": entity.get("type"),
        "entityId": entity.get("id"),
        "agentId": event["agent_id"],
        "runId": event["run_id"],
        "responsibleUserId": actor["on_behalf_of"],
        "details": event["details"],
    }


def _rest(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the dialect has no place for, as natively."""
    return {name: event[name] for name in _ELSEWHERE}


def _milliseconds(timestamp: str | None) -> str | None:
    """Cut a timestamp of the log to milliseconds."""
    return None if timestamp is None else f"{timestamp[:23]}Z"
