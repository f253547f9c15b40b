"""The bus of a node: function calls here, and links to other nodes."""

from collections.abc import Sequence

from streamer.bus.link import Link
from streamer.core.ports import BusListener, Committed


class LocalBus:
    """Passes each commit to the listeners of this process, synchronously and in order, and to the links."""

    def __init__(self, links: Sequence[Link] = ()) -> None:
        self.links = links
        """The nearest first."""
        self._listeners: list[BusListener] = []

    def publish(self, news: Committed) -> None:
        """Announce a commit."""
        for listener in self._listeners:
            listener.hear(news)
        for link in self.links:
            link.announce(news)

    def follow(self, key: int) -> None:
        """Receive what other nodes announce of a log from now on."""
        for link in self.links:
            link.follow(key)

    def leave(self, key: int) -> None:
        """Follow a log no longer."""
        for link in self.links:
            link.leave(key)

    def listen(self, listener: BusListener) -> None:
        """Call `listener` with all news."""
        self._listeners.append(listener)
        for link in self.links:
            link.listen(listener)
