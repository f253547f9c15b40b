"""The reaper: whatever becomes of a measurement, its processes and its folder go with it.

A script of its own, started with nothing but the standard library. It makes a folder, prints its path, and waits for the end of its
stdin, which is the end of the process that started it, `kill -9` included. Then it kills its process group, which all others of the
measurement have joined, and removes the folder. Its stdout ends when all is gone.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

PATIENCE_SECONDS = 10
"""A process that the kernel keeps for longer is not waited for."""


def main() -> None:
    """Make the folder, wait, clear away."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = tempfile.mkdtemp(prefix="streamer-bench-")
    sys.stdout.write(folder + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    group = os.getpgrp()
    if os.fork() == 0:  # who is to see the group's end cannot be of it
        os.setsid()
        until = time.monotonic() + PATIENCE_SECONDS
        while lives(group) and time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            time.sleep(0.005)
        shutil.rmtree(folder, ignore_errors=True)


def lives(group: int) -> bool:
    """Tell whether a process of the group runs; one that has ended and is yet to be asked for by its parent does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just gone
            # The name before these is in parentheses and may hold anything.
            state, _, member_of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(member_of) == group and state not in "ZX":
                return True
    return False


if __name__ == "__main__":
    main()
