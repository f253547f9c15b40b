"""Detects filters that ask only for audit events: such reads are themselves recorded (`access.visibility`)."""

import re
from collections.abc import Set as AbstractSet

from streamer.core.actions import AUDIT_ACTIONS
from streamer.core.filter import AUDIT_ONLY, CATEGORIES, Condition, Either, Filter
from streamer.core.known_actions import ACTIONS

AUDIT_TYPES = {"actor_type": frozenset({"key", "policy-engine"}), "entity_type": frozenset({"key"})}
"""Actor and entity types that the known actions use only in audit events."""
_KEY_ID = re.compile(r"key_[0-9a-f]{16}")


def asks_for_audit(selection: Filter, audit_actions: AbstractSet[str] = AUDIT_ACTIONS) -> bool:
    """Return whether a filter asks only for audit events: by category, by actions, or by types or ids that only they have.

    Args:
        selection: the filter. One matching condition is enough, because an event must pass all of them.
        audit_actions: the actions whose events are audit events.
    """
    return _by_category(selection) or any(_only_audit(one, audit_actions) for one in selection.conditions)


def _by_category(selection: Filter) -> bool:
    asked = [one for one in selection.conditions if isinstance(one, Condition) and one.field == "category"]
    passing = [name for name in CATEGORIES if all((name in one.values) is not one.exclude for one in asked)]
    return passing == ["audit"]


def _only_audit(condition: Condition | Either, audit: AbstractSet[str]) -> bool:
    if isinstance(condition, Either):
        return all(one == AUDIT_ONLY or _only_audit(one, audit) for one in condition.conditions)
    if condition.exclude:
        return False
    values = condition.values
    if condition.field == "action":
        known = ACTIONS.keys() | audit
        for group in (*condition.prefixes, *condition.suffixes):
            named = {action for action in known if action.startswith(group) or action.endswith(group)}
            if not named or not named <= audit:
                return False
        # A dialect's `revoked` is the verb alone, or all actions that end with it.
        return values - {group.removeprefix(".") for group in condition.suffixes} <= audit
    if condition.field in {"actor_id", "entity_id"} and all(map(_KEY_ID.fullmatch, values)):
        return True
    return values <= AUDIT_TYPES.get(condition.field, frozenset())
