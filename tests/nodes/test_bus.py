"""The bus between nodes: one contract for every carrier, with a real Redis and a real PostgreSQL that fail."""

import asyncio
import random
import re
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.bus import link
from streamer.bus.link import ALONE, Carrier, CarrierError, Link, Receiver, State
from streamer.bus.local import LocalBus
from streamer.bus.mesh import MeshCarrier
from streamer.bus.message import (
    MAX_FRAMES_BYTES,
    VERSION,
    BadMessage,
    Kind,
    decode,
    encode,
    encode_frames,
)
from streamer.bus.postgres import PostgresCarrier, packed, unpacked
from streamer.bus.redis import RedisCarrier, carrier_of
from streamer.core.event import Facets
from streamer.core.frame import LiveFrame
from streamer.core.ports import Committed
from streamer.core.position import Position
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.store.engine.database import Database
from tests.support.proxy import Proxy, proxy_to
from tests.support.redis_server import RedisServer
from tests.support.tools import ROOT
from tests.support.waiting import eventually

KEY = 7


def frame(seq: int, body: bytes = b"{}", epoch: str = "aaa", search: str = "a text") -> LiveFrame:
    """Return a frame."""
    facets = Facets("activity", "a.b", "user", "u", "issue", "é", None, "run", None, None, None, search)
    return LiveFrame(Position(epoch, seq), body, facets)


# ---- messages

BODIES = st.lists(st.binary(max_size=3000), min_size=1, max_size=20)


@given(BODIES, st.integers(1, 2**62), st.text(max_size=50))
def test_a_message_says_what_was_committed(bodies: list[bytes], first: int, search: str) -> None:
    """Frames survive the way, or the message names the head."""
    frames = [frame(first + n, body, search=search) for n, body in enumerate(bodies)]
    data = encode_frames(frames, "aaa", node=5, sent_us=9)
    message = decode(data)
    assert (message.node, message.sent_us, message.epoch, message.head) == (5, 9, "aaa", frames[-1].seq)
    found = message.frames()
    if found is None:
        assert message.kind == Kind.HEAD
    else:
        assert [(each.position, each.body, each.facets) for each in found] == [
            (each.position, each.body, each.facets) for each in frames
        ]
        assert len(data) <= MAX_FRAMES_BYTES + 100


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    """Bytes that are no message raise BadMessage and nothing else."""
    with suppress(BadMessage):
        decode(data).frames()


@given(BODIES, st.data())
def test_a_damaged_message_is_refused(bodies: list[bytes], data: st.DataObject) -> None:
    """A message that was cut or changed is refused, or still a message."""
    whole = encode_frames([frame(n + 1, body) for n, body in enumerate(bodies)], "aaa", node=5, sent_us=9)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = data.draw(st.sampled_from([whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]]))
    with suppress(BadMessage):
        decode(changed).frames()


def test_other_versions_are_heads() -> None:
    """Of a version, a kind or facets that it does not know, a node reads how far the log has come."""
    data = encode_frames([frame(4), frame(5)], "aaa", node=1, sent_us=2)
    newer = decode(bytes([VERSION + 1]) + data[1:])
    assert (newer.frames(), newer.head, newer.epoch) == (None, 5, "aaa")
    other = decode(data[:1] + bytes([99]) + data[2:])
    assert (other.frames(), other.head) == (None, 5)


def test_a_large_commit_is_a_head() -> None:
    """Events that are too long for the bus are read from the log."""
    large = [frame(n, random.Random(n).randbytes(30_000)) for n in range(1, 5)]
    message = decode(encode_frames(large, "aaa", node=1, sent_us=2))
    assert (message.kind, message.head, message.count) == (Kind.HEAD, 4, 1)
    compressible = [frame(n, b"x" * 30_000) for n in range(1, 5)]
    assert decode(encode_frames(compressible, "aaa", node=1, sent_us=2)).kind == Kind.FRAMES


def test_a_bomb_is_refused() -> None:
    """A payload that decompresses to very much is refused."""
    import zlib  # noqa: PLC0415

    data = encode(Kind.FRAMES, 1, 2, first=1, count=1, epoch="aaa", payload=zlib.compress(b"0" * 100 * 2**20))
    with pytest.raises(BadMessage):
        decode(data[:2] + b"\x01" + data[3:]).frames()


