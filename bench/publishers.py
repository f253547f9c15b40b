"""The process of the publishers: appends over keep-alive connections, each event at its intended time.

Open loop: what is due is sent, whatever became of what was sent before. When all connections are busy it waits, and its latency
counts from the intended time all the same. Without a rate it is a closed loop: a connection sends its next as soon as it is answered.
"""

import random
import re
import select
import socket
import sys
import time
from collections import Counter, deque
from itertools import accumulate
from typing import Any

from bench.check import BUCKET_NS
from bench.events import values
from bench.http_client import complete
from bench.sandbox import BenchError, obey

ANSWER_SECONDS = 30.0
PIPELINED = 256
"""Requests on their way over a connection that takes all of a workspace."""
_SEQ = re.compile(rb'"seq":(\d+)')
_NUMBER = re.compile(rb'"seq":(\d+),.*?"details":\{"n":(-?\d+),')
_OK = (b"200", b"201", b"202")


class Request:
    """Events on their way: to which workspace, their numbers, and when the last was due."""

    __slots__ = ("data", "due", "numbers", "workspace")

    def __init__(self, workspace: int, numbers: range, due: int, data: bytes) -> None:
        self.workspace = workspace
        self.numbers = numbers
        self.due = due
        self.data = data


class Connection:
    """One keep-alive connection and the requests that are on their way over it, oldest first."""

    __slots__ = ("buffer", "lane", "requests", "socket", "unsent")

    def __init__(self, lane: "Lane") -> None:
        self.lane = lane
        self.requests: deque[Request] = deque()
        self.buffer = b""
        self.unsent = b""
        self.socket: socket.socket


class Lane:
    """Requests that wait for one of these connections."""

    __slots__ = ("idle", "waiting")

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        self.waiting: deque[Request] = deque()


