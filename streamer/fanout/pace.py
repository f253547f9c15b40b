"""How much of the event loop each account's filters may take. Pure: the caller says what time it is.

A filter that searches long texts takes milliseconds for each event, and one account may have thousands of such filters. After a search its
account's next one waits ten times as long as the search took, so that no account's filters take more than a tenth of the time. Its readers
lag, and read the log if they lag too far; nobody else's do.
"""

SEARCHED_A_SECOND = 500_000_000
"""Steps of searches in a second, about: work is counted rather than measured, so that a busy machine slows nobody's readers."""
SHARE = 0.1
"""Of the time that one account's searches may take."""
FREE = 200_000
"""Steps that are never waited for: they take less than half a millisecond."""


class Paces:
    """When each account may search again."""

    def __init__(self) -> None:
        self._ready_at: dict[str, float] = {}

    def ready_at(self, account: str) -> float:
        """Return when an account may search again; 0 if at any time."""
        return self._ready_at.get(account, 0.0)

    def charge(self, account: str, searched: int, now: float) -> None:
        """Count the steps of searches for an account."""
        if searched <= FREE:
            return
        if account not in self._ready_at:
            self._ready_at = {each: at for each, at in self._ready_at.items() if at > now}
        self._ready_at[account] = max(now, self.ready_at(account)) + searched / SEARCHED_A_SECOND / SHARE