@given(st.lists(st.tuples(st.text("abc:19", min_size=1, max_size=20), st.binary(max_size=300)), max_size=60))
def test_notifications_hold_all_messages(messages: list[tuple[str, bytes]]) -> None:
    """Messages are packed into notifications of at most 7,999 bytes, and nothing else is read from a channel."""
    payloads = list(packed(messages))
    assert all(len(payload) <= 7999 for payload in payloads)
    assert [each for payload in payloads for each in unpacked(payload)] == messages
    assert list(unpacked("hello!")) == []


# ---- the contract


@dataclass
class Ears:
    """A listener that records what it hears."""

    heard: dict[int, list[int]] = field(default_factory=dict)
    """By key: the seqs that were heard or hinted at."""
    doubts: list[int] = field(default_factory=list)

    def hear(self, news: Committed) -> None:
        """Record a commit."""
        self.heard.setdefault(news.key, []).extend(each.seq for each in news.frames)

    def hint(self, key: int, epoch: str, head: int) -> None:
        """Record a head."""
        assert epoch == "aaa"
        self.heard.setdefault(key, []).append(head)

    def doubt_all(self, keys: Iterable[int]) -> None:
        """Record a doubt."""
        self.doubts.extend(keys)

    def last(self, key: int = KEY) -> int:
        """Return the newest seq of a log."""
        return max(self.heard.get(key, [0]))


class Node:
    """A node that is nothing but a bus."""

    def __init__(self, carrier: Carrier, name: str) -> None:
        self.metrics = Metrics()
        self.link = Link(carrier, self.metrics, lambda: {"name": name}, node=secrets.randbits(64))
        self.bus = LocalBus([self.link])
        self.ears = Ears()
        self.bus.listen(self.ears)
        self.loops = Loops(self.metrics)

    def start(self, instance: str = "inst") -> None:
        """Start it."""
        self.link.start(self.loops, instance)

    async def stop(self) -> None:
        """Stop it."""
        await self.loops.stop()
        await self.link.stop()

    def commit(self, *seqs: int, key: int = KEY) -> None:
        """Announce events."""
        self.bus.publish(Committed(key, "aaa", [frame(seq) for seq in seqs]))

    async def is_proven(self) -> None:
        """Wait until the bus works both ways."""
        await eventually(lambda: self.link.state is State.PROVEN)

    async def hears(self, seq: int, key: int = KEY) -> None:
        """Wait for a seq."""
        await eventually(lambda: self.ears.last(key) == seq)


class Lossy:
    """A carrier between nodes of this process that drops, doubles, reorders, delays and stalls."""

    name = "lossy"
    takes_frames = True
    nodes: "list[Lossy]"

    def __init__(self, nodes: "list[Lossy]", dice: random.Random, *, loss: float = 0) -> None:
        self.nodes = nodes
        self.dice = dice
        self.loss = loss
        self.stalls = False
        self.topics: set[str] = set()
        self.receiver: Receiver | None = None
        self.broken = asyncio.Event()
        nodes.append(self)

    async def connect(self, instance: str) -> None:
        """Connect, unless it is stalled."""
        if self.stalls:
            raise CarrierError("stalled")
        self.broken = asyncio.Event()
        self.topics.clear()

    async def receive(self, receiver: Receiver) -> None:
        """Receive until it breaks."""
        self.receiver = receiver
        await self.broken.wait()

    async def follow(self, topics: Sequence[str]) -> None:
        """Follow."""
        self.topics |= set(topics)
        await eventually(lambda: self.receiver)
        assert self.receiver is not None
        self.receiver.confirmed(topics)

    async def leave(self, topics: Sequence[str]) -> None:
        """Leave."""
        self.topics -= set(topics)

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> list[int]:
        """Deliver to all nodes that follow, some not at all, twice, late or in another order."""
        loop = asyncio.get_running_loop()
        messages = list(messages)
        if self.loss:
            self.dice.shuffle(messages)
        for topic, data in messages:
            for node in self.nodes:
                if topic not in node.topics or node.receiver is None or self.stalls or node.stalls:
                    continue
                for _ in range(self.dice.choice([0, 1, 2]) if self.dice.random() < self.loss else 1):
                    loop.call_later(self.dice.random() * self.loss / 10, node.receiver.take, topic, data)
        return [1] * len(messages)

    async def is_current(self) -> bool:
        """Return True."""
        return True

    async def close(self) -> None:
        """Close."""
        self.receiver = None
        self.broken.set()


