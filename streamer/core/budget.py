"""The node's memory budget for slow uploads and unread responses: one total, and a share for each account."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from streamer.core.errors import Overloaded
from streamer.core.shares import ACCOUNT_PART, LITTLE_PART, has_room

REQUEST: Final = "request"
"""Request bodies, compressed and decompressed, until their responses are written."""
RESPONSE: Final = "response"
"""Responses that clients have not read yet."""
MESSAGE: Final = "message"
"""WebSocket messages that are incomplete or queued."""
FILTER: Final = "filter"
"""Long filters of open subscriptions."""
KINDS = (REQUEST, RESPONSE, MESSAGE, FILTER)

ANONYMOUS = ""
"""The account shared by all callers without a credential."""
SMALL = 64 * 1024
"""Bytes that a connection can hold without being counted: they are part of its base cost."""

_ANONYMOUS_PART = 16
"""All callers without a credential together can use a sixteenth of the budget."""


class Budget:
    """Counts the bytes held, by kind and by account."""

    def __init__(self, total: int, refused: Callable[[str], None] = lambda _kind: None) -> None:
        """Create an unused budget.

        Args:
            total: bytes.
            refused: called with the kind each time a request for memory is refused.
        """
        self.total = total
        self.used = dict.fromkeys(KINDS, 0)
        """Bytes in use, by kind."""
        self._little = max(SMALL, total // LITTLE_PART)
        self._sum = 0
        self._accounts: Counter[str] = Counter()
        self._refused = refused

    @property
    def is_used(self) -> bool:
        """Return whether any account holds memory."""
        return self._sum > 0

    def share(self, account: str) -> int:
        """Return how much an account can use."""
        return self.total // (_ANONYMOUS_PART if account == ANONYMOUS else ACCOUNT_PART)

    def check(self, kind: str, account: str, size: int = 1) -> None:
        """Require that this many more bytes are free for an account. Raises Overloaded."""
        own = self._accounts.get(account, 0)
        if own + size > self.share(account) or not has_room(self.total, self._sum, own, size):
            self._refused(kind)
            raise Overloaded("the memory for requests and responses in transit is used up; retry in a second")

    def check_small(self, kind: str, account: str) -> None:
        """Require free memory for work that needs none itself but can have a large response, if the account already holds much.

        Raises Overloaded.
        """
        if self._accounts.get(account, 0) > self._little:
            self.check(kind, account)

    def hold(self, kind: str, account: str) -> "Hold":
        """Return a hold of zero bytes."""
        return Hold(self, kind, account)

    def take(self, kind: str, account: str, size: int) -> None:
        """Take bytes, to be returned with `give_back`. Raises Overloaded."""
        self.check(kind, account, size)
        self._move(kind, account, size)

    def give_back(self, kind: str, account: str, size: int) -> None:
        """Return bytes taken with `take`."""
        self._move(kind, account, -size)

    def _move(self, kind: str, account: str, size: int) -> None:
        self._sum += size
        self.used[kind] += size
        self._accounts[account] += size
        if not self._accounts[account]:
            del self._accounts[account]


class Hold:
    """The memory that one connection holds; call `release` at the end."""

    __slots__ = ("_account", "_budget", "_kind", "size")

    def __init__(self, budget: Budget, kind: str, account: str) -> None:
        self._budget = budget
        self._kind = kind
        self._account = account
        self.size = 0

    def resize(self, size: int, *, force: bool = False) -> None:
        """Hold this many bytes from now on. Sizes up to `SMALL` are not counted.

        Args:
            size: bytes, replacing the previous size.
            force: take them even if the budget is used up, because the work is done and cannot be refused any more.

        Raises:
            Overloaded: no memory is left; the previous size stays held.
        """
        more = (size if size > SMALL else 0) - self.size
        if more > 0 and not force:
            self._budget.check(self._kind, self._account, more)
        if more:
            self._budget._move(self._kind, self._account, more)  # noqa: SLF001 - its other half
            self.size += more

    def become(self, kind: str) -> None:
        """Continue as another kind, with the same size."""
        size = self.size
        self.resize(0)
        self._kind = kind
        self.resize(size, force=True)

    def release(self) -> None:
        """Hold no memory."""
        self.resize(0)
