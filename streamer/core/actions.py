"""What the server knows of actions: which are audit, and how a sentence is made of an event.

A registry, never a wall: an action that is not named here is category `activity` and gets a plain sentence.
"""

from typing import Final

AUDIT_ACTIONS: Final = frozenset(
    {
        "agent.key_created",
        "agent.permissions_updated",
        "agent.instructions_path_updated",
        "agent.config_rolled_back",
        "company.budget_updated",
        "agent.budget_updated",
        "key.created",
        "key.revoked",
        "member.added",
        "member.removed",
        "member.role_changed",
        "workspace.created",
        "workspace.settings_updated",
        "workspace.deleted",
        "policy_decision",
        "audit.read",
    }
)
"""Actions about configuration, access and policy."""

OPEN_AUDIT_ACTIONS: Final = frozenset(
    {"member.added", "member.removed", "member.role_changed", "workspace.settings_updated"}
)
"""Audit events that everybody may see who may read the workspace."""

SENTENCES: Final = {
    "issue.checked_out": "{actor} checked out {entity}",
    "issue.comment_added": "{actor} commented on {entity}",
    "issue.attachment_added": "{actor} attached a file to {entity}",
    "issue.attachment_removed": "{actor} removed a file from {entity}",
    "approval.revision_requested": "{actor} asked for a revision of {entity}",
    "approval.comment_added": "{actor} commented on {entity}",
    "agent.budget_limit_reached": "{entity} reached its budget limit",
    "agent.key_created": "{actor} created a key for {entity}",
    "heartbeat.invoked": "{actor} started a run",
    "heartbeat.cancelled": "{actor} cancelled a run",
    "audit.read": "{actor} read the audit events of {entity}",
    "member.added": "{actor} added {entity}",
    "member.role_changed": "{actor} changed the role of {entity}",
    "workspace.settings_updated": "{actor} changed the settings of {entity}",
    "member.removed": "{actor} removed {entity}",
}
"""Sentences of actions whose verb alone does not make one."""


def category_of(action: str) -> str:
    """Return the category of an action: `audit` if the registry says so, else `activity`."""
    return "audit" if action in AUDIT_ACTIONS else "activity"


def describe(action: str, actor: str, entity_type: str | None, entity: str | None) -> str:
    """Make the sentence for an event that came without one: `Bob updated issue PAP-42`.

    `actor` and `entity` are what a person would call them: a name, else an identifier, else an id.
    """
    noun, _, verb = action.rpartition(".")
    thing = " ".join(filter(None, (entity_type or noun.replace("_", " "), entity)))
    sentence = SENTENCES.get(action)
    if sentence is not None:
        return sentence.replace("{actor}", actor).replace("{entity}", thing or "it")
    return " ".join(filter(None, (actor, verb.replace("_", " "), thing)))
