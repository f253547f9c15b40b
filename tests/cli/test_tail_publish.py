"""`streamer tail` and `streamer publish` as users run them: processes, pipes, terminals and exit codes."""

import asyncio
import json
import random
import signal
import unicodedata
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.app import Server
from streamer.cli.cursor import CursorFile
from streamer.cli.pretty import printable
from streamer.cli.remote import Failure
from streamer.cli.when import moment_of
from tests.conftest import MakeProcess
from tests.support.api import Api, make_event
from tests.support.cli import Cli, line_of, said
from tests.support.databases import sqlite_url
from tests.support.process import free_port
from tests.support.proxy import proxy_to
from tests.support.waiting import SECONDS, eventually


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the commands never see it."""
    return sqlite_url(tmp_path)


@pytest.fixture
async def thirty(api: Api) -> list[dict[str, Any]]:
    """Append thirty events to `my`: by ann, a bot and an agent, in turn."""
    actors = [{"type": "user", "id": "ann"}, {"type": "system", "id": "ci"}, {"type": "agent", "id": "bob"}]
    batch = [{"actor": actors[n % 3], "action": f"issue.{'created' if n % 2 else 'updated'}"} for n in range(30)]
    stored = (await api.append_all("my", batch)).expect(201)["events"]
    assert isinstance(stored, list)
    return stored


# ---- tail: selecting events


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", range(11, 31)),
        ("-n 3", range(28, 31)),
        ("-n 0", []),
        ("--since all", range(1, 31)),
        ("--since latest", []),
        ("--since 27", range(28, 31)),
        ("--since 1h", range(1, 31)),
        ("--since 2026-01-01", range(1, 31)),
        ("--since 2026-01-01T00:00Z -n 2", [29, 30]),
        ("--since 5 --until 8", [6, 7, 8]),
        ("--until 8 -n 2", [7, 8]),
        ("--until 30 -n 2", [29, 30]),
        ("--until 1h", []),
        ("--since all --until 1h", []),
        ("--since all --count 4", [1, 2, 3, 4]),
        ("-n 5 --count 2", [26, 27]),
        ("--since 20 --actor ann", [22, 25, 28]),
        ("--since 20 --actor ann --actor bob", [21, 22, 24, 25, 27, 28, 30]),
        ("--since 20 --actor-type agent,system --action issue.created", [24, 26, 30]),
        ("--since 25 --exclude issue.created", [27, 29]),
        ("--since 25 --exclude actor=ann --exclude actor-type=agent", [26, 29]),
        ("-q BOB -n 2", [27, 30]),
        ("--target nothing", []),
    ],
)
async def test_what_tail_shows(cli: Cli, thirty: list[dict[str, Any]], options: str, expected: list[int]) -> None:
    """Each selection of the history prints its events, oldest first, and the command ends."""
    assert len(thirty) == 30
    assert (await cli("tail", "my", *options.split())).seqs == list(expected)


async def test_the_audit_trail(cli: Cli, api: Api) -> None:
    """`--category audit` shows and follows only changes of access and settings; `activity` shows the rest."""
    (await api.append("my")).expect(201)
    key = await api.create_key("my", scopes=["workspace:read"])
    (await api.put("/v1/workspaces/my/members/ann", {"role": "viewer"})).expect(201)
    for options, expected in (
        ("--category audit", ["key.created", "member.added", "audit.read"]),  # the reading is recorded, too
        ("--category !activity", ["key.created", "member.added", "audit.read"]),
        ("--exclude category=audit", ["issue.created"]),
        ("--category activity", ["issue.created"]),
        ("--category activity --category audit", ["issue.created", "key.created", "member.added", "audit.read"]),
    ):
        ended = await cli("tail", "my", *options.split())
        assert [json.loads(line)["action"] for line in ended.lines] == expected, ended.err
    assert (await cli("tail", "my", "--category", "audit", "--action", "key.*", "--key", key)).lines == []
    async with cli.started("tail", "my", "-f", "--since", "latest", "--category", "audit", "-v") as process:
        await said(process.stderr, "caught up")
        (await api.append("my")).expect(201)
        (await api.put("/v1/workspaces/my/members/ann", {"role": "member"})).expect(200)
        assert (await line_of(process.stdout))["action"] == "member.role_changed"


async def test_since_an_event(cli: Cli, thirty: list[dict[str, Any]], api: Api) -> None:
    """`--since` and `--until` also accept an event's id and a position."""
    assert (await cli("tail", "my", "--since", thirty[26]["id"])).seqs == [28, 29, 30]
    position = (await api.get("/v1/workspaces/my/events")).expect(200)["position"]
    epoch = position.rpartition(".")[0]
    assert (await cli("tail", "my", "--since", f"{epoch}.3", "--until", thirty[4]["id"])).seqs == [4, 5]
    assert (await cli("tail", "my", "--since", "all", "--until", thirty[2]["timestamp"])).seqs == [1, 2]


