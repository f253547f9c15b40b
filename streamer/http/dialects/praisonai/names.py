"""The names of actions and resources: as the log has them (`issue.created`) and as the platform's document does (`created`, of an `issue`)."""

from collections.abc import Collection

from streamer.core.filter import Condition, Either

PLATFORM = {
    "member.added": ("member_added", "workspace"),
    "member.removed": ("member_removed", "workspace"),
    "member.role_changed": ("role_changed", "workspace_member"),
    "workspace.settings_updated": ("settings_updated", "workspace"),
    "issue.agent_assigned": ("agent_assigned", "issue"),
    "issue.agent_completed": ("agent_completed", "issue"),
    "issue.agent_failed": ("agent_failed", "issue"),
    "agent.created": ("agent_created", "agent"),
}
"""Actions whose name there is not just their verb, and the types of resource that they are about."""


def platform_action(action: str) -> str:
    """Return an action's name in the platform's document: its verb, or the name that it has of its own."""
    return PLATFORM[action][0] if action in PLATFORM else action.rpartition(".")[2]


def resource_type(action: str, entity_type: str | None) -> str | None:
    """Return the type of resource that an event is about."""
    return PLATFORM[action][1] if action in PLATFORM else entity_type


def of_actions(names: Collection[str]) -> tuple[Condition, ...]:
    """Return the conditions of the events whose action has one of these names, in either spelling."""
    named = {action for action, (name, _) in PLATFORM.items() if name in names}
    verbs = tuple(sorted({f".{name}" for name in names if "." not in name}))
    found = Condition("action", frozenset({*names, *named}), suffixes=verbs)
    # These have the verb, and another name.
    others = frozenset(action for action in PLATFORM if action.endswith(verbs) and action not in {*names, *named})
    return (found, Condition("action", others, exclude=True)) if others else (found,)


def of_resources(types: Collection[str]) -> tuple[Condition | Either, ...]:
    """Return the conditions of the events that are about one of these types of resource."""
    by_action = frozenset(action for action, (_, kind) in PLATFORM.items() if kind in types)
    by_type = Condition("entity_type", frozenset(types))
    others = Condition("action", frozenset(PLATFORM) - by_action, exclude=True)
    return (Either((by_type, Condition("action", by_action))) if by_action else by_type, others)
