"""The output of `streamer tail`: its formats, and its messages on terminals and in pipes."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.app import Server
from streamer.cli.formats import FIELDS, Format, format_of, template
from streamer.client import Activity
from tests.support.api import Api
from tests.support.cli import Cli, line_of, said
from tests.support.databases import sqlite_url
from tests.support.proxy import proxy_to
from tests.support.waiting import eventually

EVENT = {
    "seq": 7,
    "action": "issue.created",
    "actor": {"type": "user", "id": "ann", "name": "Ann\x1b[31m\nB", "role": None},
    "entity": None,
    "details": {"tags": ["a", {"b": 1.5}], "ok": True, "0": "zero", "ключ": "é"},
}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the command never sees it."""
    return sqlite_url(tmp_path)


def form(output: str) -> Format:
    """Return a format for the workspace `my`."""
    return format_of(output, workspace="my", time="utc", terminal=False)


# ---- templates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{seq} {action}", "7 issue.created"),
        ("{actor.id}\\t{{{actor.type}}}\\n\\\\n", "ann\t{user}\n\\n"),
        ("{actor.name}", "Ann\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}B"),
        ("<{actor.role}{entity.id}{entity}{details.no.such}{details.tags.9}{details.ok.x}{run_id}>", "<>"),
        ("{details.tags.0} {details.tags.1.b} {details.tags.1} {details.ok}", 'a 1.5 {"b":1.5} true'),
        ("{details.ключ} {details.0}", "é zero"),
        ("C:\\dir 100%", "C:\\dir 100%"),
    ],
)
def test_templates(text: str, expected: str) -> None:
    """A path prints its value, nothing if it is missing, and JSON if it is not text. Control characters are replaced."""
    assert template(text)(Activity("e.7", orjson.dumps(EVENT))) == f"{expected}\n".encode()


@pytest.mark.parametrize(
    "text", ["{", "}", "{a", "{}", "{ seq }", "{nothing}", "{actor.age}", "{seq.x}", "{actor.id.x}"]
)
def test_templates_that_cannot_be(text: str) -> None:
    """A lone brace or an unknown field is refused with its name."""
    with pytest.raises(ValueError, match=re.escape(text.removesuffix("a"))):
        template(text)


@given(st.text(alphabet="{}\\nt.ab s{action}") | st.text())
def test_no_template_breaks(text: str) -> None:
    """Any text is a valid template or is refused."""
    try:
        render = template(text)
    except ValueError:
        return
    assert render(Activity("e.7", orjson.dumps(EVENT))).endswith(b"\n")


async def test_templates_know_the_event(api: Api) -> None:
    """A template may name exactly the fields of events."""
    event = (await api.append("my", entity={"type": "issue", "id": "1"})).expect(201)
    assert list(FIELDS) == list(event)
    for name in ("actor", "entity"):
        assert FIELDS[name] == tuple(event[name])


async def test_a_template_through_the_command(cli: Cli, api: Api) -> None:
    """`-o template=…` prints each event's text on a line of its own."""
    for number in range(3):
        await api.append("my", entity={"type": "issue", "id": str(number)}, description="a\nb")
    ended = await cli("tail", "my", "-o", "template={seq}\\t{entity.id} {description}")
    assert (ended.code, ended.out) == (0, "".join(f"{n + 1}\t{n} a\N{REPLACEMENT CHARACTER}b\n" for n in range(3)))


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("xml", "there are pretty, ndjson, json, cloudevents and template=TEXT"),
        ("json=x", "there is no format 'json=x'"),
        ("template", "template={timestamp}"),
        ("template={actor.age}", "actor has no field 'age'; it has type, id, name"),
    ],
)
async def test_formats_that_do_not_exist(cli: Cli, output: str, text: str) -> None:
    """An unknown format is a usage error that lists the formats, and no request is sent."""
    ended = await cli("tail", "my", "-o", output, "--url", "http://127.0.0.1:1")
    assert (ended.code, ended.out) == (2, "")
    assert "--output" in ended.err
    assert text in ended.err


# ---- CloudEvents


async def test_cloudevents(cli: Cli, api: Api) -> None:
    """Each line is a CloudEvent 1.0 in structured JSON. Its data is the event as the API returns it."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    full = {"entity": {"type": "issue", "id": "42"}, "traceparent": trace, "details": {"n": 0.1}}
    first = (await api.append("my", **full)).expect(201)
    bare = (await api.append("my", action="a\nb", entity=None, traceparent=None)).expect(201)
    ended = await cli("tail", "my", "-o", "cloudevents")
    assert [json.loads(line) for line in ended.lines] == [
        {
            "specversion": "1.0",
            "id": first["id"],
            "source": "/v1/workspaces/my",
            "type": first["action"],
            "subject": "issue/42",
            "time": first["timestamp"],
            "traceparent": trace,
            "datacontenttype": "application/json",
            "data": first,
        },
        {
            "specversion": "1.0",
            "id": bare["id"],
            "source": "/v1/workspaces/my",
            "type": "a\N{REPLACEMENT CHARACTER}b",
            "time": bare["timestamp"],
            "datacontenttype": "application/json",
            "data": bare,
        },
    ]


def test_a_cloudevents_source_is_a_uri_reference() -> None:
    """The source is a valid path, whatever the workspace's name."""
    rendered = format_of("cloudevents", workspace="a b/ü", time="utc", terminal=False).render
    event = EVENT | {"id": "1", "timestamp": "2026-01-01T00:00:00Z", "traceparent": None}
    assert json.loads(rendered(Activity("e.7", orjson.dumps(event))))["source"] == "/v1/workspaces/a%20b%2F%C3%BC"


