"""Checks of the machine: limits of open files, disk space, the log."""

import os
import resource
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import Final

from streamer.doctor.findings import CannotCheck, Check, Finding, fail, in_thread, ok, warn
from streamer.settings import MiB, Settings
from streamer.store.engine.lock import holder_of

RESERVE_FILES: Final = 200
"""Descriptors for everything except streams: the database, the bus, requests."""
MIN_FILES: Final = 512
USED_SHARE: Final = 0.8
MIN_BYTES: Final = 256 * MiB
LOW_BYTES: Final = 1024 * MiB
LOW_SHARE: Final = 0.05
_LOG: Final = 2
"""Logs go to standard error."""
_NULL, _FULL = os.makedev(1, 3), os.makedev(1, 7)


class MachineChecks:
    """The checks of this machine, and of the server's process if it runs here."""

    def __init__(self, settings: Settings, database_file: Path | None) -> None:
        self._settings = settings
        self._file = database_file

    @property
    def checks(self) -> list[Check]:
        """The checks in their order."""
        hangs = partial(fail, "the disk does not answer", "check the disk, or the server of the network drive")
        return [
            Check("open files", lambda: in_thread(self._check_files), hangs),
            Check("disk", lambda: in_thread(self._check_disk), hangs),
            Check("log", lambda: in_thread(self._check_log), hangs),
        ]

    def _check_files(self) -> Finding:
        pid = holder_of(self._settings.data_dir)
        limit = _limit_of(pid) if pid is not None else None
        # The server raises its own limit to the system's maximum.
        whose, limit = ("the server", limit) if limit is not None else ("a server started from here", _own_limit())
        text = f"{whose} can open {'any number of' if limit is None else f'{limit:,}'} files"
        if limit is None:
            return ok(text)
        fix = "raise the limit: LimitNOFILE= of systemd, ulimit -Hn in a shell, --ulimit nofile= of a container"
        needed = self._settings.max_streams + RESERVE_FILES
        used = _open_files(pid) if pid is not None else 0
        if limit < MIN_FILES:
            return fail(text, fix)
        if used > USED_SHARE * limit:
            return warn(f"{text}, and {used:,} are open", fix)
        if limit < needed:
            return warn(
                f"{text}, fewer than STREAMER_MAX_STREAMS ({self._settings.max_streams:,}) needs",
                f"{fix}; or set STREAMER_MAX_STREAMS to {max(limit - RESERVE_FILES, 1)}",
            )
        return ok(text)

    def _check_disk(self) -> Finding:
        folder = (self._file.parent if self._file is not None else self._settings.data_dir).absolute()
        while not folder.exists():
            folder = folder.parent
        space = shutil.disk_usage(folder)
        note = "; the disk of PostgreSQL cannot be seen from here" if self._file is None else ""
        return judge_space(f"for {folder}{note}", space.free, space.total)

    def _check_log(self) -> Finding:
        pid = holder_of(self._settings.data_dir)
        whose = "the server's log" if pid is not None else "standard error of this command"
        link = f"/proc/{pid}/fd/{_LOG}" if pid is not None else f"/dev/fd/{_LOG}"
        try:
            status = Path(link).stat()
            target = str(Path(link).readlink()).removesuffix(" (deleted)")
        except PermissionError:
            raise CannotCheck("the server runs as another user", "run this as that user, or as root") from None
        except OSError:
            raise CannotCheck("the system does not show where the log goes") from None
        return judge_log(whose, link, target, status)


def judge_space(where: str, free: int, total: int) -> Finding:
    """Judge the free bytes of a disk."""
    text = f"{_size(free)} of {_size(total)} free {where}"
    fix = "free some space, or move the data to a larger disk"
    if free < MIN_BYTES:
        return fail(text, fix)
    return warn(text, fix) if free < max(LOW_BYTES, LOW_SHARE * total) else ok(text)


def judge_log(whose: str, link: str, target: str, status: os.stat_result) -> Finding:
    """Judge where a log goes: `link` opens it, `target` is its name."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFCHR and status.st_rdev == _FULL:
        return fail(f"{whose} goes to {target}, which is always full", "write it elsewhere")
    if kind == stat.S_IFCHR and status.st_rdev == _NULL:
        return warn(f"{whose} is discarded ({target})", "keep it: `streamer serve 2>> FILE`, or a service manager")
    if kind != stat.S_IFREG:
        names = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        return ok(f"{whose} goes to {names.get(kind, target)}")
    if not status.st_nlink:
        return fail(
            f"{whose} goes to {target}, which was removed", "restart the server; rotate logs with copytruncate instead"
        )
    disk = os.statvfs(link)
    if disk.f_flag & os.ST_RDONLY:
        return fail(f"{whose} goes to {target}, on a disk that is read-only", "make it writable, or write it elsewhere")
    if not disk.f_bavail:
        return fail(f"{whose} goes to {target}, on a disk that is full", "free some space; lines are queued until then")
    return ok(f"{whose} goes to {target}, {_size(disk.f_bavail * disk.f_frsize)} free")


def _limit_of(pid: int) -> int | None:
    """Return how many files a process can open; None if the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text("ascii").splitlines()
    except OSError:
        return None
    (line,) = [line for line in lines if line.startswith("Max open files")]
    hard = line.split()[4]
    return int(hard) if hard.isdecimal() else None


def _own_limit() -> int | None:
    """Return how many files this process could open; None: any number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def _open_files(pid: int) -> int:
    """Return how many files a process has open, 0 if this user must not know."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only their number
    except OSError:
        return 0


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= LOW_BYTES else f"{count / MiB:,.0f} MiB"
