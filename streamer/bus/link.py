"""A link to other nodes: what every carrier (Redis, PostgreSQL, sockets between workers) has in common.

A carrier is trusted with nothing. A probe to ourselves shows whether it works both ways; a carrier that is silent for too long is dropped and
connected again, and after each connection the followed logs are compared with the database. Nobody waits for it: what cannot be sent is
reduced to the heads of the logs, which are sent when the carrier is back.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Protocol

import orjson
import structlog

from streamer.bus.message import BadMessage, Kind, Message, decode, encode, encode_frames
from streamer.core.clock import now_us
from streamer.core.ports import BusListener, Committed
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics

PROBE_SECONDS = 0.5
"""Time between probes."""
LOOK_SECONDS = 2.0
"""Time between checks that the carrier's server is still the one to use: after a failover, the old one can answer for a while."""
MISSED_PROBES = 2
"""Probes in a row that may stay away before the carrier is dropped."""
BEACON_SECONDS = 1.0
"""Time between two beacons of a node."""
PEER_SECONDS = 5.0
"""How long a node counts as present after its last beacon."""
CONNECT_SECONDS = 2.0
SEND_SECONDS = 2.0
"""Time limits for a carrier to connect, and to take messages."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts to connect: doubled after each, with jitter."""
LINGER_SECONDS = 30.0
"""How long a log is followed after its last reader has left, because readers reconnect."""
OUTBOX_BYTES = 4 * 2**20
"""Bytes that wait for the carrier; above it, only heads are kept."""
LATE_HEADS = 100_000
"""Logs whose heads are kept for a carrier that is down."""
AT_ONCE = 1000
"""Messages, or topics, of one command."""
LAG_SECONDS = 1.0
"""When messages take longer than that, only the heads in them are read, so that this node catches up."""
ALONE = 3
"""After so many messages of a log that no other node received, only its heads are sent until one is received."""
ALONE_LOGS = 10_000
"""Logs for which that is remembered."""

NODES: Final = "n"
"""The topic of all nodes."""


class CarrierError(Exception):
    """The carrier cannot be reached, or failed; the message says why, without credentials."""


class Receiver(Protocol):
    """Takes what a carrier brings."""

    def take(self, topic: str, data: bytes) -> None:
        """Take a message."""

    def confirmed(self, topics: Iterable[str]) -> None:
        """From now on messages of these topics arrive; earlier ones may be lost."""


class Carrier(Protocol):
    """Carries messages between nodes, by topic. Each method raises CarrierError, OSError or TimeoutError; then the carrier is closed."""

    @property
    def name(self) -> str:
        """Its name in logs and in `/readyz`."""

    @property
    def takes_frames(self) -> bool:
        """Whether it is made for events; otherwise only heads are sent."""

    async def connect(self, instance: str) -> None:
        """Connect. `instance` separates installations that share the carrier."""

    async def receive(self, receiver: Receiver) -> None:
        """Pass on what arrives, until the connection ends. Other tasks have their turns."""

    async def follow(self, topics: Sequence[str]) -> None:
        """Ask for the messages of topics; the receiver is told when they are confirmed."""

    async def leave(self, topics: Sequence[str]) -> None:
        """Ask for no more messages of topics."""

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> Sequence[int] | None:
        """Send messages; return how many nodes received each, if the carrier knows."""

    async def is_current(self) -> bool:
        """Return whether a new connection would lead to the same server; asked every few seconds."""

    async def close(self) -> None:
        """Close the connections. Never fails."""


class State(IntEnum):
    """How far a carrier can be relied on."""

    DOWN = 0
    UP = 1
    """It is connected."""
    PROVEN = 2
    """A probe returned."""


@dataclass(slots=True)
class Peer:
    """Another node, as its last beacon describes it."""

    node: int
    heard_at: float
    """On the monotonic clock."""
    skew_us: int
    """How far its clock is ahead of ours; the time that the beacon took is included."""
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Letter:
    """A message that waits for the carrier."""

    topic: str
    data: bytes
    head: tuple[int, str, int] | None = None
    """Key, epoch and seq of the log, if it is about one."""


