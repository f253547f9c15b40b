"""Measures how long single steps hold the event loop, in CPU time, and names those that hold it too long.

A step is the code between two turns of the loop: a task until its next wait, or one callback. While it runs, no other
client is served, so a step of 100 ms delays every client by 100 ms. CPU time is measured rather than wall time, because
on a busy machine a step can be interrupted, which is not its fault.

Reading the thread's CPU clock is a system call of 0.6 µs, too expensive for each step. A step therefore reads the wall
clock, which is ten times cheaper, and the CPU clock is read at most every `SAMPLE_SECONDS`. The CPU time of a step that
was long by the wall clock is then known to within that interval.
"""

import asyncio
import time
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

import structlog

from streamer.observe.metrics import Metrics

SAMPLE_SECONDS = 0.002
"""The longest time before a step that its CPU time can include: the error of a measurement."""
STALL_SECONDS = 0.01
"""Steps with at least this CPU time are counted in the metric."""
WARN_SECONDS = 0.1
"""Steps with at least this CPU time are logged."""
LOG_SECONDS = 1
"""At most one warning in this many seconds: a repeated stall must not fill the log."""

OPERATION: ContextVar[str] = ContextVar("operation")
"""The running task's operation, for people: a route's operation, a message's type."""

T = TypeVar("T")
P = ParamSpec("P")


class Watchdog:
    """Times the steps of one event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.sampled = 0.0
        """When the CPU clock was last read, by the wall clock, and (`_cpu`) its value."""
        self._cpu = 0.0
        self._logged = -float(LOG_SECONDS)
        self._logger = structlog.get_logger("loop")

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Time each step of each task that the loop creates from now on."""

        def make(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
        ) -> asyncio.Task[T]:
            return asyncio.Task(self.timed(coroutine), loop=loop, **options)

        loop.set_task_factory(make)

    def unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop timing tasks that the loop creates from now on."""
        loop.set_task_factory(None)

    def timed(self, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T]) -> Coroutine[Any, Any, T]:
        """Wrap a coroutine so that each of its steps is timed."""
        return _Timed(self, coroutine)

    def call(self, operation: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Call a function, timed as a step: for callbacks, which are not tasks."""
        started = self.begin()
        try:
            return function(*args, **named)
        finally:
            self.end(started, operation)

    def begin(self) -> float:
        """Start a step. Returns the argument for `end`."""
        started = perf_counter()
        if started - self.sampled > SAMPLE_SECONDS:
            self.sample(started)
        return started

    def sample(self, now: float) -> None:
        """Read the CPU clock, at this wall clock time."""
        self.sampled, self._cpu = now, time.thread_time()

    def end(self, started: float, operation: str | None = None) -> None:
        """End a step: count it if it was long, log it if it was very long."""
        now = perf_counter()
        if now - started < STALL_SECONDS:
            return
        cpu = time.thread_time()
        used = min(cpu - self._cpu, now - started)
        self.sampled, self._cpu = now, cpu
        if used < STALL_SECONDS:
            return
        self._metrics.loop_stalls.observe(used)
        if used >= WARN_SECONDS and now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._logger.warning("loop_stalled", operation=operation or _operation(), cpu_ms=round(used * 1000))


class _Timed(Coroutine[Any, Any, T]):
    """A coroutine that reads the clock around each step and otherwise behaves like the wrapped one."""

    __slots__ = ("_coroutine", "_watchdog")

    def __init__(self, watchdog: Watchdog, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T]) -> None:
        self._watchdog = watchdog
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        """Run the next step."""
        # The common case in few calls, because this runs for each step of each task.
        started = perf_counter()
        if started - self._watchdog.sampled > SAMPLE_SECONDS:
            self._watchdog.sample(started)
        try:
            return self._coroutine.send(value)
        finally:
            if perf_counter() - started > STALL_SECONDS:
                self._watchdog.end(started)

    def throw(self, *error: Any) -> Any:
        """Run the next step with an exception."""
        started = self._watchdog.begin()
        try:
            return self._coroutine.throw(*error)
        finally:
            del error  # its traceback refers to this frame: together they would be a cycle
            self._watchdog.end(started)

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        result: T = yield from _awaited(self._coroutine)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # its name, code and frame, for debuggers


@types.coroutine
def _awaited(coroutine: Any) -> Generator[Any, Any, Any]:
    return (yield from coroutine)


def _operation() -> str:
    """Return the running task's operation."""
    task = asyncio.current_task()
    return OPERATION.get(task.get_name() if task else "unknown")
