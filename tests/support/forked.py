"""Start the command line by forking a process that has imported it, which saves a second of imports.

`subprocess.Popen`, and so asyncio's subprocesses, do this for `python -P -m streamer …`, see `install`. The new process
is a child of the caller, with the usual pid, exit code, signals and pipes. A real Python is started where a fork would
behave differently: with another `PYTHON…` variable, through a shell (which tests/test_cli_streams.py uses for this
reason), and on systems other than Linux.
"""

import ctypes
import fcntl
import gc
import importlib
import inspect
import json
import os
import runpy
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.tools import ROOT

COMMAND = [sys.executable, "-P", "-m", "streamer"]
"""The command that starts the command line."""
_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")
"""Prefixes of the variables that Python reads when it starts."""
_SET_CHILD_SUBREAPER = 36
_MOST = 2**17


class _Server:
    """The process that forks. It ends when its socket is closed, at the latest with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._at_start = _at_start(environment)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.support.forked", str(theirs.fileno())],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def can_start(self, environment: Mapping[Any, Any]) -> bool:
        """Return whether a Python with these variables would start like this one."""
        return _at_start(environment) == self._at_start

    def start(self, order: Mapping[str, object], descriptors: list[int]) -> int:
        """Start a command. Return its pid."""
        with self._lock:
            # A process whose parent ends becomes our child, not init's.
            _be_subreaper(on=True)
            try:
                socket.send_fds(self._socket, [json.dumps(order).encode()], descriptors)
                pid = int(self._socket.recv(_MOST))
            finally:
                _be_subreaper(on=False)
        return pid

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_USUAL: dict[str, tuple[object, ...]] = {
    "executable": (None,),
    "close_fds": (True,),
    "pass_fds": ((), []),
    "shell": (False,),
    "gid": (None,),
    "gids": (None,),
    "uid": (None,),
    "umask": (-1,),
    "process_group": (-1,),
}
"""The other arguments of Popen that the server supports."""
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")

_Popen = subprocess.Popen
_server: _Server | None = None


class _Forked(subprocess.Popen[Any]):
    """A Popen that lets the server fork where possible."""

    def _execute_child(self, *given: Any) -> None:
        call = inspect.signature(_Popen._execute_child).bind(self, *given).arguments  # type: ignore[attr-defined]
        arguments, variables = call["args"], call["env"]
        if (
            not isinstance(arguments, list)
            or arguments[: len(COMMAND)] != COMMAND
            or variables is None
            or any(call[name] not in allowed for name, allowed in _USUAL.items() if name in call)
            or call["preexec_fn"] not in {None, take_terminal}
            or not _running().can_start(variables)
        ):
            super()._execute_child(*given)  # type: ignore[misc]
            return
        standard = [call["p2cread"], call["c2pwrite"], call["errwrite"]]
        order = {
            "arguments": [os.fsdecode(argument) for argument in arguments[len(COMMAND) :]],
            "variables": {os.fsdecode(name): os.fsdecode(value) for name, value in variables.items()},
            "folder": os.fsdecode(call["cwd"] or Path.cwd()),
            "session": bool(call["start_new_session"]),
            "terminal": call["preexec_fn"] is take_terminal,
        }
        # -1: as in this process.
        self.pid = _running().start(order, [each if each != -1 else own for own, each in enumerate(standard)])
        self._child_created = True
        self._close_pipe_fds(*(call[name] for name in _PIPES))  # type: ignore[attr-defined]


def take_terminal() -> None:
    """Make standard input, which is a terminal, the controlling terminal of this process's session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def install() -> None:
    """Let `subprocess.Popen` fork commands of this project."""
    if sys.platform == "linux":
        subprocess.Popen = _Forked  # type: ignore[misc]


def remove() -> None:
    """End the server, if it runs."""
    global _server  # noqa: PLW0603
    subprocess.Popen = _Popen  # type: ignore[misc]
    if _server:
        _server.close()
        _server = None


def _running() -> _Server:
    global _server  # noqa: PLW0603
    _server = _server or _Server()
    return _server


def _at_start(environment: Mapping[Any, Any]) -> dict[str, str]:
    decoded = {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}
    return {name: value for name, value in decoded.items() if name.startswith(_AT_START)}


def _be_subreaper(*, on: bool) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


# ---- in the server


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each order. Return in each fork, with its order, and when there are no more orders."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _MOST, 3)
        if not data:
            return None
        read, write = os.pipe()
        between = os.fork()
        if not between:
            pid = os.fork()
            if pid:
                os.write(write, b"%d" % pid)
                os._exit(0)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            control.detach()
            order = json.loads(data)
            assert isinstance(order, dict)
            return order
        os.close(write)
        for descriptor in descriptors:
            os.close(descriptor)
        os.waitpid(between, 0)
        control.send(os.read(read, 100))
        os.close(read)


def _become(order: Mapping[str, Any]) -> None:
    """Turn this process into one that has just started with this command."""
    os.environ.clear()
    os.environ.update(order["variables"])
    time.tzset()
    os.chdir(order["folder"])
    if order["session"]:
        os.setsid()
    if order["terminal"]:
        take_terminal()
    if os.isatty(1):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv[:] = ["-m", *order["arguments"]]


if __name__ == "__main__":
    from streamer.cli import COMMANDS

    for _name in COMMANDS:
        importlib.import_module(f"streamer.cli.{_name}")
    gc.collect()
    gc.freeze()
    if _order := _serve(socket.socket(fileno=int(sys.argv[1]))):
        _become(_order)
        del _order
        runpy.run_module("streamer", run_name="__main__", alter_sys=True)
