"""What the server makes of an action: whether it is audit, and a sentence.

The registry is never a wall: an action that is not in it is category `activity`, unless a setting says otherwise, and gets a plain
sentence.
"""

from collections.abc import Set as AbstractSet
from typing import Final

from streamer.core.filter import MAX_VALUE_LENGTH
from streamer.core.registry import ACTIONS

AUDIT_ACTIONS: Final = frozenset(name for name, action in ACTIONS.items() if action.category == "audit")
"""Actions about configuration, access and policy."""

OPEN_AUDIT_ACTIONS: Final = frozenset(
    {"member.added", "member.removed", "member.role_changed", "workspace.settings_updated"}
)
"""Audit events that everybody may see who may read the workspace."""

_SENTENCES: Final = {
    # By place, which is half the time of by name: each append makes one.
    name: (action.sentence.replace("{actor}", "{0}").replace("{entity}", "{1}").format, action.noun)
    for name, action in ACTIONS.items()
}


def category_of(action: str, audit: AbstractSet[str] = AUDIT_ACTIONS) -> str:
    """Return the category of an action: `audit` if it is one of these, else `activity`."""
    return "audit" if action in audit else "activity"


def check_action(action: str) -> str:
    """Return an action that a setting names. Raises ValueError: it is no whole action, or none that an event can have."""
    if not 1 <= len(action) <= MAX_VALUE_LENGTH or "\0" in action or "*" in action:
        raise ValueError(f"an action is named whole, without *, by 1 to {MAX_VALUE_LENGTH} characters")
    return action


def describe(action: str, actor: str, entity_type: str | None, entity: str | None) -> str:
    """Make the sentence for an event that came without one: `Bob updated issue PAP-42`.

    `actor` and `entity` are what a person would call them: a name, else an identifier, else an id. Details are left out: what a sentence
    quotes would have to be redacted by the name that it had there.
    """
    known = _SENTENCES.get(action)
    if known is not None:
        sentence, noun = known
        kind = entity_type.replace("_", " ") if entity_type else noun
        return sentence(actor, f"{kind} {entity}" if entity else kind)
    noun, _, verb = action.rpartition(".")
    return " ".join(filter(None, (actor, verb.replace("_", " "), (entity_type or noun).replace("_", " "), entity)))
