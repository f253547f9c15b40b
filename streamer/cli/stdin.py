"""Waits for input that Ctrl-C can interrupt."""

import asyncio
import os
import sys

from streamer.cli.screen import for_people


async def readable(descriptor: int) -> None:
    """Wait until a read would not block: a blocking read could not be interrupted."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        return  # a file, which is always readable
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def agreed(question: str) -> bool:
    """Ask on the terminal and return whether the answer is yes.

    Without a terminal it does not ask: the caller has already decided.
    """
    if not for_people(sys.stdin, sys.stderr):
        return True
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    descriptor = sys.stdin.fileno()
    try:
        await readable(descriptor)
    except asyncio.CancelledError:
        sys.stderr.write("\n")
        raise
    return os.read(descriptor, 1024).strip().lower() in {b"y", b"yes"}
