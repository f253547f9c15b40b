"""The nodes of an installation, as this one knows them from their beacons."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from streamer.bus.local import LocalBus
from streamer.bus.remote import RemoteBus, State


class Node(NamedTuple):
    """A node, as it describes itself."""

    id: str
    about: Mapping[str, Any]
    is_self: bool = False
    clock_skew_us: int = 0
    """How far its clock is ahead of ours."""


class Cluster:
    """The node itself, and the others that it hears."""

    def __init__(self, bus: LocalBus | RemoteBus, about: Callable[[], Mapping[str, Any]]) -> None:
        self._bus = bus
        self._about = about

    @property
    def carrier(self) -> str | None:
        """The name of what connects the nodes; None: this is the only one."""
        return self._bus.carrier.name if isinstance(self._bus, RemoteBus) else None

    @property
    def is_proven(self) -> bool:
        """Whether announcements get through. If not, events of other nodes arrive up to a second later."""
        return not isinstance(self._bus, RemoteBus) or self._bus.state is State.PROVEN

    def nodes(self) -> list[Node]:
        """Return this node, and then the others by name."""
        if not isinstance(self._bus, RemoteBus):
            return [Node(f"{0:016x}", self._about(), is_self=True)]
        own = Node(f"{self._bus.node:016x}", self._about(), is_self=True)
        others = [
            Node(f"{peer.node:016x}", peer.about, clock_skew_us=peer.skew_us) for peer in self._bus.peers.values()
        ]
        return [own, *sorted(others, key=lambda node: (str(node.about.get("name")), node.id))]
