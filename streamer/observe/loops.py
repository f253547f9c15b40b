"""The node's background loops. Each continues after any error, and its progress is visible.

A loop is a function that runs one turn. An exception is logged once, counted, and followed by a growing pause; then the
next turn runs. So no database error and no bug ends a loop silently. Without the head poll, for example, readers would
wait indefinitely for events that other nodes stored.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from streamer.core.errors import StreamerError
from streamer.observe.metrics import Metrics

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between a failed turn and the next one: the first pause doubles with each failure up to the longest."""
STUCK_SECONDS = 60
"""A loop whose turn takes longer counts as dead: no database statement is allowed to take that long."""
TICK_SECONDS = 1

Turn = Callable[[], Awaitable[float | None]]
"""Runs one turn. Returns the seconds until the next turn, if they vary."""


@dataclass(slots=True)
class Loop:
    """One loop and its state."""

    name: str
    turn: Turn
    every: float
    """Seconds from the end of a turn to the next one."""
    nudge: Callable[[], None] | None
    """Ends a turn that waits for work."""
    turned_at: float
    """When the last turn ended, and (`due_at`) when the next one should start, by the monotonic clock."""
    due_at: float
    failing_since: float | None = None
    pause: float = FIRST_PAUSE
    task: asyncio.Task[None] = field(init=False)


class Loops:
    """Runs the loops of one node."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._loops: dict[str, Loop] = {}
        self._logger = structlog.get_logger("loops")

    def start(self, name: str, turn: Turn, *, every: float = 0, nudge: Callable[[], None] | None = None) -> None:
        """Start a loop.

        Args:
            name: its name in logs and metrics.
            turn: runs one turn.
            every: seconds from the end of a turn to the next one, unless the turn returns another value.
            nudge: ends a turn that waits for work, so that an idle loop is not considered dead. It is called every second.
        """
        if not self._loops:
            self._start("ticker", self._tick, TICK_SECONDS, None)
        self._start(name, turn, every, nudge)

    def _start(self, name: str, turn: Turn, every: float, nudge: Callable[[], None] | None) -> None:
        now = self._clock()
        loop = self._loops[name] = Loop(name, turn, every, nudge, now, now)
        loop.task = asyncio.create_task(self._run(loop), name=loop.name)
        self._metrics.loop_last_turn.labels(loop.name).set_function(lambda: self._clock() - loop.turned_at)
        self._metrics.loop_failures.labels(loop.name)

    async def stop(self, name: str | None = None) -> None:
        """Stop one loop, or all; return when they have ended."""
        stopped = [loop for loop in list(self._loops.values()) if name in {None, loop.name}]
        for loop in stopped:
            loop.task.cancel()
            del self._loops[loop.name]
            self._metrics.loop_last_turn.remove(loop.name)
        if stopped:
            await asyncio.wait([loop.task for loop in stopped])

    def names(self) -> list[str]:
        """Return the names of the started loops."""
        return sorted(self._loops)

    def dead(self) -> list[str]:
        """Return the names of loops that have ended, or have not finished a turn for too long."""
        now = self._clock()
        return [loop.name for loop in self._loops.values() if loop.task.done() or now - loop.due_at > STUCK_SECONDS]

    async def _run(self, loop: Loop) -> None:
        while True:
            pause: float | None = None
            try:
                pause = await loop.turn()
            except asyncio.CancelledError as error:
                if loop.task.cancelling():
                    raise
                self._failed(loop, error)  # something that the turn waited for was cancelled, not the loop
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
                self._failed(loop, error)
            else:
                self._went_well(loop)
            if pause is None:
                pause = loop.every
            if loop.failing_since is not None:
                pause = max(pause, loop.pause)
            loop.turned_at = self._clock()
            loop.due_at = loop.turned_at + pause
            if pause:
                await asyncio.sleep(pause)

    def _failed(self, loop: Loop, error: BaseException) -> None:
        self._metrics.loop_failures.labels(loop.name).inc()
        if loop.failing_since is not None:
            loop.pause = min(2 * loop.pause, LONGEST_PAUSE)
            return
        loop.failing_since = self._clock()
        if isinstance(error, StreamerError):
            self._logger.warning("loop_failing", loop=loop.name, code=error.code)
        else:
            self._logger.error("loop_failing", loop=loop.name, exc_info=error)

    def _went_well(self, loop: Loop) -> None:
        if loop.failing_since is None:
            return
        seconds = round(self._clock() - loop.failing_since, 1)
        loop.failing_since, loop.pause = None, FIRST_PAUSE
        self._logger.info("loop_recovered", loop=loop.name, seconds=seconds)

    async def _tick(self) -> None:
        """Nudge the loops that wait for work, and measure how late this turn runs."""
        for loop in list(self._loops.values()):
            if loop.nudge is not None:
                loop.nudge()
        began = self._clock()
        await asyncio.sleep(TICK_SECONDS / 10)
        self._metrics.loop_lag.observe(max(self._clock() - began - TICK_SECONDS / 10, 0))