class Link:
    """Announces commits to other nodes through a carrier, and brings theirs."""

    def __init__(
        self,
        carrier: Carrier,
        metrics: Metrics,
        about: Callable[[], Mapping[str, Any]],
        *,
        node: int,
        clock: Callable[[], int] = now_us,
    ) -> None:
        """Create it.

        Args:
            carrier: connects the nodes.
            metrics: of this node.
            about: describes this node to the others.
            node: the number of this node, random at each start and the same on all of its links.
            clock: the wall clock, in microseconds.
        """
        self.node = node
        self.nearer: Mapping[int, object] = {}
        """Nodes whose events arrive by a nearer link."""
        self.state = State.DOWN
        self.peers: dict[int, Peer] = {}
        self.carrier = carrier
        self._metrics = metrics
        self._about = about
        self._clock = clock
        self._listeners: list[BusListener] = []
        self._own_topic = f"e:{self.node:016x}"
        self._followed: dict[int, float | None] = {}
        """Logs that are followed; when to leave those without readers."""
        self._to_follow: set[int] = set()
        self._outbox: list[_Letter] = []
        self._outbox_bytes = 0
        self._late: dict[int, tuple[str, int]] = {}
        """By key: epoch and head of logs whose messages could not be sent."""
        self._alone: dict[int, int] = {}
        """By key: messages in a row that no other node received."""
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._instance = ""
        self._pause = FIRST_PAUSE
        self._unanswered = 0
        self.lag = 0.0
        """Seconds that the last probe took over the bus and back."""
        self._beacon_at = 0.0
        self._look_at = 0.0
        self._was_down = False
        self._logger = structlog.get_logger("bus")
        metrics.bus_state.labels(carrier.name).set_function(lambda: self.state)
        metrics.bus_lag.labels(carrier.name).set_function(lambda: self.lag)

    # ---- as the bus of this node uses it

    def announce(self, news: Committed) -> None:
        """Announce a commit of this node to the others, soon. Never waits, never fails."""
        head = news.key, news.epoch, news.frames[-1].seq
        if self.state is State.DOWN or self._outbox_bytes > OUTBOX_BYTES:
            self._keep_head(*head)
            return
        if self.peers.keys() <= self.nearer.keys():
            return  # nobody listens here; a node that has just come compares its logs, and its beacon is on its way
        topic = f"w:{news.key}"
        if self.carrier.takes_frames and self._alone.get(news.key, 0) < ALONE:
            data = encode_frames(news.frames, news.epoch, self.node, self._clock())
        else:
            data = self._encode_head(news.epoch, head[2])
        self._post(_Letter(topic, data, head))

    def follow(self, key: int) -> None:
        """Receive what other nodes announce of a log from now on."""
        if key not in self._followed:
            self._to_follow.add(key)
            self._wake.set()
        self._followed[key] = None

    def leave(self, key: int) -> None:
        """Follow a log for a little longer, and then no more."""
        if key in self._followed:
            self._followed[key] = time.monotonic() + LINGER_SECONDS

    def listen(self, listener: BusListener) -> None:
        """Call `listener` with all news."""
        self._listeners.append(listener)

    # ---- supervision

    def start(self, loops: Loops, instance: str) -> None:
        """Start the loop that looks after the carrier. `instance` separates installations that share it."""
        self._instance = instance
        loops.start(f"bus_{self.carrier.name}", self.turn)

    async def stop(self) -> None:
        """Close the carrier."""
        await self._drop()

    async def turn(self) -> float:
        """Connect the carrier, probe it, and drop it if it failed or does not answer. Returns the seconds until the next turn."""
        if not self._tasks:
            return await self._connect()
        failed = next((task for task in self._tasks if task.done()), None)
        if failed is not None:
            return await self._fail(_reason(failed))
        if self._unanswered > MISSED_PROBES:
            return await self._fail("it does not answer")
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            if not await self._is_current():
                return await self._fail("another server has taken its place")
        self._probe()
        self._forget_left()
        return PROBE_SECONDS

    async def _is_current(self) -> bool:
        with contextlib.suppress(CarrierError, OSError, TimeoutError):  # nobody knows: the connection is kept
            async with asyncio.timeout(PROBE_SECONDS):
                return await self.carrier.is_current()
        return True

    async def _connect(self) -> float:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.carrier.connect(self._instance)
        except (CarrierError, OSError, TimeoutError) as error:
            return await self._fail(str(error) or "it does not answer")
        self.state = State.UP
        self._unanswered = 0
        self._to_follow = set(self._followed)
        self._tasks = [
            asyncio.create_task(self._receive(), name="bus_receive"),
            asyncio.create_task(self._send(), name="bus_send"),
        ]
        self._wake.set()
        self._probe()
        return PROBE_SECONDS

    async def _fail(self, reason: str) -> float:
        """Drop the carrier; return the pause before it is connected again."""
        if not self._was_down:
            self._was_down = True
            self._logger.warning("bus_down", carrier=self.carrier.name, reason=reason)
        await self._drop()
        self._metrics.bus_reconnects.labels(self.carrier.name).inc()
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret

    async def _drop(self) -> None:
        self.state = State.DOWN
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._give_up(self._outbox)
        self._outbox, self._outbox_bytes = [], 0
        await self.carrier.close()

    def _probe(self) -> None:
        now = time.monotonic()
        self._unanswered += 1
        self._post(_Letter(self._own_topic, encode(Kind.ECHO, self.node, self._clock(), first=time.monotonic_ns())))
        if now >= self._beacon_at:
            self._beacon_at = now + BEACON_SECONDS * 0.9  # turns are never early
            self._post(
                _Letter(NODES, encode(Kind.BEACON, self.node, self._clock(), payload=orjson.dumps(self._about())))
            )
        for node in [node for node, peer in self.peers.items() if peer.heard_at <= now - PEER_SECONDS]:
            del self.peers[node]

    def _proven(self) -> None:
        if self.state is State.UP:
            self.state = State.PROVEN
            self._pause = FIRST_PAUSE
            if self._was_down:
                self._was_down = False
                self._logger.info("bus_up", carrier=self.carrier.name)

    # ---- sending

    def _post(self, letter: _Letter) -> None:
        self._outbox.append(letter)
        self._outbox_bytes += len(letter.data)
        self._wake.set()

    def _encode_head(self, epoch: str, seq: int) -> bytes:
        return encode(Kind.HEAD, self.node, self._clock(), first=seq, count=1, epoch=epoch)

    def _keep_head(self, key: int, epoch: str, seq: int) -> None:
        """Keep of a commit that the log has come to a seq."""
        if key in self._late or len(self._late) < LATE_HEADS:
            self._late[key] = epoch, seq
            self._metrics.bus_dropped.labels(self.carrier.name, "late").inc()
        else:
            self._metrics.bus_dropped.labels(self.carrier.name, "full").inc()

    def _give_up(self, letters: Sequence[_Letter]) -> None:
        for letter in letters:
            if letter.head is not None:
                self._keep_head(*letter.head)

    async def _send(self) -> None:
        """Send what waits, as much at once as there is, and follow what is new."""
        await self._in_time(self.carrier.follow([NODES, self._own_topic]))
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._follow_new()
            while self._outbox or (self._late and self.state is State.PROVEN):
                if not self._outbox:
                    self._bring_late()
                letters, self._outbox = self._outbox[:AT_ONCE], self._outbox[AT_ONCE:]
                self._outbox_bytes -= sum([len(letter.data) for letter in letters])
                try:
                    received = await self._in_time(self.carrier.send([(each.topic, each.data) for each in letters]))
                except BaseException:
                    self._give_up(letters)
                    raise
                self._count_sent(letters, received)

    def _bring_late(self) -> None:
        late = list(self._late.items())[:AT_ONCE]
        for key, (epoch, seq) in late:
            del self._late[key]
            self._post(_Letter(f"w:{key}", self._encode_head(epoch, seq), (key, epoch, seq)))

    def _count_sent(self, letters: Sequence[_Letter], received: Sequence[int] | None) -> None:
        self._metrics.bus_messages.labels(self.carrier.name, "out").inc(len(letters))
        self._metrics.bus_bytes.labels(self.carrier.name, "out").inc(sum([len(letter.data) for letter in letters]))
        if received is None:
            return
        for letter, nodes in zip(letters, received, strict=True):
            if letter.head is None:
                continue
            key = letter.head[0]
            others = nodes - (key in self._followed)
            if others > 0:
                self._alone.pop(key, None)
            elif len(self._alone) < ALONE_LOGS or key in self._alone:
                self._alone[key] = self._alone.get(key, 0) + 1
            else:
                self._alone.clear()

    async def _follow_new(self) -> None:
        while self._to_follow:
            keys = [self._to_follow.pop() for _ in range(min(AT_ONCE, len(self._to_follow)))]
            await self._in_time(self.carrier.follow([f"w:{key}" for key in keys]))

    def _forget_left(self) -> None:
        """Leave the logs that have had no reader for a while."""
        now = time.monotonic()
        left = [key for key, until in self._followed.items() if until is not None and until <= now][:AT_ONCE]
        if left:
            for key in left:
                del self._followed[key]
                self._to_follow.discard(key)
            self._tasks.append(asyncio.create_task(self._leave(left), name="bus_leave"))

    async def _leave(self, keys: Sequence[int]) -> None:
        try:
            await self._in_time(self.carrier.leave([f"w:{key}" for key in keys]))
        finally:
            # Followed again meanwhile: the carrier may have heard of that first.
            again = [key for key in keys if key in self._followed]
            self._to_follow.update(again)
            self._wake.set()
        with contextlib.suppress(ValueError):
            self._tasks.remove(asyncio.current_task())  # type: ignore[arg-type]

    async def _in_time(self, work: Any) -> Any:
        async with asyncio.timeout(SEND_SECONDS):
            return await work

    # ---- receiving, as Receiver

    async def _receive(self) -> None:
        await self.carrier.receive(self)
        raise CarrierError("it closed the connection")

    def confirmed(self, topics: Iterable[str]) -> None:
        """Compare the logs of these topics with the database: what was sent before may be lost."""
        keys = [int(topic[2:]) for topic in topics if topic.startswith("w:")]
        for listener in self._listeners:
            listener.doubt_all(keys)

    def take(self, topic: str, data: bytes) -> None:
        """Take a message of another node, or the answer to a probe."""
        self._metrics.bus_messages.labels(self.carrier.name, "in").inc()
        self._metrics.bus_bytes.labels(self.carrier.name, "in").inc(len(data))
        try:
            message = decode(data)
            if message.node == self.node:
                if message.kind == Kind.ECHO:
                    self._take_echo(message)
            elif message.kind == Kind.BEACON:
                self._take_beacon(message)
            elif topic.startswith("w:") and message.node not in self.nearer:
                self._take_news(int(topic[2:]), message)
        except (BadMessage, ValueError):
            self._metrics.bus_dropped.labels(self.carrier.name, "malformed").inc()
        except Exception:
            self._logger.exception("bus_message_failed", topic=topic)

    def _take_echo(self, message: Message) -> None:
        self._unanswered = 0
        self.lag = max(time.monotonic_ns() - message.first, 0) / 1e9
        self._proven()
        if self._late:
            self._wake.set()

    def _take_beacon(self, message: Message) -> None:
        about = orjson.loads(message.payload)
        if isinstance(about, dict):
            skew = message.sent_us - self._clock()
            self.peers[message.node] = Peer(message.node, time.monotonic(), skew, about)

    def _take_news(self, key: int, message: Message) -> None:
        if key not in self._followed:
            return  # some carriers bring everything
        frames = message.frames() if self.lag < LAG_SECONDS else None
        for listener in self._listeners:
            if frames:
                listener.hear(Committed(key, message.epoch, frames))
            elif message.count:
                listener.hint(key, message.epoch, message.head)


def _reason(task: asyncio.Task[None]) -> str:
    if task.cancelled():
        return "it was cancelled"
    error = task.exception()
    if error is None or isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, (CarrierError, OSError)):
        return str(error)
    return f"{type(error).__name__}: {error}"
