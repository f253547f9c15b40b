"""How accounts share room that is bounded: one rule for the queue of appends, the worker's queue and the memory budget."""

from typing import Final

ACCOUNT_PART: Final = 2
"""One account can use half of the room."""
RESERVE_PART: Final = 8
"""The last eighth is kept for accounts that hold little."""
LITTLE_PART: Final = 64
"""An account holds little while it has at most a 64th of the room."""


def has_room(limit: int, used: int, own: int, size: int) -> bool:
    """Return whether an account can take more.

    Args:
        limit: the whole room.
        used: what all accounts hold.
        own: what this account holds. An account that holds nothing can exceed its half, so that no single request is refused forever.
        size: what it asks for.
    """
    if own + size <= limit // LITTLE_PART:
        return used + size <= limit
    return (not own or own + size <= limit // ACCOUNT_PART) and used + size <= limit - limit // RESERVE_PART
