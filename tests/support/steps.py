"""Measure single steps of the event loop: a server on its own loop in a thread, with each callback timed.

It measures the CPU time of the loop's thread instead of wall time, so other load on the machine does not count. The
garbage collector does not count, either, because it would also scan the tests' objects.
"""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from streamer.app import Server, running
from streamer.cli.serve import SWITCH_SECONDS
from streamer.settings import Settings

NOTED_SECONDS = 0.005
"""Shorter steps are not recorded."""


@dataclass
class Steps:
    """The long steps of a loop: CPU seconds, and what was called."""

    noted: list[tuple[float, str]] = field(default_factory=list)

    @property
    def longest(self) -> tuple[float, str]:
        """Return the longest step since the last `forget`."""
        return max(self.noted, default=(0.0, "nothing"))

    def forget(self) -> None:
        """Start again without steps."""
        self.noted.clear()


@contextmanager
def _measured(thread: threading.Thread, steps: Steps) -> Iterator[None]:
    """Measure each callback that an event loop runs in this thread."""
    handles: Any = asyncio.Handle
    original = handles._run
    collecting, collected = 0.0, 0.0

    def collector(phase: str, _info: object) -> None:
        nonlocal collecting, collected
        if threading.current_thread() is thread:
            if phase == "start":
                collecting = time.thread_time()
            else:
                collected += time.thread_time() - collecting

    def run(handle: asyncio.Handle) -> None:
        nonlocal collected
        if threading.current_thread() is not thread:
            original(handle)
            return
        collected, started = 0.0, time.thread_time()
        original(handle)
        spent = time.thread_time() - started - collected
        if spent >= NOTED_SECONDS:
            steps.noted.append((spent, repr(handle)))

    handles._run = run
    gc.callbacks.append(collector)
    try:
        yield
    finally:
        gc.callbacks.remove(collector)
        handles._run = original


@contextmanager
def stepped_server(settings: Settings) -> Iterator[tuple[Server, Steps]]:
    """Run a server on a plain asyncio loop in a thread, configured like `serve`, and measure its steps."""
    steps = Steps()
    ready, stopped = threading.Event(), threading.Event()
    found: list[Server] = []
    failed: list[BaseException] = []
    end: list[Any] = []

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        end.append(lambda: loop.call_soon_threadsafe(stop.set))
        async with running(settings) as server:
            found.append(server)
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(serve())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failed.append(error)
        finally:
            ready.set()
            stopped.set()

    thread = threading.Thread(target=work, name="server")
    switch = sys.getswitchinterval()
    with _measured(thread, steps):
        thread.start()
        ready.wait()
        try:
            if found:
                sys.setswitchinterval(SWITCH_SECONDS)
                steps.forget()
                yield found[0], steps
        finally:
            sys.setswitchinterval(switch)
            for stop in end:
                stop()
            thread.join()
    for error in failed:
        raise error