KINDS = ("redis", "postgres", "workers", "process")


@dataclass
class Carriers:
    """Makes carriers of one kind, and breaks them."""

    kind: str
    url: str = ""
    redis: RedisServer | None = None
    proxy: Proxy | None = None
    nodes: list[Lossy] = field(default_factory=list)
    database: Database | None = None
    folder: Path | None = None
    meshes: list[MeshCarrier] = field(default_factory=list)

    def make(self) -> Carrier:
        """Return a new one."""
        if self.kind == "redis":
            return RedisCarrier(self.url)
        if self.kind == "postgres":
            assert self.database is not None
            assert self.database.listening is not None
            return PostgresCarrier(self.database.listening)
        if self.folder is not None:
            self.meshes.append(MeshCarrier(self.folder))
            return self.meshes[-1]
        return Lossy(self.nodes, random.Random(1))

    async def break_all(self) -> None:
        """End all connections."""
        if self.redis is not None:
            await self.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
            await self.redis.command("CLIENT", "KILL", "TYPE", "normal")
        elif self.database is not None:
            await self.database.write(
                lambda connection: connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND query LIKE '%pg_notify%' AND pid <> pg_backend_pid()"
                )
            )
        elif self.folder is not None:
            for carrier in self.meshes:
                for peer in list(carrier._peers.values()):
                    peer.abort()
        else:
            for node in self.nodes:
                node.broken.set()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """Start a Redis."""
    server = RedisServer(tmp_path / "redis")
    await server.start()
    yield server
    server.kill()


