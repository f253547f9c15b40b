"""What an installation of any size needs, from measured unit costs and a simulated placement of readers: `./run bench scale --help`.

The costs are of one core of the machine on which docs/scale.md was measured; give your own with --cost.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

MICRO = 1e-6
DAY = 86_400


@dataclass(frozen=True)
class Demand:
    """What is asked of the installation."""

    workspaces: int = 50_000
    readers: int = 20
    """Subscribers of each workspace."""
    events: float = 2.0
    """Events of each workspace per second."""
    nodes: int = 64
    """Node processes."""
    affinity: float = 0.0
    """Share of connections that the proxy sends to their workspace's own node."""
    batch: float = 1.0
    """Events of each append."""
    body: int = 770
    """Bytes of an event on the bus."""
    frame: int = 900
    """Bytes of an event on a stream."""
    websockets: float = 0.0
    """Share of subscribers on WebSockets."""

    @property
    def subscribers(self) -> int:
        """All open streams."""
        return self.workspaces * self.readers

    @property
    def events_per_second(self) -> float:
        """All events."""
        return self.workspaces * self.events


@dataclass(frozen=True)
class Costs:
    """Unit costs: microseconds of one core, bytes."""

    delivery: float = 6.5
    """One event to one subscriber, when it is not joined with others."""
    append: float = 150
    """One append of one event, without its delivery."""
    batched: float = 46
    """One event of a batch."""
    receive: float = 5
    """One message of the bus in a node that has readers of its workspace."""
    publish: float = 0.6
    """Redis: one message."""
    forward: float = 0.35
    """Redis: one message to one node."""
    store: float = 45
    """PostgreSQL: one event."""
    poll: float = 0.8
    """PostgreSQL: one workspace with readers on one node, per second."""
    wal: float = 2150
    """PostgreSQL: bytes of write-ahead log for one event."""
    disk: float = 1550
    """PostgreSQL: bytes of table and indexes for one event."""
    sse: float = 8
    """KiB of one SSE stream, the kernel's part included."""
    websocket: float = 24
    """KiB of one WebSocket."""


@dataclass(frozen=True)
class Limits:
    """What one instance of each part can take."""

    redis_bytes: float = 500e6
    """Outgoing bytes per second of one Redis."""
    postgresql_events: float = 25_000
    """Events per second of one PostgreSQL."""
    workspace_groups: float = 230
    """Transactions per second of one workspace."""
    group_events: float = 4096
    """Events of one transaction."""
    core: float = 0.7
    """Share of a core that is used in peace, so that a storm of reconnects finds some left."""


@dataclass(frozen=True)
class Placement:
    """Where readers are, after all have connected."""

    holders: float
    """Nodes that have readers of a workspace, on average."""
    heaviest: float
    """Readers of the busiest node, as a multiple of the average."""


@dataclass
class Needs:
    """What the installation needs, in cores, bytes per second and instances."""

    placement: Placement
    cores: dict[str, float] = field(default_factory=dict)
    amounts: dict[str, float] = field(default_factory=dict)
    breaks: list[tuple[str, float]] = field(default_factory=list)
    """How far each part is from its limit, as a share of the limit of one instance; the worst first."""


SAMPLE: Final = 20_000
"""Workspaces that are placed; more do not change the averages."""


def place(demand: Demand, seed: int = 1) -> Placement:
    """Place readers: with affinity on the workspace's own node, else on any."""
    dice = random.Random(seed)  # noqa: S311 - the same result each time
    workspaces = min(demand.workspaces, SAMPLE)
    load = [0] * demand.nodes
    holders = 0
    for _ in range(workspaces):
        home = dice.randrange(demand.nodes)
        found: set[int] = set()
        for _ in range(demand.readers):
            node = home if dice.random() < demand.affinity else dice.randrange(demand.nodes)
            found.add(node)
            load[node] += 1
        holders += len(found)
    average = sum(load) / len(load) or 1
    return Placement(holders / workspaces, max(load) / average)


def needs(demand: Demand, costs: Costs | None = None, limits: Limits | None = None) -> Needs:
    """Return what a demand needs."""
    costs, limits = costs or Costs(), limits or Limits()
    where = place(demand)
    events = demand.events_per_second
    # The node that stores an event serves its own readers without the bus. With affinity it is the workspace's own node.
    by_chance = where.holders * (1 - 1 / demand.nodes)
    remote = demand.affinity * max(where.holders - 1, 0) + (1 - demand.affinity) * by_chance
    receipts = events * remote
    followed = demand.workspaces * where.holders
    append = costs.append if demand.batch <= 1 else costs.batched
    found = Needs(where)
    found.cores = {
        "delivery": events * demand.readers * costs.delivery * MICRO,
        "append": events * append * MICRO,
        "bus in nodes": receipts * costs.receive * MICRO,
        "Redis": (events * costs.publish + receipts * costs.forward) * MICRO,
        "PostgreSQL": (events * costs.store + followed * costs.poll) * MICRO,
    }
    nodes = sum(found.cores[name] for name in ("delivery", "append", "bus in nodes"))
    memory = (costs.sse * (1 - demand.websockets) + costs.websocket * demand.websockets) * 1024
    found.amounts = {
        "deliveries/s": events * demand.readers,
        "cores of nodes": nodes,
        "node processes": nodes / limits.core,
        "memory of streams, GB": demand.subscribers * memory / 1e9,
        "Redis out, MB/s": receipts * demand.body / 1e6,
        "nodes out, MB/s": events * demand.readers * demand.frame / 1e6,
        "WAL, MB/s": events * costs.wal / 1e6,
        "disk, TB a day": events * costs.disk * DAY / 1e12,
        "Redis instances": max(receipts * demand.body / limits.redis_bytes, found.cores["Redis"] / limits.core),
        "PostgreSQL instances": max(events / limits.postgresql_events, 0),
    }
    found.breaks = sorted(
        [
            ("node processes", nodes * where.heaviest / (demand.nodes * limits.core)),
            ("Redis: outgoing bytes", receipts * demand.body / limits.redis_bytes),
            ("Redis: its core", found.cores["Redis"]),
            ("PostgreSQL: events", events / limits.postgresql_events),
            ("one workspace's lock", demand.events / (limits.workspace_groups * limits.group_events)),
        ],
        key=lambda part: -part[1],
    )
    return found


def with_costs(changes: Mapping[str, float]) -> Costs:
    """Return the costs with some of them changed. Raises ValueError: there is no such cost."""
    known = {each.name for each in fields(Costs)}
    for name in changes:
        if name not in known:
            raise ValueError(f"there is no cost {name}; there are {', '.join(sorted(known))}")
    return Costs(**changes)


def table(demand: Demand, found: Needs) -> str:
    """Return what a demand needs, as lines for people."""
    asked = f"{demand.subscribers:,} subscribers of {demand.workspaces:,} workspaces, {demand.events_per_second:,.0f} events/s"
    spread = f"a workspace has readers on {found.placement.holders:.1f} nodes"
    lines = [
        f"{asked}, {demand.nodes} node processes, affinity {demand.affinity:.0%}",
        f"{spread}; the busiest node has {found.placement.heaviest:.2f} times the average",
        "",
        *(f"  {name:24}{cores:12.2f} cores" for name, cores in found.cores.items()),
        "",
        *(f"  {name:24}{amount:14,.1f}" for name, amount in found.amounts.items()),
        "",
        "what breaks first (1.0 is the limit of one instance, or of these nodes):",
        *(f"  {name:24}{share:12.2f}" for name, share in found.breaks),
    ]
    return "\n".join(lines)
