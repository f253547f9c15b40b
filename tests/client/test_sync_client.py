"""The synchronous client does what the asynchronous one does, and is safe with threads, signals and exits."""

import asyncio
import inspect
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from aiohttp import web

from streamer.app import Server
from streamer.client import (
    Activity,
    ApiError,
    Client,
    Connected,
    Lost,
    PlatformClient,
    StreamMessage,
    SyncClient,
    Synced,
    SyncPlatformClient,
    Timing,
    Unreachable,
)
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support import programs
from tests.support.databases import sqlite_url
from tests.support.process import ServerProcess, free_port
from tests.support.proxy import Proxy, proxy_to
from tests.support.scripted import scripted
from tests.support.waiting import SECONDS, eventually

FAST = Timing(unit=0.001, connect=10_000, silence=15_000)
EVENT = {"action": "issue.created", "actor": {"type": "user", "id": "ann"}}
BEGINNING = "1970-01-01T00:00:00Z"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the client never sees it."""
    return sqlite_url(tmp_path)


@pytest.fixture
async def process(make_process: MakeProcess) -> ServerProcess:
    """Start a server as a separate process."""
    process = make_process()
    await process.start()
    return process


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """Start a proxy in front of the server in this process."""
    async with proxy_to(server.url) as proxy:
        yield proxy


def seqs(messages: Iterator[StreamMessage], last: int) -> list[int]:
    """Return the seqs of the events up to the one with `last`."""
    found = []
    for message in messages:
        if isinstance(message, Activity):
            found.append(message.seq)
            if message.seq >= last:
                break
    return found


def threads() -> list[threading.Thread]:
    """Return the running threads of clients."""
    return [thread for thread in threading.enumerate() if thread.name == "streamer-client"]


# ---- the same API


@pytest.mark.parametrize(("kind", "twin"), [(Client, SyncClient), (PlatformClient, SyncPlatformClient)])
def test_each_method_has_a_twin(kind: type, twin: type) -> None:
    """Each public method exists with the same parameters and description, and none is a coroutine function."""
    names = [name for name in vars(kind) if not name.startswith("_")]
    assert {name for name in dir(twin) if not name.startswith("_")} == {*names, "close"}
    for name in ["__init__", *names]:
        method, other = getattr(kind, name), getattr(twin, name)
        assert inspect.signature(method).parameters == inspect.signature(other).parameters
        assert not inspect.iscoroutinefunction(other)
        assert not inspect.isasyncgenfunction(other)
        assert name == "__init__" or inspect.getdoc(other) == inspect.getdoc(method)


async def test_the_calls(process: ServerProcess) -> None:
    """Every call returns the same as the asynchronous one, even if an event loop is running."""
    with SyncClient(process.url, ADMIN_KEY, timing=FAST) as client:
        one = client.append("ws", EVENT)
        many = client.append("ws", [EVENT, EVENT], "a-key")
        assert client.append("ws", [EVENT, EVENT], "a-key") == many
        assert [one["seq"], *(event["seq"] for event in many)] == [1, 2, 3]
        assert client.event("ws", one["id"]) == one
        page = client.page("ws", limit=2)
        assert [activity.seq for activity in page.events] == [3, 2]
        assert [activity.event for activity in client.history("ws", order="asc", limit=2)] == [one, *many]
        assert client.workspace("ws")["position"] == page.position
        key = client.create_key("ws", name="k", scopes=["workspace:read"])
        assert [each["id"] for each in client.keys("ws")] == [key["id"]]
        client.revoke_key("ws", key["id"])
        client.put_member("ws", "ann", "viewer")
        assert [member["user"] for member in client.members("ws")] == ["ann"]
        client.remove_member("ws", "ann")
        assert list(client.members("ws")) == []
        async with Client(process.url, ADMIN_KEY) as other:
            assert client.session() == await other.session()


async def test_the_errors(server: Server) -> None:
    """Calls and iterators raise the same errors."""

    def calls() -> None:
        with SyncClient(server.url, ADMIN_KEY, timing=FAST) as client:
            with pytest.raises(ApiError) as wrong:
                client.append("ws", EVENT | {"colour": "red"})
            assert list(wrong.value.fields) == ["colour"]
            with pytest.raises(ApiError) as missing:
                next(client.stream("nowhere"))
            assert missing.value.status == 404
            with pytest.raises(TypeError, match="limt"):
                client.page("ws", limt=3)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="URL"):
            SyncClient("localhost", None)
        with SyncClient(f"http://127.0.0.1:{free_port()}", None, timing=FAST) as client, pytest.raises(Unreachable):
            list(client.history("ws"))

    await asyncio.to_thread(calls)


async def test_what_came_before_an_error() -> None:
    """The iterator yields all items of the pages before the failing one, and then raises the error."""

    async def one_page(request: web.Request) -> web.Response:
        if "cursor" in request.query:
            return web.json_response({"error": {"code": "position_expired", "message": "gone"}}, status=410)
        return web.json_response({"events": [{"seq": 9 - n} for n in range(3)], "position": "e.9", "cursor": "c"})

    found: list[int] = []

    def read() -> None:
        with SyncClient(url, None) as client:
            for activity in client.history("ws"):
                found.append(activity.seq)  # noqa: PERF401 - a list would be lost with the error

    async with scripted(one_page) as url:
        with pytest.raises(ApiError, match="gone"):
            await asyncio.to_thread(read)
    assert found == [9, 8, 7]


# ---- streams


async def test_a_stream_outlives_its_server(process: ServerProcess) -> None:
    """When the server is killed and restarted, the same iterator yields each event once and in order."""
    notices: list[Connected | Lost] = []
    found: list[int] = []
    with SyncClient(process.url, ADMIN_KEY, timing=replace(FAST, attempts=10_000)) as client:
        for size in (1000, 500):
            client.append("ws", [EVENT] * size)

        def follow() -> None:
            for message in client.stream("ws", after=BEGINNING, notice=notices.append):
                if isinstance(message, Activity):
                    found.append(message.seq)
                    if message.seq == 1501:
                        return

        following = asyncio.create_task(asyncio.to_thread(follow))
        await eventually(lambda: len(found) == 1500)
        process.kill()
        await eventually(lambda: isinstance(notices[-1], Lost))
        await process.start()
        client.append("ws", EVENT)
        await asyncio.wait_for(following, SECONDS)
    assert found == list(range(1, 1502))


async def test_threads_share_a_client(server: Server) -> None:
    """Eight threads append while two follow. Each append is stored once, and each reader receives all."""
    with SyncClient(server.url, ADMIN_KEY, timing=FAST) as client:

        def everything() -> None:
            with ThreadPoolExecutor(10) as pool:
                client.append("ws", EVENT)
                readers = [pool.submit(lambda: seqs(client.stream("ws", after=BEGINNING), 161)) for _ in range(2)]
                appends = [
                    pool.submit(lambda: [client.append("ws", EVENT)["seq"] for _ in range(20)]) for _ in range(8)
                ]
                assert sorted(chain(*(each.result() for each in appends))) == list(range(2, 162))
                assert [reader.result() for reader in readers] == [list(range(1, 162))] * 2

        await asyncio.to_thread(everything)


async def test_leaving_a_stream_ends_it(proxy: Proxy) -> None:
    """Leaving a loop or closing an iterator releases its connection before the client is closed."""
    with SyncClient(proxy.url, ADMIN_KEY, timing=FAST) as client:

        def leave() -> None:
            client.append("ws", [EVENT] * 3)
            for message in client.stream("ws"):
                if isinstance(message, Synced):
                    break
            stream = client.stream("ws", after=BEGINNING)
            assert seqs(stream, 2) == [1, 2]
            stream.close()
            with pytest.raises(StopIteration):
                next(stream)

        await asyncio.to_thread(leave)
        await eventually(lambda: proxy.open == 0)


async def test_a_notice_that_calls_the_client(server: Server) -> None:
    """A call from within a notice would deadlock, so it is refused, and the stream reports this."""
    with SyncClient(server.url, ADMIN_KEY, timing=FAST) as client:

        def follow() -> None:
            client.append("ws", EVENT)
            next(client.stream("ws", notice=lambda _: client.revoke_key("ws", "k")))

        with pytest.raises(RuntimeError, match="notice"):
            await asyncio.to_thread(follow)


# ---- closing


@pytest.mark.parametrize("end", [SyncClient.close, lambda client: client.__exit__(None, None, None)])
async def test_closing_ends_what_waits(server: Server, end: Callable[[SyncClient], None]) -> None:
    """Closing the client ends a stream in another thread with an error. Later calls are refused, and no thread remains."""
    client = SyncClient(server.url, ADMIN_KEY, timing=FAST)
    synced = threading.Event()

    def follow() -> None:
        client.append("ws", EVENT)
        for message in client.stream("ws"):
            if isinstance(message, Synced):
                synced.set()

    following = asyncio.create_task(asyncio.to_thread(follow))
    await eventually(synced.is_set)
    await asyncio.to_thread(end, client)
    with pytest.raises(RuntimeError, match="the client is closed"):
        await asyncio.wait_for(following, SECONDS)
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.session()
    with pytest.raises(RuntimeError, match="the client is closed"):
        next(client.stream("ws"))
    client.close()
    assert threads() == []


async def test_a_client_that_is_dropped(proxy: Proxy) -> None:
    """It works without a context manager. When it is garbage-collected, its thread and connections end."""

    def use() -> None:
        client = SyncClient(proxy.url, ADMIN_KEY, timing=FAST)
        client.append("ws", EVENT)
        assert len(threads()) == 1

    await asyncio.to_thread(use)
    assert threads() == []
    await eventually(lambda: proxy.open == 0)


FOLLOW = """
import os
from streamer.client import SyncClient, Synced

