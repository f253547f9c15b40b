"""The bus of a single node: a function call."""

from collections.abc import Callable

from streamer.core.ports import Committed


class LocalBus:
    """Hands each commit to the listeners of this process, at once and in order."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Committed], None]] = []

    def publish(self, news: Committed) -> None:
        """Tell of a commit."""
        for listener in self._listeners:
            listener(news)

    def subscribe(self, listener: Callable[[Committed], None]) -> None:
        """Have `listener` called with each commit."""
        self._listeners.append(listener)
