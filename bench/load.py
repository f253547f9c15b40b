"""What is asked of a measurement."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.targets import NO_FILTER


@dataclass(frozen=True)
class Load:
    """What is asked of a measurement. Rates are a second, sizes are bytes; a scenario looks at what it needs."""

    transport: str = "sse"
    subscribers: int = 1000
    rate: float | None = 200
    """Events; None: as many as are answered."""
    seconds: float = 10
    warmup: float = 1
    filters: int = 0
    workspaces: int = 1
    connections: int = 256
    """That append. With few of them, events that are due wait for a free one instead of for the server."""
    batch: int = 1
    slow: float = 0
    """The share of subscribers that are slow."""
    slow_rate: int = 10_240
    events: int = 100_000
    missed: int = 1000
    churn: float = 50
    """Subscribers that come and go."""
    reader_processes: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    database_url: str | None = None
    nodes: int = 1
    """Servers on one database; readers are spread over them, and publishers use the first."""
    workers: int = 1
    """Processes of each server."""

    def streams(self) -> list[tuple[int, int]]:
        """Return the workspace and the filter of each subscriber: both spread evenly."""
        return [
            (number % self.workspaces, number // self.workspaces % self.filters if self.filters else NO_FILTER)
            for number in range(self.subscribers)
        ]
