"""Channels under unreliable news: what the bus loses, reorders or delays never changes what a channel holds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from streamer.bus.local import LocalBus
from streamer.core.frame import LiveFrame
from streamer.core.ports import Committed
from streamer.feed.channel import EARLY_BYTES, Channel
from streamer.feed.channels import KEPT_NEWS, Channels
from streamer.feed.reasons import Reason
from streamer.observe.metrics import Metrics
from streamer.observe.watchdog import Watchdog
from tests.support.model_log import KEY, WORKSPACE, ModelLog
from tests.support.waiting import eventually


@dataclass
class Follower:
    """A listener that records why it was closed."""

    closed: list[Reason] = field(default_factory=list)
    has_more = False
    late_until = None

    def start_pass(self) -> None:
        """Do nothing."""

    def step(self, now: float) -> None:
        """Do nothing."""

    def close(self, reason: Reason) -> None:
        """Record the reason."""
        self.closed.append(reason)


class Feed:
    """The channels of a node over a log in memory, with one followed channel."""

    def __init__(self) -> None:
        self.log = ModelLog()
        self.metrics = Metrics()
        self.bus = LocalBus()
        self.channels = Channels(
            self.log, self.bus, self.metrics, Watchdog(self.metrics), ring_bytes=10**6, flush_seconds=0, poll_seconds=1
        )
        self.follower = Follower()
        self.channel: Channel

    async def open(self) -> None:
        """Follow the workspace."""
        self.channel = await self.channels.follow(WORKSPACE)
        self.channel.listeners.append(self.follower)

    def hear(self, frames: list[LiveFrame], epoch: str | None = None) -> None:
        """Take news."""
        self.channels.hear(Committed(KEY, epoch or self.log.epoch, frames))

    @property
    def fills(self) -> float:
        """How often a gap was filled from the log."""
        return float(self.metrics.fills._value.get())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition."""

        async def check() -> bool:
            return condition()

        await eventually(check)


@pytest.fixture
async def feed() -> AsyncIterator[Feed]:
    """Return a feed with ten stored events and a follower."""
    feed = Feed()
    for _ in range(10):
        feed.log.append()
    await feed.open()
    yield feed
    await feed.channels.stop()


async def test_news_in_the_wrong_order_needs_no_read(feed: Feed) -> None:
    """News that arrives shortly before its predecessor is kept, so the log is not read."""
    frames = [feed.log.append() for _ in range(6)]
    for frame in (frames[2], frames[1], frames[4], frames[0], frames[3], frames[5]):
        feed.hear([frame])
    assert feed.channel.tail.last == 16
    assert feed.fills == 0
    assert not feed.channel._early


async def test_news_that_stays_away_is_read_from_the_log(feed: Feed) -> None:
    """If the missing news does not arrive, the gap is filled with one read."""
    frames = [feed.log.append() for _ in range(3)]
    feed.hear(frames[1:])
    await feed.until(lambda: feed.channel.tail.last == 13)
    assert feed.fills == 1
    assert not feed.channel._early


async def test_early_news_is_limited(feed: Feed) -> None:
    """Early news takes limited memory; above it the log is read at once."""
    frames = [feed.log.append() for _ in range(2 + EARLY_BYTES // 1000)]
    for frame in frames[1:]:
        feed.hear([frame])
    assert feed.fills == 1
    await feed.until(lambda: feed.channel.tail.last == feed.log.log_head().head)


async def test_late_news_of_another_log_closes_nobody(feed: Feed) -> None:
    """News with a foreign epoch makes the channel ask the log, which has not changed."""
    asked = asyncio.Event()
    changed = feed.log.changed

    async def ask(*arguments: object) -> object:
        found = await changed(*arguments)  # type: ignore[arg-type]
        asked.set()
        return found

    feed.log.changed = ask  # type: ignore[assignment, method-assign]
    feed.hear([feed.log.frame(3)], epoch="old")
    feed.channels.hint(KEY, "old", 99)
    await asked.wait()
    assert feed.follower.closed == []
    assert feed.channel.is_open


async def test_a_new_log_closes_the_channel(feed: Feed) -> None:
    """News of a new log makes the channel ask the log, and its readers begin again."""
    feed.log.epoch = "bbb"
    feed.hear([feed.log.frame(10)], epoch="bbb")
    await feed.until(lambda: feed.follower.closed == [Reason.RESET])


async def test_a_log_that_lost_its_last_events(feed: Feed) -> None:
    """If the log's head goes back, as after a failover, the channel closes; its seqs are given to other events."""
    frames = [feed.log.append() for _ in range(3)]
    feed.hear(frames)
    del feed.log.events[11:]
    await feed.channels.check()
    assert feed.follower.closed == [Reason.RESET]


async def test_a_hint_is_read_from_the_log(feed: Feed) -> None:
    """A head without events, and a doubt, make the channel read what it lacks."""
    feed.log.append()
    feed.channels.hint(KEY, feed.log.epoch, 11)
    await feed.until(lambda: feed.channel.tail.last == 11)
    feed.log.append()
    feed.channels.doubt_all([KEY, 77])
    await feed.until(lambda: feed.channel.tail.last == 12)


async def test_news_during_the_opening(feed: Feed) -> None:
    """News that arrives while a channel opens is not lost, even among news of many other logs."""
    feed.channels.leave(feed.channel)
    for others in (0, KEPT_NEWS + 1):
        head, go_on = feed.log.head, asyncio.Event()

        async def slow(workspace: str, head=head, go_on=go_on) -> object:  # type: ignore[no-untyped-def] # noqa: ANN001
            found = await head(workspace)
            await go_on.wait()
            return found

        feed.log.head = slow  # type: ignore[assignment, method-assign]
        opening = asyncio.ensure_future(feed.channels.follow(WORKSPACE))
        await feed.until(lambda: bool(feed.channels._opening))
        await asyncio.sleep(0)
        frame = feed.log.append()
        feed.hear([frame])
        for other in range(others):
            feed.channels.hear(Committed(1000 + other, "x", [frame]))
        feed.log.head = head  # type: ignore[method-assign]
        go_on.set()
        channel = await opening
        await feed.until(lambda channel=channel, seq=frame.seq: channel.tail.last == seq)  # type: ignore[misc]
        feed.channels.leave(channel)
