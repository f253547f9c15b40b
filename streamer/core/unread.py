"""The node's memory for events that clients of streams and sockets have not read: one limit, and a share for each account.

Nothing is refused here. A stream that finds no memory waits in its account's line, because its events are still in the log.
"""

from collections.abc import Callable
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from streamer.core.shares import has_room

SMALL: Final = 16 * 1024
"""Bytes that a connection can hold without being counted: they are part of its base cost."""
_LINES_AT_ONCE = 16
"""Waiting accounts that are looked at each time memory is released, besides the account that released it."""


class Unread:
    """Counts unread bytes by account, and serves the accounts that wait in turn."""

    def __init__(self, limit: int) -> None:
        """Create an unused budget of `limit` bytes."""
        self.limit = limit
        self.used = 0
        self._accounts: WeakValueDictionary[str, _Account] = WeakValueDictionary()
        """Each account lives as long as one of its holds."""
        self._waiting: dict[_Account, None] = {}
        """The accounts with a line, in the order in which they are served."""

    def hold(self, account: str) -> "Hold":
        """Return a hold of zero bytes for one connection."""
        found = self._accounts.get(account)
        if found is None:
            found = self._accounts[account] = _Account()
        return Hold(self, found)

    def fits(self, account: "_Account", size: int) -> bool:
        """Return whether an account can hold that many more bytes. An unused budget fits any size, so that nobody waits forever."""
        return not self.used or has_room(self.limit, self.used, account.used, size)

    def move(self, account: "_Account", size: int) -> None:
        """Count bytes in, or out if `size` is negative."""
        self.used += size
        account.used += size
        if size < 0 and self._waiting:
            self.serve(account)

    def join(self, account: "_Account", hold: "Hold", request: "Request") -> None:
        """Put a hold at the end of its account's line."""
        account.line[hold] = request
        self._waiting[account] = None

    def serve(self, first: "_Account") -> None:
        """Grant what fits now: to this account, which released memory, then to the others in turn.

        While less than half of the limit is used, all are looked at: what was released may have been what they waited for.
        """
        if first in self._waiting:
            self._serve_line(first)
        for looked in range(len(self._waiting)):
            if looked >= _LINES_AT_ONCE and self.used >= self.limit // 2:
                break
            account = next(iter(self._waiting))
            self._serve_line(account)
            if account in self._waiting:
                self._waiting[account] = self._waiting.pop(account)  # to the end

    def _serve_line(self, account: "_Account") -> None:
        line = account.line
        while line:
            hold, (size, granted) = next(iter(line.items()))
            if size > max(SMALL, hold.size) and not self.fits(account, size - hold.size):
                return
            del line[hold]
            if size > hold.size:
                hold.resize(size)
            granted()
        del self._waiting[account]


class Request(NamedTuple):
    """What a hold waits for: its size in all, and what to call when it is held."""

    size: int
    granted: Callable[[], None]


class _Account:
    """What one account holds, and its holds that wait, in order of arrival."""

    __slots__ = ("__weakref__", "line", "used")

    def __init__(self) -> None:
        self.used = 0
        self.line: dict[Hold, Request] = {}


class Hold:
    """The unread bytes of one connection; call `release` at the end."""

    __slots__ = ("_account", "_unread", "size")

    def __init__(self, unread: Unread, account: _Account) -> None:
        self._unread = unread
        self._account = account
        self.size = 0

    def has_room(self, size: int) -> bool:
        """Return whether the connection can hold that many bytes in all, without passing another one that waits."""
        return size <= max(SMALL, self.size) or (
            not self._account.line and self._unread.fits(self._account, size - self.size)
        )

    def reserve(self, size: int, granted: Callable[[], None]) -> bool:
        """Hold that many bytes in all: at once, or when the account's line has come to this connection. Returns whether at once.

        Args:
            size: bytes.
            granted: called when they are held later. `withdraw` gives up waiting.
        """
        if not self.has_room(size):
            self._unread.join(self._account, self, Request(size, granted))
            return False
        if size > self.size:
            self.resize(size)
        return True

    def withdraw(self) -> None:
        """Leave the line. The next in line may be smaller, so the line is served."""
        if self._account.line.pop(self, None):
            self._unread.serve(self._account)

    def resize(self, size: int) -> None:
        """Hold this many bytes from now on, even above the limit. Sizes up to `SMALL` are not counted."""
        more = (size if size > SMALL else 0) - self.size
        if more:
            self.size += more
            self._unread.move(self._account, more)

    def release(self) -> None:
        """Hold no memory."""
        self.resize(0)