class Publishers:
    """All connections to one server."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._lanes: list[Lane] = []
        self._forget()

    def _forget(self) -> None:
        self._acked: dict[int, list[tuple[int, int]]] = {}
        self._latencies: Counter[int] = Counter()
        self._failed = self._requests = self._waited = self._last = 0
        self._why = ""

    def run(self) -> None:
        """Do as told until the orders end."""
        obey({"connect": self._connect, "publish": self._publish}, lambda: select.select([sys.stdin.fileno()], [], []))

    # ---- orders

    def _connect(  # noqa: PLR0913 - what an order says
        self,
        *,
        port: int,
        path: str,
        head: str,
        body: str,
        connections: int,
        ordered: bool,
        workspaces: int,
        filters: int,
    ) -> int:
        """Open the connections.

        Args:
            port: of 127.0.0.1.
            path: where a workspace's events are sent to, with a `%d` for its number.
            head: of each request, without the first line and the length.
            body: a pattern of `bench.events`.
            connections: how many.
            ordered: the events of a workspace all take one connection, which does not wait for an answer before the next (RFC 9112, 9.3.2).
            workspaces: how many of them the events are spread over, by Zipf's law: the k-th gets 1/k of the first.
            filters: how many filters the events are spread over, in turn.
        """
        self._port, self._path, self._head, self._body = port, path, head, body.encode()
        self._workspaces, self._filters = workspaces, max(filters, 1)
        self._weights = list(accumulate(1 / rank for rank in range(1, workspaces + 1)))
        self._dice = random.Random(1)  # noqa: S311 - the same load in each run
        self._depth = PIPELINED if ordered else 1
        self._lanes = [Lane() for _ in range(connections if ordered else 1)]
        for number in range(connections):
            connection = Connection(self._lanes[number % len(self._lanes)])
            self._dial(connection)
            connection.lane.idle.append(connection)
        return connections

    def _publish(  # noqa: PLR0913 - what an order says
        self,
        *,
        first: int,
        rate: float | None = None,
        seconds: float | None = None,
        count: int | None = None,
        batch: int = 1,
        each: bool = False,
    ) -> dict[str, Any]:
        """Send events, numbered from `first`, for some seconds or up to a count; return the results.

        Args:
            first: the first one's number.
            rate: events a second; None: closed loop.
            seconds: for how long.
            count: how many events, instead of `seconds`.
            batch: events in a request.
            each: one to each workspace in turn, not by Zipf's law.
        """
        self._forget()
        began, cpu = time.monotonic_ns(), time.process_time_ns()
        if count is None:
            count = round(rate * seconds) // batch * batch if rate and seconds else sys.maxsize
        until = began + int(seconds * 1e9) if seconds and rate is None else sys.maxsize
        sent = 0
        while sent < count and (now := time.monotonic_ns()) < until:
            if rate is None:
                due = now
                lane = self._lanes[0]
                ready = bool(lane.idle) and not lane.waiting
            else:
                due = began + int((sent + batch - 1) * 1e9 / rate)
                ready = due <= now
            if ready:
                size = min(batch, count - sent)
                self._send(self._request(range(first + sent, first + sent + size), due, each=each))
                sent += size
                if rate is not None:
                    continue
            wait = 0.0 if ready else 0.05 if rate is None else max(due - time.monotonic_ns(), 0) / 1e9
            self._turn(wait)
        sending = time.monotonic_ns()
        while self._is_busy():
            self._turn(0.05)
            if time.monotonic_ns() - max(self._last, sending) > ANSWER_SECONDS * 1e9:
                self._give_up()
        return {
            "began": began,
            "ended": self._last,
            "sent": sent,
            "requests": self._requests,
            "failed": self._failed,
            "waited": self._waited,
            "why": self._why,
            "acked": {workspace: [number for _, number in sorted(pairs)] for workspace, pairs in self._acked.items()},
            "latencies": self._latencies,
            "busy": (time.process_time_ns() - cpu) / max(time.monotonic_ns() - began, 1),
            "cpu": (time.process_time_ns() - cpu) / 1e9,
        }

    # ---- requests

    def _request(self, numbers: range, due: int, *, each: bool) -> Request:
        if each:
            workspace = numbers[0] % self._workspaces
        elif self._workspaces == 1:
            workspace = 0
        else:
            (workspace,) = self._dice.choices(range(self._workspaces), cum_weights=self._weights)
        bodies = [self._body % values(number, due, self._filters) for number in numbers]
        body = bodies[0] if len(bodies) == 1 else b"[%b]" % b",".join(bodies)
        path = self._path % workspace if "%" in self._path else self._path
        head = f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        return Request(workspace, numbers, due, head.encode() + body)

    def _send(self, request: Request) -> None:
        lane = self._lanes[request.workspace % len(self._lanes)]
        if lane.idle:
            self._begin(lane.idle[-1], request)
        else:
            self._waited += len(request.numbers)
            lane.waiting.append(request)

    def _begin(self, connection: Connection, request: Request) -> None:
        connection.requests.append(request)
        if len(connection.requests) == self._depth:
            connection.lane.idle.pop()  # it is the last one
        if connection.unsent:
            connection.unsent += request.data
        else:
            connection.unsent = request.data
            self._flush(connection)
            if connection.unsent:
                self._epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, connection: Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._hung_up(connection, str(error))
            return
        connection.unsent = connection.unsent[sent:]

    def _turn(self, seconds: float) -> None:
        """Take the answers that are there; wait for one at most so long."""
        # epoll waits by the millisecond, select by the microsecond; and an epoll can be waited for.
        if not select.select([self._epoll], [], [], seconds)[0]:
            return
        for descriptor, events in self._epoll.poll(0):
            connection = self._connections.get(descriptor)
            if connection is None:
                continue
            if events & select.EPOLLOUT:
                self._flush(connection)
                if not connection.unsent:
                    self._epoll.modify(connection.socket.fileno(), select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(2**18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hung_up(connection, "the server hung up")
            return
        connection.buffer += data
        while size := complete(connection.buffer):
            text, connection.buffer = connection.buffer[:size], connection.buffer[size:]
            was_full = len(connection.requests) == self._depth
            self._answered(connection.requests.popleft(), text)
            if was_full:
                self._free(connection)

    def _free(self, connection: Connection) -> None:
        """Note that a connection may take requests again, and give it one that waits."""
        lane = connection.lane
        lane.idle.append(connection)
        if lane.waiting:
            self._begin(connection, lane.waiting.popleft())

    def _answered(self, request: Request, text: bytes) -> None:
        if text[9:12] not in _OK:
            self._fail(request, text.decode(errors="replace"))
            return
        self._last = time.monotonic_ns()
        self._requests += 1
        self._latencies[(self._last - request.due) // BUCKET_NS] += 1
        acked = self._acked.setdefault(request.workspace, [])
        if len(request.numbers) == 1:
            found = _SEQ.search(text)
            # Who gives no seqs gets a workspace's events one after the other: they are in the order of their answers.
            acked.append((int(found[1]) if found else len(acked), request.numbers[0]))
        else:
            acked += [(int(seq), int(number)) for seq, number in _NUMBER.findall(text)] or [
                (len(acked) + index, number) for index, number in enumerate(request.numbers)
            ]

    def _fail(self, request: Request, why: str) -> None:
        self._failed += len(request.numbers)
        self._why = self._why or why[:500]

    def _hung_up(self, connection: Connection, why: str) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        was_full = len(connection.requests) == self._depth
        while connection.requests:
            self._fail(connection.requests.popleft(), why)
        self._dial(connection)
        if was_full:
            self._free(connection)

    def _give_up(self) -> None:
        """Count unanswered requests as failed and reconnect, so that a late response is not taken for that of another request."""
        for lane in self._lanes:
            while lane.waiting:
                self._fail(lane.waiting.popleft(), "all connections were busy to the end")
        for connection in list(self._connections.values()):
            if connection.requests:
                self._hung_up(connection, f"no answer within {ANSWER_SECONDS:g} s")

    def _dial(self, connection: Connection) -> None:
        connection.buffer = connection.unsent = b""
        try:
            connection.socket = socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_SECONDS)
        except OSError as error:
            raise BenchError(f"the publishers cannot connect to port {self._port}: {error}") from None
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.socket.settimeout(0)
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)

    def _is_busy(self) -> bool:
        return any(lane.waiting for lane in self._lanes) or any(
            connection.requests for connection in self._connections.values()
        )


if __name__ == "__main__":
    Publishers().run()
