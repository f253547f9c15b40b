"""An event as PraisonAI's server writes it: the released server's keys, then those that the platform's document promises."""

from collections.abc import Mapping
from typing import Any

from streamer.core.entities import ISSUE, issue_of
from streamer.http.dialects.praisonai.names import platform_action, resource_type

_ELSEWHERE = ("seq", "category", "entity", "agent_id", "run_id", "task_id", "occurred_at", "traceparent")
"""What neither of them has a place for."""


def shape(event: Mapping[str, Any], *, zone: bool, platform: bool) -> dict[str, Any]:
    """Return a stored event in the dialect's shape.

    Args:
        event: the event as it is stored.
        zone: `created_at` says that it is UTC. The released server's does not, and a sample of its document needs that.
        platform: `action` as the platform's document has it, and no actor without a name.
    """
    actor, entity, action = event["actor"], event["entity"] or {}, event["action"]
    kind = resource_type(action, entity.get("type"))
    return {
        "id": event["id"],
        "workspace_id": event["workspace_id"],
        "entity_type": entity.get("type"),
        "entity_id": entity.get("id"),
        "issue_id": entity.get("id") if entity.get("type") == ISSUE else issue_of(event),
        "actor_type": actor["type"],
        "actor_id": actor["id"],
        "action": platform_action(action) if platform else action,
        "details": event["details"] or {},
        "created_at": _created_at(event["timestamp"], zone=zone),
        "timestamp": event["timestamp"],
        "actor": actor | {"name": actor["name"] or actor["id"]} if platform else actor,
        "resource_type": kind,
        "resource_id": event["workspace_id"] if kind == "workspace" else entity.get("id"),
        "description": event["description"],
        "changes": event["changes"],
        "event": {name: event[name] for name in _ELSEWHERE},
    }


def _created_at(timestamp: str, *, zone: bool) -> str:
    """Write a timestamp as Python's isoformat does: without a fraction if that is zero."""
    text = timestamp.removesuffix("Z").removesuffix(".000000")
    return f"{text}Z" if zone else text
