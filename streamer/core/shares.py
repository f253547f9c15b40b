"""How accounts share limited capacity: one rule for the append queue, the worker's queue and the memory budget."""

from typing import Final

ACCOUNT_PART: Final = 2
"""One account can use half of the capacity."""
RESERVE_PART: Final = 8
"""The last eighth is reserved for accounts that hold little."""
LITTLE_PART: Final = 64
"""An account holds little while it has at most a 64th of the capacity."""


def has_room(limit: int, used: int, own: int, size: int) -> bool:
    """Return whether an account can take more.

    Args:
        limit: the total capacity.
        used: the capacity held by all accounts.
        own: the capacity held by this account. An account that holds nothing can exceed its half, so that no single request is refused forever.
        size: the requested capacity.
    """
    if own + size <= limit // LITTLE_PART:
        return used + size <= limit
    return (not own or own + size <= limit // ACCOUNT_PART) and used + size <= limit - limit // RESERVE_PART
