"""The bus of a single node: a function call."""

from collections.abc import Callable

from streamer.core.ports import Committed


class LocalBus:
    """Passes each commit to the listeners of this process, synchronously and in order."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Committed], None]] = []

    def publish(self, news: Committed) -> None:
        """Announce a commit."""
        for listener in self._listeners:
            listener(news)

    def subscribe(self, listener: Callable[[Committed], None]) -> None:
        """Call `listener` with each commit."""
        self._listeners.append(listener)
