"""What the server derives from an action: its category and a sentence.

The registry restricts nothing: an unknown action has the category `activity`, unless a setting says otherwise, and gets
a plain sentence.
"""

from collections.abc import Set as AbstractSet
from typing import Final

from streamer.core.filter import MAX_VALUE_LENGTH
from streamer.core.known_actions import ACTIONS

AUDIT_ACTIONS: Final = frozenset(name for name, action in ACTIONS.items() if action.category == "audit")
"""Actions about configuration, access and policy."""

OPEN_AUDIT_ACTIONS: Final = frozenset(
    {"member.added", "member.removed", "member.role_changed", "workspace.settings_updated"}
)
"""Audit events that every reader of the workspace can see."""

_SENTENCES: Final = {
    # By position, which takes half the time of by name; this runs for each append.
    name: (action.sentence.replace("{actor}", "{0}").replace("{entity}", "{1}").format, action.noun)
    for name, action in ACTIONS.items()
}


def category_of(action: str, audit: AbstractSet[str] = AUDIT_ACTIONS) -> str:
    """Return the category of an action: `audit` if it is in `audit`, else `activity`."""
    return "audit" if action in audit else "activity"


def check_action(action: str) -> str:
    """Validate an action in a setting. Raises ValueError: it is not a complete action, or no event can have it."""
    if not 1 <= len(action) <= MAX_VALUE_LENGTH or "\0" in action or "*" in action:
        raise ValueError(f"must be a complete action, without *, of 1 to {MAX_VALUE_LENGTH} characters")
    return action


def describe(action: str, actor: str, entity_type: str | None, entity: str | None) -> str:
    """Return the sentence for an event without a description: `Bob updated issue PAP-42`.

    `actor` and `entity` are readable: a name, else an identifier, else an id. Details are left out, because a quoted
    value would have to be redacted by the name of its key.
    """
    known = _SENTENCES.get(action)
    if known is not None:
        sentence, noun = known
        kind = entity_type.replace("_", " ") if entity_type else noun
        return sentence(actor, f"{kind} {entity}" if entity else kind)
    noun, _, verb = action.rpartition(".")
    return " ".join(filter(None, (actor, verb.replace("_", " "), (entity_type or noun).replace("_", " "), entity)))
