"""What a check is and what it finds, and how many of them run: each within a deadline, groups at the same time."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class State(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """It could not be made."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a check, for people. No text contains a secret."""

    state: State
    text: str
    fix: str = ""
    """The next step, if there is one."""


def ok(text: str) -> Finding:
    """Report that all is well."""
    return Finding(State.OK, text)


def warn(text: str, fix: str) -> Finding:
    """Report something that works and should be better."""
    return Finding(State.WARN, text, fix)


def fail(text: str, fix: str) -> Finding:
    """Report something that does not work."""
    return Finding(State.FAIL, text, fix)


class CannotCheck(Exception):
    """The check cannot be made; the message says why."""

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.fix = fix


class Check(NamedTuple):
    """A check."""

    name: str
    run: Callable[[], Awaitable[Finding]]
    """Raises CannotCheck."""
    late: Callable[[], Finding] | None = None
    """What it means if the check does not end in time."""


class Examination:
    """Checks in groups: those of a group run one after the other, because they depend on each other."""

    def __init__(self, groups: Sequence[Sequence[Check]], *, seconds: float) -> None:
        self.checks = [check for group in groups for check in group]
        self.findings: dict[str, Finding] = {}
        self.running: list[str] = []
        self.is_late = False
        """Whether a check did not end in time: something may still hang in the background."""
        self._groups = groups
        self._seconds = seconds

    async def run(self, changed: Callable[[], None]) -> None:
        """Run all checks. `changed` is called when one begins or ends."""
        # Not a TaskGroup: it would wrap the error of an output that cannot be written.
        tasks = [asyncio.create_task(self._run_group(group, changed)) for group in self._groups]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _run_group(self, group: Sequence[Check], changed: Callable[[], None]) -> None:
        for check in group:
            self.running.append(check.name)
            changed()
            finding = await self._run_check(check)
            self.running.remove(check.name)
            self.findings[check.name] = finding
            changed()

    async def _run_check(self, check: Check) -> Finding:
        try:
            async with asyncio.timeout(self._seconds):
                return await check.run()
        except CannotCheck as reason:
            return Finding(State.SKIP, reason.text, reason.fix)
        except TimeoutError:
            self.is_late = True
            if check.late is not None:
                return check.late()
            return fail(f"no answer within {self._seconds:g} s", "see what holds it up, or give --timeout more seconds")
        except Exception as error:  # noqa: BLE001 - one broken check must not hide what the others find
            # Without its message, which could quote anything.
            return fail(f"the check ended with {type(error).__name__}", "report this as a bug of streamer doctor")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function that can hang in the system, such as one that reads a network drive, where it cannot hold up the exit."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        try:
            result, error = function(), None
        except Exception as raised:  # noqa: BLE001 - raised in the caller
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True).start()
    return await answer