@pytest.fixture(params=KINDS)
async def carriers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Carriers]:
    """Return what makes carriers of a kind."""
    if request.param == "redis":
        server = RedisServer(tmp_path / "redis")
        await server.start()
        yield Carriers("redis", server.url, server)
        server.kill()
    elif request.param == "postgres":
        database = Database(request.getfixturevalue("postgresql_url"))
        yield Carriers("postgres", database=database)
        await database.close()
    elif request.param == "workers":
        with TemporaryDirectory() as folder:  # the path of a socket is short
            yield Carriers("workers", folder=Path(folder))
    else:
        yield Carriers("process")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Stop all nodes at the end."""
    async with AsyncExitStack() as stack:
        yield stack


async def started(stack: AsyncExitStack, carrier: Carrier, name: str = "n", instance: str = "inst") -> Node:
    """Start a node, and wait until its bus is proven."""
    node = Node(carrier, name)
    stack.push_async_callback(node.stop)
    node.start(instance)
    await node.is_proven()
    return node


async def acquainted(*nodes: Node) -> None:
    """Wait until each node has heard the beacons of the others."""
    await eventually(lambda: all(len(node.link.peers) >= len(nodes) - 1 for node in nodes))


async def test_nodes_hear_each_other(carriers: Carriers, stack: AsyncExitStack) -> None:
    """A node hears its own commits at once, and those of others in the logs that it follows."""
    here, there = [await started(stack, carriers.make(), name) for name in ("here", "there")]
    there.bus.follow(KEY)
    await eventually(lambda: there.ears.doubts == [KEY])
    await acquainted(here, there)
    here.commit(1, 2)
    assert here.ears.heard == {KEY: [1, 2]}
    await there.hears(2)
    if carriers.kind != "postgres":
        assert there.ears.heard == {KEY: [1, 2]}
    for seq in range(3, 50):
        here.commit(seq)
    await there.hears(49)
    await eventually(lambda: [peer.about["name"] for peer in here.link.peers.values()] == ["there"])
    assert abs(next(iter(here.link.peers.values())).skew_us) < 10_000_000


async def test_installations_do_not_mix(carriers: Carriers, stack: AsyncExitStack) -> None:
    """Two installations on one carrier hear nothing of each other."""
    if carriers.kind in {"process", "workers"}:
        return  # each folder, or list of nodes is an installation
    mine, other, third = [await started(stack, carriers.make(), instance=name) for name in ("mine", "other", "mine")]
    for node in (other, third):
        node.bus.follow(KEY)
        await eventually(lambda node=node: node.ears.doubts == [KEY])  # type: ignore[misc]
    await acquainted(mine, third)
    mine.commit(1)
    await third.hears(1)
    assert other.ears.heard == {}
    assert not other.link.peers


async def test_a_broken_connection_is_made_again(carriers: Carriers, stack: AsyncExitStack) -> None:
    """After a break all logs are doubted, and news flows again; nothing waits meanwhile."""
    here, there = [await started(stack, carriers.make(), name) for name in ("here", "there")]
    for key in range(20):
        there.bus.follow(key)
    await eventually(lambda: sorted(there.ears.doubts) == list(range(20)))
    there.ears.doubts.clear()
    await carriers.break_all()
    here.commit(1)
    assert here.ears.last() == 1
    await eventually(lambda: set(there.ears.doubts) == set(range(20)))
    await there.is_proven()
    await here.is_proven()

    async def heard() -> bool:
        here.commit(here.ears.last() + 1)
        return there.ears.last() == here.ears.last() - 1

    await eventually(heard)
    assert here.metrics.bus_reconnects.labels(here.link.carrier.name)._value.get() >= 1


async def test_heads_are_brought_after_an_outage(carriers: Carriers, stack: AsyncExitStack) -> None:
    """What could not be sent is reduced to heads, which are sent when the bus is back."""
    here, there = Node(carriers.make(), "here"), await started(stack, carriers.make(), "there")
    stack.push_async_callback(here.stop)
    there.bus.follow(KEY)
    await eventually(lambda: there.ears.doubts == [KEY])
    for seq in range(1, 1001):
        here.commit(seq)  # it is not connected yet
    assert len(here.link._late) == 1
    assert not here.link._outbox
    here.start()
    await there.hears(1000)


async def test_a_log_is_left_after_a_while(
    carriers: Carriers, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log without readers is followed a little longer, and one that is followed again is not left."""
    monkeypatch.setattr(link, "LINGER_SECONDS", 0)
    monkeypatch.setattr(link, "PROBE_SECONDS", 0.05)
    node = await started(stack, carriers.make())
    for key in (1, 2):
        node.bus.follow(key)
    node.bus.leave(1)
    await eventually(lambda: list(node.link._followed) == [2])
    node.bus.leave(2)
    node.bus.follow(2)
    node.bus.follow(1)
    other = await started(stack, carriers.make())

    async def heard() -> bool:
        for key in (1, 2):
            other.commit(other.ears.last(key) + 1, key=key)
        return node.ears.last(1) > 0 and node.ears.last(2) > 0

    await eventually(heard)


async def test_a_lossy_bus(stack: AsyncExitStack) -> None:
    """Whatever is lost, doubled and reordered: only commits are received."""
    nodes: list[Lossy] = []
    here, there = [await started(stack, Lossy(nodes, random.Random(seed), loss=0.5), str(seed)) for seed in (1, 2)]
    there.bus.follow(KEY)
    await acquainted(here, there)
    for seq in range(1, 200):
        here.commit(seq)
        await asyncio.sleep(0)
    await eventually(lambda: there.ears.last() > 0)
    assert set(there.ears.heard[KEY]) <= set(range(1, 200))


