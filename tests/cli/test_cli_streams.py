"""Commands with undecodable arguments or unwritable output end with one line and an exit code, never a traceback."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.app import Server
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api
from tests.support.cli import commands
from tests.support.databases import sqlite_url
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only."""
    return sqlite_url(tmp_path)


# Each case runs in a fork, because importing the commands takes longer than running them.
WALK = r"""
import gc, importlib, json, os, sys
import bench.cli
from streamer.cli import COMMANDS, main

for name in COMMANDS:
    importlib.import_module(f"streamer.cli.{name}")
gc.freeze()

def run(arguments, redirect):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 2)
        redirect()
        if arguments[:1] == ["bench"]:
            bench.cli.main(arguments[1:])
        main(arguments)
        os._exit(99)
    os.close(write)
    said = b""
    while chunk := os.read(read, 65536):
        said += chunk
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode()

def full():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

def gone():
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)

found = {}
for name in json.loads(sys.argv[1]):
    words = name.split()
    found[name] = [run([*words, "--help"], full), run([*words, "--url", "caf\udce9"], lambda: os.close(0))]
found["closed"] = [run(["--help"], lambda: os.close(1)), run(["--help"], gone)]
json.dump(found, sys.stdout)
"""


def test_every_command(tmp_path: Path) -> None:
    """With a full disk as output or an argument that is not UTF-8, every command prints one line and exits with 1 or 2."""
    names = ["", *(name for name, _ in commands())]
    done = subprocess.run(
        [sys.executable, "-P", "-c", WALK, json.dumps(names)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        timeout=4 * SECONDS,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found.pop("closed") == [[1, "Error: cannot write the output: Bad file descriptor\n"], [1, ""]]
    for name, answers in found.items():
        assert answers == [
            [1, "Error: cannot write the output: No space left on device\n"],
            [2, "Error: the argument caf\\xe9 is not UTF-8\n"],
        ], name


@pytest.mark.parametrize(
    ("command", "redirect", "code", "said"),
    [
        ("tail my -n1", ">/dev/full", 1, "Error: cannot write the output: No space left on device\n"),
        ("tail my -n1 -o pretty", ">&-", 1, "Error: cannot write the output: Bad file descriptor\n"),
        (
            "publish my --action a.b --actor-type user --actor-id ann",
            ">/dev/full",
            1,
            "Error: cannot write the output: No space left on device\n",
        ),
        ("publish my", "0<&-", 1, "Error: cannot read the input: Bad file descriptor\n"),
        ("members list my -o json", ">/dev/full", 1, "Error: cannot write the output: No space left on device\n"),
        ("tail my -n1", "2>&-", 0, ""),
    ],
)
async def test_with_a_server(  # noqa: PLR0917 - what is given and expected
    server: Server, api: Api, tmp_path: Path, command: str, redirect: str, code: int, said: str
) -> None:
    """The same holds for commands that print a server's responses."""
    (await api.append("my")).expect(201)
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-P", "-m", "streamer", *command.split()),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STREAMER_URL": server.url, "STREAMER_KEY": ADMIN_KEY},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (code, said)


async def test_a_server_without_standard_streams(make_process: MakeProcess) -> None:
    """A server without standard streams never reuses descriptors 0 to 2. It serves and stops as usual."""
    process = make_process()
    await process.start("0<&- >&- 2>&-")
    assert {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)} == {"/dev/null"}  # noqa: PTH115
    assert await process.stop() == 0
