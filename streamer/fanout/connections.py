"""All connections of a node: heartbeats, the end of old and stalled ones, and the drain when the server stops.

Connections sit in the slots of one wheel; each second one slot gets its heartbeats.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Collection
from itertools import cycle

from streamer.fanout.connection import Connection
from streamer.fanout.dependencies import Dependencies
from streamer.feed.reasons import Reason
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics

AT_ONCE = 500
"""Connections that get a heartbeat before others have their turn."""
DRAIN_RATE = 500
"""Connections closed each second when the server stops; more if its window is short. They all reconnect at once somewhere."""
TICK_SECONDS = 0.01
"""The shortest time that is worth waiting."""


class Connections:
    """Keeps connections alive, and ends them."""

    def __init__(
        self,
        dependencies: Dependencies,
        metrics: Metrics,
        *,
        heartbeat_seconds: int,
        stall_seconds: float,
        max_age: float,
    ) -> None:
        self._dependencies = dependencies
        self._metrics = metrics
        self._stall_seconds = stall_seconds
        self._max_age = max_age
        self._wheel: list[set[Connection]] = [set() for _ in range(heartbeat_seconds)]
        self._slots = cycle(range(heartbeat_seconds))
        self._beats = cycle(range(heartbeat_seconds))
        self._is_closing = False
        self._is_empty = asyncio.Event()
        """There are no connections. Set only while the server stops."""

    def start(self, loops: Loops) -> None:
        """Start the loop of heartbeats."""
        loops.start("beat", self.beat_next, every=1)

    def __len__(self) -> int:
        return sum(map(len, self._wheel))

    def all(self) -> list[Connection]:
        """Return all connections."""
        return [connection for slot in self._wheel for connection in slot]

    def add(self, connection: Connection, max_seconds: float = math.inf) -> None:
        """Count a connection in. It is closed at the latest after `max_seconds`."""
        connection.slot = next(self._slots)
        self._wheel[connection.slot].add(connection)
        self._dependencies.add(connection, connection.chain)
        age = self._max_age * random.uniform(0.5, 1) if self._max_age else math.inf  # noqa: S311 - jitter, not a secret
        connection.rotates_at = asyncio.get_running_loop().time() + min(age, max_seconds)
        if self._is_closing:
            connection.close(Reason.SHUTDOWN)

    def leave(self, connection: Connection) -> None:
        """Count a connection out."""
        ended_by = connection.closed.word if connection.closed else "left"
        self._metrics.connections_ended.labels(connection.sink.transport, ended_by).inc()
        self._wheel[connection.slot].discard(connection)
        self._dependencies.leave(connection, connection.chain)
        if self._is_closing and not any(self._wheel):
            self._is_empty.set()

    async def beat_next(self) -> None:
        """See to the connections in the wheel's next slot, a bounded part at once."""
        connections = list(self._wheel[next(self._beats)])
        for start in range(0, len(connections), AT_ONCE):
            self.beat(connections[start : start + AT_ONCE])
            await asyncio.sleep(0)

    def beat(self, connections: Collection[Connection]) -> None:
        """Give connections a heartbeat, or close those that are old or stalled."""
        now = asyncio.get_running_loop().time()
        for connection in connections:
            if connection.closed:
                continue  # it is about to leave
            if connection.stalls(now, self._stall_seconds):
                connection.close(Reason.STALLED)
            elif now >= connection.rotates_at:
                connection.close(Reason.ROTATED)
            elif connection.sink.is_ready():
                connection.beat()

    async def drain(self, seconds: float) -> None:
        """Close all connections, and those that still come: spread over that time, or quicker if they are few."""
        self._is_closing = True
        connections = self.all()
        random.shuffle(connections)
        pause = min(seconds / max(len(connections), 1), 1 / DRAIN_RATE)
        loop = asyncio.get_running_loop()
        started = loop.time()
        for index, connection in enumerate(connections):
            ahead = started + index * pause - loop.time()
            if ahead > TICK_SECONDS:
                await asyncio.sleep(ahead)
            connection.close(Reason.SHUTDOWN)

    async def finish(self, seconds: float) -> None:
        """Let clients that `drain` has closed take their last bytes for that long; then cut the rest."""
        for wait in (seconds, TICK_SECONDS):
            if any(self._wheel):
                self._is_empty.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._is_empty.wait(), wait)
            for connection in self.all():
                connection.sink.abort()
