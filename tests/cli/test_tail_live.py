"""`streamer tail` on streams that a server closes, refuses or interrupts, or that are idle."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from aiohttp import web

from streamer.app import Server
from streamer.cli.idle import Idle
from streamer.client import Activity, Checkpoint, Synced
from tests.conftest import ADMIN_KEY
from tests.support.api import Api
from tests.support.cli import Cli, line_of, said
from tests.support.databases import sqlite_url
from tests.support.proxy import proxy_to
from tests.support.scripted import scripted
from tests.support.waiting import SECONDS


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the command never sees it."""
    return sqlite_url(tmp_path)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run commands; each test names the server."""
    return Cli(tmp_path, {"STREAMER_KEY": ADMIN_KEY})


class Script:
    """A server whose streams follow a script, one after another."""

    def __init__(self, *answers: bytes | web.Response) -> None:
        self._answers = list(answers)
        self.resumed: list[str | None] = []
        """The `Last-Event-ID` of each requested stream."""
        self.times: list[float] = []
        """The times of these requests."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Respond to a request."""
        if not request.path.endswith("/stream"):
            return web.json_response({"position": "e.9", "earliest": "e.0"})
        self.resumed.append(request.headers.get("Last-Event-ID"))
        self.times.append(asyncio.get_running_loop().time())
        script = self._answers.pop(0)
        if isinstance(script, web.Response):
            return script
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(script)
        return response


@contextlib.asynccontextmanager
async def script_of(*answers: bytes | web.Response) -> AsyncIterator[tuple[Script, Sequence[str]]]:
    """Start such a server; yield it and the arguments to reach it."""
    script = Script(*answers)
    async with scripted(script.answer) as url:
        yield script, ("tail", "my", "--since", "all", "--url", url)


def activity(seq: int) -> bytes:
    """Return an event's block."""
    return b'id: e.%d\nevent: activity\ndata: {"seq":%d}\n\n' % (seq, seq)


def closed(reason: str, *, retry: int | None) -> bytes:
    """Return the block that ends a stream; with `retry` after this many milliseconds."""
    line = b"" if retry is None else b"retry: %d\n" % retry
    reconnect = b"false" if retry is None else b"true"
    return line + b'event: closed\ndata: {"reason":"%s","reconnect":%s}\n\n' % (reason.encode(), reconnect)


SYNCED = b'event: synced\ndata: {"position":"e.9"}\n\n'


# ---- streams that the server closes


async def test_a_stream_that_is_closed_to_reconnect(cli: Cli) -> None:
    """However often the server closes a stream with a delay, tail reconnects in time, also without -f, and prints nothing."""
    reasons = ["rotated", "stalled", "shutdown", "store_unavailable", "reset", "internal_error"]
    blocks = [activity(n) + activity(n + 1) + closed(reason, retry=20) for n, reason in enumerate(reasons, 1)]
    async with script_of(*blocks, SYNCED) as (script, tail):
        ended = await cli(*tail)
    assert (ended.seqs, ended.err) == (list(range(1, 8)), "")
    assert script.resumed == [None, *(f"e.{n}" for n in range(2, 8))]
    async with script_of(closed("rotated", retry=1500), SYNCED) as (script, tail):
        ended = await cli(*tail, "-v")
    assert "closed by the server (rotated); reconnecting in 2 s" in ended.err
    assert script.times[1] - script.times[0] >= 1.5


@pytest.mark.parametrize(
    ("reason", "code", "text"),
    [
        ("credential_expired", 4, "credential expired\nGive a valid key with --key or STREAMER_KEY."),
        ("credential_revoked", 4, "credential revoked"),
        ("access_revoked", 4, "access revoked"),
        ("workspace_deleted", 1, "workspace deleted"),
        ("replaced", 1, "replaced"),
    ],
)
async def test_a_stream_that_is_closed_for_good(cli: Cli, reason: str, code: int, text: str) -> None:
    """A stream that is closed for good ends the command, even with -f. An invalid credential has its own exit code."""
    async with script_of(activity(1) + closed(reason, retry=None)) as (script, tail):
        ended = await cli(*tail, "-f")
    assert (ended.code, ended.out) == (code, '{"seq":1}\n')
    assert f"the server ended the stream: {text}" in ended.err
    assert len(script.resumed) == 1


async def test_a_key_that_is_revoked(server: Server, cli: Cli, api: Api) -> None:
    """When a key is revoked, its stream ends with exit code 4."""
    await api.append("my")
    keys = "/v1/workspaces/my/keys"
    made = (await api.post(keys, {"name": "k", "template": "read_only"})).expect(201)
    async with cli.started("tail", "my", "-f", "--url", server.url, "--key", made["key"]) as process:
        await line_of(process.stdout)
        (await api.delete(f"{keys}/{made['id']}")).expect(204)
        async with asyncio.timeout(SECONDS):
            _, err = await process.communicate()
    assert process.returncode == 4
    assert b"--key" in err


