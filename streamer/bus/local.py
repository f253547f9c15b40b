"""The bus of a single node: a function call."""

from streamer.core.ports import BusListener, Committed


class LocalBus:
    """Passes each commit to the listeners of this process, synchronously and in order."""

    lag = 0.0

    def __init__(self) -> None:
        self._listeners: list[BusListener] = []

    def publish(self, news: Committed) -> None:
        """Announce a commit."""
        for listener in self._listeners:
            listener.hear(news)

    def follow(self, key: int) -> None:
        """Do nothing: there are no other nodes."""

    def leave(self, key: int) -> None:
        """Do nothing."""

    def listen(self, listener: BusListener) -> None:
        """Call `listener` with all news."""
        self._listeners.append(listener)
