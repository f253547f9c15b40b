"""Invalid input to `publish` is reported as soon as it is read, and memory for it is limited."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from streamer.cli.publish import LONGEST_INPUT
from tests.support.api import Api
from tests.support.cli import Cli
from tests.support.databases import sqlite_url
from tests.support.waiting import SECONDS

EVENT = b'{"action": "issue.created", "actor": {"type": "user", "id": "ann"}}\n'


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only."""
    return sqlite_url(tmp_path)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"starting\n", "line 1 is not JSON"),
        (b'{"action": "a.b"\n' + EVENT, "the input is not JSON"),
        (b"[1, 2}\n", "line 1 is not JSON"),
    ],
)
async def test_a_wrong_line_ends_the_command_at_once(cli: Cli, first: bytes, said: str) -> None:
    """An invalid line ends the command, even though its input continues."""
    async with cli.started("publish", "my") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(first)
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 2
            assert said in (await process.stderr.read()).decode()


async def test_an_endless_line(cli: Cli) -> None:
    """An unterminated line is refused when it exceeds the limit."""
    async with cli.started("publish", "my") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        sent = 0
        try:
            while sent <= 2 * LONGEST_INPUT:
                process.stdin.write(b" " * 2**20)
                sent += 2**20
                await process.stdin.drain()
        except ConnectionError:
            pass
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 2
            assert "line 1 is longer than 64 MiB" in (await process.stderr.read()).decode()


async def test_a_document_over_several_lines(cli: Cli, api: Api) -> None:
    """Pretty-printed JSON with a byte order mark is accepted."""
    events: list[dict[str, Any]] = [orjson.loads(EVENT)] * 3
    ended = await cli("publish", "my", stdin=b"\xef\xbb\xbf" + orjson.dumps(events, option=orjson.OPT_INDENT_2))
    assert (ended.code, ended.err) == (0, "")
    assert len(await api.history("my")) == 3


async def test_an_id_stays_itself(cli: Cli, api: Api) -> None:
    """When an id is printed or sent, only control characters are replaced."""
    (await api.append("my", action="a.b", entity={"type": "issue", "id": "a\u3000b\u200dc\x01"})).expect(201)
    (event,) = [orjson.loads(line) for line in (await cli("tail", "my", "-o", "cloudevents")).lines]
    assert event["subject"] == "issue/a\u3000b\u200dc\N{REPLACEMENT CHARACTER}"
    printed = await cli("tail", "my", "-o", "template={entity.id}")
    assert printed.out == "a\u3000b\u200dc\N{REPLACEMENT CHARACTER}\n"
