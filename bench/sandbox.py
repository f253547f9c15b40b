"""The place of a measurement: a folder, and processes that end with it."""

import contextlib
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

import streamer
from bench import reaper

TICK_SECONDS = 0.2
"""How often progress is reported while waiting."""


class BenchError(Exception):
    """The measurement cannot go on; the text says why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Sandbox:
    """A folder, and processes in one process group, which the reaper kills."""

    def __init__(self, folder: Path, group: int, tick: Callable[[], None]) -> None:
        self.folder = folder
        self.tick = tick
        """Called a few times a second while waiting."""
        self._group = group
        self.started: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: str, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a process; what it writes to stderr goes to the file `log` in the folder."""
        with (self.folder / log).open("ab") as file:
            options = {"stdin": subprocess.DEVNULL, "stdout": file, **options}
            process = subprocess.Popen(  # noqa: S603 - commands of ours
                command, env=environment, cwd=self.folder, stderr=file, process_group=self._group, **options
            )
        self.started.append(process)
        return process

    def log(self, name: str) -> str:
        """Return the last lines that were written to a log."""
        with contextlib.suppress(OSError):
            return "\n".join((self.folder / name).read_text(errors="replace").splitlines()[-15:])
        return ""

    def until(self, done: Callable[[], bool], what: str, seconds: float = 30, pause: float = 0.02) -> None:
        """Poll until a condition holds. Raises BenchError on a timeout."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise BenchError(f"{what} took more than {seconds:g} s", "Is the machine busy with something else?")
            self.tick()
            time.sleep(pause)


def environment() -> dict[str, str]:
    """Return the environment of processes that run this package: without the settings of another server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    return {**kept, "PYTHONPATH": str(Path(streamer.__file__).resolve().parents[1])}


@contextlib.contextmanager
def sandbox(tick: Callable[[], None] = lambda: None) -> Iterator[Sandbox]:
    """Create a sandbox; at the end its processes are killed and its folder is removed.

    Nothing of what it stored is kept, so nothing has to end in order.
    """
    command = [sys.executable, "-I", reaper.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as process:  # noqa: S603
        assert process.stdin  # noqa: S101
        assert process.stdout  # noqa: S101
        made = Sandbox(Path(process.stdout.readline().decode().rstrip("\n")), process.pid, tick)
        try:
            yield made
        finally:
            process.stdin.close()
            for started in made.started:
                started.wait()
                for pipe in (started.stdin, started.stdout):
                    if pipe is not None:
                        pipe.close()
            process.stdout.read()


class Worker:
    """A process that carries out orders: one JSON line for each order, one for its answer."""

    def __init__(self, sandbox: Sandbox, module: str, name: str) -> None:
        self._sandbox = sandbox
        self._name = name
        self._process = sandbox.start(
            [sys.executable, "-P", "-m", module],
            environment(),
            f"{name}.log",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def send(self, order: str, **arguments: object) -> None:
        """Give an order."""
        assert self._process.stdin  # noqa: S101
        try:
            self._process.stdin.write(orjson.dumps([order, arguments]) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> Any:
        """Wait for the answer to the last order.

        Raises:
            BenchError: it could not be done.
        """
        stdout = self._process.stdout
        assert stdout  # noqa: S101
        # An answer is one line, written at once: nothing is left in the reader's buffer when it has been read.
        while not select.select([stdout], [], [], TICK_SECONDS)[0]:
            self._sandbox.tick()
        line = stdout.readline()
        if not line:
            raise self._ended()
        answer = orjson.loads(line)
        if "error" in answer:
            raise BenchError(answer["error"], answer.get("hint", ""))
        return answer["answer"]

    def call(self, order: str, **arguments: object) -> Any:
        """Give an order and wait for its answer."""
        self.send(order, **arguments)
        return self.answer()

    def _ended(self) -> BenchError:
        return BenchError(f"the {self._name} ended:\n{self._sandbox.log(f'{self._name}.log')}")


def obey(tasks: Mapping[str, Callable[..., object]], rest: Callable[[], object]) -> None:
    """Carry out the orders of the parent process, and end with it.

    Args:
        tasks: what can be ordered; what one returns is the answer.
        rest: what to do while there is no order, until one may have come.
    """
    for order in _orders(sys.stdin.fileno()):
        if order is None:
            rest()
            continue
        name, arguments = order
        try:
            answer = {"answer": tasks[name](**arguments)}
        except BenchError as error:
            answer = {"error": str(error), "hint": error.hint}
        sys.stdout.buffer.write(orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS) + b"\n")
        sys.stdout.buffer.flush()


def _orders(descriptor: int) -> Iterator[tuple[str, dict[str, Any]] | None]:
    """Yield the orders, None while there is none."""
    rest = b""
    os.set_blocking(descriptor, False)
    while True:
        try:
            data = os.read(descriptor, 2**20)
        except BlockingIOError:
            yield None
            continue
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            name, arguments = orjson.loads(line)
            yield name, arguments


def need_files(count: int) -> None:
    """Raise the limit of open files, sockets among them, for this process and its children. Raises BenchError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        raise BenchError(
            f"this takes {count:,} open files, and {hard:,} are allowed here",
            f"Raise the limit (ulimit -Hn {count}, as root), or ask for fewer connections.",
        )
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
