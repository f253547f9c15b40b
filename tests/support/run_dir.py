"""The folder that all processes of one test run share, and what is left to clean when the run ends, however it ends."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

VARIABLE = "TEST_RUN_DIR"

_WATCH = """(
  while kill -0 "$1"; do sleep 1; done
  for pid in "$2"/pids/*; do kill -QUIT "${pid##*/}"; done
  rm -rf "$2"
) &"""


def run_dir() -> Path:
    """Return the folder."""
    return Path(os.environ[VARIABLE])


def create() -> None:
    """Make the folder; the processes that are started from now on learn of it by the environment."""
    path = Path(tempfile.mkdtemp(prefix="streamer-tests-"))
    path.chmod(0o755)  # PostgreSQL may run as another user
    (path / "pids").mkdir()
    os.environ[VARIABLE] = str(path)
    # For a run that is killed.
    subprocess.run(
        ["sh", "-c", _WATCH, "sh", str(os.getpid()), str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        check=True,
    )


def remove() -> None:
    """End what still runs and remove the folder."""
    for pid in list_pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    shutil.rmtree(run_dir(), ignore_errors=True)


def list_pids() -> list[int]:
    """Return the processes that this run started and that must end with it."""
    return [int(file.name) for file in (run_dir() / "pids").iterdir()]


def note_pid(pid: int) -> None:
    """Have a process ended when the run ends."""
    (run_dir() / "pids" / str(pid)).touch()


def forget_pid(pid: int) -> None:
    """Take note that a process has ended."""
    (run_dir() / "pids" / str(pid)).unlink(missing_ok=True)
