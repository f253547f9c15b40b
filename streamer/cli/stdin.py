"""Waiting for input in such a way that Ctrl-C ends the wait."""

import asyncio
import os
import sys

from streamer.cli.screen import for_people


async def readable(descriptor: int) -> None:
    """Wait until a read would not block: a read that does could not be interrupted."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        return  # a file, which always is
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def agreed(question: str) -> bool:
    """Ask on the terminal, and tell whether the answer is yes. Where nobody looks nothing is asked: whoever runs the command has decided."""
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
