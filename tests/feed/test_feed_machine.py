"""A state machine for the feed: despite dropped, delayed or repeated news and trimming, a reader gets each event once.

Channels, audiences, sessions and their driver are real. The log and the connections are models, because the machine
must lose, hold and reorder what real ones do only by chance. `test_stream.py` tests the same with real parts.
"""

import asyncio
import re
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, initialize, multiple, rule

from streamer.bus.local import LocalBus
from streamer.core.budget import Budget
from streamer.core.filter import Filter, parse_filter
from streamer.core.frame import LiveFrame, sse_message
from streamer.core.ports import Committed
from streamer.core.position import Position
from streamer.fanout.connection import Subscription
from streamer.fanout.connections import Connections
from streamer.fanout.dependencies import Dependencies
from streamer.fanout.places import Places
from streamer.fanout.subscribers import Subscribers
from streamer.feed.channels import Channels
from streamer.feed.reasons import Reason
from streamer.observe.metrics import Metrics
from streamer.observe.watchdog import Watchdog
from streamer.transports.sse import SseEncoder
from tests.support.model_log import KEY, WORKSPACE, ModelLog, facets

FILTERS = [
    parse_filter({}),
    parse_filter({"action": ["even"]}),
    parse_filter({"action": ["!even"]}),
    parse_filter({"action": ["x"]}),
    parse_filter({"q": ["even", "nothing"]}),
]


BOUNDS: list[dict[str, int]] = [
    {},
    {"audience.COHORT_READERS": 2, "audience.STEP_DELIVERIES": 1},
    {"audience.STEP_DELIVERIES": 1, "cohort.TURN_BYTES": 100, "cohort.TURN_FRAME_BYTES": 10},
    {"audience.STEP_DELIVERIES": 2, "cohort.TURN_SEARCH": 20, "pace.FREE": 0, "pace.SEARCHED_A_SECOND": 100},
]
"""Limits of a fan-out pass: small, so that a pass takes many turns and steps."""


class ModelSink:
    """A connection that accepts bytes while it is ready, and can be closed."""

    transport = "sse"
    heartbeat = b": ping\n"

    def __init__(self) -> None:
        self.data = b""
        self.ready = asyncio.Event()
        self.ready.set()
        self.ended = asyncio.Event()

    def is_ready(self) -> bool:
        return self.ready.is_set()

    def offer(self, data: bytes, share: int) -> bool:
        if self.is_ready():
            self.write(data)
        return self.is_ready()

    def write(self, data: bytes) -> None:
        assert not self.ended.is_set(), "nothing follows the close"
        self.data += data

    async def drain(self) -> None:
        await self.ready.wait()

    def room(self, size: int) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def progress(self) -> int | None:
        return None if self.ready.is_set() else 0

    def close(self, reason: Reason) -> None:
        self.write(sse_message("closed", {"reason": reason.word}))
        self.ended.set()

    def abort(self) -> None:
        self.ended.set()


@dataclass
class Client:
    """A reader that reconnects with its last position and keeps everything it received."""

    selection: Filter
    position: Position | None
    sink: ModelSink = field(default_factory=ModelSink)
    task: "asyncio.Task[None] | None" = None
    seqs: list[int] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    first: int = 0
    """It receives events after this seq."""
    closed: str | None = None

    def take(self) -> None:
        """Read what arrived, as a browser's EventSource does."""
        data, self.sink.data = self.sink.data, b""
        for block in data.split(b"\n\n"):
            text = block.decode()
            if found := re.search(r"^id: (\S+)$", text, re.MULTILINE):
                self.position = Position.parse(found[1])
            if "event: activity" in text:
                self.seqs.append(int(re.search(r'"seq":(\d+)', text)[1]))  # type: ignore[index]
            elif "event: gap" in text:
                ends = re.search(r'"from":(\d+),"to":(\d+)', text)
                assert ends is not None
                self.missing.update(range(int(ends[1]), int(ends[2]) + 1))


