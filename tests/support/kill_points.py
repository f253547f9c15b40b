"""Commands that end like `kill -9` at a chosen moment: just before the n-th access to a file.

Run as a program, this module reads one order per line, forks, and reports how the command ended. So no command needs a
new Python.
"""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamer.cli import main
from tests.support.run_dir import forget_pid, note_pid
from tests.support.tools import ROOT

TOUCHES = {"open", "os.rename", "os.link", "os.remove", "os.truncate", "sqlite3.connect", "subprocess.Popen"}
"""Audit events of Python; see its documentation."""
KILLED = -signal.SIGKILL


class Commands:
    """Runs commands that may be killed, in a folder and with some variables; their output goes to `commands.log` there."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path, variables: dict[str, str]) -> None:
        self._process = process
        self._folder = folder
        self._variables = variables

    def at(self, folder: Path, **variables: str) -> "Commands":
        """Return the same for another folder."""
        return Commands(self._process, folder, variables)

    def __call__(self, *arguments: object, kill_at: int = 0, file_bytes: int = 0) -> int:
        """Run a command and return its exit code.

        Args:
            arguments: The command line.
            kill_at: The number of the file access before which it is killed; 0: never.
            file_bytes: The maximum size of a file; 0: unlimited.
        """
        order = {
            "arguments": [str(argument) for argument in arguments],
            "kill_at": kill_at,
            "file_bytes": file_bytes,
            "folder": str(self._folder),
            "variables": self._variables,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    @property
    def said(self) -> str:
        """Return the output of the commands."""
        return (self._folder / "commands.log").read_text()


@contextmanager
def killable_commands() -> Iterator[Commands]:
    """Start the process that runs commands."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.support.kill_points"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        note_pid(process.pid)
        yield Commands(process, Path(), {})
    forget_pid(process.pid)


def _run(order: dict[str, Any]) -> None:
    left = order["kill_at"]

    def count(event: str, _arguments: object) -> None:
        nonlocal left
        if event in TOUCHES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    os.chdir(order["folder"])
    os.environ.update(order["variables"])
    log = os.open("commands.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if order["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], order["file_bytes"]))
    sys.addaudithook(count)
    code: Any = 1
    try:
        main(order["arguments"])
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as Python itself does it
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)  # Python's own exit would touch, and so copy, all memory of the parent


def _serve() -> None:
    for name in ("backup", "restore", "migrate"):
        main.get_command(None, name)  # type: ignore[arg-type]  # imports it
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _run(json.loads(line))
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
