"""`streamer tail --exec` runs a command for each event, in order, at least once."""

import asyncio
import json
import os
import random
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from streamer.app import Server
from tests.conftest import ADMIN_KEY
from tests.support.api import Api
from tests.support.cli import Cli, line_of
from tests.support.databases import sqlite_url
from tests.support.proxy import proxy_to
from tests.support.waiting import SECONDS, eventually


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the command never sees it."""
    return sqlite_url(tmp_path)


def is_gone(group: int) -> bool:
    """Check that no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


async def test_the_command_gets_the_event(cli: Cli, api: Api) -> None:
    """The event is on stdin as one line, byte for byte, and the variables identify it. tail does not print the event."""
    stored = (await api.append("my", entity=None, details={"text": "é '\"$(false)"}, action="$(false).a\nb")).expect(
        201
    )
    raw = (await api.get(f"/v1/workspaces/my/events/{stored['id']}")).body.decode()
    assert (await cli("tail", "my", "--exec", "cat")).out == raw + "\n"
    cli.variables |= {"STREAMER_EVENT_ENTITY_ID": "of another", "OTHER": "stays"}
    ended = await cli("tail", "my", "--exec", "env -0")
    variables = dict(line.split("=", 1) for line in ended.out.split("\0") if "=" in line)
    position = (await api.get("/v1/workspaces/my")).expect(200)["position"]
    assert {name: value for name, value in variables.items() if "EVENT" in name or "WORKSPACE" in name} == {
        "STREAMER_WORKSPACE": "my",
        "STREAMER_EVENT_ID": stored["id"],
        "STREAMER_EVENT_SEQ": "1",
        "STREAMER_EVENT_POSITION": position,
        "STREAMER_EVENT_ACTION": "$(false).a\nb",
        "STREAMER_EVENT_TIMESTAMP": stored["timestamp"],
        "STREAMER_EVENT_ACTOR_TYPE": stored["actor"]["type"],
        "STREAMER_EVENT_ACTOR_ID": stored["actor"]["id"],
        "STREAMER_EVENT_ENTITY_TYPE": "",
        "STREAMER_EVENT_ENTITY_ID": "",
    }
    assert variables["OTHER"] == "stays"


async def test_output_passes_through(cli: Cli, api: Api) -> None:
    """Commands print in the order of the events. With -o, each event is printed before its command's output."""
    await api.append_all("my", [{}] * 3)
    ended = await cli("tail", "my", "--exec", "echo $STREAMER_EVENT_SEQ; echo err >&2")
    assert (ended.code, ended.out, ended.err) == (0, "1\n2\n3\n", "err\n" * 3)
    ended = await cli("tail", "my", "--exec", "echo did it", "-o", "template={seq}", "--count", 2)
    assert (ended.code, ended.out) == (0, "1\ndid it\n2\ndid it\n")


async def test_the_key_is_not_handed_on(cli: Cli, api: Api) -> None:
    """A key from --key never reaches the command's environment. One from the environment stays there."""
    await api.append("my")
    del cli.variables["STREAMER_KEY"]
    assert ADMIN_KEY not in (await cli("tail", "my", "--key", ADMIN_KEY, "--exec", "env; cat")).out
    cli.variables["STREAMER_KEY"] = ADMIN_KEY
    assert (await cli("tail", "my", "--exec", "echo $STREAMER_KEY")).out == ADMIN_KEY + "\n"


async def test_a_command_need_not_read(cli: Cli, api: Api) -> None:
    """A command need not read its event, even one larger than a pipe's buffer."""
    await api.append_all("my", [{"details": {"text": "x" * 200_000}}] * 2)
    ended = await cli("tail", "my", "--exec", "echo $STREAMER_EVENT_SEQ")
    assert (ended.code, ended.out, ended.err) == (0, "1\n2\n", "")


@pytest.mark.parametrize(
    ("command", "how"), [("exit 3", "exit status 3"), ("kill -9 $$", "SIGKILL"), ("no-such-command", "exit status 127")]
)
async def test_a_command_that_fails(cli: Cli, api: Api, tmp_path: Path, command: str, how: str) -> None:
    """A failing command ends tail with 1 and is reported with its event, which is not acknowledged and comes again."""
    stored = (await api.append_all("my", [{}] * 4)).expect(201)["events"]
    tail = ("tail", "my", "--cursor-file", tmp_path / "c")
    ended = await cli(*tail, "--exec", f'echo $STREAMER_EVENT_SEQ; [ "$STREAMER_EVENT_SEQ" != 3 ] || {command}')
    assert (ended.code, ended.out) == (1, "1\n2\n3\n")
    assert f"--exec ended with {how} at seq 3 (event {stored[2]['id']})" in ended.err
    assert "--cursor-file" in ended.err
    assert (await cli(*tail, "--exec", "echo $STREAMER_EVENT_SEQ")).out == "3\n4\n"