async def test_ndjson_is_what_the_server_serves(cli: Cli, api: Api) -> None:
    """Each printed line is byte for byte the event of the API, from pages and from the stream."""
    stored = (await api.append("my", details={"text": "é\u2028 😀 \x1b[31m", "n": 0.1, "big": 2**60})).expect(201)
    raw = (await api.get(f"/v1/workspaces/my/events/{stored['id']}")).body.decode()
    assert (await cli("tail", "my")).out == raw + "\n"
    assert (await cli("tail", "my", "--since", "all")).out == raw + "\n"


async def test_pretty_is_one_line_an_event_and_cannot_steer_the_terminal(cli: Cli, api: Api) -> None:
    """Any event is one line without control characters. A pipe gets no colour."""
    await api.append(
        "my",
        action="issue.created",
        actor={"type": "agent", "id": "bob", "name": "Bob\x1b]0;x\x07", "on_behalf_of": "ann"},
        description="Bob\x1b]0;x\x07 said\n[bold]no[/bold] \u202etxt",
    )
    ended = await cli("tail", "my", "-o", "pretty", "--time", "utc")
    (line,) = ended.lines
    assert line.isprintable()
    assert "said�[bold]no[/bold] �txt for ann  issue.created #1" in line
    assert (await cli("tail", "my", "-o", "pretty", "--time", "relative")).out.split()[1:3] == ["s", "ago"]


BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@given(st.text() | st.text(st.sampled_from(BIDI_CONTROLS + "a\u3000\u200d\u2028\x1b\x9b")))
def test_printable(text: str) -> None:
    """Characters that could control a terminal are replaced one by one; all others are kept."""
    shown = printable(text)
    assert len(shown) == len(text)
    for before, after in zip(text, shown, strict=True):
        steers = unicodedata.category(before) in {"Cc", "Zl", "Zp"} or before in BIDI_CONTROLS
        assert after == ("\N{REPLACEMENT CHARACTER}" if steers else before)


# ---- tail: following


async def test_follow_is_live_and_ends_on_interrupt(cli: Cli, thirty: list[dict[str, Any]], api: Api) -> None:
    """It prints the history, then each event as it arrives, flushed by line. Ctrl-C ends it with 130 and no message."""
    assert thirty
    async with cli.started("tail", "my", "-f", "-n", "1") as process:
        assert (await line_of(process.stdout))["seq"] == 30
        for seq in (31, 32):
            await api.append("my")
            assert (await line_of(process.stdout))["seq"] == seq
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


async def test_follow_survives_cuts(server: Server, cli: Cli, api: Api) -> None:
    """Despite repeated disconnections, it prints each event once and in order, and a pipe gets no other output."""
    await api.append("my")
    async with (
        proxy_to(server.url) as proxy,
        cli.started("tail", "my", "-f", "--url", proxy.url, "--since", "all", "--count", "30") as process,
    ):
        assert (await line_of(process.stdout))["seq"] == 1
        for seq in range(2, 31):
            if seq % 10 == 0:
                proxy.cut()
            await api.append("my")
        found = [(await line_of(process.stdout))["seq"] for _ in range(29)]
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    assert found == list(range(2, 31))
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_a_terminal_gets_colour_and_a_status_line(server: Server, cli: Cli, api: Api) -> None:
    """On a terminal, events are coloured lines above a status line, and the effect of a lost connection is reported."""
    await api.append("my", actor={"type": "agent", "id": "bob", "name": "Bob"})
    async with proxy_to(server.url) as proxy, cli.on_terminal("tail", "my", "-f", "--url", proxy.url) as terminal:
        await eventually(lambda: "\x1b[35mBob\x1b[0m created issue" in terminal.shown)
        await eventually(lambda: "live - 0/s - seq 1" in terminal.shown)
        await proxy.refuse()
        await eventually(lambda: "retrying in" in terminal.shown)
        await api.append_all("my", [{}] * 17)
        await proxy.listen()
        await eventually(lambda: " s, caught up 17" in terminal.shown)
        assert "reconnected after " in terminal.shown
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.process.wait() == 130


