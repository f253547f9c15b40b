"""Requests whose workspaces are locked by another transaction: they wait separately, so that the writer continues with all others.

A node that stops in the middle of a transaction keeps its locks until PostgreSQL ends the transaction
(`idle_in_transaction_session_timeout`). Only the workspaces it was writing to wait for that.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from streamer.core.ports import Append, Change

HELD_SECONDS = 15.0
"""How long a request waits for a locked workspace: longer than PostgreSQL lets a stopped node keep a lock."""
LOOK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 2.0
"""Longest time between two checks whether the workspaces are free.

It doubles when one seemed free but was not, because that costs all other requests a lock timeout.
"""

HELD: Final = object()
"""The outcome of a request that waits for a locked workspace."""
LOCKED = "another node holds this workspace; nothing of this request was stored"


@dataclass(slots=True, eq=False)
class Lane:
    """The requests of one account in the writer's queue."""

    account: str
    waiting: "deque[Waiting]" = field(default_factory=deque)
    """Queued requests, in the order of arrival."""
    events: int = 0
    """Events of all requests that are not answered yet."""
    size: int = 0
    """Bytes of these requests."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the writer's queue, and the future for its result."""

    request: Append | Change[Any]
    answer: asyncio.Future[Any]
    events: int
    size: int
    lane: Lane
    number: int
    """Its place in the order of arrival, across all accounts."""
    held_at: float = field(default=0.0)
    """When it was first set aside, by the monotonic clock; 0: never."""


def locks_of(request: Append | Change[Any]) -> tuple[str, ...]:
    """Return the workspaces that a request locks."""
    return request.locks if isinstance(request, Change) else (request.workspace,)


class Held:
    """The requests that are set aside, in order."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._workspaces: set[str] = set()
        self._look_at = 0.0
        self._pause = LOOK_SECONDS

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """Set a request aside."""
        now = time.monotonic()
        if waiting.held_at:
            self._pause = min(2 * self._pause, LONGEST_LOOK_SECONDS)
        elif not self._waiting:
            self._pause = LOOK_SECONDS
        if not self._waiting:
            self._look_at = now + self._pause
        waiting.held_at = waiting.held_at or now
        self._waiting.append(waiting)
        self._workspaces.update(locks_of(waiting.request))

    def concerns(self, request: Append | Change[Any]) -> bool:
        """Return whether a request must be set aside, too, because it needs the same lock."""
        return not self._workspaces.isdisjoint(locks_of(request))

    def workspaces(self) -> list[str]:
        """Return the workspaces that requests wait for."""
        return sorted(self._workspaces)

    def is_due(self) -> bool:
        """Return whether the next check is due."""
        return bool(self._waiting) and time.monotonic() >= self._look_at

    async def until(self, wake: asyncio.Event) -> None:
        """Wait for an event, at most until the next check."""
        if not self._waiting:
            await wake.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._look_at - time.monotonic(), 0)):
                await wake.wait()

    def late(self) -> list[Waiting]:
        """Remove and return the requests that have waited too long."""
        before = time.monotonic() - HELD_SECONDS
        return self._take([waiting for waiting in self._waiting if waiting.held_at < before])

    def release(self, locked: Collection[str]) -> list[Waiting]:
        """Remove and return the requests whose workspaces are not locked."""
        self._look_at = time.monotonic() + self._pause
        return self._take([each for each in self._waiting if not set(locked).intersection(locks_of(each.request))])

    def _take(self, taken: list[Waiting]) -> list[Waiting]:
        if taken:
            gone = set(map(id, taken))
            self._waiting = [waiting for waiting in self._waiting if id(waiting) not in gone]
            self._workspaces = {workspace for each in self._waiting for workspace in locks_of(each.request)}
        return taken
