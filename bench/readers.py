"""The process of the readers: many streams on raw sockets, each remembered byte for byte.

It does what `bench.sandbox.Worker` is told, in an endless loop over one epoll. A read costs it a few microseconds, so that it
keeps up with a million deliveries a second.
"""

import heapq
import os
import random
import select
import socket
import struct
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from bench.check import BUCKET_NS, Tally, compare, compare_part, total
from bench.sandbox import BenchError, obey
from bench.wire import Blob, Mark, Memory, parse_chunked, parse_sse, parse_websocket

READ_BYTES = 2**16
NUMBER_BYTES = array("q").itemsize
SLOW_BUFFER = 4096
SLOW_TICK = 0.1
PATIENCE_SECONDS = 5.0
"""After so long without an event, what is missing is lost."""
LINGER_SECONDS = 0.1
"""When all is there, readers wait this long for duplicates."""


class Reader:
    """One stream.

    Attributes:
        stream: which of the streams it is; all that read the same one must get the same.
        ask: makes the request, from the position to go on behind (empty: live).
        slow: bytes a second, 0 for as fast as it can.
        before: so many of its stream's events came before it.
        parse: how its bytes are read; None until the response's head is there.
        rest: bytes that are left over.
        blobs: all it got.
        received: how many events are in them.
        gaps: how many the server reported.
        position: where it would resume.
        asked: when its connection was begun.
        synced: it is live.
        is_cut: it ended without our doing, or is a visitor that has left: what it has is all it will get.
    """

    __slots__ = (
        "ask",
        "asked",
        "before",
        "blobs",
        "gaps",
        "is_cut",
        "parse",
        "position",
        "received",
        "rest",
        "slow",
        "socket",
        "stream",
        "synced",
    )

    def __init__(self, stream: str, ask: Callable[[str], bytes], slow: int = 0, before: int = 0) -> None:
        self.stream = stream
        self.ask = ask
        self.slow = slow
        self.before = before
        self.socket: socket.socket | None = None
        self.parse: Memory | None = None
        self.rest = b""
        self.blobs: list[Blob] = []
        self.received = 0
        self.gaps = 0
        self.position = b""
        self.asked = 0
        self.synced = False
        self.is_cut = False


