"""The nodes of an installation, as this one knows them from their beacons."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from streamer.bus.link import Link, State


class Node(NamedTuple):
    """A node, as it describes itself."""

    id: str
    about: Mapping[str, Any]
    is_self: bool = False
    clock_skew_us: int = 0
    """How far its clock is ahead of ours."""


class Cluster:
    """The node itself, and the others that it hears."""

    def __init__(self, node: int, links: Sequence[Link], about: Callable[[], Mapping[str, Any]]) -> None:
        self._node = node
        self._links = links
        self._about = about

    @property
    def carriers(self) -> list[str]:
        """The names of what connects the nodes; none: this is the only one."""
        return [link.carrier.name for link in self._links]

    @property
    def is_proven(self) -> bool:
        """Whether announcements get through. If not, events of other nodes arrive up to a second later."""
        return all(link.state is State.PROVEN for link in self._links)

    def nodes(self) -> list[Node]:
        """Return this node, and then the others by name."""
        peers = {peer.node: peer for link in self._links for peer in link.peers.values()}
        others = [Node(f"{peer.node:016x}", peer.about, clock_skew_us=peer.skew_us) for peer in peers.values()]
        own = Node(f"{self._node:016x}", self._about(), is_self=True)
        return [own, *sorted(others, key=lambda node: (str(node.about.get("name")), node.id))]
