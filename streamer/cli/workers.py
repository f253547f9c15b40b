"""`STREAMER_WORKERS`: several server processes on one machine that share a port (SO_REUSEPORT), and the process that looks after them."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import click
import structlog

from streamer.server.listening import bind
from streamer.settings import PREFIX, WORKER_VARIABLE, Settings

VARIABLE: Final = PREFIX + WORKER_VARIABLE
"""Set for workers by the process that starts them: number, port, the descriptor of a socket to that process, and the common folder."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a worker that ended is started again: doubled each time, with jitter, until one has run for a while."""
STEADY_SECONDS = 30.0
"""A worker that ran for this long was healthy."""
READY: Final = b"1"


@dataclass(frozen=True)
class Worker:
    """What a worker is told."""

    number: int
    port: int
    folder: Path
    """Where the workers find each other."""
    descriptor: int
    """A socket to the process that started it: the worker writes `READY` when it serves, and stops when the other end is closed."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        """Return what this process was told; None: it is not a worker."""
        text = environment.get(VARIABLE)
        if text is None:
            return None
        number, port, descriptor, folder = text.split(":", 3)
        return cls(int(number), int(port), Path(folder), int(descriptor))

    def __str__(self) -> str:
        return f"{self.number}:{self.port}:{self.descriptor}:{self.folder}"

    def settings(self, settings: Settings) -> Settings:
        """Return the settings of this worker."""
        name = f"{settings.node_name}-{self.number}"
        return settings.model_copy(update={"port": self.port, "node_name": name[-64:]})

    def say_ready(self, stop: Callable[[], None]) -> None:
        """Report that this worker serves, and call `stop` if the process that started it ends."""
        with contextlib.suppress(OSError):
            os.write(self.descriptor, READY)
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self.descriptor)
            stop()

        loop.add_reader(self.descriptor, ended)


class Workers:
    """Starts workers, starts those again that end, and stops them in turn."""

    def __init__(self, settings: Settings) -> None:
        self._count = settings.workers
        self._drain_seconds = settings.drain_seconds
        self._settings = settings
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._stopping = asyncio.Event()
        self._logger = structlog.get_logger("workers")

    async def run(self) -> int:
        """Run the workers until a signal stops them. Returns the exit code: that of the first worker, if it cannot start."""
        with contextlib.ExitStack() as stack:
            # Without SO_REUSEPORT first: another server may be using the port, and would share it silently.
            sockets = await bind(self._settings.host, self._settings.port)
            port: int = sockets[0].getsockname()[1]
            _close(sockets)
            # Bound, but not listening: the port stays ours while workers end and start.
            stack.callback(_close, await bind(self._settings.host, port, shared=True))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamer-")))
            self._handle_signals()
            # The first one migrates the database and creates the admin key.
            if not await self._start(1, port, folder):
                return await self._processes[1].wait()
            keepers = [asyncio.create_task(self._keep(number, port, folder)) for number in range(1, self._count + 1)]
            await self._stopping.wait()
            await self._stop_all()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            return 0

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stopping.is_set():  # the second signal: at once
                for process in self._processes.values():
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
            self._stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)

    async def _start(self, number: int, port: int, folder: Path) -> bool:
        """Start a worker; return once it serves, or False if it ended before."""
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        with theirs:
            process = self._processes[number] = await asyncio.create_subprocess_exec(
                *command(),
                env={**os.environ, VARIABLE: str(Worker(number, port, folder, theirs.fileno()))},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is for this process, which passes it on in turn
            )
        self._sockets[number] = ours  # open as long as this process lives
        ready = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(ours, 1))
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([ready, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not ready.done():  # stopped before it serves
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        is_ready = await ready == READY
        if is_ready:
            self._logger.info("worker_started", worker=number, pid=process.pid)
        return is_ready

    async def _keep(self, number: int, port: int, folder: Path) -> None:
        """Start a worker again each time that it ends, until all are stopped."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while not self._stopping.is_set():
            started = loop.time()
            code: int | str
            try:
                if number not in self._processes:
                    await self._start(number, port, folder)
                code = await self._processes[number].wait()
            except OSError as error:  # no process can be started: no memory, too many processes
                code = error.strerror or str(error)
            self._processes.pop(number, None)
            if (ours := self._sockets.pop(number, None)) is not None:
                ours.close()
            if self._stopping.is_set():
                return
            if loop.time() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE
            self._logger.warning("worker_ended", worker=number, code=code, restart_seconds=round(pause, 1))
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _stop_all(self) -> None:
        """Stop the workers in turn: each one's readers find the others. All together take at most the notice and two drain windows."""
        processes = list(self._processes.values())
        click.echo(f"stopping {len(processes)} workers in turn (again to stop at once)", err=True)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._drain_seconds / len(processes))
        await asyncio.gather(*(process.wait() for process in processes))


def command() -> Sequence[str]:
    """Return the command that started this process."""
    return [sys.executable, "-P", "-m", "streamer", *sys.argv[1:]]


def _close(sockets: Sequence[socket.socket]) -> None:
    for bound in sockets:
        bound.close()
