"""Faults of an installation of three nodes under load: nothing acknowledged is lost, nothing is doubled or out of order."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from tests.conftest import ADMIN_KEY
from tests.support.databases import OwnCluster
from tests.support.installation import NODES, Installation, installation
from tests.support.process import ServerProcess
from tests.support.proxy import proxy_to
from tests.support.redis_server import RedisServer

FROZEN_SECONDS = 3.0
LONG_FROZEN_SECONDS = 20.0

Fault = Callable[[Installation], Awaitable[None]]


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """Start a Redis."""
    server = RedisServer(tmp_path / "redis")
    await server.start()
    yield server
    server.kill()


async def run(fault: Fault, under: Installation) -> None:
    """Let a fault happen under load, and check each delivery."""
    await under.progress()
    await fault(under)
    seconds = await under.progress()
    print(f"{fault.__name__}: all readers up to date {seconds:.1f} s after the fault")  # noqa: T201
    await under.check()


async def redis_killed(under: Installation) -> None:
    """Redis is killed, and starts again after a while."""
    under.redis.kill()
    await under.progress()
    await under.redis.start()


async def redis_frozen(under: Installation) -> None:
    """Redis is stopped without closing its connections."""
    under.redis.freeze()
    await under.progress()
    under.redis.thaw()


async def node_killed(under: Installation) -> None:
    """A node is killed; its clients move to another one. Then it starts again."""
    under.nodes[0].kill()
    await under.progress()
    await under.nodes[0].start()


async def node_frozen(under: Installation) -> None:
    """A node is stopped in the middle of its work, and continues."""
    await _frozen(under.nodes[1], FROZEN_SECONDS)


async def node_frozen_for_long(under: Installation) -> None:
    """A node is stopped for longer than PostgreSQL lets it keep its locks, and continues."""
    await _frozen(under.nodes[1], LONG_FROZEN_SECONDS)


async def _frozen(node: ServerProcess, seconds: float) -> None:
    process = psutil.Process(node.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)  # the fault itself
    finally:
        process.send_signal(signal.SIGCONT)


async def database_restarted(under: Installation) -> None:
    """PostgreSQL crashes and is started again."""
    await asyncio.to_thread(under.cluster.stop)
    await asyncio.to_thread(under.cluster.restart)


async def database_read_only(under: Installation) -> None:
    """All connections are cut, and new ones cannot write for a while, as to a demoted primary. They stay so until they are made again."""
    under.cluster.sql("ALTER DATABASE streamer SET default_transaction_read_only = on")
    under.cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'streamer'")
    await asyncio.sleep(FROZEN_SECONDS)  # the fault itself
    under.cluster.sql("ALTER DATABASE streamer RESET default_transaction_read_only")


async def rolling_restart(under: Installation) -> None:
    """Each node is stopped and started again."""
    for node in under.nodes:
        assert await node.stop() == 0
        await node.start()


async def slow_consumer(under: Installation) -> None:
    """Redis cuts a node off because it reads too slowly."""
    await under.redis.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 32768 1")
    await _frozen(under.nodes[2], FROZEN_SECONDS)


QUICK = (redis_killed, node_killed, database_restarted)
SLOW = (redis_frozen, node_frozen, node_frozen_for_long, database_read_only, rolling_restart, slow_consumer)


@pytest.mark.parametrize(
    "fault",
    [*QUICK, *(pytest.param(fault, marks=pytest.mark.slow) for fault in SLOW)],
    ids=lambda fault: fault.__name__,
)
async def test_faults(fault: Fault, tmp_path: Path, own_cluster: OwnCluster, redis: RedisServer) -> None:
    """Three nodes survive a fault under load."""
    own_cluster.sql("CREATE DATABASE streamer")
    async with installation(tmp_path, own_cluster, redis, ADMIN_KEY) as under:
        await run(fault, under)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "stalled"])
async def test_a_node_without_redis(how: str, tmp_path: Path, own_cluster: OwnCluster, redis: RedisServer) -> None:
    """One node loses Redis, by a refused or a silent connection, while the others keep it."""
    own_cluster.sql("CREATE DATABASE streamer")
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxy_to(f"http://127.0.0.1:{redis.port}"))
        urls = [proxy.url.replace("http", "redis"), *[redis.url] * (NODES - 1)]

        async def partitioned(under: Installation) -> None:
            if how == "cut":
                await proxy.refuse()
            else:
                proxy.freeze()
            await under.progress()
            if how == "cut":
                await proxy.listen()
            else:
                proxy.thaw()

        await run(
            partitioned,
            await stack.enter_async_context(installation(tmp_path, own_cluster, redis, ADMIN_KEY, redis_urls=urls)),
        )
