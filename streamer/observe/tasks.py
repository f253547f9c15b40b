"""Tasks that go on though nobody may wait for them any more."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def outlasting(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task for one or many to wait for, by `asyncio.shield` or `asyncio.wait`; how it ends is nobody's if all have left."""
    task = asyncio.create_task(coroutine)
    task.add_done_callback(_look_at)
    return task


def _look_at(task: asyncio.Task[Any]) -> None:
    """Take note of a task's failure; asyncio would log it otherwise."""
    if not task.cancelled():
        task.exception()
