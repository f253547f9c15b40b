"""The folder that all processes of one test run share, and the cleanup at the end of the run, however it ends."""

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
    """Create the folder, and pass it to child processes through the environment."""
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
    """End the remaining processes and remove the folder."""
    for pid in list_pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    shutil.rmtree(run_dir(), ignore_errors=True)


def list_pids() -> list[int]:
    """List the processes that this run started and that must end with it."""
    return [int(file.name) for file in (run_dir() / "pids").iterdir()]


def note_pid(pid: int) -> None:
    """Register a process to be ended with the run."""
    (run_dir() / "pids" / str(pid)).touch()


def forget_pid(pid: int) -> None:
    """Unregister a process that has ended."""
    (run_dir() / "pids" / str(pid)).unlink(missing_ok=True)