class FeedMachine(RuleBasedStateMachine):
    """Commits, lost and late news, trimming and outages, with slow, leaving and returning readers."""

    clients: Bundle[Client] = Bundle("clients")
    held: Bundle[LiveFrame] = Bundle("held")

    @initialize(ring=st.sampled_from([1, 3000, 10_000_000]), before=st.integers(0, 30), bounds=st.sampled_from(BOUNDS))
    def start(self, ring: int, before: int, bounds: dict[str, int]) -> None:
        self.bounds = ExitStack()
        for name, value in bounds.items():
            self.bounds.enter_context(mock.patch(f"streamer.fanout.{name}", value))
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.loop.time = lambda: self.now  # type: ignore[method-assign] # flush windows end when the machine says so
        self.log = ModelLog()
        for _ in range(before):
            self.log.append()
        self.everyone: list[Client] = []
        self.metrics = Metrics()
        watchdog = Watchdog(self.metrics)
        self.channels = Channels(
            self.log, LocalBus(), self.metrics, watchdog, ring_bytes=ring, flush_seconds=0.005, poll_seconds=1
        )
        self.dependencies = Dependencies(watchdog)
        self.connections = Connections(self.dependencies, self.metrics, heartbeat_seconds=1, stall_seconds=4, max_age=0)
        self.places = Places(each=1000, total=1000)
        self.feed = Subscribers(
            self.channels,
            self.connections,
            self.dependencies,
            self.places,
            self.log,
            self.metrics,
            Budget(2**20),
            chunk_bytes=1024,
            event_bytes=1024,
        )

    def settle(self, turns: int = 30) -> None:
        async def wait() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def connect(self, client: Client) -> None:
        client.sink = ModelSink()

        async def follow() -> None:
            reader = await self.feed.follow(Subscription(WORKSPACE, "key", client.selection, client.position))
            connection = self.feed.connect(client.sink, ["key"])
            try:
                if client.position is None:
                    client.first = reader.channel.flushed
                self.feed.start(reader, connection, SseEncoder(chunked=False), connection.close)
                await client.sink.ended.wait()
            finally:
                self.feed.leave(reader)
                self.feed.leave_connection(connection)

        client.task = self.loop.create_task(follow())

    def disconnect(self, client: Client) -> None:
        client.take()
        if client.task is not None:
            client.task.cancel()
            self.loop.run_until_complete(asyncio.gather(client.task, return_exceptions=True))

    @rule(target=held, count=st.integers(1, 6), told=st.booleans())
    def commit(self, count: int, told: bool) -> MultipleResults[LiveFrame]:
        """Store some events. Their news arrives at once, late or never."""
        frames = [self.log.append() for _ in range(count)]
        if told:
            self.hub_hears(frames)
        return multiple(*([] if told else frames))

    def hub_hears(self, frames: list[LiveFrame]) -> None:
        async def hear() -> None:
            self.channels.hear(Committed(KEY, self.log.epoch, frames))

        self.loop.run_until_complete(hear())

    @rule(frame=consumes(held), again=st.booleans())
    def late_news(self, frame: LiveFrame, again: bool) -> None:
        """Deliver delayed news, perhaps twice."""
        self.hub_hears([frame])
        if again:
            self.hub_hears([frame])

    @rule(target=clients, selection=st.sampled_from(FILTERS), back=st.none() | st.integers(0, 40))
    def come(self, selection: Filter, back: int | None) -> Client:
        """Add a reader that starts now or at a position in the log."""
        start = None
        if back is not None:
            start = Position(self.log.epoch, max(len(self.log.events) - back, 0))
        client = Client(selection, start, first=start.seq if start else 0)
        self.everyone.append(client)
        self.connect(client)
        return client

    @rule(client=clients, quick=st.booleans())
    def reconnect(self, client: Client, quick: bool) -> None:
        """Disconnect a reader, which reconnects with its position."""
        if not quick:
            self.settle()
        before = client.position
        self.disconnect(client)
        if client.position is None:  # disconnected before it received a position: a new reader
            client.seqs.clear()
        assert before is None or client.position is not None
        self.connect(client)

    @rule(client=clients)
    def block(self, client: Client) -> None:
        """A reader stops reading, so its buffer is full."""
        client.sink.ready.clear()

    @rule(client=clients)
    def unblock(self, client: Client) -> None:
        """A reader reads again."""
        client.sink.ready.set()

    @rule(keep=st.integers(0, 10))
    def trim(self, keep: int) -> None:
        """Retention removes old events."""
        self.log.earliest = max(self.log.earliest, len(self.log.events) + 1 - keep)

    @rule(away=st.booleans())
    def outage(self, away: bool) -> None:
        """The database fails or recovers."""
        self.log.away = away

    @rule(turns=st.integers(1, 5))
    def work_goes_on(self, turns: int) -> None:
        """Run the loop for a little while, and leave work half done."""
        self.settle(turns)

    @rule()
    def time_passes(self) -> None:
        """Let flush windows end."""
        self.now += 1
        self.settle(2)

    @rule()
    def beat(self) -> None:
        """Send heartbeats: idle readers receive their position, and readers that take nothing are closed."""

        async def now() -> None:
            self.connections.beat(self.connections.all())

        self.loop.run_until_complete(now())

    @rule()
    def check(self) -> None:
        """Check the log for news that the bus lost."""

        async def ask() -> None:
            if not self.log.away:
                await self.channels.check()

        self.loop.run_until_complete(ask())

    def teardown(self) -> None:
        """After recovery, every reader has received each event of its filter once and in order, or a gap for it."""
        if not hasattr(self, "loop"):
            return
        self.log.away = False
        for client in self.everyone:
            client.sink.ready.set()
        for _ in range(6):
            self.now += 1
            self.settle(100)
            self.check()
            self.settle(100)
            for client in self.everyone:
                client.take()
                if client.task is not None and client.task.done():  # closed by the outage: it reconnects
                    if client.position is None:
                        client.seqs.clear()
                    self.connect(client)
        try:
            for client in self.everyone:
                expected = [
                    seq
                    for seq in range(client.first + 1, len(self.log.events) + 1)
                    if client.selection.matches(facets(seq)) and seq not in client.missing
                ]
                assert client.seqs == expected
                assert all(seq < self.log.earliest for seq in client.missing), "a gap was reported for existing events"
        finally:
            for client in self.everyone:
                self.disconnect(client)
            self.settle()
            self.check()
            self.loop.run_until_complete(self.channels.stop())
            assert self.metrics.subscribers.labels("sse")._value.get() == 0
            assert not self.connections.all()
            assert not self.dependencies.links()
            assert not self.places.taken
            assert not self.channels._channels
            self.loop.close()
            self.bounds.close()


TestFeedMachine = FeedMachine.TestCase
TestFeedMachine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