async def test_a_silent_carrier_is_dropped(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A carrier that takes everything and brings nothing is noticed by its probes."""
    monkeypatch.setattr(link, "PROBE_SECONDS", 0.05)
    nodes: list[Lossy] = []
    carrier = Lossy(nodes, random.Random(1))
    node = await started(stack, carrier)
    carrier.stalls = True
    await eventually(lambda: node.link.state is State.DOWN)
    for seq in range(1, 100):
        node.commit(seq)
    assert node.ears.last() == 99
    carrier.stalls = False
    await node.is_proven()


# ---- Redis


async def recovered(here: Node, there: Node) -> None:
    """Wait until both are connected again: the log is compared with the database, and news flows."""
    await eventually(lambda: there.ears.doubts == [KEY, KEY])
    await here.is_proven()
    seq = here.ears.last() + 1
    here.commit(seq)
    await there.hears(seq)


async def test_redis_that_is_killed(redis: RedisServer, stack: AsyncExitStack) -> None:
    """A Redis that is killed and started again is found again; no publisher waits."""
    here, there = [await started(stack, RedisCarrier(redis.url)) for _ in range(2)]
    there.bus.follow(KEY)
    await eventually(lambda: there.ears.doubts == [KEY])
    await acquainted(here, there)
    redis.kill()
    await eventually(lambda: here.link.state is State.DOWN and there.link.state is State.DOWN)
    for seq in range(1, 101):
        here.commit(seq)
    assert here.ears.last() == 100
    await redis.start()
    await recovered(here, there)


async def test_redis_that_freezes(redis: RedisServer, stack: AsyncExitStack) -> None:
    """A Redis that is stopped without closing its connections is noticed; after the thaw news flows."""
    here, there = [await started(stack, RedisCarrier(redis.url)) for _ in range(2)]
    there.bus.follow(KEY)
    await eventually(lambda: there.ears.doubts == [KEY])
    await acquainted(here, there)
    redis.freeze()
    here.commit(1)
    assert here.ears.last() == 1
    await eventually(lambda: here.link.state is State.DOWN and there.link.state is State.DOWN)
    here.commit(2)
    redis.thaw()
    await recovered(here, there)


async def test_a_connection_that_is_cut_off(redis: RedisServer, stack: AsyncExitStack) -> None:
    """A node whose packets are dropped drops the carrier, and the others go on."""
    async with proxy_to(f"http://127.0.0.1:{redis.port}") as proxy:
        cut_off = await started(stack, RedisCarrier(proxy.url.replace("http", "redis")))
        here, there = [await started(stack, RedisCarrier(redis.url)) for _ in range(2)]
        for node in (cut_off, there):
            node.bus.follow(KEY)
            await eventually(lambda node=node: node.ears.doubts == [KEY])  # type: ignore[misc]
        await acquainted(cut_off, here, there)
        proxy.freeze()
        await eventually(lambda: cut_off.link.state is State.DOWN)
        here.commit(1)
        await there.hears(1)
        assert cut_off.ears.last() == 0
        proxy.thaw()
        cut_off.ears.doubts.clear()
        await eventually(lambda: cut_off.ears.doubts == [KEY])  # the log is compared with the database


async def test_a_log_that_only_one_node_follows(redis: RedisServer, stack: AsyncExitStack) -> None:
    """If no other node receives a log's events, only its heads are sent, until one does."""
    here, there = [await started(stack, RedisCarrier(redis.url)) for _ in range(2)]
    here.bus.follow(KEY)
    await acquainted(here, there)

    async def alone() -> bool:
        here.commit(here.ears.last() + 1)
        return here.link._alone.get(KEY, 0) >= ALONE

    await eventually(alone)
    there.bus.follow(KEY)
    await eventually(lambda: there.ears.doubts == [KEY])
    await acquainted(here, there)
    here.commit(1000)
    await there.hears(1000)
    await eventually(lambda: KEY not in here.link._alone)
    here.commit(1001, 1002)
    await eventually(lambda: there.ears.heard[KEY][-2:] == [1001, 1002])


async def test_a_user_without_permission(redis: RedisServer, stack: AsyncExitStack) -> None:
    """A user that cannot publish leaves the bus degraded, with the reason in the log and without its password."""
    await redis.command("ACL", "SETUSER", "mute", "on", ">secret-word", "+@all", "-publish", "&*", "~*")
    node = Node(RedisCarrier(f"redis://mute:secret-word@127.0.0.1:{redis.port}/0"), "mute")
    stack.push_async_callback(node.stop)
    node.start()
    await eventually(lambda: node.metrics.bus_reconnects.labels(node.link.carrier.name)._value.get() >= 2)
    node.commit(1)
    assert node.ears.last() == 1


async def test_the_smallest_user(redis: RedisServer, stack: AsyncExitStack) -> None:
    """The permissions that docs/nodes.md names are enough."""
    text = (ROOT / "docs" / "nodes.md").read_text()
    named = re.search(r"ACL SETUSER (.+)`", text)
    assert named is not None
    await redis.command("ACL", "SETUSER", *named[1].split())
    here, there = [
        await started(stack, RedisCarrier(f"redis://streamer:secret@127.0.0.1:{redis.port}/0")) for _ in range(2)
    ]
    there.bus.follow(KEY)
    await eventually(lambda: there.ears.doubts == [KEY])
    await acquainted(here, there)
    here.commit(1)
    await there.hears(1)


async def test_a_redis_that_is_not_there(stack: AsyncExitStack, capfd: pytest.CaptureFixture[str]) -> None:
    """A Redis that refuses connections is tried again and again, and said once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = Node(RedisCarrier(f"redis://:secret-word@127.0.0.1:{port}/0"), "lonely")
    stack.push_async_callback(node.stop)
    node.start()
    await eventually(lambda: node.metrics.bus_reconnects.labels(node.link.carrier.name)._value.get() >= 3)
    output = "".join(capfd.readouterr())
    assert output.count("bus_down") == 1
    assert "secret-word" not in output


# ---- Sentinel


@dataclass
class Watched:
    """A master with a replica, and the sentinel that watches them."""

    master: RedisServer
    replica: RedisServer
    sentinel: RedisServer

    @property
    def url(self) -> str:
        """Return the URL of the service."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/streamer/0"

    async def fails_over(self) -> bool:
        """Order a failover; return whether the sentinel obeys, which needs a replica that is in step."""
        answer = await self.sentinel.command("SENTINEL", "FAILOVER", "streamer")
        return answer.startswith(b"+OK") or b"INPROG" in answer

    async def names(self, port: int) -> bool:
        """Return whether the sentinel names this master."""
        answer = await self.sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "streamer")
        return str(port).encode() in answer


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    """Start a master, a replica and a sentinel."""
    master = RedisServer(tmp_path / "master")
    await master.start()
    replica = RedisServer(tmp_path / "replica", "--replicaof", f"127.0.0.1 {master.port}")
    await replica.start()
    folder = tmp_path / "sentinel"
    folder.mkdir()
    sentinel = RedisServer(folder, sentinel=True)
    (folder / "sentinel.conf").write_text(
        f"sentinel monitor streamer 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds streamer 500\n"
        "sentinel failover-timeout streamer 2000\n"
    )
    await sentinel.start()
    made = Watched(master, replica, sentinel)

    async def knows_replica() -> bool:
        return str(replica.port).encode() in await sentinel.command("SENTINEL", "REPLICAS", "streamer")

    await eventually(knows_replica)
    yield made
    for server in (sentinel, replica, master):
        server.kill()


