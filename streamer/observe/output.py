"""Standard streams that never block: output waits in a bounded queue for a thread that writes it.

A full disk, a pipe whose reader has stopped and a terminal paused by Ctrl-S block only that thread.
"""

import atexit
import io
import os
import queue
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

FLUSH_SECONDS = 1.0
"""How long the process waits at exit for unwritten lines."""
PAUSE_SECONDS = 0.05
"""Pause of the thread after each write: lines that arrive meanwhile are written together, and the writer need not wake the thread."""
CHUNK = 64 * 1024
RETRY_SECONDS = (0.05, 1.0)
"""Pauses between attempts to write: the first one doubles up to the last."""


class Output(io.TextIOBase):
    """A text stream over a descriptor whose `write` returns at once and never fails.

    Lines are written completely and in order. When more than `max_bytes` are queued, further lines are dropped and
    counted; after the queued lines, a line reports how many are missing.
    """

    def __init__(self, stream: TextIO, max_bytes: int) -> None:
        """Replace a stream; the thread ends with the process."""
        self.dropped = 0
        """Number of lines dropped so far."""
        self.notice: Callable[[int], str] = lambda lines: f"{lines} lines of output were dropped"
        """Returns the line, without its end, that replaces dropped ones."""
        self._stream = stream
        self._descriptor = stream.fileno()
        self._max_bytes = max_bytes
        self._size = 0
        self._missing = 0
        self._partial = b""
        # Both can be used from a finalizer that the garbage collector runs in the middle of a write.
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[bytes | Literal["gap", "end"]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"output-{self._descriptor}", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the replaced stream."""
        return self._stream.encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """The error handler for characters that the encoding lacks."""
        return "backslashreplace"

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def flush(self) -> None:
        """Do nothing: queued lines are written as soon as the system accepts them."""

    def write(self, text: str) -> int:
        """Queue the complete lines of a text; the rest waits for its line end."""
        data = text.encode(self.encoding, self.errors)
        with self._lock:
            if self._partial:
                data, self._partial = self._partial + data, b""
            if not data.endswith(b"\n") and len(data) < CHUNK:
                end = data.rfind(b"\n") + 1
                data, self._partial = data[:end], data[end:]
            if not data:
                return len(text)
            # Lines keep their order around a gap: later lines are written after it.
            if self._missing or self._size + len(data) > self._max_bytes:
                if not self._missing:
                    self._queue.put("gap")
                lines = data.count(b"\n") or 1
                self._missing += lines
                self.dropped += lines
            else:
                self._size += len(data)
                self._queue.put(data)
        return len(text)

    def finish(self, deadline: float) -> None:
        """Wait until everything is written, at most until a time of `time.monotonic`."""
        with self._lock:
            if self._partial:
                self.write("\n")
            self._queue.put("end")
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            waiting: list[bytes] = []
            size = 0
            while isinstance(item, bytes):
                waiting.append(item)
                size += len(item)
                if size >= CHUNK:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._write_out(b"".join(waiting))
            with self._lock:
                self._size -= size
            if item == "gap":
                self._write_out(self._gap())
            elif item == "end":
                return
            time.sleep(PAUSE_SECONDS)

    def _gap(self) -> bytes:
        with self._lock:
            lines, self._missing = self._missing, 0
        return f"{self.notice(lines)}\n".encode(self.encoding, self.errors)

    def _write_out(self, data: bytes) -> None:
        """Write to the descriptor, however long that takes."""
        rest, pause = memoryview(data), RETRY_SECONDS[0]
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest[:CHUNK]) :]
                pause = RETRY_SECONDS[0]
            except BlockingIOError:  # another process has made it non-blocking
                waiter = select.poll()
                waiter.register(self._descriptor, select.POLLOUT)
                waiter.poll(RETRY_SECONDS[1] * 1000)
            except OSError:  # a full disk, or a pipe without a reader: both can recover
                time.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS[1])


def never_block(max_bytes: int) -> None:
    """Make sure that writing to stdout and stderr never blocks this process, until it exits."""
    outputs = [Output(sys.stdout, max_bytes), Output(sys.stderr, max_bytes)]
    sys.stdout, sys.stderr = outputs

    def finish() -> None:
        deadline = time.monotonic() + FLUSH_SECONDS
        for output in outputs:
            output.finish(deadline)

    atexit.register(finish)


def takes_escapes(stream: TextIO) -> bool:
    """Return whether a stream accepts escape sequences: it is a terminal, and neither NO_COLOR nor TERM=dumb forbids them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in {"dumb", "unknown"}


def dropped_lines() -> int:
    """Return how many log lines this process has dropped."""
    return sys.stderr.dropped if isinstance(sys.stderr, Output) else 0
