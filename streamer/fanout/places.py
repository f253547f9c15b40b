"""How many subscriptions accounts have open, and how many they can have."""

from collections import Counter

from streamer.core.errors import Overloaded, RateLimited


class Places:
    """Counts subscriptions by account, including those that have not begun yet."""

    def __init__(self, *, each: int, total: int) -> None:
        self._each = each
        self._total = total
        self._by_account: Counter[str] = Counter()
        self._taken = 0

    def take(self, account: str) -> None:
        """Count a subscription in. Raises RateLimited (the account has too many), Overloaded (this node has)."""
        self.check(self._by_account.get(account, 0), self._taken)
        self._by_account[account] += 1
        self._taken += 1

    def leave(self, account: str) -> None:
        """Count a subscription out."""
        self._taken -= 1
        self._by_account[account] -= 1
        if not self._by_account[account]:
            del self._by_account[account]

    def check(self, of_account: int, of_all: int) -> None:
        """Require that an account with that many streams, on a node with that many, can open another one. Raises as `take`."""
        if of_account >= self._each:
            raise RateLimited(f"this credential has {self._each} streams open, which is the limit")
        if of_all >= self._total:
            raise Overloaded(f"this node has {self._total} streams open, which is the limit")

    @property
    def taken(self) -> int:
        """How many subscriptions there are."""
        return self._taken
