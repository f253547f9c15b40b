"""Measures how long single steps hold the event loop, in CPU time, and names those that hold it too long.

A step is what runs between two turns of the loop: a task until its next wait, or one callback. While it runs, nobody else is served, so
a step of 100 ms delays every client by 100 ms. CPU time is counted rather than wall time: on a busy machine a step may be interrupted,
which is not its fault.

Reading the thread's CPU clock is a system call of 0.6 µs, too much for each step. A step therefore reads the wall clock, which is ten times
cheaper, and the CPU clock is read at most every `SAMPLE_SECONDS`. A step that took long by the wall clock is then known to within that much.
"""

import asyncio
import time
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import structlog

from streamer.observe.metrics import Metrics

SAMPLE_SECONDS = 0.002
"""The longest time before a step from which its CPU time may be counted: the error of a measurement."""
STALL_SECONDS = 0.01
"""CPU time from which on a step is counted in the metric."""
WARN_SECONDS = 0.1
"""CPU time from which on a step is logged."""
LOG_SECONDS = 1
"""At most one warning in so many seconds: a stall that repeats must not fill the log."""

OPERATION: ContextVar[str] = ContextVar("operation")
"""What the running task does, as people know it: a route's operation, a message's type."""

T = TypeVar("T")
P = ParamSpec("P")


class Watchdog:
    """Times the steps of one event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._sampled = 0.0
        """When the CPU clock was read, by the wall clock, and (`_cpu`) what it said."""
        self._cpu = 0.0
        self._logged = -float(LOG_SECONDS)
        self._logger = structlog.get_logger("loop")

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Time each step of each task that the loop makes from now on."""

        def make(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
        ) -> asyncio.Task[T]:
            return asyncio.Task(self.timed(coroutine), loop=loop, **options)

        loop.set_task_factory(make)

    def unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Leave the tasks that the loop makes from now on alone."""
        loop.set_task_factory(None)

    def timed(self, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T]) -> Coroutine[Any, Any, T]:
        """Return a coroutine that does the same, each of its steps timed."""
        made: Any = self._await(coroutine)
        made.__name__, made.__qualname__ = getattr(coroutine, "__name__", ""), getattr(coroutine, "__qualname__", "")
        timed: Coroutine[Any, Any, T] = made
        return timed

    def call(self, operation: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Call a function, timed as a step: for callbacks, which are no tasks."""
        started = self._start()
        try:
            return function(*args, **named)
        finally:
            if time.perf_counter() - started > STALL_SECONDS:
                self._judge(started, operation)

    async def _await(self, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T]) -> T:
        return await self._steps(coroutine)

    @types.coroutine
    def _steps(self, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T]) -> Generator[Any, Any, T]:
        """Drive a coroutine as `await` does (PEP 380), with a look at the clock around each step."""
        clock, send = time.perf_counter, coroutine.send
        value: Any = None
        failure: BaseException | None = None
        while True:
            started = clock()
            if started - self._sampled > SAMPLE_SECONDS:
                self._sampled, self._cpu = started, time.thread_time()
            try:
                waits_for = send(value) if failure is None else coroutine.throw(failure)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                failure = None  # its traceback leads to this frame: together they would be a cycle
                if clock() - started > STALL_SECONDS:
                    self._judge(started, None)
            try:
                value = yield waits_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                failure = error

    def _start(self) -> float:
        started = time.perf_counter()
        if started - self._sampled > SAMPLE_SECONDS:
            self._sampled, self._cpu = started, time.thread_time()
        return started

    def _judge(self, started: float, operation: str | None) -> None:
        """Count a step that seems long; log it if it is very long."""
        now = time.perf_counter()
        cpu = min(time.thread_time() - self._cpu, now - started)
        self._sampled, self._cpu = now, time.thread_time()
        if cpu < STALL_SECONDS:
            return
        self._metrics.loop_stalls.observe(cpu)
        if cpu >= WARN_SECONDS and now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._logger.warning("loop_stalled", operation=operation or _operation(), cpu_ms=round(cpu * 1000))


def _operation() -> str:
    """Return what the running task does."""
    task = asyncio.current_task()
    return OPERATION.get(task.get_name() if task else "unknown")
