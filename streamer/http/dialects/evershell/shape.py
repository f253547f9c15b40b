"""An event as Evershell writes it, an AuditEvent: what its proxies say of a request stands beside the event's own fields."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from streamer.core.filter import Condition, Either

SYSTEM_TYPES: Final = frozenset({"key", "system"})
"""Types of actors that are nobody's: their user is `system`."""
ACTORS: Final = ("agent", "policy-engine")
"""Types of actors that Evershell tells apart; all others are its control plane."""
CONTROL_PLANE: Final = "control-plane"

_ELSEWHERE = ("seq", "actor", "entity", "agent_id", "run_id", "description", "changes", "occurred_at", "traceparent")
"""What it has no place for."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return type(value) is int


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


PROXY_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "agent_role": _is_text,
    "agent_provider": _is_text,
    "destination": _is_text,
    "method": _is_text,
    "path": _is_text,
    "decision": _one_of("allow", "deny"),
    "reason": _is_text,
    "latency_ms": _is_number,
    "transforms_applied": _is_number,
    "validations_applied": _is_number,
    "capability_name": _is_text,
    "phase": _one_of("request_headers", "request_body", "response_headers", "response_body", "dns"),
    "policy_type": _one_of("http", "dns"),
    "debits": _is_object,
    "debit_ceilings": _is_object,
    "transform_errors": _is_object,
    "credentials_minted": _is_texts,
    "credential_errors": _is_object,
}
"""Fields of an AuditEvent that are kept in `details`, and what their values must be to stand in their place."""


def shape(event: Mapping[str, Any], org_id: str) -> dict[str, Any]:
    """Return a stored event as an AuditEvent of an organisation; what has no place there stands under `event`."""
    details = event["details"] or {}
    lifted = {name: details[name] for name, fits in PROXY_FIELDS.items() if name in details and fits(details[name])}
    actor = event["actor"]
    return {
        "id": event["id"],
        "org_id": org_id,
        "user_id": user_of(actor),
        "timestamp": event["timestamp"],
        "event_type": event["action"],
        "category": event["category"],
        "actor": actor["type"] if actor["type"] in ACTORS else CONTROL_PLANE,
        "workspace_id": event["workspace_id"],
        **({} if event["task_id"] is None else {"task_id": event["task_id"]}),
        **lifted,
        "detail": {name: value for name, value in details.items() if name not in lifted},
        "event": {name: event[name] for name in _ELSEWHERE},
    }


def user_of(actor: Mapping[str, Any]) -> str:
    """Return whose an event is: the person behind the actor, else the actor; `system` if that is nobody."""
    if actor["on_behalf_of"] is not None:
        return str(actor["on_behalf_of"])
    return "system" if actor["type"] in SYSTEM_TYPES else str(actor["id"])


def of_users(users: frozenset[str], *, exclude: bool) -> tuple[Condition | Either, ...]:
    """Return the conditions of the events that are these users' (see `user_of`), or of all others."""
    behind = Condition("on_behalf_of", users)
    nobody_behind = Condition("on_behalf_of", frozenset(), ("",), exclude=True)
    acts = Condition("actor_id", users)
    is_system = Condition("actor_type", SYSTEM_TYPES)
    if not exclude:
        if "system" in users:
            return Either((behind, nobody_behind)), Either((behind, acts, is_system))
        return Either((behind, acts)), Either((behind, nobody_behind)), Either((behind, _negated(is_system)))
    somebody_behind = _negated(nobody_behind)
    if "system" in users:
        return (
            _negated(behind),
            Either((somebody_behind, _negated(acts))),
            Either((somebody_behind, _negated(is_system))),
        )
    return _negated(behind), Either((somebody_behind, _negated(acts), is_system))


def of_actors(actors: frozenset[str], *, exclude: bool) -> tuple[Condition, ...]:
    """Return the conditions of the events of these of Evershell's actors, or of all others."""
    wanted = ({*ACTORS, CONTROL_PLANE} - actors) if exclude else actors
    apart = frozenset(ACTORS) - wanted
    if not wanted:
        return (Condition("actor_type", frozenset(), ("",), exclude=True),)  # no event is without
    if CONTROL_PLANE not in wanted:
        return (Condition("actor_type", frozenset(wanted)),)
    return (Condition("actor_type", apart, exclude=True),) if apart else ()


def _negated(condition: Condition) -> Condition:
    return Condition(condition.field, condition.values, condition.prefixes, not condition.exclude)