@pytest.mark.parametrize("options", ["-n 2", "--since 3", "--since 1h", "--since {third}"])
async def test_a_first_command_that_fails(cli: Cli, api: Api, tmp_path: Path, options: str) -> None:
    """A run that fails at its first event resumes at that event, whatever was appended since."""
    stored = (await api.append_all("my", [{}] * 5)).expect(201)["events"]
    given = options.replace("{third}", stored[2]["id"]).split()
    first = 1 if "1h" in options else 4
    tail = ("tail", "my", *given, "--cursor-file", tmp_path / "c")
    assert (await cli(*tail, "--exec", "false")).code == 1
    await api.append_all("my", [{}] * 5)
    assert (await cli(*tail)).seqs == list(range(first, 11))


async def test_a_slow_command_loses_nothing(server: Server, cli: Cli, api: Api, tmp_path: Path) -> None:
    """While a command runs, events that exceed all buffers are appended. All are handled, over one connection."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await api.append("my")
    command = f'echo "$STREAMER_EVENT_SEQ"; [ "$STREAMER_EVENT_SEQ" != 1 ] || cat {gate}'
    async with (
        proxy_to(server.url) as proxy,
        cli.started("tail", "my", "-f", "--count", 101, "--exec", command, "--url", proxy.url) as process,
    ):
        assert await line_of(process.stdout) == 1
        for _ in range(20):
            await api.append_all("my", [{"details": {"text": "x" * 200_000}}] * 5)
        connections = proxy.connections
        gate.write_text("2000\n")
        out, err = await process.communicate()
        assert proxy.connections == connections
    assert (process.returncode, err) == (0, b"")
    assert [int(line) for line in out.split()] == [2000, *range(2, 102)]


async def test_ctrl_c_ends_the_command(cli: Cli, api: Api, tmp_path: Path) -> None:
    """Ctrl-C on the terminal ends the command and its children. Its event is not acknowledged."""
    await api.append("my")
    tail = ("tail", "my", "-f", "--cursor-file", tmp_path / "c")
    async with cli.on_terminal(*tail, "--exec", "(sleep 1000 & wait) & echo group $$ ; wait") as terminal:
        await eventually(lambda: "group" in terminal.shown and terminal.shown.endswith("\n"))
        group = int(terminal.shown.split()[1])
        assert not is_gone(group)
        terminal.type("\x03")
        assert await terminal.ended() == 130
    await eventually(lambda: is_gone(group))
    assert (await cli(*tail, "--count", 1)).seqs == [1]


async def test_sigterm_ends_the_command(cli: Cli, api: Api) -> None:
    """SIGTERM ends the command first, with time to clean up, and then tail with 143."""
    await api.append("my")
    command = "trap 'echo cleaned; exit' TERM; echo $$; while :; do sleep 0.01; done"
    async with cli.started("tail", "my", "--exec", command) as process:
        group = await line_of(process.stdout)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    assert (process.returncode, out) == (143, b"cleaned\n"), err
    await eventually(lambda: is_gone(group))


async def test_kill_9_in_a_loop(cli: Cli, api: Api, tmp_path: Path) -> None:
    """Despite repeated kills at any time, each event is handled in order. A kill repeats at most one event."""
    await api.append_all("my", [{}] * 200)
    done = tmp_path / "done"
    tail = ("tail", "my", "-f", "--since", "all", "--cursor-file", tmp_path / "c")

    def handled() -> list[int]:
        return [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []

    kills = 0
    while not handled() or handled()[-1] < 60:
        wanted = len(handled()) + random.randint(1, 20)
        async with cli.started(*tail, "--exec", f'echo "$STREAMER_EVENT_SEQ" >> {done}') as process:
            await eventually(lambda: len(handled()) >= wanted)  # noqa: B023 - called before the next round
            process.kill()
            kills += 1
    found = handled()
    steps = [later - earlier for earlier, later in pairwise([0, *found])]
    assert set(steps) <= {0, 1}
    assert steps.count(0) <= kills


async def test_the_idle_exit_does_not_count_a_command(cli: Cli, api: Api) -> None:
    """The time of a running command does not count towards --idle-exit, and later events are handled."""
    await api.append("my")
    command = '[ "$STREAMER_EVENT_SEQ" != 2 ] || sleep 1.5; echo "$STREAMER_EVENT_SEQ"'
    async with cli.started("tail", "my", "-f", "--idle-exit", "1s", "--exec", command) as process:
        assert await line_of(process.stdout) == 1
        await api.append_all("my", [{}] * 3)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"2\n3\n4\n", b"")
