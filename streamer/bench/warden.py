"""The warden: whatever becomes of a measurement, its processes and its folder go with it.

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

PATIENCE_SECONDS = 10
"""A process that was killed is gone once its parent knows of it; a parent that does not ask is not waited for any longer."""


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
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(group, signal.SIGKILL)
                time.sleep(0.005)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
