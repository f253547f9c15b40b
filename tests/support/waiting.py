"""Wait for conditions instead of fixed times."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

SECONDS = 60.0
"""Time limit for any wait in a test. Successful waits take milliseconds, so a limit for busy machines costs nothing."""


@overload
async def eventually(condition: Callable[[], Awaitable[T]], timeout: float = SECONDS) -> T: ...
@overload
async def eventually(condition: Callable[[], T], timeout: float = SECONDS) -> T: ...
async def eventually(condition: Callable[[], Any], timeout: float = SECONDS) -> Any:
    """Call `condition` until it returns something true, and return that. An AssertionError in it means not yet.

    Raises:
        AssertionError: It did not become true in time. If the condition raised one, it is this one.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        failure = AssertionError(f"not true after {timeout:g} s: {condition}")
        try:
            result = condition()
            value = await result if inspect.isawaitable(result) else result
            if value:
                return value
        except AssertionError as error:
            failure = error
        if asyncio.get_running_loop().time() > deadline:
            raise failure
        await asyncio.sleep(0.01)
