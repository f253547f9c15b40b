"""The queue of requests for the writer: bounded, with a share for each account; accounts take turns."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from streamer.core.ports import Append, Change
from streamer.core.shares import has_room
from streamer.store.log.held import Held, Lane, Waiting, locks_of

QUANTUM_EVENTS: Final = 128
"""Events of one account before the next account's turn; a single request can have more."""


class Queue:
    """Requests in the order of arrival within each account.

    The bounds count a request until it is answered (`finish`), also while it is being committed or set apart.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.events = 0
        """Events that are not answered yet."""
        self._bytes = 0
        self._arrivals = 0
        self._lanes: dict[str, Lane] = {}
        """By account: those with requests that are not answered yet."""
        self._turns: deque[Lane] = deque()
        """The lanes with waiting requests, in the order of their turns."""
        self._changes: dict[str, list[int]] = {}
        """By workspace: the numbers of the waiting changes, ascending."""

    def __bool__(self) -> bool:
        return bool(self._turns)

    def add(self, request: Append | Change[Any], answer: asyncio.Future[Any], events: int, size: int) -> bool:
        """Add a request. Return False if there is no room for it."""
        account = request.account
        lane = self._lanes.get(account)
        if lane is None:
            lane = Lane(account)
        # If nothing else waits, a request over the limit is accepted: otherwise it would be refused forever.
        if self._turns and not (
            has_room(self._max_events, self.events, lane.events, events)
            and has_room(self._max_bytes, self._bytes, lane.size, size)
        ):
            return False
        self._arrivals += 1
        self._lanes[account] = lane
        self.events += events
        self._bytes += size
        lane.events += events
        lane.size += size
        waiting = Waiting(request, answer, events, size, lane, self._arrivals)
        if not lane.waiting:
            self._turns.append(lane)
        lane.waiting.append(waiting)
        if isinstance(request, Change):
            self._note_change(waiting)
        return True

    def finish(self, waiting: Waiting) -> None:
        """Release the capacity of a request that was taken out."""
        lane = waiting.lane
        self.events -= waiting.events
        self._bytes -= waiting.size
        lane.events -= waiting.events
        lane.size -= waiting.size
        if not lane.events:
            del self._lanes[lane.account]

    def take(self, held: Held, max_events: int, max_bytes: int) -> list[Waiting]:
        """Take the next group, a few requests of each account in turn; requests that meet a lock go to `held`.

        A change forms its own group, because later requests may depend on it.
        """
        group: list[Waiting] = []
        events = size = blocked = 0
        while blocked < len(self._turns):
            lane = self._turns[0]
            count = len(lane.waiting)
            quantum = QUANTUM_EVENTS
            while lane.waiting and quantum > 0:
                first = lane.waiting[0]
                if self._changes and self._follows_change(first):
                    break
                if held and held.concerns(first.request):
                    held.add(self._pop(lane))
                    continue
                is_change = isinstance(first.request, Change)
                events += first.events
                size += first.size
                if group and (is_change or events > max_events or size > max_bytes):
                    return group  # the account keeps its turn
                group.append(self._pop(lane))
                if is_change:
                    self._next_turn()
                    return group
                quantum -= first.events
            blocked = blocked + 1 if count == len(lane.waiting) else 0
            self._next_turn()
        return group

    def put_back(self, released: Sequence[Waiting]) -> None:
        """Queue requests again that were taken, each at its place; they are in the order of arrival."""
        disordered = set()
        for waiting in reversed(released):
            lane = waiting.lane
            if not lane.waiting:
                self._turns.appendleft(lane)
            elif lane.waiting[0].number < waiting.number:
                disordered.add(lane)
            lane.waiting.appendleft(waiting)
            if isinstance(waiting.request, Change):
                self._note_change(waiting)
        for lane in disordered:
            lane.waiting = deque(sorted(lane.waiting, key=lambda waiting: waiting.number))

    def clear(self) -> Iterable[Waiting]:
        """Take everything out permanently."""
        waiting = [each for lane in self._turns for each in lane.waiting]
        self._turns.clear()
        self._changes.clear()
        return waiting

    def _next_turn(self) -> None:
        lane = self._turns.popleft()
        if lane.waiting:
            self._turns.append(lane)

    def _pop(self, lane: Lane) -> Waiting:
        waiting = lane.waiting.popleft()
        if isinstance(waiting.request, Change):
            for workspace in waiting.request.locks:
                numbers = self._changes[workspace]
                numbers.remove(waiting.number)
                if not numbers:
                    del self._changes[workspace]
        return waiting

    def _note_change(self, waiting: Waiting) -> None:
        for workspace in locks_of(waiting.request):
            insort(self._changes.setdefault(workspace, []), waiting.number)

    def _follows_change(self, waiting: Waiting) -> bool:
        """Return whether an earlier change of its workspaces is waiting.

        The oldest request of all never has to wait for one.
        """
        return any(
            numbers[0] < waiting.number
            for workspace in locks_of(waiting.request)
            if (numbers := self._changes.get(workspace))
        )
