"""What a process uses, from Linux's /proc: CPU time, memory, open files."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
KIB = 1024


class Usage:
    """Some processes that together are one server."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = pids

    def cpu(self) -> float:
        """Return the seconds of CPU time, user and system, that they have used so far."""
        return sum(sum(map(int, _stat(pid)[11:13])) for pid in self.pids) / _TICKS

    def rss(self) -> int:
        """Return the bytes of memory that they hold; memory that they share counts for each."""
        return sum(_status(pid, "VmRSS") for pid in self.pids)

    def peak(self) -> int:
        """Return the most bytes of memory that each of them held since `forget_peak`, added up."""
        return sum(_status(pid, "VmHWM") for pid in self.pids)

    def forget_peak(self) -> None:
        """Reset the peak."""
        for pid in self.pids:
            with contextlib.suppress(OSError):  # not allowed in some containers: then the peak is since the start
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def files(self) -> int:
        """Return how many files, sockets among them, they have open."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids)


def machine_cpu() -> float:
    """Return the seconds of CPU time that all cores have spent on anything so far."""
    user, nice, system, _idle, _waiting, *interrupts = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / _TICKS


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _stat(pid: int) -> list[str]:
    # The name before it is in parentheses and may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIB
    return 0