# ---- JSON


async def test_json_is_one_array(cli: Cli, api: Api) -> None:
    """After the history or --count, the output is one array of events as the API returns them, or an empty array."""
    stored = [(await api.append("my", details={"n": n})).expect(201) for n in range(5)]
    for options, expected in (
        ("", stored),
        ("--since 2", stored[2:]),
        ("--since all --count 2", stored[:2]),
        ("-n 0", []),
        ("--since latest", []),
    ):
        ended = await cli("tail", "my", "-o", "json", *options.split())
        assert (ended.code, json.loads(ended.out)) == (0, expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_json_is_closed_by_a_signal(cli: Cli, api: Api, number: signal.Signals, code: int) -> None:
    """Each event's line is printed at once. A signal that ends the command closes the array."""
    await api.append_all("my", [{}] * 2)
    async with cli.started("tail", "my", "-f", "-o", "json") as process:
        assert process.stdout is not None
        lines = [await process.stdout.readline()]
        lines.append(await process.stdout.readline())
        process.send_signal(number)
        rest, err = await process.communicate()
    assert (process.returncode, err) == (code, b"")
    assert [event["seq"] for event in json.loads(b"".join(lines) + rest)] == [1, 2]


async def test_json_is_closed_by_an_error(cli: Cli, api: Api, tmp_path: Path) -> None:
    """With --strict, a gap ends the command with a complete array and the reason on stderr."""
    await api.append("my")
    (tmp_path / "c").write_text("zzzz.7\n")
    ended = await cli("tail", "my", "-o", "json", "--strict", "--cursor-file", "c")
    assert (ended.code, json.loads(ended.out)) == (6, [])
    assert "missing" in ended.err


# ---- other messages


async def test_verbose(server: Server, cli: Cli, api: Api, tmp_path: Path) -> None:
    """With -v, stderr reports connections, their timing and positions. stdout contains only events."""
    await api.append("my")
    options = ("-f", "-v", "--cursor-file", tmp_path / "c", "--count", 3)
    async with proxy_to(server.url) as proxy:
        async with cli.started("tail", "my", *options, "--url", proxy.url) as process:
            assert (await line_of(process.stdout))["seq"] == 1
            text = await said(process.stderr, "caught up, at")
            await proxy.refuse()
            text += await said(process.stderr, "retrying")
            await api.append("my")
            await proxy.listen()
            assert (await line_of(process.stdout))["seq"] == 2
            text += await said(process.stderr, "caught up, at")
            await api.append("my")
            out, err = await process.communicate()
        assert process.returncode == 0
        assert [json.loads(out)["seq"]] == [3]
    text += err.decode()
    epoch = (tmp_path / "c").read_text().partition(".")[0]
    expected = (
        rf"connected\ncaught up, at position {epoch}\.1\n"
        rf"(cannot reach .*; retrying in \d+ s\n)+connected again\nreconnected after \d+ s, caught up 1\n"
        rf"caught up, at position {epoch}\.2\nended after 3 events\n"
    )
    assert re.fullmatch(expected, text), text
    again = await cli("tail", "my", *options[1:-2])
    assert f"continuing after position {epoch}.3" in again.err


async def test_the_status_line_has_a_rate(cli: Cli, api: Api) -> None:
    """On a terminal, the last line shows the rate of events and the last seq."""
    await api.append("my")
    async with cli.on_terminal("tail", "my", "-f") as terminal:
        await eventually(lambda: "live - 0/s - seq 1" in terminal.shown)
        await api.append_all("my", [{}] * 100)
        await eventually(lambda: re.search(r"live - [1-9]\d*/s - seq 101\b", terminal.shown))
        terminal.type("\x03")
        assert await terminal.ended() == 130
    assert terminal.shown.rstrip("^C").endswith("\r\x1b[K")


async def test_quiet(cli: Cli, api: Api) -> None:
    """With --quiet, a terminal shows only events."""
    await api.append("my", description="Ann did it")
    async with cli.on_terminal("tail", "my", "-f", "--count", "2", "--quiet", "--time", "utc") as terminal:
        await eventually(lambda: "did it" in terminal.shown)
        await api.append("my", description="Ann did it again")
        assert await terminal.ended() == 0
    first, second, rest = terminal.shown.split("\r\n")
    assert ("#1" in first, "#2" in second, rest) == (True, True, "")
    assert (await cli("tail", "my", "--quiet", "-v")).code == 2


@pytest.mark.parametrize(
    "variable", ["AI_AGENT", "AGENT", "CLAUDECODE", "CODEX_THREAD_ID", "CURSOR_AGENT", "GEMINI_CLI"]
)
async def test_an_agents_terminal_is_a_pipe(cli: Cli, api: Api, variable: str) -> None:
    """For an AI agent, a terminal gets the output of a pipe, and formats it asks for without colour."""
    event: dict[str, Any] = (await api.append("my")).expect(201)
    cli.variables[variable] = "1"
    async with cli.on_terminal("tail", "my", "-f", "--count", "1") as terminal:
        assert await terminal.ended() == 0
    assert terminal.shown == json.dumps(event, separators=(",", ":")) + "\r\n"
    async with cli.on_terminal("tail", "my", "-o", "pretty") as terminal:
        assert await terminal.ended() == 0
    assert terminal.shown.endswith("#1\r\n")
    assert "\x1b" not in terminal.shown