class Readers:
    """All streams of this process."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: list[Reader] = []
        self._open: dict[int, Reader] = {}
        self._connecting: dict[int, Reader] = {}
        self._slow: list[Reader] = []
        self._next_slow = 0.0
        # A blob knows when it came, not to whom: what slow readers get is remembered apart.
        self._quick, self._late = (
            {parse: Memory(parse) for parse in (parse_chunked, parse_sse, parse_websocket)} for _ in range(2)
        )
        self._port = 0
        self._says_synced = True
        self._ask_head, self._ask_resume = "", ("", "")
        self._unsynced = 0
        self._bytes = 0
        self._ended = 0
        """Streams that ended without our doing."""
        self._last = 0
        self._began = time.monotonic_ns(), time.process_time_ns()
        self._synced_after: Counter[int] = Counter()
        """How long streams took from their connection to being live, since `begin`."""
        self._visitors: list[Reader] = []

    def run(self) -> None:
        """Do as told until the orders end."""
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        tasks: dict[str, Callable[..., object]] = {
            "connect": self._connect,
            "begin": self._begin,
            "settle": self._settle,
            "report": self._report,
            "cut": self._cut,
            "return": self._return,
            "release": self._release,
            "churn": self._churn,
        }
        obey(tasks, lambda: self._turn(60))

    # ---- orders

    def _connect(  # noqa: PLR0913 - what an order says
        self,
        *,
        port: int,
        streams: list[tuple[str, str]],
        head: str,
        resume: tuple[str, str],
        before: dict[str, int],
        wave: int = 100,
        slow: int = 0,
        synced: bool = True,
    ) -> int:
        """Open streams, so many at once.

        Args:
            port: of 127.0.0.1.
            streams: the name of each and the target of its request.
            head: of the request, without its first line.
            resume: what to append to the target and to the head to resume after `%s`.
            before: how many events each stream had before.
            wave: how many handshakes are under way at a time.
            slow: bytes a second that each of these takes; 0: all.
            synced: the server says so once a stream is live; else it is when its head is there.
        """
        self._port, self._ask_head, self._ask_resume = port, head, resume
        made = [Reader(stream, self._asking(target), slow, before.get(stream, 0)) for stream, target in streams]
        self._readers += made
        self._says_synced = synced
        self._open_all(made, wave)
        return len(made)

    def _asking(self, target: str) -> Callable[[str], bytes]:
        def ask(position: str) -> bytes:
            query, line = (part.replace("%s", position) if position else "" for part in self._ask_resume)
            return f"GET {target}{query} HTTP/1.1\r\n{self._ask_head}{line}\r\n".encode()

        return ask

    def _begin(self) -> None:
        """Count bytes and time from here."""
        self._bytes = 0
        self._synced_after.clear()
        self._began = time.monotonic_ns(), time.process_time_ns()

    def _settle(self, *, counts: dict[str, int], patience: float = PATIENCE_SECONDS) -> int:
        """Read until each reader has as many events as its stream had, or nothing comes any more. Slow ones are not waited for."""
        waiting = [reader for reader in self._readers if not reader.is_cut and not reader.slow]
        self._last = time.monotonic_ns()
        while waiting := [
            reader for reader in waiting if reader.before + reader.received < counts.get(reader.stream, 0)
        ]:
            self._turn(0.05)
            if time.monotonic_ns() - self._last > patience * 1e9:
                break
        until = time.monotonic() + LINGER_SECONDS
        while (left := until - time.monotonic()) > 0:
            self._turn(left)
        return len(waiting)

    def _report(self, *, expected: dict[str, list[int]], since: int) -> dict[str, Any]:
        """Check all that every reader ever got; count the latencies of the events from number `since` on."""
        wall, cpu = time.monotonic_ns() - self._began[0], time.process_time_ns() - self._began[1]
        streams = {stream: array("q", numbers).tobytes() for stream, numbers in expected.items()}
        tallies: list[Tally] = []
        for reader in self._readers:
            if not reader.slow:
                got = b"".join([blob.numbers for blob in reader.blobs])
                wanted = streams.get(reader.stream, b"")[reader.before * NUMBER_BYTES :]
                # One that ended is counted as such; up to there it had to be exact.
                tallies.append(compare(wanted[: len(got)] if reader.is_cut else wanted, got))
        for visitor in self._visitors:
            got = b"".join([blob.numbers for blob in visitor.blobs])
            tallies.append(compare_part(streams.get(visitor.stream, b""), got))
        return {
            "tally": total(tallies)._asdict(),
            "gaps": sum(reader.gaps for reader in self._readers),
            "ended": self._ended,
            "bytes": self._bytes,
            "busy": cpu / max(wall, 1),
            "cpu": cpu / 1e9,
            "synced_after": self._synced_after,
            **self._latencies(since),
        }

    def _latencies(self, since: int) -> dict[str, Any]:
        """Count when events came: those of the quick readers in buckets, of all only how many and when the last did."""
        quick: Counter[int] = Counter()
        deliveries = last = 0
        for memories, counted in ((self._quick, True), (self._late, False)):
            for memory in memories.values():
                for blob in memory.all:
                    if not blob.times:
                        continue
                    last = max(last, blob.times[-1])
                    for number, due in zip(array("q", blob.numbers), blob.dues, strict=True):
                        if number >= since:
                            deliveries += len(blob.times)
                            if counted:
                                quick.update([(at - due) // BUCKET_NS for at in blob.times])
        return {"latencies": quick, "deliveries": deliveries, "last": last}

    def _cut(self) -> int:
        """Cut all streams at once, as a network does."""
        for reader in list(self._open.values()):
            self._shut(reader)
        return len(self._readers)

    def _return(self, *, wave: int) -> dict[str, int]:
        """Open all streams again, each behind what it has. Returns when the first was asked for and the last was live."""
        began = time.monotonic_ns()
        self._open_all([reader for reader in self._readers if reader.socket is None], wave)
        return {"began": began, "ended": time.monotonic_ns()}

    def _release(self) -> int:
        """Let the slow readers read on as fast as they can."""
        released, self._slow = self._slow, []
        for reader in released:
            reader.slow = 0
            if reader.socket:
                self._epoll.register(reader.socket.fileno(), select.EPOLLIN)
        return len(released)

    def _churn(self, *, streams: list[tuple[str, str]], rate: float, seconds: float, longest: float = 2.0) -> int:
        """Open streams at a rate and close each after up to `longest` seconds, half of them by a reset.

        Some are closed before the response. What a visitor received must be a part of its stream without a gap.
        """
        dice = random.Random(len(self._visitors))  # noqa: S311 - the same in each run
        began, count = time.monotonic(), 0
        leaving: list[tuple[float, int, Reader]] = []
        while (now := time.monotonic()) < began + seconds or leaving:
            if now < began + seconds and count <= (now - began) * rate:
                stream, target = streams[count % len(streams)]
                visitor = Reader(stream, self._asking(target))
                self._open_one(visitor)
                self._visitors.append(visitor)
                heapq.heappush(leaving, (min(now + dice.random() ** 2 * longest, began + seconds), count, visitor))
                count += 1
            while leaving and leaving[0][0] <= now:
                _, number, visitor = heapq.heappop(leaving)
                self._leave(visitor, abruptly=number % 2 == 0)
            self._turn(0.5 / rate)
        return count

    # ---- sockets

    def _open_all(self, readers: Iterable[Reader], wave: int) -> None:
        todo = deque(readers)
        self._unsynced = 0
        progress = time.monotonic(), -1
        while todo or self._unsynced:
            while todo and self._unsynced < wave:
                self._open_one(todo.popleft())
            self._turn(0.05)
            state = len(todo) + self._unsynced
            if state != progress[1]:
                progress = time.monotonic(), state
            elif time.monotonic() - progress[0] > 4 * PATIENCE_SECONDS:
                raise BenchError(f"{state} streams did not open within {4 * PATIENCE_SECONDS:g} s")

    def _open_one(self, reader: Reader) -> None:
        sock = socket.socket()
        sock.settimeout(0)
        if reader.slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        reader.socket, reader.parse, reader.rest, reader.synced = sock, None, b"", False
        reader.asked = time.monotonic_ns()
        self._unsynced += 1
        sock.connect_ex(("127.0.0.1", self._port))
        self._connecting[sock.fileno()] = reader
        self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def _connected(self, descriptor: int) -> None:
        reader = self._connecting.pop(descriptor)
        assert reader.socket  # noqa: S101
        error = reader.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise BenchError(f"cannot connect to port {self._port}: {os.strerror(error)}")
        reader.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader.socket.send(reader.ask(reader.position.decode()))
        self._open[descriptor] = reader
        if reader.slow:
            self._epoll.unregister(descriptor)
            self._slow.append(reader)
        else:
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _shut(self, reader: Reader) -> None:
        assert reader.socket  # noqa: S101
        self._open.pop(reader.socket.fileno(), None)
        reader.socket.close()
        reader.socket = None

    def _leave(self, visitor: Reader, *, abruptly: bool) -> None:
        visitor.is_cut = True
        if visitor.socket is None:
            return
        if not visitor.synced:
            self._unsynced -= 1
        if abruptly:  # a reset instead of an end
            visitor.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connecting.pop(visitor.socket.fileno(), None)
        self._shut(visitor)

    def _turn(self, seconds: float) -> None:
        """Read what there is; wait for it at most so long."""
        if self._slow:
            seconds = min(seconds, SLOW_TICK)
        open_ones = self._open
        for descriptor, _ in self._epoll.poll(seconds):
            reader = open_ones.get(descriptor)
            if reader is not None:
                self._read(reader, READ_BYTES)
            elif descriptor in self._connecting:
                self._connected(descriptor)
        if self._slow and time.monotonic() >= self._next_slow:
            self._next_slow = time.monotonic() + SLOW_TICK
            for reader in list(self._slow):
                # The handshake is not what a slow reader is slow with.
                self._read(reader, int(reader.slow * SLOW_TICK) if reader.synced else READ_BYTES)

    def _read(self, reader: Reader, size: int) -> None:
        try:
            data = reader.socket.recv(size)  # type: ignore[union-attr]
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic_ns()
        if not data:
            self._lost(reader)
            return
        self._bytes += len(data)
        if reader.rest:
            data = reader.rest + data
        if reader.parse is None:
            data = self._head(reader, data)
            if not data:
                return
        assert reader.parse  # noqa: S101
        blob = reader.parse(data)
        reader.rest = blob.rest
        if blob.count:
            blob.times.append(now)
            reader.blobs.append(blob)
            reader.received += blob.count
            self._last = now
        if blob.position is not None:
            reader.position = blob.position
        if blob.marks:
            self._mark(reader, blob.marks)

    def _head(self, reader: Reader, data: bytes) -> bytes:
        """Read the response's head; return what follows it, nothing if it is not there yet."""
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            reader.rest = data
            return b""
        reader.rest = b""
        status, low = head.split(None, 2)[1], head.lower()
        if status not in (b"101", b"200"):
            raise BenchError(f"a stream was refused: {data[:500].decode(errors='replace')}")
        parse = parse_chunked if b"transfer-encoding: chunked" in low else parse_sse
        memories = self._late if reader.slow else self._quick
        reader.parse = memories[parse_websocket if status == b"101" else parse]
        if not self._says_synced:
            self._mark(reader, Mark.SYNCED)
        return rest

    def _mark(self, reader: Reader, marks: Mark) -> None:
        if Mark.SYNCED in marks and not reader.synced:
            reader.synced = True
            self._unsynced -= 1
            self._synced_after[(time.monotonic_ns() - reader.asked) // BUCKET_NS] += 1
        if Mark.GAP in marks:
            reader.gaps += 1

    def _lost(self, reader: Reader) -> None:
        if not reader.synced:
            raise BenchError("a stream ended before it was live")
        self._ended += 1
        if reader in self._slow:
            self._slow.remove(reader)
        self._shut(reader)
        reader.is_cut = True


if __name__ == "__main__":
    Readers().run()
