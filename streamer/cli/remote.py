"""Shared by the client commands: server and key, how a run ends, and error messages."""

import asyncio
import contextlib
import os
import signal
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from streamer.cli.values import Number
from streamer.client import ApiError, Client, ClientError, Timing, Unreachable, host_of
from streamer.client.calls import is_loopback

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in shells."""
KEY_FILE = "admin.key"
_MAX_WAIT = "streamer.max_wait"


class Failure(click.ClickException):
    """The command failed; the message says what happened and the next step."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def format_message(self) -> str:
        """Return the text after `Error: `."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class NotAllowed(Failure):
    """The server does not know the key, or the key lacks a scope."""

    exit_code = 4


class NoServer(Failure):
    """The server does not answer."""

    exit_code = 5


class EventsMissing(Failure):
    """There is a gap, and --strict forbids it."""

    exit_code = 6


def _keep(context: click.Context, _option: click.Parameter, value: float) -> None:
    """Store an option for `open_client`; the commands do not use it themselves."""
    context.meta[_MAX_WAIT] = value


def connection(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --url, --key and --max-wait."""
    for option in (
        click.option(
            "--max-wait",
            metavar="SECONDS",
            type=Number(min=0, max=86_400),
            envvar="STREAMER_MAX_WAIT",
            show_envvar=True,
            default=Timing().longest_wait,
            show_default=True,
            expose_value=False,
            callback=_keep,
            help="Longest wait when the server asks for one (Retry-After); then the request is repeated.",
        ),
        click.option(
            "--key",
            metavar="KEY",
            envvar="STREAMER_KEY",
            show_envvar=True,
            help="The key to use. Default for a server on this machine: admin.key in the data directory.",
        ),
        click.option("--url", metavar="URL", envvar="STREAMER_URL", show_envvar=True, default="http://127.0.0.1:8080", show_default=True,
                     help="The server."),
    ):  # fmt: skip
        command = option(command)
    return command


def open_client(url: str, key: str | None) -> Client:
    """Create the client that the options describe."""
    try:
        timing = Timing(longest_wait=click.get_current_context().meta[_MAX_WAIT])
        return Client(url, key.strip() if key else _local_key(url), timing=timing)
    except ValueError as error:
        raise click.UsageError(
            f"{error}\n--url (or STREAMER_URL) is the server's address; the key goes into --key or STREAMER_KEY."
        ) from None


def _local_key(url: str) -> str | None:
    """Return the admin key in the data directory of a server on this machine, if this user can read it."""
    if not is_loopback(host_of(url)):
        return None  # a key of this machine's server must not be sent to another one
    path = Path(os.environ.get("STREAMER_DATA_DIR") or "data") / KEY_FILE
    try:
        return path.read_text("utf-8-sig").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def run(main: Coroutine[Any, Any, None], *, workspace: str = "") -> None:
    """Run a command's coroutine; every error ends as an exit code and a message, never as a traceback."""
    try:
        asyncio.run(_until_told(main))
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        say_no_more()
    except ClientError as error:
        raise failure(error, workspace) from None


def say_no_more() -> None:
    """Continue without stdout after its reader has gone.

    The interpreter's own flush at exit must not hit the broken pipe again.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _until_told(main: Coroutine[Any, Any, None]) -> None:
    """Run a command's coroutine; SIGTERM and SIGHUP cancel it, so that it ends in order, as with Ctrl-C."""
    task = asyncio.current_task()
    told: list[int] = []

    def end(number: int) -> None:
        told.append(number)
        if task:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # signals that nohup ignores stay ignored
            asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await main
    except asyncio.CancelledError:
        if told:
            raise click.exceptions.Exit(128 + told[0]) from None
        raise


def failure(error: ClientError, workspace: str, *, name: Callable[[str], str] = str) -> Failure:
    """Explain a failed call and what to do about it; `name` turns a field's path into words."""
    if isinstance(error, Unreachable):
        hint = "Is the server running? Start it with `streamer serve`, or name another with --url or STREAMER_URL."
        return NoServer(str(error), hint=hint)
    if not isinstance(error, ApiError):
        return Failure(str(error), hint="Is --url (or STREAMER_URL) the address of a streamer server?")
    message, hint, kind = error.message, "", Failure
    match error.status:
        case HTTPStatus.UNAUTHORIZED:
            kind = NotAllowed
            hint = "Give a valid key with --key or STREAMER_KEY, or run this where the server's data directory is."
        case HTTPStatus.FORBIDDEN:
            kind = NotAllowed
            hint = "`streamer whoami` shows this key's permissions; give another key with --key or STREAMER_KEY."
        case HTTPStatus.NOT_FOUND if error.code == "workspace_not_found":
            message = f"there is no workspace {workspace}, or the key has no grant for it"
            hint = f"The first append creates it: streamer publish {workspace} --help"
        case HTTPStatus.CONFLICT if error.code == "last_owner":
            hint = f"streamer members set {workspace} USER --role owner"
        case HTTPStatus.BAD_REQUEST if error.fields:
            message = "\n  ".join(
                ["the server rejected the request:", *(f"{name(path)}: {what}" for path, what in error.fields.items())]
            )
    if error.request_id and error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        hint = f"The server's log has more under request id {error.request_id}."
    return kind(message, hint=hint)


@contextlib.contextmanager
def ending_with_reader() -> Iterator[None]:
    """End the block with BrokenPipeError when the pipe that is our stdout loses its reader, even if nothing is written."""
    descriptor = sys.stdout.fileno()
    task = asyncio.current_task()
    if task is None or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        yield
        return
    loop = asyncio.get_running_loop()
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        loop.remove_reader(descriptor)
        task.cancel()

    loop.add_reader(descriptor, leave)  # the pipe is never readable: only its end wakes the loop
    try:
        yield
    except asyncio.CancelledError:
        if gone:
            raise BrokenPipeError from None
        raise
    finally:
        loop.remove_reader(descriptor)