# ---- refused streams


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4), (404, 1), (410, 1)])
async def test_refusals_are_final(cli: Cli, status: int, code: int) -> None:
    """A permanent error is not retried, even with -f."""
    refusal = web.json_response({"error": {"code": "c", "message": "No, not this."}}, status=status)
    async with script_of(refusal) as (script, tail):
        ended = await cli(*tail, "-f")
    assert (ended.code, len(script.resumed)) == (code, 1)
    assert "Error: " in ended.err


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_troubles_pass(cli: Cli, status: int) -> None:
    """A temporary error is retried, even in the middle of a stream, and no event is repeated."""
    trouble = web.Response(status=status, text="a proxy")
    again = activity(2) + activity(3) + SYNCED
    async with script_of(activity(1) + activity(2), trouble, again) as (script, tail):
        ended = await cli(*tail)
    assert ended.seqs == [1, 2, 3]
    assert script.resumed == [None, "e.2", "e.2"]


async def test_retry_after(cli: Cli) -> None:
    """The command waits as long as an error's `Retry-After` and a stream's `retry:` say."""
    busy = web.Response(status=503, headers={"Retry-After": "1"})
    async with script_of(busy, b"retry: 1200\n\n", SYNCED) as (script, tail):
        ended = await cli(*tail)
    assert ended.code == 0
    assert script.times[1] - script.times[0] >= 1
    assert script.times[2] - script.times[1] >= 1.2


# ---- idle


async def test_idle_exit(server: Server, cli: Cli, api: Api) -> None:
    """The command exits with 0 after this time without an event. Each event restarts the timer."""
    await api.append("my")
    loop = asyncio.get_running_loop()
    async with cli.started("tail", "my", "-f", "--idle-exit", "1s", "--url", server.url) as process:
        for seq in range(1, 4):
            assert (await line_of(process.stdout))["seq"] == seq
            seen = loop.time()
            if seq < 3:
                await api.append("my")
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
    assert loop.time() - seen >= 0.9


async def test_idle_exit_waits_for_the_server(server: Server, cli: Cli, api: Api) -> None:
    """Without a connection, tail cannot know whether events exist. It exits after it was live for long enough."""
    await api.append("my")
    async with proxy_to(server.url) as proxy:
        options = ("-f", "-v", "-n", 0, "--idle-exit", "1s")
        async with cli.started("tail", "my", *options, "--url", proxy.url) as process:
            await said(process.stderr, "caught up")
            await proxy.refuse()
            await said(process.stderr, "retrying", times=2)
            await proxy.listen()
            async with asyncio.timeout(SECONDS):
                _, err = await process.communicate()
    assert process.returncode == 0
    order = re.findall("retrying|connected again|no event for 1 s", err.decode())
    assert order[-2:] == ["connected again", "no event for 1 s"]


async def test_what_counts_as_idle() -> None:
    """The timer runs while the stream is live, pauses while it is not, and restarts with an event."""
    loop = asyncio.get_running_loop()

    def left() -> float | None:
        until = idle._timeout.when()
        return None if until is None else until - loop.time()

    async with Idle(100) as idle:
        with idle.handling(Activity("e.1", b"{}")):
            pass
        assert left() is None  # not live yet
        with idle.handling(Synced("e.1")):
            assert left() is None
        first = left()
        with idle.handling(Checkpoint("e.2")):
            pass
        second = left()
        assert first is not None
        assert second is not None
        assert 99 < second <= first <= 100
        idle._left = 5
        idle.stop()  # disconnected
        idle._left = 5
        with idle.handling(Synced("e.2")):
            pass
        rest = left()
        assert rest is not None
        assert rest <= 5  # a connection that is closed every minute does not postpone the exit indefinitely
        with idle.handling(Activity("e.3", b"{}")):
            pass
        fresh = left()
        assert fresh is not None
        assert fresh > 99
    async with Idle(0.01) as idle:
        with idle.handling(Synced("e.1")):
            pass
        await asyncio.Event().wait()
    assert idle.ended


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--idle-exit 1s", "needs --follow"),
        ("-f --idle-exit soon", "not a span of time, such as 30s"),
        ("--exec=", "the command is empty"),
        ("--output=", "there are pretty, ndjson"),
        ("-f -v --quiet", "--verbose and --quiet cannot be combined"),
    ],
)
async def test_wrong_usage(cli: Cli, options: str, text: str) -> None:
    """Options that exclude each other are a usage error."""
    ended = await cli("tail", "my", *options.split())
    assert (ended.code, text in ended.err) == (2, True), ended.err