@pytest.mark.parametrize("how", ["ordered", "killed"])
async def test_a_failover_of_redis(watched: Watched, stack: AsyncExitStack, how: str) -> None:
    """After a failover all nodes move to the new master, also if the old one goes on answering."""
    here, there = [await started(stack, carrier_of(watched.url)) for _ in range(2)]
    there.bus.follow(KEY)
    await eventually(lambda: there.ears.doubts == [KEY])
    await acquainted(here, there)
    if how == "ordered":
        await eventually(watched.fails_over)
    else:
        watched.master.kill()
    await eventually(lambda: watched.names(watched.replica.port))
    await eventually(lambda: len(there.ears.doubts) >= 2)
    await here.is_proven()
    await there.is_proven()

    async def heard() -> bool:
        here.commit(here.ears.last() + 1)
        return there.ears.last() > 0

    await eventually(heard)
    for node in (here, there):
        assert node.link.carrier._out.port == watched.replica.port  # type: ignore[attr-defined]


def test_urls_of_sentinels() -> None:
    """A URL that names no sentinel or no service is refused with the form."""
    for wrong in ("redis+sentinel://h:1", "redis+sentinel://h/service", "redis+sentinel://:1/service"):
        with pytest.raises(ValueError, match=r"redis\+sentinel://|HOST:PORT"):
            carrier_of(wrong)
