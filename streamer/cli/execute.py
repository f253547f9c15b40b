"""`tail --exec`: run a user's command for each event."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping

from streamer.cli.remote import Failure
from streamer.client import Activity

GRACE_SECONDS = 5.0
"""Time for a command to exit after SIGTERM."""


def variables(workspace: str, activity: Activity) -> dict[bytes, bytes]:
    """Return a command's environment variables for an event, besides its JSON on stdin: short values, empty if absent."""
    event = activity.event
    actor, entity = event["actor"], event["entity"] or {}
    values = {
        "WORKSPACE": workspace,
        "EVENT_ID": event["id"],
        "EVENT_SEQ": str(event["seq"]),
        "EVENT_POSITION": activity.position,
        "EVENT_ACTION": event["action"],
        "EVENT_TIMESTAMP": event["timestamp"],
        "EVENT_ACTOR_TYPE": actor["type"],
        "EVENT_ACTOR_ID": actor["id"],
        "EVENT_ENTITY_TYPE": entity.get("type"),
        "EVENT_ENTITY_ID": entity.get("id"),
    }
    return {f"STREAMER_{name}".encode(): (value or "").encode() for name, value in values.items()}


async def execute(command: str, workspace: str, activity: Activity) -> None:
    """Run a shell command with an event on its stdin, and wait for it. If the wait is cancelled, the command is ended.

    It is the leader of its own session: everything it started can be ended with it, and nothing can wait for input from
    the terminal.

    Raises:
        Failure: it could not be started, or did not exit with 0.
    """
    try:
        code = await _run(command, os.environb | variables(workspace, activity), activity.body + b"\n")
    except OSError as error:
        raise Failure(f"--exec cannot start a shell: {error.strerror}") from None
    if code:
        how = f"exit status {code}" if code > 0 else signal.Signals(-code).name
        raise Failure(
            f"--exec ended with {how} at seq {activity.seq} (event {activity.event['id']})",
            hint="The event is not marked as done: with --cursor-file, the next run starts with it.",
        )


async def _run(command: str, environment: Mapping[bytes, bytes], data: bytes) -> int | None:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_shell(command, stdin=asyncio.subprocess.PIPE, env=environment, start_new_session=True)
    )
    try:
        process = await asyncio.shield(starting)
        await process.communicate(data)
    finally:
        process = await starting  # A cancelled start continues in the background: its process must be ended, too.
        if process.returncode is None:
            await _end(process)
    return process.returncode


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command and everything it started: by SIGTERM, and if needed by SIGKILL."""
    try:
        _send(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await process.wait()
    finally:
        _send(process, signal.SIGKILL)


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
