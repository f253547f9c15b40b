"""Workspaces whose rows other transactions hold, and the requests that wait for them.

A group takes the rows that are free and skips the others; the requests for those go back to the queue. So a node holds
its locks only while it works, and nodes whose groups overlap do not wait for each other in turn. A workspace that was
skipped a few times is waited for, before anything else is locked: it gets its turn, and nothing can deadlock.

If even that takes too long, its holder has probably stopped in the middle of a transaction. PostgreSQL ends that
(`idle_in_transaction_session_timeout`); until then, requests for the workspace are set aside, and tried without waiting.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from streamer.core.ports import Append, Change

HELD_SECONDS = 15.0
"""How long a request waits for a locked workspace: longer than PostgreSQL lets a stopped node keep a lock."""
LOOK_SECONDS = 0.1
"""Time between two attempts for the requests that are set aside."""
SKIPS = 3
"""How often a workspace is skipped before it is waited for."""

HELD: Final = object()
"""The outcome of a request whose workspace another transaction holds; nothing of it was stored."""
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
    """When its workspace was first skipped, by the monotonic clock; 0: never."""
    may_be_stored: bool = field(default=False)
    """A commit with it failed, but may have succeeded nevertheless: every id must be looked up, including generated ones."""

    def is_late(self) -> bool:
        """Return whether it has waited too long for a locked workspace, from the first call on."""
        self.held_at = self.held_at or time.monotonic()
        return time.monotonic() - self.held_at > HELD_SECONDS


def locks_of(request: Append | Change[Any]) -> tuple[str, ...]:
    """Return the workspaces that a request locks."""
    return request.locks if isinstance(request, Change) else (request.workspace,)


class Held:
    """The workspaces that were skipped, and the requests that are set aside, in order."""

    def __init__(self) -> None:
        self._skips: dict[str, int] = {}
        """By workspace: how often it was skipped since it was last locked."""
        self._stuck: set[str] = set()
        """Workspaces for which a wait was in vain."""
        self._waiting: list[Waiting] = []
        self._workspaces: set[str] = set()
        """The workspaces of these requests."""
        self._look_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait_for(self, wanted: Sequence[str]) -> list[str]:
        """Return the workspace that a group must wait for, if any; `wanted` are its workspaces, the first one first."""
        patient = [each for each in wanted if each not in self._stuck]
        if len(wanted) > 1:
            patient = [each for each in patient if self._skips.get(each, 0) >= SKIPS]
        return patient[:1]

    def can_wait(self, wanted: Collection[str]) -> bool:
        """Return whether a change can wait for all of its workspaces."""
        return self._stuck.isdisjoint(wanted)

    def note(self, wanted: Sequence[str], skipped: Collection[str]) -> None:
        """Note which workspaces of a group were skipped."""
        for each in wanted:
            if each in skipped:
                self._skips[each] = self._skips.get(each, 0) + 1
            else:
                self._skips.pop(each, None)
                self._stuck.discard(each)
        if len(skipped) == len(wanted):  # the next group can only wait
            self._skips.update(dict.fromkeys(wanted, SKIPS))

    def give_up_on(self, workspaces: Iterable[str]) -> None:
        """Note that a wait for these workspaces was in vain."""
        self._stuck.update(workspaces)

    def takes(self, waiting: Waiting) -> bool:
        """Set a skipped request aside if its workspace is stuck. Return whether it was."""
        if self._stuck.isdisjoint(locks_of(waiting.request)):
            return False
        self.add(waiting)
        return True

    def add(self, waiting: Waiting) -> None:
        """Set a request aside."""
        if not self._waiting:
            self._look_at = time.monotonic() + LOOK_SECONDS
        self._waiting.append(waiting)
        self._workspaces.update(locks_of(waiting.request))

    def concerns(self, request: Append | Change[Any]) -> bool:
        """Return whether a request must be set aside, too, because it needs the same lock."""
        return not self._workspaces.isdisjoint(locks_of(request))

    async def until(self, wake: asyncio.Event) -> None:
        """Wait for an event, at most until the next attempt."""
        if not self._waiting:
            await wake.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._look_at - time.monotonic(), 0)):
                await wake.wait()

    def due(self) -> list[Waiting]:
        """Remove and return all requests if it is time for the next attempt."""
        return self.clear() if self._waiting and time.monotonic() >= self._look_at else []

    def clear(self) -> list[Waiting]:
        """Remove and return all requests."""
        waiting, self._waiting = self._waiting, []
        self._workspaces = set()
        return waiting
