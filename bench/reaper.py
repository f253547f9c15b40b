"""Kill the processes of a measurement and remove its folder, however the measurement ends.

This is a script that needs only the standard library. It creates a folder, prints its path, and waits for the end of its
stdin, which is the end of the process that started it, `kill -9` included. Then it kills its process group, which all processes of the
measurement have joined, and removes the folder. Its stdout ends after that.
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
"""How long to wait for processes that do not end."""


def main() -> None:
    """Create the folder, wait, clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = tempfile.mkdtemp(prefix="streamer-bench-")
    sys.stdout.write(folder + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    group = os.getpgrp()
    if os.fork() == 0:  # the process that kills the group must not be in it
        os.setsid()
        until = time.monotonic() + PATIENCE_SECONDS
        while lives(group) and time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            time.sleep(0.005)
        shutil.rmtree(folder, ignore_errors=True)


def lives(group: int) -> bool:
    """Return whether a process of the group runs; zombies do not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just gone
            # The name before these is in parentheses and may hold anything.
            state, _, member_of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(member_of) == group and state not in "ZX":
                return True
    return False


if __name__ == "__main__":
    main()