with SyncClient(os.environ["STREAMER_URL"], os.environ["STREAMER_KEY"]) as client:
    for message in client.stream("ws"):
        print(type(message).__name__)
"""
INTERRUPTED = """
import os, signal
from streamer.client import SyncClient

client = SyncClient(os.environ["STREAMER_URL"], None)
try:
    client.session()
except KeyboardInterrupt:
    print("interrupted")
    signal.pause()
"""
INTERRUPTED_ELSEWHERE = INTERRUPTED.replace("try:", "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\ntry:")
"""The signal reaches the client's thread, so it does not end the wait; nor does one that arrives just before the wait."""
HELD = """
import os
from streamer.client import SyncClient

client = SyncClient(os.environ["STREAMER_URL"], os.environ["STREAMER_KEY"])
stream = client.stream("ws", after="1970-01-01T00:00:00Z")
print(next(stream).seq)
another = client.stream("ws")
print(type(next(another)).__name__)
"""
FORK = """
import os
from streamer.client import SyncClient

client = SyncClient(os.environ["STREAMER_URL"], os.environ["STREAMER_KEY"])
client.session()
child = os.fork()
if child == 0:
    try:
        client.session()
    except RuntimeError as error:
        print(error)
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(client.session()["id"])
"""


@pytest.fixture
async def variables(server: Server) -> dict[str, str]:
    """Return the environment variables of a program that calls the server, with a workspace."""
    async with Client(server.url, ADMIN_KEY) as client:
        await client.append("ws", EVENT)
    return {"STREAMER_URL": server.url, "STREAMER_KEY": ADMIN_KEY}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_stream_at_once(
    variables: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C during a stream raises KeyboardInterrupt there, and nothing keeps the process alive."""
    async with programs.started(FOLLOW, tmp_path, variables) as process:
        assert process.stdout
        async with asyncio.timeout(SECONDS):
            assert await process.stdout.readline() == b"Synced\n"
            process.send_signal(number)
            _, err = await process.communicate()
    assert process.returncode == -number
    lines = err.decode().splitlines()
    assert lines[-1:] == ["KeyboardInterrupt"] * (number == signal.SIGINT)
    assert err.count(b"Traceback") == (number == signal.SIGINT)


@pytest.mark.parametrize("program", [INTERRUPTED, INTERRUPTED_ELSEWHERE], ids=["the waiting thread", "another thread"])
async def test_an_interrupted_call_is_over(tmp_path: Path, program: str) -> None:
    """Ctrl-C cancels a pending call and closes its connection, instead of only the wait for it."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def late(_request: web.Request) -> web.Response:
        asked.set()
        await answer.wait()
        return web.Response()

    async with scripted(late) as url, proxy_to(url) as proxy, asyncio.timeout(SECONDS):
        async with programs.started(program, tmp_path, {"STREAMER_URL": proxy.url}) as process:
            await asked.wait()
            process.send_signal(signal.SIGINT)
            assert process.stdout
            assert await process.stdout.readline() == b"interrupted\n"
            await eventually(lambda: proxy.open == 0)
            assert process.returncode is None
        answer.set()


async def test_a_process_that_just_ends(variables: dict[str, str], tmp_path: Path) -> None:
    """Unclosed clients and half-read streams neither keep the process alive nor print anything."""
    ended = await programs.run(HELD, tmp_path, variables)
    assert (ended.code, ended.err, ended.lines) == (0, "", ["1", "Synced"])


async def test_a_fork(variables: dict[str, str], tmp_path: Path) -> None:
    """In a forked process, the client raises an error at once. The parent's client continues to work."""
    ended = await programs.run(FORK, tmp_path, variables)
    assert ended.code == 0, ended.err
    assert ended.lines[0] == "a client cannot be used after a fork of its process: create another one"
    assert len(ended.lines) == 2
