"""Start the command line by forking a process that has imported it, which saves a second of imports.

`subprocess.Popen`, and so asyncio's subprocesses, do this for `python -P -m streamer …` and `python -P -m bench …`, see
`install`. A measurement starts its own server in this way, too. The new process is a child of the caller, with the usual pid, exit code, signals and pipes. A real Python is started where a fork would
behave differently: with another `PYTHON…` variable, through a shell (which tests/cli/test_cli_streams.py uses for this
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
_COMMANDS = [COMMAND, [sys.executable, "-P", "-m", "bench"]]
_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")
"""Prefixes of the variables that Python reads when it starts."""
_SET_CHILD_SUBREAPER = 36
_MOST = 2**17


class _Server:
    """A process that forks. It ends when the socket to it is closed, at the latest with this process."""

    def __init__(self, control: socket.socket, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._socket = control
        self._at_start = _at_start(environment)

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


_USUAL: dict[str, tuple[object, ...]] = {
    "executable": (None,),
    "close_fds": (True,),
    "pass_fds": ((), []),
    "shell": (False,),
    "gid": (None,),
    "gids": (None,),
    "uid": (None,),
    "umask": (-1,),
}
"""The other arguments of Popen that the server supports."""
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")

_Popen = subprocess.Popen
_server: _Server | None = None
_process: subprocess.Popen[bytes] | None = None
"""The process of `_server`, unless this process has forked it."""


class _Forked(subprocess.Popen[Any]):
    """A Popen that lets the server fork where possible."""

    def _execute_child(self, *given: Any) -> None:
        call = inspect.signature(_Popen._execute_child).bind(self, *given).arguments  # type: ignore[attr-defined]
        variables = call["env"]
        # asyncio passes a tuple. A string is a command without arguments.
        arguments = [call["args"]] if isinstance(call["args"], str | bytes | os.PathLike) else list(call["args"])
        if (
            arguments[: len(COMMAND)] not in _COMMANDS
            or variables is None
            or any(call[name] not in allowed for name, allowed in _USUAL.items() if name in call)
            or call["preexec_fn"] not in {None, take_terminal}
            or not _running().can_start(variables)
        ):
            super()._execute_child(*given)  # type: ignore[misc]
            return
        standard = [call["p2cread"], call["c2pwrite"], call["errwrite"]]
        order = {
            "module": arguments[len(COMMAND) - 1],
            "arguments": [os.fsdecode(argument) for argument in arguments[len(COMMAND) :]],
            "variables": {os.fsdecode(name): os.fsdecode(value) for name, value in variables.items()},
            "folder": os.fsdecode(call["cwd"] or Path.cwd()),
            "session": bool(call["start_new_session"]),
            "group": call["process_group"],
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
    global _server, _process  # noqa: PLW0603
    subprocess.Popen = _Popen  # type: ignore[misc]
    if _server:
        _server.close()
        _server = None
    if _process:
        _process.wait()
        _process = None


def _running() -> _Server:
    global _server, _process  # noqa: PLW0603
    if _server is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with theirs:
            _process = _Popen(
                [sys.executable, "-P", "-m", "tests.support.forked", str(theirs.fileno())],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        _server = _Server(ours, environment)
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
            order = json.loads(data)
            assert isinstance(order, dict)
            pid = os.fork()
            if pid:
                if order["group"] != -1:
                    os.setpgid(pid, order["group"])
                os.write(write, b"%d" % pid)
                os._exit(0)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            control.detach()
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


def _fork_server() -> dict[str, Any] | None:
    """Fork a server for the commands that this process starts. Return its order in each of these, and None here."""
    global _server  # noqa: PLW0603
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        _server = _Server(ours, os.environ)
        install()
        return None
    ours.close()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # a pipe that is open here would not end with the command
        os.dup2(nothing, number)
    order = _serve(theirs)
    if order is None:
        os._exit(0)
    return order


def _run(order: dict[str, Any] | None) -> None:
    while order is not None:
        _become(order)
        module = order["module"]
        order = _fork_server() if module == "bench" else None
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    from bench import cli as _  # noqa: F401
    from streamer.cli import COMMANDS

    for _name in COMMANDS:
        importlib.import_module(f"streamer.cli.{_name}")
    gc.collect()
    gc.freeze()
    if _order := _serve(socket.socket(fileno=int(sys.argv[1]))):
        _run(_order)