async def test_a_reader_that_leaves(cli: Cli, thirty: list[dict[str, Any]]) -> None:
    """When the pipe's reader exits, tail ends silently with 0, even if it has nothing to write."""
    assert thirty
    async with cli.started("tail", "my", "-f", "-n", "1") as process:
        await line_of(process.stdout)
        assert process.stdout is not None
        process.stdout._transport.close()  # type: ignore[attr-defined]
        async with asyncio.timeout(SECONDS):
            assert process.stderr is not None
            assert await process.stderr.read() == b""
            assert await process.wait() == 0


# ---- tail: the cursor file


async def test_the_cursor_file_resumes_exactly(
    cli: Cli, thirty: list[dict[str, Any]], api: Api, tmp_path: Path
) -> None:
    """Each run resumes where the last one ended, even if the filter stopped all events."""
    assert thirty
    tail = ("tail", "my", "--cursor-file", tmp_path / "c")
    assert (await cli(*tail, "--since", "all", "--count", 10)).seqs == list(range(1, 11))
    assert (await cli(*tail, "--count", 5)).seqs == list(range(11, 16))
    assert (await cli(*tail)).seqs == list(range(16, 31))
    assert (await cli(*tail)).seqs == []
    await api.append("my")
    assert (await cli(*tail, "--actor", "nobody")).seqs == []
    await api.append("my")
    assert (await cli(*tail)).seqs == [32]


async def test_the_cursor_file_with_an_end(cli: Cli, thirty: list[dict[str, Any]], tmp_path: Path) -> None:
    """A run that ends at --until leaves the later events to the next run."""
    assert thirty
    tail = ("tail", "my", "--cursor-file", tmp_path / "c")
    assert (await cli(*tail, "--until", 8, "-n", 2)).seqs == [7, 8]
    assert (await cli(*tail, "--until", 10)).seqs == [9, 10]
    assert (await cli(*tail)).seqs == list(range(11, 31))


async def test_a_killed_tail_resumes(cli: Cli, api: Api, tmp_path: Path) -> None:
    """After `kill -9` at any time, the next run skips nothing and repeats at most the event that was being written."""
    await api.append("my")
    output = tmp_path / "out"
    tail = f"tail my -f --since all --cursor-file {tmp_path / 'c'}".split()
    done = asyncio.Event()

    async def publish() -> None:
        while not done.is_set():
            await api.append_all("my", [{}] * 7)

    def printed() -> list[int]:
        return [json.loads(line)["seq"] for line in output.read_text().splitlines()]

    publishing = asyncio.create_task(publish())
    seams = 0
    for _ in range(4):
        known = len(output.read_bytes().splitlines()) if output.exists() else 0
        async with cli.started(*tail) as process:
            assert process.stdout is not None
            wanted = known + random.randint(1, 300)
            with output.open("ab") as file:
                while known < wanted:
                    async with asyncio.timeout(SECONDS):
                        file.write(await process.stdout.readline())
                    known += 1
                process.kill()
                # Data written before the kill is in the pipe, so it counts.
                file.write(await process.stdout.read())
        seams += 1
    done.set()
    await publishing
    found = printed()
    assert found[0] == 1
    steps = [later - earlier for earlier, later in pairwise(found)]
    assert set(steps) <= {0, 1}
    assert steps.count(0) <= seams


async def test_a_cursor_file_of_another_log(cli: Cli, thirty: list[dict[str, Any]], tmp_path: Path) -> None:
    """A position that is not in the log is reported as a gap. With --strict, the command ends with code 6."""
    assert thirty
    (tmp_path / "c").write_text("zzzz.7\n")
    tail = ("tail", "my", "--cursor-file", tmp_path / "c")
    strict = await cli(*tail, "--strict")
    assert (strict.code, strict.out) == (6, "")
    assert "~~ an unknown number of events missing (reset) ~~" in strict.err
    lenient = await cli(*tail)
    assert lenient.seqs == list(range(1, 31))
    assert "missing" in lenient.err


