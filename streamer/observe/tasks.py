"""Tasks that continue even if nobody waits for them any more."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def detached(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task for one or more waiters, which use `asyncio.shield` or `asyncio.wait`.

    Its exception is dropped if nobody awaits it.
    """
    task = asyncio.create_task(coroutine)
    task.add_done_callback(_look_at)
    return task


def _look_at(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's exception; asyncio would log it otherwise."""
    if not task.cancelled():
        task.exception()