def test_the_cursor_file(tmp_path: Path) -> None:
    """The position is complete at any time, even without closing the file. An invalid position is refused."""
    path = tmp_path / "c"
    file = CursorFile(path)
    assert file.read() is None
    for position in ("epoch.9", "epoch.10", "x.123456789", "epoch.3"):
        file.write(position)
        assert CursorFile(path).read() == position
    file.close()
    assert list(tmp_path.iterdir()) == [path]
    path.write_text("epoch.\n")
    with pytest.raises(Failure, match="holds no position"):
        CursorFile(path).read()
    with pytest.raises(Failure, match="No such file"):
        CursorFile(tmp_path / "no" / "c").write("epoch.1")


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ("tail other", 1, "no workspace other"),
        ("tail my --since nonsense", 2, "not a time, not a seq"),
        ("tail my --since 31", 2, "the log ends at seq 30"),
        ("tail my -f --until 1h", 2, "--follow"),
        ("tail my --exclude colour=red", 2, "no field colour"),
        ("tail my --category tasks", 1, "must be one of activity, audit"),
        ("tail my --action issue.*.x", 1, "action: `*`"),
        ("tail my --url nowhere", 2, "not the URL"),
        ("tail my --key sk_wrong", 4, "STREAMER_KEY"),
        ("tail my --url http://127.0.0.1:NOBODY", 5, "Is the server running?"),
        ("tail my --cursor-file nowhere/c", 1, "Name a file"),
        ("publish my", 0, ""),
        ("publish my --actor-id ann", 2, "--action"),
        ("publish my --action a.b", 1, "actor.type: required"),
        ("publish my --action a.b --details {", 2, "--details is not JSON"),
        ("publish my --action a.b --actor-type user --actor-id a --key sk_wrong", 4, "STREAMER_KEY"),
        ("publish my --action a.b --actor-type user --actor-id a --key READER", 4, "scope"),
    ],
)
@pytest.mark.usefixtures("thirty")
async def test_exit_codes(cli: Cli, api: Api, arguments: str, code: int, text: str) -> None:
    """Each failure has its exit code and names the next step."""
    if "READER" in arguments:
        arguments = arguments.replace("READER", await api.create_key("my", template="read_only"))
    ended = await cli(*arguments.replace("NOBODY", str(free_port())).split())
    assert ended.code == code
    assert text in ended.err


async def test_the_local_admin_key(make_process: MakeProcess, tmp_path: Path) -> None:
    """On the server's own machine, the key in its data directory is used. It is never sent to another machine."""
    process = make_process(admin_key=None, data_dir=tmp_path / "here")
    await process.start()
    cli = Cli(tmp_path, {"STREAMER_DATA_DIR": str(tmp_path / "here"), "STREAMER_URL": process.url})
    event = ["--action", "a.b", "--actor-type", "user", "--actor-id", "ann"]
    assert (await cli("publish", "my", *event)).code == 0
    assert (await cli("tail", "my")).seqs == [1]
    cli.variables["STREAMER_URL"] = process.url.replace("127.0.0.1", "streamer.invalid")
    assert (await cli("tail", "my")).code == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000Z"),
        ("2026-01-02T03:04+01:00", "2026-01-02T02:04:00.000000Z"),
        ("99999999w", "1970-01-01T00:00:00Z"),
        ("", None),
        ("1y", None),
        ("01937f0e-aaaa", None),
    ],
)
def test_times_as_people_type_them(text: str, expected: str | None) -> None:
    """A time with a zone is taken literally. An invalid time is refused."""
    assert moment_of(text) == expected


def test_how_long_ago() -> None:
    """A span counts back from now. A time without a zone is local."""
    for text, seconds in (("90s", 90), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800)):
        moment = moment_of(text)
        assert moment is not None
        assert abs((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() - seconds) < 5
    local = moment_of("2026-01-02")
    assert local is not None
    assert datetime.fromisoformat(local).astimezone().hour == 0


# ---- publish


async def test_publish_one_event_by_options(cli: Cli, api: Api) -> None:
    """Every option sets its field."""
    arguments = (
        "--action issue.created --actor-type agent --actor-id bob --actor-name Bob --on-behalf-of ann --entity-type issue"
        " --entity-id 1 --entity-identifier PAP-1 --entity-name Login --agent-id bob --run-id r1 --task-id t1"
        ' --description Done --details {"a":[1]} --occurred-at 2026-01-01T00:00:00Z --id my-1'
    )
    first = await cli("publish", "my", *arguments.split())
    assert (first.code, first.out) == (0, "stored 1 event in my: seq 1\n")
    (event,) = await api.history("my")
    assert event["actor"] | {"role": None, "ip": None} == event["actor"]
    assert event["actor"]["on_behalf_of"] == "ann"
    assert event["entity"] == {"type": "issue", "id": "1", "identifier": "PAP-1", "name": "Login"}
    assert (event["agent_id"], event["run_id"], event["task_id"], event["id"]) == ("bob", "r1", "t1", "my-1")
    assert (event["description"], event["details"]) == ("Done", {"a": [1]})
    # A repeated id is the same event.
    again = await cli("publish", "my", *arguments.split(), "-v")
    assert [json.loads(line) for line in again.lines] == [event]
    assert len(await api.history("my")) == 1


def lines_of(count: int) -> bytes:
    """Return events, one per line."""
    return b"".join(json.dumps(make_event(details={"n": n})).encode() + b"\n" for n in range(count))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (lines_of(3), 3),
        (lines_of(3).rstrip(), 3),
        (b"\n\n" + lines_of(1) + b"\r\n  \n" + lines_of(1), 2),
        (json.dumps([make_event()] * 1500).encode(), 1500),
        (json.dumps([make_event()] * 2, indent=2).encode(), 2),
        (json.dumps(make_event(), indent=2).encode(), 1),
        (lines_of(2345), 2345),
        (b"", 0),
        (b"[]", 0),
    ],
)
async def test_publish_reads_what_comes(cli: Cli, api: Api, tmp_path: Path, text: bytes, count: int) -> None:
    """It stores any number of events in order: lines, an array or one document, from a pipe or a file."""
    (tmp_path / "in").write_bytes(text)
    for start, ended in (
        (0, await cli("publish", "my", stdin=text)),
        (count, await cli("publish", "my", "--file", "in")),
    ):
        where = "" if count == 0 else f": seq {start + 1}" + (f" to {start + count}" if count > 1 else "")
        assert (ended.code, ended.out) == (0, f"stored {count:,} event{'s' * (count != 1)} in my{where}\n"), ended.err
    if count:
        found = await api.history("my", order="asc", limit=1000)
        assert [event["seq"] for event in found] == list(range(1, 2 * count + 1))
        numbers = [event["details"].get("n", 0) for event in found[:count]]
        assert numbers == sorted(numbers)


async def test_publish_says_which_line_is_wrong(cli: Cli, api: Api, tmp_path: Path) -> None:
    """An invalid event is reported with its line. Its batch is not stored, earlier ones are, and the error says so."""
    lines = lines_of(1201).splitlines()
    lines[1100] = b'{"action": 1, "actor": {"type": "user", "id": "ann"}}'
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    ended = await cli("publish", "my", "--file", "in", "--idempotency-key", "k")
    assert ended.code == 1
    assert "line 1101, action: must be a text" in ended.err
    assert "The 1,000 events before this batch are stored." in ended.err
    assert len(await api.history("my", limit=1000)) == 1000
    # After a correction, the same call continues without duplicates.
    lines[1100] = lines[0]
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    assert (await cli("publish", "my", "--file", "in", "--idempotency-key", "k")).code == 0
    assert len(await api.history("my", limit=1000)) == 1201
    broken = await cli("publish", "my", stdin=lines_of(2) + b'{"action":')
    assert (broken.code, "line 3 is not JSON" in broken.err) == (2, True)


async def test_publish_does_not_hold_events_back(cli: Cli, api: Api) -> None:
    """Events from an open pipe are stored at once, and an interrupt ends the wait."""
    async with cli.started("publish", "my", "-v") as process:
        assert process.stdin is not None
        for seq in (1, 2):
            process.stdin.write(lines_of(1))
            assert (await line_of(process.stdout))["seq"] == seq
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 130
    assert len(await api.history("my")) == 2


async def test_publish_over_cuts(server: Server, cli: Cli, api: Api, tmp_path: Path) -> None:
    """Over a connection that breaks repeatedly, every event is stored once."""
    (tmp_path / "in").write_bytes(lines_of(4000))
    async with proxy_to(server.url) as proxy:
        proxy.cut_after = 1000  # within the first response: nothing can be published over such a connection
        publishing = asyncio.create_task(cli("publish", "my", "--file", "in", "--url", proxy.url))
        await eventually(lambda: proxy.cuts >= 2)
        proxy.cut_after = None
        ended = await publishing
    assert ended.code == 0, ended.err
    numbers = [event["details"]["n"] for event in await api.history("my", order="asc", limit=1000)]
    assert numbers == list(range(4000))
